"""How long people wait before anything happens: seconds to import cotune, to print the help, to refuse a typo.

    python benchmarks/startup.py            # targets: import under 0.3 s, help under 0.5 s
    python benchmarks/startup.py --json

Each is a process of its own, in turns, beside one that starts Python alone; the median of the repetitions counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import cotune": ["-c", "import cotune"],
    "cotune --help": ["-c", "from cotune.cli.app import main; main(['--help'])"],
    "cotune simulate TYPO": ["-c", "from cotune.cli.app import main; main(['simulate', 'privacy.epsilom=3'])"],
    "from cotune import simulate": ["-c", "from cotune import simulate"],
    "from cotune import Trainer": ["-c", "from cotune import Trainer"],
}


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def measured(repetitions: int) -> dict[str, float]:
    """The median of each command, the commands taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repetitions):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measured(given.repetitions)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:<28} {value:6.2f} s")


if __name__ == "__main__":
    main()
