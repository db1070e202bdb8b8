"""Leave out each check of `secagg` in turn and show which test notices.

    python tests/secagg/mutation.py [--only CODE] [--workers 2] [--json] [--write docs/secagg-mutations.md]

Nothing on disk is changed. Exits with 1 where a mutant is alive that is not in EQUIVALENT.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# One thread of arithmetic for each worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import mutants
from mutant_trials import Fate, Run, check
from mutants import WHOLE, Mutant

COMMAND = "make mutation"

# Checks behind which another one always says no first, and why they stay: name of the mutant -> reason.
EQUIVALENT: dict[str, str] = {}


def equivalent(fate: Fate) -> bool:
    """Whether no test notices, and it is known that none can."""
    return fate.alive and fate.mutant.name in EQUIVALENT


def page(run: Run) -> str:
    """The report for docs/."""
    killed = [fate for fate in run.fates if not fate.alive]
    same = [fate for fate in run.fates if equivalent(fate)]
    surviving = [fate for fate in run.fates if fate.alive and not equivalent(fate)]
    lines = [
        "# Mutation check of secure aggregation",
        "",
        f"Written by `{COMMAND}`; do not edit. Each check of `secagg/` is left out in turn, each fact of a joined",
        "condition as well, and the tests in `tests/secagg/` must notice. Not used are the slow ones, the stateful",
        "server and `crash/`, whose processes a mutant does not reach.",
        "",
        f"{len(run.fates)} mutants: {len(killed)} killed, {len(same)} equivalent, {len(surviving)} alive. "
        f"{run.cpu / 60:.1f} CPU minutes.",
        "",
    ]
    if surviving:
        lines += ["## Alive", "", *_table(surviving), ""]
    if same:
        lines += ["## Equivalent", "", "Nothing can reach these checks as the code stands; why they are there:", ""]
        lines += [
            f"- `{fate.mutant.module}`, `{fate.mutant.code}`, {_lacks(fate.mutant)}: {EQUIVALENT[fate.mutant.name]}"
            for fate in same
        ]
        lines += [""]
    return "\n".join([*lines, "## Killed", "", *_table(killed), ""])


def _table(fates: Sequence[Fate]) -> list[str]:
    rows = ["| function | refusal | what it says | left out | noticed by |", "|---|---|---|---|---|"]
    for fate in fates:
        mutant = fate.mutant
        test = f"`{fate.test.removeprefix('tests/secagg/')}`" if fate.test else fate.end
        cells = (f"`{mutant.module}.{mutant.function}`", f"`{mutant.code}`", mutant.text, _lacks(mutant), test)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return rows


def _lacks(mutant: Mutant) -> str:
    return mutant.lacks if mutant.lacks == WHOLE else f"`{mutant.lacks}`"


def as_json(run: Run) -> str:
    """[{module, function, code, text, lacks, end, test, cpu_s, tests}]."""
    names = ("module", "function", "code", "text", "lacks")
    return json.dumps(
        [
            {name: getattr(fate.mutant, name) for name in names}
            | {
                "end": "equivalent" if equivalent(fate) else fate.end,
                "test": fate.test,
                "cpu_s": round(fate.cpu, 3),
                "tests": fate.tests,
            }
            for fate in run.fates
        ],
        indent=1,
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a code, its beginning, or a module")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="the page to write")
    options = parser.parse_args()
    os.nice(5)
    every = mutants.find_all()
    chosen = [m for m in every if not options.only or m.code.startswith(options.only) or m.module == options.only]
    if not chosen:
        parser.error(f"no check has the code {options.only}")
    run = check(chosen, options.workers)
    for name in run.failing:
        print(f"fails without any mutant, not used: {name}", file=sys.stderr)
    for name in EQUIVALENT.keys() - {fate.mutant.name for fate in run.fates if fate.alive} if not options.only else ():
        print(f"in EQUIVALENT, but not alive: {name}", file=sys.stderr)
    if options.write:
        options.write.write_text(page(run))
    print(as_json(run) if options.json else page(run))
    return int(any(fate.alive and not equivalent(fate) for fate in run.fates))


if __name__ == "__main__":
    sys.exit(main())
