"""The start-up benchmark measures what it says: each command runs and ends as it should."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cotune

FILE = Path(cotune.__file__).parent / "benchmarks" / "startup.py"


def test_every_command_does_what_it_is_called() -> None:
    spec = importlib.util.spec_from_file_location("startup", FILE)
    assert spec is not None
    assert spec.loader is not None
    startup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(startup)
    for name, arguments in startup.COMMANDS.items():
        if name.endswith("Trainer"):
            continue  # torch takes seconds
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == (2 if "TYPO" in name else 0), name
        assert ("Usage" in done.stdout) == name.endswith("--help")
        assert ("did you mean privacy.epsilon?" in done.stderr) == ("TYPO" in name)
