"""`node.yaml` comes back as it was written, privately; a mistake in it is one line."""

import stat
from pathlib import Path

import pytest
from cotune.data.packages import PinnedPackage
from cotune.enrollment import node_settings as settings
from cotune.enrollment.node_settings import NodeSettings
from cotune.errors import UserError
from cotune.training.source import LocalModel

MODEL = LocalModel(
    name="/models/tiny", revision=None, gguf_file=None, package=None, sha256=None, device="cpu", dtype="auto"
)
NODE = NodeSettings(
    name="alder", model=MODEL, cache=Path("/cache"), cache_features=True, physical_batch_tokens=4096, threads=1
)


@pytest.mark.parametrize("package", [None, PinnedPackage(name="smollm", version="1.0", sha256="ab" * 32)])
def test_settings_come_back_and_are_private(tmp_path: Path, package: PinnedPackage | None) -> None:
    node = NODE.model_copy(update={"model": MODEL.model_copy(update={"package": package})})
    file = tmp_path / "node.yaml"
    settings.save(node, file)
    assert settings.load(file) == node
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: alder", "name: Alder Hospital"),
        ("threads: 1", "threads: 0"),
        ("threads: 1", "threads: '1'"),
        ("physical_batch_tokens: 4096", "physical_batch_tokens: 0"),
        ("threads: 1", "threads: 1\nlearning_rate: 1.0"),
        ("threads: 1", ""),
        ("cache: /cache", "cache: 5"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "node.yaml"
    settings.save(NODE, file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        settings.load(file)
    assert "\n" not in str(caught.value)
