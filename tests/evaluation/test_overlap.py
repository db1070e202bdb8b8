"""chrF and ROUGE-L against slow references, and their edges."""

import builtins
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.evaluation.overlap import overlap
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

WORDS = st.lists(st.sampled_from(["large", "eye", "of", "the", "toe", "small"]), min_size=1, max_size=6).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5)


def slow_rouge(one: str, other: str) -> float:
    """F1 of the longest common subsequence, by the plain recursion over prefixes."""
    left, right = one.split(), other.split()
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for row, word in enumerate(left, 1):
        for column, against in enumerate(right, 1):
            longest = max(table[row - 1][column], table[row][column - 1])
            table[row][column] = table[row - 1][column - 1] + 1 if word == against else longest
    shared = table[-1][-1]
    return 2 * shared / (len(left) + len(right)) if shared else 0.0


def slow_chrf(pairs: list[tuple[str, str]]) -> float:
    """chrF2 over orders one to six, counts summed over the set; an order that one side lacks does not count."""
    scores = []
    for order in range(1, 7):
        shared = own = right = 0
        for answer, reference in pairs:
            one, other = (
                Counter(text[place : place + order] for place in range(len(text) - order + 1))
                for text in (answer.replace(" ", ""), reference.replace(" ", ""))
            )
            shared, own, right = shared + (one & other).total(), own + one.total(), right + other.total()
        if own and right:
            precision, recall = shared / own, shared / right
            scores.append(5 * precision * recall / (4 * precision + recall) if shared else 0.0)
    return sum(scores) / len(scores) if scores else 0.0


@given(PAIRS)
def test_rouge_is_that_of_a_slow_reference(pairs: list[tuple[str, str]]) -> None:
    answers, references = zip(*pairs, strict=True)
    found = overlap(answers, references)
    assert found.rouge_l == pytest.approx(sum(slow_rouge(*pair) for pair in pairs) / len(pairs))
    assert 0 <= found.chrf <= 1


def test_chrf_is_that_of_a_slow_reference() -> None:
    pairs = [("large eyes", "very large eyes"), ("toe of the foot", "large toe"), ("small toenails", "tiny toenails")]
    answers, references = zip(*pairs, strict=True)
    assert overlap(answers, references).chrf == pytest.approx(slow_chrf(pairs), abs=0.005)


def test_ends_of_the_scales() -> None:
    assert overlap(["Large eye"], [" Large  eye"]) == overlap(["x y"], ["x y"])
    same = overlap(["Large eye"], ["Large eye"])
    assert (same.chrf, same.rouge_l) == (pytest.approx(1.0), 1.0)
    nothing = overlap([""], ["Large eye"])
    assert (nothing.chrf, nothing.rouge_l) == (0.0, 0.0)
    other = overlap(["眼睛大"], ["眼睛大"])
    assert (other.chrf, other.rouge_l) == (pytest.approx(1.0), 0.0)  # documented: ROUGE-L sees no other script


def test_more_of_the_answer_scores_more() -> None:
    reference = "bent little finger of the left hand"
    words = reference.split()
    grown = [overlap([" ".join(words[:count])], [reference]) for count in range(1, len(words) + 1)]
    for one, other in pairwise(grown):
        assert other.chrf > one.chrf
        assert other.rouge_l > one.rouge_l


def test_what_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="2 answers and 1 references"):
        overlap(["a", "b"], ["a"])
    with pytest.raises(UserError, match="no answers to compare"):
        overlap([], [])
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'cotune\[study\]'"):
        overlap(["a"], ["a"])
