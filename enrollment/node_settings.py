"""What an organization sets for its own node: where its copy of the base model is, and how it computes.

Local configuration only: none of it can be changed by a message. Which data it trains on and what it allows stand in
`policy.yaml`, what everybody agreed on in the charter.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..atomic import write_text
from ..charter import documents
from ..charter.documents import Document, Name
from ..training.source import LocalModel

LocalPath = Annotated[Path, Field(strict=False)]


class NodeSettings(Document):
    """`node.yaml`.

    Attributes:
        name: which member of the charter this node is.
        model: its copy of the base model; the charter pins what it must hash to.
        cache: folder for converted models, shared by the nodes of one machine.
        cache_features: keep the frozen layers' hidden states in the node's home.
        physical_batch_tokens: padded tokens that pass through the model at once, though never fewer than eight rows; it
            bounds memory.
        threads: CPU threads of torch and of masking.
        least_step_seconds: a training step is answered no sooner: how long it took would tell the coordinator how many
            and how long the sampled records were. 0 answers at once.
    """

    name: Name
    model: LocalModel
    cache: LocalPath
    cache_features: bool
    physical_batch_tokens: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    least_step_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0


def load(path: Path) -> NodeSettings:
    """Read `node.yaml`. Raises UserError in one line."""
    return documents.read(path, NodeSettings)


def save(settings: NodeSettings, path: Path) -> None:
    """Write `node.yaml`, 0600: it says where an organization keeps things."""
    write_text(path, documents.dump(settings), 0o600)
