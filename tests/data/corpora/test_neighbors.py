"""Near-duplicates: a copy with a word changed goes, a different text stays."""

import random

import pytest
from cotune.data.corpora.neighbors import without_near
from cotune.data.corpora.partition import Bundle
from cotune.data.records import Message, Record


def record(words: list[str]) -> Record:
    return Record((Message("system", "Clause type?"), Message("user", " ".join(words))), "law", "u", "law")


def test_near_copies_of_test_rows_go() -> None:
    pytest.importorskip("datasketch")
    source = random.Random(0)
    vocabulary = [f"w{number}" for number in range(500)]
    test = [source.sample(vocabulary, 60) for _ in range(20)]
    copies = [record([*words[:30], "changed", *words[31:]]) for words in test]
    shouted = [record([word.upper() + "," for word in words]) for words in test]
    others = [record(source.sample(vocabulary, 60)) for _ in range(20)]
    bundles = [Bundle((copies[number], others[number], shouted[number]), "vendor", str(number)) for number in range(20)]
    bundles.append(Bundle((copies[0],), "vendor", "only copies"))
    kept = without_near(bundles, [record(words) for words in test], 0.6)
    assert [bundle.rows for bundle in kept] == [(other,) for other in others]
