"""Every message of the protocol in one table: who signs it, and its fields in order.

It is written apart from the code that sends and reads messages, so that the two check each other: `walk` reads what is
really sent by the table alone, and `docs/secure-aggregation.md` prints the table.

Types: u8 to u64 are big-endian integers, f64 a finite double, h32 thirty-two bytes,
b16 sixteen; blob is u32 length and bytes; [x] is u16 count (at most 200) and items, [[x]] the same with u32; (x, y) are
items in a row; indices are [u16], strictly increasing; shares are indices and then 66 bytes for each of them.
"""

from dataclasses import dataclass

from cotune.secagg.shamir import SHARE_BYTES
from cotune.secagg.wire import Reader

MEMBER, COORDINATOR, NOBODY = "member", "coordinator", "nobody"
_INTEGERS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_FIXED = {"h32": 32, "b16": 16}


@dataclass(frozen=True)
class Format:
    """One kind of message.

    Attributes:
        phase: where in a round it is sent. signer: whose key signs it as this kind; NOBODY for a frame around signed
            messages.
        fields: "name type" in order, separated by semicolons.
    """

    kind: str
    phase: str
    signer: str
    fields: str


_ROOTED = "{context} h32; index u16; {root} h32"
FORMATS = (
    Format("envelope", "all", NOBODY, "body blob; signature blob"),
    Format(
        "plan",
        "P0",
        COORDINATOR,
        "suite u16; run b16; round u32; attempt u32; roster_hash h32; cohort indices; threshold u16; "
        "min_survivors u16; model_hash h32; schema_hash h32; dp_hash h32; dimension u64; parties u16; lane_bits u8; "
        "lanes u8; levels u64; segments [[(u32, f64)]]; deadline u64; prev_head h32",
    ),
    Format("advert", "P0", MEMBER, "ctx0 h32; index u16; mask_key blob; channel_key blob; commitment h32"),
    Format("adverts", "P1", COORDINATOR, "ctx0 h32; adverts [blob]"),
    Format("shares", "P1", MEMBER, _ROOTED.format(context="ctx1", root="root")),
    Format("boxes", "P1", NOBODY, "root blob; boxes [blob]"),
    Format("inbox", "P2", COORDINATOR, "ctx1 h32; parts [(blob, [h32], blob)]"),
    Format("upload", "P2", MEMBER, _ROOTED.format(context="ctx2", root="root")),
    Format("complaint", "P2", MEMBER, "ctx1 h32; index u16; accused u16; reason u8"),
    Format("survivors", "P3", COORDINATOR, "ctx2 h32; headers [blob]"),
    Format("survive", "P3", MEMBER, _ROOTED.format(context="ctx2", root="statement")),
    Format("quorum", "P4", COORDINATOR, "ctx2 h32; signatures [blob]"),
    Format("reveal", "P4", MEMBER, "statement h32; index u16; self_shares shares; mask_shares shares"),
    Format(
        "opening",
        "P6",
        COORDINATOR,
        "statement h32; piece u32; roots [h32]; self_secrets [blob]; mask_secrets [blob]; pieces [(blob, [h32])]",
    ),
    Format("opened", "P6", MEMBER, "statement h32; index u16; piece u32; streams [blob]"),
    Format(
        "record",
        "P5",
        COORDINATOR,
        "plan blob; adverts [blob]; share_roots [blob]; headers [blob]; signatures [blob]; self_secrets [blob]; "
        "mask_secrets [blob]; agreements [blob]; control u64 u64 u64 u64 u64 u64 u64 u64; result h32; head h32",
    ),
)


def fields_of(kind: str) -> list[tuple[str, list[str]]]:
    """(name, types in a row) of each field of a kind; KeyError for an unknown one."""
    formats = {form.kind: form for form in FORMATS}
    fields = []
    for field in formats[kind].fields.split("; "):
        name, types = field.split(" ", 1)
        fields.append((name, [types] if types[0] in "[(" else types.split(" ")))
    return fields


def walk(kind: str, body: bytes) -> dict[str, object]:
    """Read a message by the table alone.

    Returns:
        Field name -> value; a list where the field has several types in a row.

    Raises:
        Refused: "wire.*" where the bytes are not exactly such a message.
    """
    reader = Reader(body)
    found: dict[str, object] = {}
    for name, types in fields_of(kind):
        values = [_read(reader, type_) for type_ in types]
        found[name] = values if len(values) > 1 else values[0]
    reader.end()
    return found


def _read(reader: Reader, type_: str) -> object:
    if type_ in _INTEGERS:
        return reader.uint(_INTEGERS[type_])
    if type_ in _FIXED:
        return reader.fixed(_FIXED[type_])
    if type_.startswith("[["):
        return [_read(reader, type_[2:-2]) for _ in range(reader.uint(4))]
    if type_.startswith("["):
        return [_read(reader, type_[1:-1]) for _ in range(reader.count())]
    if type_.startswith("("):
        return [_read(reader, item) for item in type_[1:-1].split(", ")]
    if type_ == "shares":
        return {owner: reader.uint(SHARE_BYTES) for owner in reader.indices()}
    return {"f64": reader.real, "blob": reader.blob, "indices": reader.indices}[type_]()


def markdown() -> str:
    """The table as it stands in the document."""
    rows = [f"| {form.phase} | `{form.kind}` | {form.signer} | {_cells(form.kind)} |" for form in FORMATS]
    return "\n".join(["| phase | kind | signed by | fields |", "|---|---|---|---|", *rows])


def _cells(kind: str) -> str:
    return ", ".join(f"{name}: `{' '.join(types)}`" for name, types in fields_of(kind))
