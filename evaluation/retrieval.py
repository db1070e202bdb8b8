"""The baseline beside free text: the answer of the training record whose question is nearest by characters.

It is no language model and has no privacy; it tells how much of a test set is in the training set already.
"""

from collections.abc import Sequence

from ..data.records import Record
from ..errors import UserError

_AT_ONCE = 512


def nearest_answers(train: Sequence[Record], test: Sequence[Record]) -> list[str]:
    """For each test record the answer of the training record with the most similar last turn before it.

    Similar is the cosine of TF-IDF over character 2- to 4-grams within words.

    Raises:
        UserError: scikit-learn is missing; a set is empty.

    Guarantees: deterministic; of equally near records the first one counts.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise UserError("the baseline needs scikit-learn", "install cotune[study]") from None
    if not train or not test:
        raise UserError("a set of the baseline is empty", "give records, or skip the baseline")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    known = characters.fit_transform([record.prompt[-1].content for record in train])
    asked = characters.transform([record.prompt[-1].content for record in test])
    found: list[str] = []
    for start in range(0, len(test), _AT_ONCE):
        near = (asked[start : start + _AT_ONCE] @ known.T).toarray().argmax(axis=1)
        found += [train[place].answer for place in near]
    return found
