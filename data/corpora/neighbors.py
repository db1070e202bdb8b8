"""Near-duplicates across a split: training rows that nearly repeat a test row are dropped (MinHash; Broder, 1997)."""

import re
from collections.abc import Sequence
from typing import Any

from ...errors import UserError
from ..records import Record
from .partition import Bundle

PERMUTATIONS = 96
SHINGLE = 3


def without_near(bundles: Sequence[Bundle], test: Sequence[Record], similarity: float) -> list[Bundle]:
    """The bundles without rows whose word triples overlap a test row's by about `similarity` (Jaccard) or more.

    Raises:
        UserError: `datasketch` is not installed.

    Edge cases: MinHash estimates the overlap, so rows close to the threshold fall on either side; the outcome is
        deterministic.
    """
    try:
        from datasketch import MinHashLSH
    except ImportError:
        raise UserError("this corpus needs datasketch", "install cotune[study]") from None
    index = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)
    for number, row in enumerate(test):
        index.insert(number, _signature(row))
    kept = []
    for bundle in bundles:
        rows = tuple(row for row in bundle.rows if not index.query(_signature(row)))
        if rows:
            kept.append(Bundle(rows, bundle.theme, bundle.kin))
    return kept


def _signature(row: Record) -> Any:
    from datasketch import MinHash

    words = re.findall(r"[a-z0-9]+", row.prompt[-1].content.casefold())
    signature = MinHash(num_perm=PERMUTATIONS, seed=1)
    signature.update_batch(
        sorted({" ".join(words[start : start + SHINGLE]).encode() for start in range(max(1, len(words) - SHINGLE + 1))})
    )
    return signature
