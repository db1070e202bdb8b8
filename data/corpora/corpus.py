"""What a corpus is once it is dealt, and what a release may show of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..records import Record


@dataclass(frozen=True)
class Corpus:
    """A corpus dealt to organizations.

    Args:
        organizations: name -> its training records.
        test: held-out records; `Record.group` is the organization whose own themes the row belongs to.
        labels: every answer that occurs, sorted as the corpus defines them; empty: the answers are free text.
        shown: what a release may show of it.
        public: records of the same form that anybody may read and nobody trains on; where there are labels their
            answers go round them, whatever would be right.
        answered: those of them whose right answers are public too, with these: for the baseline that asks no
            organization, and for an adapter that private rounds begin at.
        validation: records to choose settings by, like the test set in form and `group`, and apart from it and from
            what is trained on. Fewer than the test set where the corpus has no more.
    """

    organizations: dict[str, list[Record]]
    test: list[Record]
    labels: tuple[str, ...]
    shown: "Shown"
    public: tuple[Record, ...] = ()
    answered: tuple[Record, ...] = ()
    validation: tuple[Record, ...] = ()


def unlabelled(records: Iterable[Record], labels: Sequence[str]) -> tuple[Record, ...]:
    """Records whose answers say nothing: each label in turn."""
    return tuple(
        replace(record, answer=labels[place % len(labels)], label=labels[place % len(labels)])
        for place, record in enumerate(records)
    )


@dataclass(frozen=True)
class Shown:
    """What a release may show of a corpus: all that reaches it of any record. Of a user's own files, nothing.

    Attributes:
        card: the data card, Markdown.
        preamble: the turns (role, content) that every prompt begins with.
        example_prompt: of a test row; empty: none.
        hidden_turns: whether prompts may begin with turns that are not in `preamble`.
        test_rows: whether a report may show rows of the test set. A release never does, but for `example_prompt`.
    """

    card: str
    preamble: tuple[tuple[str, str], ...] = ()
    example_prompt: str = ""
    hidden_turns: bool = False
    test_rows: bool = False
