"""The baseline without a language model: the nearest training question's answer."""

import pytest
from cotune.data.records import Message, Record
from cotune.errors import UserError
from cotune.evaluation.retrieval import nearest_answers

pytest.importorskip("sklearn")


def record(text: str, answer: str = "-") -> Record:
    return Record((Message("system", "noise"), Message("user", text)), answer, "u")


TRAIN = [record("Broad thumb", "Wide thumb"), record("Myopia", "Near sight"), record("Hyperopia", "Far sight")]


def test_the_nearest_by_characters() -> None:
    test = [record("Broad thumbs"), record("Severe myopia"), record("hyperopic"), record("Myopia")]
    assert nearest_answers(TRAIN, test) == ["Wide thumb", "Near sight", "Far sight", "Near sight"]


def test_of_equally_near_ones_the_first() -> None:
    assert nearest_answers([record("same", "one"), record("same", "two")], [record("same")]) == ["one"]
    assert nearest_answers(TRAIN, [record("qqq")]) == ["Wide thumb"]  # nothing shared with anybody


def test_what_cannot_be_made() -> None:
    for train, test in (([], TRAIN), (TRAIN, [])):
        with pytest.raises(UserError, match="a set of the baseline is empty"):
            nearest_answers(train, test)
