"""Several organizations' or several seeds' results as one: plain means, lowest and highest, nothing invented."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from statistics import fmean

from ...errors import UserError
from ...evaluation.classification import mean_of_classifications
from ...evaluation.neutral import Forgetting
from .differences import first_difference
from .report import NOT_RUN, Arm, Arms, Privacy, Report, Wire, wire
from .text_results import mean_text


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where any value is missing, so that a mean over fewer runs never passes for one over all."""
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None


def _mean_by_name(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: fmean(table[name] for table in tables) for name in shared}


def alone_mean(alone: Mapping[str, Arm]) -> Arm:
    """The mean over organizations of their models trained alone, of one seed. No organization: not run."""
    arms = [arm for arm in alone.values() if arm.ran]
    accuracy = mean_of([arm.accuracy for arm in arms])
    if accuracy is None:
        return NOT_RUN
    text = mean_text([arm.text for arm in arms])
    return Arm(
        accuracy=accuracy,
        seeds=(accuracy,),
        worst_organization=mean_of([arm.worst_organization for arm in arms]),
        own_organization=mean_of([arm.own_organization for arm in arms]),
        exact_match=mean_of([arm.exact_match for arm in arms]),
        nll=mean_of([arm.nll for arm in arms]),
        by_organization=_mean_by_name([arm.by_organization for arm in arms]),
        classification=mean_of_classifications([arm.classification for arm in arms]),
        text=None if text is None else replace(text, chrf_seeds=() if text.chrf is None else (text.chrf,)),
        measures=_mean_by_name([arm.measures for arm in arms]),
    )


def alone_worst(alone: Mapping[str, Arm]) -> Arm:
    """The model trained alone that is worst on the common test set, of one seed. No organization: not run."""
    arms = [arm for arm in alone.values() if arm.ran]
    return min(arms, key=lambda arm: arm.accuracy or 0.0, default=NOT_RUN)


def merge_arm(arms: Sequence[Arm]) -> Arm:
    """One arm over seeds: means, and lowest and highest accuracy. Seeds at which it was not run do not count."""
    ran = [arm for arm in arms if arm.ran]
    if not ran:
        return NOT_RUN
    seeds = tuple(value for arm in ran for value in arm.seeds)
    return Arm(
        accuracy=fmean(seeds),
        seeds=seeds,
        spread=(min(seeds), max(seeds)) if len(seeds) > 1 else None,
        worst_organization=mean_of([arm.worst_organization for arm in ran]),
        own_organization=mean_of([arm.own_organization for arm in ran]),
        exact_match=mean_of([arm.exact_match for arm in ran]),
        nll=mean_of([arm.nll for arm in ran]),
        by_organization=_mean_by_name([arm.by_organization for arm in ran]),
        classification=mean_of_classifications([arm.classification for arm in ran]),
        text=mean_text([arm.text for arm in ran]),
        measures=_mean_by_name([arm.measures for arm in ran]),
    )


def merge(reports: Sequence[Report], varying: Collection[str]) -> Report:
    """Several one-seed reports of one experiment as a single report.

    Epsilon and delta are the largest of any seed, rounds the fewest, times are sums, curves are those of the last seed.

    Args:
        reports: one report a seed, at least one.
        varying: names of configuration keys, at any depth, that may differ between seeds ("seed", "folder", ...).

    Raises:
        UserError: no report, two of one seed, or reports of different experiments, configurations or schemas.
    """
    if not reports:
        raise UserError("no report to merge", "run the experiment at least once")
    _check_alike(reports, varying)
    last = reports[-1]
    arms = {part.name: merge_arm([getattr(report.arms, part.name) for report in reports]) for part in fields(Arms)}
    phases = sorted({phase for report in reports for phase in report.wall_seconds_by_phase})
    return replace(
        last,
        seeds=tuple(seed for report in reports for seed in report.seeds),
        arms=Arms(**arms),
        alone=_merge_by_name([report.alone for report in reports]),
        personal=_merge_by_name([report.personal for report in reports]),
        privacy=_merge_privacy([report.privacy for report in reports]),
        wire=_merge_wire([report.wire for report in reports if report.wire is not None]),
        rounds=min((report.rounds for report in reports if report.wire is not None), default=0),
        forgetting=_merge_forgetting([report.forgetting for report in reports if report.forgetting is not None]),
        wall_seconds=sum(report.wall_seconds for report in reports),
        wall_seconds_by_phase={
            phase: sum(report.wall_seconds_by_phase.get(phase, 0.0) for report in reports) for phase in phases
        },
    )


def _merge_by_name(parts: Sequence[Mapping[str, Arm]]) -> dict[str, Arm]:
    names = sorted({name for part in parts for name in part})
    return {name: merge_arm([part.get(name, NOT_RUN) for part in parts]) for name in names}


def _check_alike(reports: Sequence[Report], varying: Collection[str]) -> None:
    first = reports[0]
    seeds = [seed for report in reports for seed in report.seeds]
    if len(seeds) != len(set(seeds)):
        raise UserError(f"two reports of the same seed among {seeds}", "give each seed once")
    for other in reports[1:]:
        if _kind(other) != _kind(first):
            raise UserError(
                f"reports of different experiments ({first.experiment}, {other.experiment})", "merge seeds of one"
            )
        key = first_difference(first.config, other.config, lambda place: place[-1] in varying)
        if key:
            raise UserError(f"reports whose configurations differ in {key}", "merge runs that differ in the seed only")


def _kind(report: Report) -> tuple[object, ...]:
    return report.experiment, report.test_rows, report.generation_rows, report.privacy.enabled, report.privacy.unit


def _merge_privacy(parts: Sequence[Privacy]) -> Privacy:
    first = parts[0]
    if not first.enabled:
        return first
    names = sorted({name for part in parts for name in part.by_organization})
    highest = {name: max(part.by_organization.get(name, 0.0) for part in parts) for name in names}
    delta = max(part.delta for part in parts if part.delta is not None)
    worst = max(parts, key=lambda part: part.epsilon_max or 0.0)
    return replace(worst, epsilon_max=max(highest.values()), delta=delta, by_organization=highest)


def _merge_forgetting(parts: Sequence[Forgetting]) -> Forgetting | None:
    if not parts:
        return None
    return Forgetting(fmean(part.base for part in parts), fmean(part.tuned for part in parts), parts[0].tokens)


def _merge_wire(parts: Sequence[Wire]) -> Wire | None:
    if not parts:
        return None
    sizes = {part.parameters for part in parts}
    if len(sizes) > 1:
        raise UserError(f"reports of adapters of different sizes {sorted(sizes)}", "merge seeds of one experiment")
    return wire(sizes.pop(), sum(part.contributions for part in parts), sum(part.bytes_up for part in parts))
