"""The study behind the README's table: every arm, several seeds, both corpora; and the table itself as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..atomic import write_text
from ..conf.schema import Settings
from . import simulate
from .reporting.merging import merge
from .reporting.report import Report
from .reporting.report_file import write
from .reporting.tables import result_table, study_table_markdown

# What may differ between the seeds of one experiment.
_VARYING = ("seed", "run_dir", "existing", "name")


def run(planned: Sequence[Settings], folder: Path = Path("runs/study")) -> None:
    """Run every setting that is not finished, then merge the seeds of each experiment.

    Args:
        planned: the runs, in order.
        folder: for the merged reports and table.md.

    Raises:
        UserError, KeyboardInterrupt: as `simulate.run`; finished runs are kept.
    """
    console = Console(markup=False, emoji=False)
    by_experiment: dict[str, list[Report]] = {}
    for number, settings in enumerate(planned, 1):
        console.rule(f"run {number} of {len(planned)}: {settings.name}, seed {settings.seed}")
        report = simulate.run(settings)
        by_experiment.setdefault(report.experiment, []).append(report)
    merged = [merge(reports, _VARYING) for reports in by_experiment.values()]
    folder.mkdir(parents=True, exist_ok=True)
    for report in merged:
        console.print(result_table(report))
        write(report, folder / f"{report.experiment}.json")
    write_text(folder / "table.md", study_table_markdown(merged))
    console.print(f"the table is in {folder / 'table.md'}")
