"""The table at the end of a run, for the terminal and for the README. An arm that was not run says "not run"."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...evaluation.neutral import Forgetting
from ...privacy.accounting import rounded, rounded_delta
from . import text_tables
from .report import Arm, Report, Wire
from .text_tables import is_text

MISSING: Final = "not run"
UNMEASURED: Final = "-"
HEADERS: Final = ("model", "accuracy", "macro F1", "worst organization", "own organization's rows", "exact generation")


def rows(report: Report) -> Iterator[tuple[str, Arm]]:
    """The arms in the order of the table, with the words that people read. Organizations are sorted by name."""
    yield "base model, untouched", report.arms.base
    for name in sorted(report.alone):
        yield f"{name} alone", report.alone[name]
    yield "alone, mean", report.arms.alone_mean
    yield "federation", report.arms.federated
    for name in sorted(report.personal):
        yield f"{name}, personal", report.personal[name]
    if report.personal:
        yield "personal, mean", report.arms.personal_mean
    yield "all data pooled (forbidden)", report.arms.pooled
    if report.arms.pooled_without_privacy.ran:
        yield "all data pooled, without privacy", report.arms.pooled_without_privacy
    yield "public rows with their answers, no organization", report.arms.public
    if not is_text(report):
        yield "linear probe, same privacy", report.arms.probe
    yield text_tables.NEAREST if is_text(report) else "TF-IDF + logistic regression, pooled", report.arms.tfidf


def percent(value: float | None) -> str:
    """A rate as percent with one decimal, or "-" where it was not measured."""
    return UNMEASURED if value is None else f"{100 * value:.1f}%"


def accuracy_words(arm: Arm, seeds: int) -> str:
    """Accuracy with spread; says so where the arm ran at fewer seeds than the report has. E.g. `47.2% (45.1-49.0)`."""
    if not arm.ran:
        return MISSING
    words = percent(arm.accuracy)
    if arm.spread is not None:
        words += f" ({100 * arm.spread[0]:.1f}-{100 * arm.spread[1]:.1f})"
    return words if len(arm.seeds) == seeds else f"{words} [{len(arm.seeds)} of {seeds} seeds]"


def cells(arm: Arm, seeds: int) -> tuple[str, ...]:
    """The number cells of an arm. An arm that was not run shows no number anywhere."""
    if not arm.ran:
        return MISSING, *[UNMEASURED] * (len(HEADERS) - 2)
    return (
        accuracy_words(arm, seeds),
        percent(None if arm.classification is None else arm.classification.macro_f1),
        percent(arm.worst_organization),
        percent(arm.own_organization),
        percent(arm.exact_match),
    )


def privacy_sentence(report: Report) -> str:
    """Epsilon, delta, unit and adjacency in one sentence."""
    privacy = report.privacy
    arms = report.arms
    if not (report.alone or arms.federated.ran or arms.pooled.ran or arms.probe.ran):
        return "Privacy: nothing was trained with these settings, no budget was spent."
    if not privacy.enabled or privacy.epsilon_max is None or privacy.delta is None:
        return "Privacy: off. Nothing in this run is protected by differential privacy."
    return (
        f"Privacy: every organization spent epsilon <= {rounded(privacy.epsilon_max)} "
        f"at delta = {rounded_delta(privacy.delta)}; unit: {privacy.unit}; adjacency: {privacy.adjacency}."
        + (f" The noise is shared: {'; '.join(privacy.exposures)}." if privacy.exposures else "")
    )


def early_sentence(report: Report) -> str | None:
    """Where the federation ended before its last round: that it did. None elsewhere."""
    planned = report.config.get("rounds", 0)
    if report.wire is None or not report.rounds < planned:
        return None
    which = "" if len(report.seeds) == 1 else ", at the seed that came least far"
    return f"The federation ended early, after {report.rounds} of {planned} rounds{which}."


def personal_sentence(report: Report) -> str | None:
    """What the personal rows are; None without them."""
    if not report.personal:
        return None
    steps = report.config.get("personal_steps", 0)
    if not steps:
        return (
            "Personal: the federation's adapter, taken further along each organization's own contributions; no epsilon "
            "was spent on it, and nothing of it was sent."
        )
    return (
        f"Personal: {steps} private step{'s' if steps != 1 else ''} at home from the federation's adapter, within the "
        "same epsilon; nothing of them was sent."
    )


def wire_sentence(wire: Wire | None, seeds: int) -> str:
    """Bytes on the wire of so many federations against plain fp32."""
    if wire is None:
        return "Traffic: no federation was run."
    runs = "" if seeds == 1 else f" of {seeds} runs"
    return (
        f"Traffic: {wire.bytes_up / 1e6:.1f} MB up in all rounds{runs}, {wire.bytes_per_parameter:.2f} bytes a "
        f"parameter and contribution, {wire.plain_fp32_ratio:.2f} times plain fp32."
    )


def interval_sentence(report: Report) -> str | None:
    """How sure the federation's accuracy is, and what its probabilities are worth."""
    arm = report.arms.federated
    if arm.classification is None:
        return None
    low, high = arm.classification.interval
    seeds = "" if len(arm.seeds) == 1 else ", mean over seeds"
    return (
        f"Federation: {percent(arm.accuracy)}, 95% interval {100 * low:.1f}-{100 * high:.1f} (Wilson, over "
        f"{report.test_rows} {judged(report)} rows{seeds}); expected calibration error "
        f"{percent(arm.classification.calibration_error)}."
    )


def probe_sentence(report: Report) -> str | None:
    """Which is ahead, the federation or the simplest thing that could work."""
    probe, federated = report.arms.probe.accuracy, report.arms.federated.accuracy
    if probe is None or federated is None:
        return None
    points = 100 * (probe - federated)
    place = "ahead of" if points > 0 else "behind"
    return f"The linear probe under the same privacy is {abs(points):.1f} points {place} the federation."


def measure_sentences(report: Report) -> tuple[str, ...]:
    """What metrics of the user's own say of each arm that they were taken of."""
    taken = [(name, arm.measures) for name, arm in rows(report) if arm.measures]
    names = dict.fromkeys(name for _, measures in taken for name in measures)
    return tuple(
        f"{name}: {', '.join(f'{arm} {measures[name]:.4g}' for arm, measures in taken if name in measures)}."
        for name in names
    )


def judged(report: Report) -> str:
    """What the rows are called that models were scored on."""
    return "validation" if report.config.get("simulation", {}).get("judge") == "validation" else "test"


def forgetting_sentence(found: Forgetting) -> str:
    """Neutral text before and after."""
    return (
        f"Neutral text: {found.base:.3f} nats a token with the base model, {found.tuned:.3f} with the federation's "
        f"adapter ({found.tokens} tokens)."
    )


def generation_sentence(report: Report) -> str:
    """On how many rows the last column was measured."""
    if report.generation_rows == 0:
        return "Exact generation: not measured."
    return f"Exact generation: greedy answers, word for word, on {report.generation_rows} {judged(report)} rows."


def time_sentence(report: Report) -> str:
    """Wall time in all and by phase."""
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.wall_seconds_by_phase.items())
    return f"Time: {report.wall_seconds:.0f} s" + (f" ({phases})." if phases else ".")


def sentences(report: Report) -> tuple[str, ...]:
    """What stands below the table."""
    first = (early_sentence(report), interval_sentence(report), probe_sentence(report))
    personal = personal_sentence(report)
    return (
        *(sentence for sentence in first if sentence is not None),
        *(() if not is_text(report) or (share := text_tables.share_sentence(report)) is None else (share,)),
        *measure_sentences(report),
        privacy_sentence(report),
        *(() if personal is None else (personal,)),
        wire_sentence(report.wire, len(report.arms.federated.seeds)),
        text_tables.generation_sentence(report) if is_text(report) else generation_sentence(report),
        *(() if report.forgetting is None else (forgetting_sentence(report.forgetting),)),
        time_sentence(report),
    )


def result_table(report: Report) -> RenderableType:
    """What is printed at the end of a run: the table of arms and, below it, privacy, traffic and time."""
    count = len(report.seeds)
    seeds = f"{count} seeds, mean (lowest-highest)" if count > 1 else f"seed {', '.join(map(str, report.seeds))}"
    title = Text(f"{report.experiment}: {report.test_rows} {judged(report)} rows, {seeds}", style="table.title")
    table = Table(title=title, title_justify="left")
    for index, header in enumerate(_headers(report)):
        table.add_column(header, justify="left" if index == 0 else "right", overflow="fold")
    for name, arm in rows(report):
        style = "bold" if arm is report.arms.federated else None
        table.add_row(Text(name), *map(Text, _cells(report, arm)), style=style)
    return Group(table, *map(Text, sentences(report)))


def study_table_markdown(reports: Sequence[Report]) -> str:
    """One Markdown table for each report (merge the seeds of an experiment first), for the README.

    Cells are the same as in the terminal. A pipe in a name is escaped.
    """
    return "\n".join(_markdown(report) for report in reports)


def _markdown(report: Report) -> str:
    lines = [
        f"**{report.experiment}** ({report.test_rows} {judged(report)} rows, "
        f"seeds {', '.join(map(str, report.seeds))})",
        "",
        "| " + " | ".join(_headers(report)) + " |",
        "|---|" + "---:|" * (len(_headers(report)) - 1),
    ]
    lines += ["| " + " | ".join(map(_cell, (name, *_cells(report, arm)))) + " |" for name, arm in rows(report)]
    return "\n".join([*lines, "", *sentences(report), ""])


def _headers(report: Report) -> tuple[str, ...]:
    return text_tables.HEADERS if is_text(report) else HEADERS


def _cells(report: Report, arm: Arm) -> tuple[str, ...]:
    return (text_tables.cells if is_text(report) else cells)(arm, len(report.seeds))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
