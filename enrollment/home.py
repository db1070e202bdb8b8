"""An organization's home as it joins: its identity, what it signed, what it allows, and how its node computes.

identity.key        identity key of the charter's suite: Ed25519, or Ed25519 and ML-DSA-65
charter.yaml        the charter it signed; its digest is the only one the node acts under
signatures.json     everybody's detached signatures on it
policy.yaml         where its records are, and what it allows whatever the charter says
strategy.py         code of the charter's strategy, where it is not the product's own
basis.safetensors   the frozen directions of the adapter's form, where the charter has one: public
node.yaml           where its copy of the base model is, and how to compute

The folder is 0700 and the key 0600. What a node adds to it in its rounds is in `client.home`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from .. import private_files
from ..adapter.basis import Basis
from ..atomic import write_bytes
from ..charter import charter as charters
from ..charter import policy as policies
from ..charter import signatures as collected
from ..charter.charter import Charter
from ..charter.policy import Policy
from ..errors import UserError
from ..private_files import PRIVATE, READABLE
from . import node_settings
from .node_settings import NodeSettings

FILES: Final = {
    "identity.key": PRIVATE,
    "charter.yaml": READABLE,
    "signatures.json": READABLE,
    "policy.yaml": READABLE,
    "strategy.py": READABLE,
    "basis.safetensors": READABLE,
    "node.yaml": READABLE,
}
"""The files, and the permission bits that each must not have."""


class Home:
    """The folder, and where each thing lies in it."""

    def __init__(self, path: Path) -> None:
        if not private_files.require_folder(path):
            raise UserError(f"{path}: no such node", "give the folder of an organization's node")
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty home, 0700.

        Raises:
            UserError: if the folder exists.
        """
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise UserError(f"{path}: exists already", "choose another folder") from None
        return cls(path)

    @property
    def identity(self) -> Path:
        return self.path / "identity.key"

    @property
    def charter(self) -> Path:
        return self.path / "charter.yaml"

    @property
    def signatures(self) -> Path:
        return self.path / "signatures.json"

    @property
    def policy(self) -> Path:
        return self.path / "policy.yaml"

    @property
    def strategy(self) -> Path:
        return self.path / "strategy.py"

    @property
    def basis(self) -> Path:
        return self.path / "basis.safetensors"

    @property
    def settings(self) -> Path:
        return self.path / "node.yaml"

    def set_up(self, policy: Policy, settings: NodeSettings) -> None:
        """Write what the organization decides by itself."""
        policies.save(policy, self.policy)
        node_settings.save(settings, self.settings)

    def take_up(
        self, charter: Charter, signatures: Mapping[str, bytes], basis: Basis | None = None, code: bytes | None = None
    ) -> None:
        """Write what everybody signed, and what it names.

        Args:
            charter: drafted. signatures: of all. basis: the adapter's, where its form has one. code: of the strategy,
                where it is not the product's own.
        """
        if code is not None:
            write_bytes(self.strategy, code)
        if basis is not None:
            basis.save(self.basis)
        charters.save(charter, self.charter)
        collected.save(dict(signatures), self.signatures)
