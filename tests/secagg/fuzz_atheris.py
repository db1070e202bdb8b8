"""Coverage-guided fuzzing of every parser of foreign bytes. Not run by pytest.

    pip install atheris
    python tests/secagg/fuzz_atheris.py [libFuzzer options, e.g. -max_total_time=60] [corpus folder]

The first byte of an input chooses the parser. Anything but `Refused`, or a second encoding of one value, is a crash.
"""

import sys

import atheris

with atheris.instrument_imports(include=["cotune.secagg"]):
    from cotune.secagg.evidence import Evidence
    from cotune.secagg.messages import (
        Advert,
        Complaint,
        Reveal,
        Rooted,
        Shares,
        decode_inbox,
        decode_list,
        encode_inbox,
        encode_list,
    )
    from cotune.secagg.opening import Opened, Opening
    from cotune.secagg.plan import Plan
    from cotune.secagg.record import RoundRecord
    from cotune.secagg.refused import Refused
    from cotune.secagg.state import State
    from cotune.secagg.wire import Writer, peek

PARSERS = (
    (Plan.decode, Plan.encode),
    (Advert.decode, Advert.encode),
    (Rooted.decode, Rooted.encode),
    (Shares.decode, Shares.encode),
    (Complaint.decode, Complaint.encode),
    (Reveal.decode, Reveal.encode),
    (State.decode, State.encode),
    (Opening.decode, Opening.encode),
    (Opened.decode, Opened.encode),
    (Evidence.decode, Evidence.encode),
    (decode_inbox, lambda value: encode_inbox(*value)),
    (decode_list, lambda value: encode_list(*value)),
    (peek, lambda value: bytes(Writer().blob(value[0]).blob(value[1]))),
    (RoundRecord.decode, None),
)


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    if not data:
        return
    decode, encode = PARSERS[data[0] % len(PARSERS)]
    try:
        value = decode(data[1:])
    except Refused:
        return
    if encode is not None and encode(value) != data[1:]:
        raise AssertionError("a value with two encodings")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
