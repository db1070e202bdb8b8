"""How near answers are to references: chrF (Popovic, 2015) by sacrebleu, ROUGE-L (Lin, 2004) by rouge-score."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..errors import UserError
from ..spelling import plain


@dataclass(frozen=True)
class Overlap:
    """Of n answers with one reference each; all are in [0, 1].

    Attributes:
        chrf: chrF2 of the whole set, over 100: character n-grams up to six, recall weighs twice.
        rouge_l: mean F1 of the longest common subsequence of words.
    """

    chrf: float
    rouge_l: float


def overlap(answers: Sequence[str], references: Sequence[str]) -> Overlap:
    """Compare answers with references, one by one.

    Raises:
        UserError: sacrebleu or rouge-score is missing; there is no answer.
        ValueError: another number of references.

    Guarantees: an answer counts in its canonical form (`spelling.plain`). Nothing is fetched.
    Edge cases: an empty answer scores zero. ROUGE-L sees words of a-z and digits only, in lower case: for other scripts
        it is zero, and chrF is the number to read.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers and {len(references)} references")
    if not answers:
        raise UserError("no answers to compare", "set simulation.generate_rows to 1 or more")
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise UserError("chrF and ROUGE-L need sacrebleu and rouge-score", "pip install 'cotune[study]'") from None
    own, right = [plain(text) for text in answers], [plain(text) for text in references]
    words = RougeScorer(["rougeL"])
    return Overlap(
        chrf=float(CHRF().corpus_score(own, [right]).score) / 100,
        rouge_l=fmean(float(words.score(*pair)["rougeL"].fmeasure) for pair in zip(right, own, strict=True)),
    )
