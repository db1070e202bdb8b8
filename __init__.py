"""cotune: federated fine-tuning of language models across organizations.

What a researcher needs stands here and is loaded when it is first used:

    import cotune

    settings = cotune.compose("experiment=hospitals", "privacy.epsilon=3")
    report = cotune.simulate(settings)
    model = cotune.load_release(settings.run_dir / "release").model

Importing cotune turns off what Flower, Ray and transformers send by themselves, see `offline`; import it before them.

Every top-level folder is a room with one job. Dependencies point one way (see docs/architecture.md): cli -> simulations
-> attacks -> conf -> server | client -> enrollment -> release | verify -> strategies -> evaluation -> training -> data
-> charter -> adapter -> privacy -> secagg.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .offline import go_offline

if TYPE_CHECKING:
    from .conf.schema import Settings
    from .errors import UserError
    from .face import compose, load_release, plan_privacy, simulate, verify_transcript
    from .privacy.ledger import Ledger
    from .privacy.terms import PrivacyTerms
    from .release.reading import read_release
    from .simulations.reporting.report import Report
    from .strategies.base import Strategy
    from .training.trainer import Trainer

__version__ = "0.2.0.dev0"
__all__ = [
    "Ledger",
    "PrivacyTerms",
    "Report",
    "Settings",
    "Strategy",
    "Trainer",
    "UserError",
    "compose",
    "load_release",
    "plan_privacy",
    "read_release",
    "simulate",
    "verify_transcript",
]
_WHERE = {
    "Ledger": "privacy.ledger",
    "PrivacyTerms": "privacy.terms",
    "Report": "simulations.reporting.report",
    "Settings": "conf.schema",
    "Strategy": "strategies.base",
    "Trainer": "training.trainer",
    "UserError": "errors",
    "read_release": "release.reading",
}

go_offline()


def __getattr__(name: str) -> Any:
    """What `__all__` lists, from its module: torch takes seconds to import, and most uses need none."""
    if name not in __all__:
        raise AttributeError(f"module 'cotune' has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE.get(name, 'face')}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
