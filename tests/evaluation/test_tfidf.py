"""The baseline learns words, counts by group, and never fails without saying why."""

import builtins
from typing import Any

import pytest
from cotune.data.records import Message, Record
from cotune.errors import UserError
from cotune.evaluation.tfidf import tfidf_baseline


def record(text: str, label: str, group: str = "") -> Record:
    return Record((Message("system", "noise"), Message("user", text)), label, "u", label, group)


TRAIN = [record(f"{word} {number}", label) for word, label in (("fish", "sea"), ("bird", "air")) for number in range(9)]


def test_accuracy_overall_and_by_group() -> None:
    pytest.importorskip("sklearn")
    test = [
        record("a fish", "sea", "x"),
        record("a bird", "air", "x"),
        record("bird song", "sea", "y"),  # the words say otherwise
        record("a fish", "fire"),  # a label never seen
    ]
    baseline = tfidf_baseline(TRAIN, test)
    assert baseline.accuracy == 0.5
    assert baseline.by_group == {"x": 1.0, "y": 0.0}
    assert baseline.rows == len(TRAIN)


def test_pairs_of_words_count() -> None:
    pytest.importorskip("sklearn")
    train = [record("not good", "bad"), record("good", "fine"), record("not bad", "fine"), record("bad", "bad")] * 9
    assert tfidf_baseline(train, train).accuracy == 1.0  # single words alone cannot tell these apart


def test_one_label_is_predicted_everywhere() -> None:
    pytest.importorskip("sklearn")
    assert tfidf_baseline(TRAIN[:3], [record("a bird", "air"), record("a fish", "sea")]).accuracy == 0.5


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    for train, test in (([], TRAIN), (TRAIN, []), (TRAIN, [record("x", "")])):
        with pytest.raises(UserError, match="has no label in every row"):
            tfidf_baseline(train, test)
    with pytest.raises(UserError, match="cannot be trained"):
        tfidf_baseline([record("!", "a"), record("?", "b")], TRAIN)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"install cotune\[study\]"):
        tfidf_baseline(TRAIN, TRAIN)


def test_another_spelling_of_a_label_is_right() -> None:
    pytest.importorskip("sklearn")
    assert tfidf_baseline(TRAIN, [record("a fish", "sea\u200b "), record("a bird", "air")]).accuracy == 1.0
    assert tfidf_baseline([record("a fish", "sea")], [record("a fish", " sea")]).accuracy == 1.0
