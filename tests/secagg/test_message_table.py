"""One table of messages: what is sent, what the code says and what the document says are the same."""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.secagg import messages
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek

sys.path.insert(0, str(Path(__file__).parent))

from message_table import FORMATS, MEMBER, fields_of, markdown, walk

Build = Callable[..., Any]
ROOM = Path(messages.__file__).parent
DOCUMENT = ROOM.parent / "docs" / "secure-aggregation.md"
SIGNED = {form.kind for form in FORMATS if form.signer != "nobody"}


@pytest.fixture(scope="module")
def sent(federation: Build, spoiled: Build) -> dict[str, bytes]:
    """One honest message of each kind, from a round with a dropout."""
    fed = federation(4)
    server = fed.coordinator
    adverts = fed.advertise()
    shares = {i: fed.organizations[i].share(adverts) for i in range(4)}
    assert all(server.add_shares(i, message) for i, message in shares.items())
    inboxes = server.close_shares()
    headers = {}
    for i in range(3):
        headers[i], words = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
        assert server.add_upload(i, headers[i], words)
    survivors = server.close_uploads()
    signed = [fed.organizations[i].survive(survivors) for i in range(3)]
    assert all(server.add_survival(i, message) for i, message in enumerate(signed))
    quorum = server.close_survival()
    reveals = [fed.organizations[i].unmask(quorum) for i in range(3)]
    assert all(server.add_reveal(i, message) for i, message in enumerate(reveals))
    record = server.result().record
    complaint = fed.organizations[3].complain(Refused("share.seal", "does not open", 0))
    spoilt = spoiled(federation(4), {1: lambda words: words.__ixor__(1)})
    opening = spoilt.server.opening_request(spoilt.piece_of)
    enveloped = {
        "opening": opening,
        "opened": spoilt.member(0).open(opening),
        "plan": server.plan_message,
        "advert": fed.organizations[0].advert,
        "adverts": adverts,
        "shares": messages.Shares.decode(shares[0]).root,
        "inbox": inboxes[0],
        "upload": headers[0],
        "complaint": complaint,
        "survivors": survivors,
        "survive": signed[0],
        "quorum": quorum,
        "reveal": reveals[0],
        "record": record,
    }
    return {"envelope": record, "boxes": shares[0]} | {kind: peek(raw)[0] for kind, raw in enveloped.items()}


@pytest.mark.parametrize("kind", [form.kind for form in FORMATS])
def test_the_table_reads_what_is_sent(sent: dict[str, bytes], kind: str) -> None:
    found = walk(kind, sent[kind])
    assert list(found) == [name for name, _ in fields_of(kind)]
    for bad in (sent[kind][:-1], sent[kind] + b"\0"):
        with pytest.raises(Refused):
            walk(kind, bad)


def test_the_table_names_the_fields_as_the_code_does(sent: dict[str, bytes]) -> None:
    plan, record = Plan.decode(sent["plan"]), RoundRecord.decode(sent["record"])
    read = walk("plan", sent["plan"])
    for name in ("suite", "run", "round", "attempt", "cohort", "threshold", "min_survivors", "dp_hash", "prev_head"):
        assert read[name] == getattr(plan, name)
    assert [tuple(item) for item in read["segments"]] == list(plan.encoding.segments)  # type: ignore[attr-defined]
    read = walk("record", sent["record"])
    assert all(tuple(value) == getattr(record, name) for name, value in read.items() if isinstance(value, list))
    reveal = messages.Reveal.decode(sent["reveal"])
    assert walk("reveal", sent["reveal"])["mask_shares"] == dict(reveal.mask_shares) != {}


def test_every_kind_that_the_code_signs_or_opens_is_in_the_table() -> None:
    named = set()
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if function in ("seal", "unseal", "open_member", "_sign", "_rooted"):
                    named.add(node.args[0].value)
    assert named | {"survive", "opened"} == SIGNED


def test_the_document_holds_the_table() -> None:
    assert markdown() in DOCUMENT.read_text()


def test_the_document_names_every_refusal() -> None:
    """Each code that this room can refuse with stands in the document, and each one there is in the code."""
    codes = set()
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("require", "refuse", "_ordered"):
                codes |= {
                    arg.value
                    for arg in node.args
                    if isinstance(arg, ast.Constant)
                    and isinstance(arg.value, str)
                    and re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", arg.value)
                }
    listed = set(re.findall(r"^\| `([a-z_.]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert listed == codes


def test_members_sign_what_their_index_is_in() -> None:
    assert all("index" in dict(fields_of(form.kind)) for form in FORMATS if form.signer == MEMBER)
