"""The terms of an OBO file (format 1.4), as far as a corpus needs them: names, synonyms, what lies above what."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)" ([A-Z]+)([^\[]*)\[')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Term:
    """One term that is not obsolete.

    Attributes:
        id, name: as the file has them.
        parents: ids of what it is a kind of, in the order of the file.
        plain: its exact synonyms in the words of lay people, in the order of the file.
        synonyms: its other exact synonyms, without abbreviations.
    """

    id: str
    name: str
    parents: tuple[str, ...]
    plain: tuple[str, ...]
    synonyms: tuple[str, ...]


def terms(content: str) -> dict[str, Term]:
    """Terms by id, in the order of the file. Terms without a name, and obsolete ones, are left out."""
    found = (_term(stanza) for stanza in _stanzas(content))
    return {term.id: term for term in found if term is not None}


def below(known: Mapping[str, Term], root: str) -> set[str]:
    """The ids of a term and of all kinds of it."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for term in known.values():
        for parent in term.parents:
            kinds[parent].append(term.id)
    found, waiting = set[str](), [root]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += kinds[one]
    return found


def release(content: str) -> str:
    """The release that a file says it is; empty where it does not."""
    said = re.search(r"^data-version: (.+)$", content[:4096], re.MULTILINE)
    return said[1].strip() if said else ""


def _stanzas(content: str) -> Iterator[list[tuple[str, str]]]:
    """Tags and values of each [Term]."""
    for stanza in re.split(r"^\[", content, flags=re.MULTILINE)[1:]:
        kind, _, body = stanza.partition("]")
        if kind == "Term":
            yield [(tag, value) for tag, _, value in (line.partition(": ") for line in body.splitlines()) if value]


def _term(tags: list[tuple[str, str]]) -> Term | None:
    first = dict(reversed(tags))
    if "id" not in first or "name" not in first or first.get("is_obsolete") == "true":
        return None
    plain, others = [], []
    for tag, value in tags:
        said = _SYNONYM.match(value) if tag == "synonym" else None
        if said is None or said[2] != "EXACT":
            continue
        text, kinds = " ".join(_ESCAPED.sub(r"\1", said[1]).split()), said[3].split()
        if "layperson" in kinds:
            plain.append(text)
        elif "abbreviation" not in kinds:
            others.append(text)
    parents = tuple(value.split(" ")[0] for tag, value in tags if tag == "is_a")
    return Term(first["id"], " ".join(first["name"].split()), parents, tuple(plain), tuple(others))
