"""A home as an organization joins: private, never overwritten, and whole once it took a charter up."""

from pathlib import Path

import pytest
from cotune.charter import policy as policies
from cotune.charter.columns import Columns
from cotune.charter.policy import Policy
from cotune.charter.signing import new_key
from cotune.client.home import NodeHome
from cotune.enrollment import node_settings
from cotune.enrollment.home import FILES, Home
from cotune.enrollment.node_settings import NodeSettings
from cotune.errors import UserError
from cotune.training.source import LocalModel


def furnished(folder: Path) -> tuple[Home, Policy, NodeSettings]:
    home = Home.create(folder)
    new_key(home.identity)
    policy = Policy(
        data=folder / "records.jsonl",
        form="instruction",
        columns=Columns(prompt="q", answer="a"),
        max_epsilon=3.0,
        models="any",
        min_members=3,
        unit="patient",
        allow_without_privacy=False,
    )
    settings = NodeSettings(
        name="alder",
        model=LocalModel(name="m", device="cpu", dtype="float32"),
        cache=folder / "cache",
        cache_features=False,
        physical_batch_tokens=64,
        threads=1,
    )
    home.set_up(policy, settings)
    return home, policy, settings


def test_what_an_organization_decides_lies_in_its_home(tmp_path: Path) -> None:
    home, policy, settings = furnished(tmp_path / "alder")
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert policies.load(home.policy) == policy
    assert node_settings.load(home.settings) == settings
    for name, closed in FILES.items():
        file = home.path / name
        assert not file.exists() or not file.stat().st_mode & closed


def test_a_node_takes_the_same_folder(tmp_path: Path) -> None:
    home, _, _ = furnished(tmp_path / "alder")
    with NodeHome(home.path).locked():
        pass
    home.identity.chmod(0o644)
    with pytest.raises(UserError, match="other users may use it"), NodeHome(home.path).locked():
        pass


def test_a_home_is_never_made_twice(tmp_path: Path) -> None:
    Home.create(tmp_path / "alder")
    with pytest.raises(UserError, match="exists already"):
        Home.create(tmp_path / "alder")
    with pytest.raises(UserError, match="no such node"):
        Home(tmp_path / "birch")
