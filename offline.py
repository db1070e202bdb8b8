"""Environment variables that keep Flower, Ray and transformers off the network; set before any of them is imported.

A variable that the user has set keeps its value: `HF_HUB_OFFLINE=0 cotune simulate model=local model.name=org/name`
lets transformers fetch from its hub.
"""

import os

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Tokenizers warn and slow down where processes fork after its threads started.
    "TOKENIZERS_PARALLELISM": "false",
}


def go_offline() -> None:
    """Set what is not set. Processes that this one starts inherit it."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
