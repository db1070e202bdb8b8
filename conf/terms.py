"""The terms of privacy, with the noise that they need, and of secure aggregation that a configuration asks for."""

from ..charter.terms import SecAggTerms
from ..privacy.accounting import calibrate
from ..privacy.terms import PrivacyTerms, grid_of
from .schema import Settings


def terms(settings: Settings, units: int, dimension: int) -> PrivacyTerms:
    """The privacy terms, with the noise calibrated to the whole planned run.

    Args:
        units: of the largest organization. dimension: coordinates of the adapter.
    """
    privacy = settings.privacy
    # Both are there where privacy is enabled, see `check`.
    budget = privacy.epsilon if privacy.enabled and privacy.epsilon is not None else 0.0
    delta = privacy.delta_for(units) if privacy.enabled else 0.0
    grid = None
    if privacy.mechanism == "skellam":
        grid = grid_of(privacy.max_grad_norm, privacy.metrics_weight, dimension)
    sigma = calibrate(budget, delta, privacy.sample_rate, settings.private_steps, grid=grid) if privacy.enabled else 0.0
    shared = privacy.trust == "honest_majority"
    return PrivacyTerms(
        enabled=privacy.enabled,
        unit=privacy.unit,
        epsilon=budget,
        delta=delta,
        noise_multiplier=sigma,
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=privacy.sample_rate,
        records_per_unit=privacy.records_per_unit,
        loss_cap=privacy.loss_cap,
        metrics_weight=privacy.metrics_weight,
        trust=privacy.trust,
        organizations=settings.data.organizations if shared else 0,
        colluders=privacy.colluders if shared else 0,
        dropouts=privacy.dropouts if shared else 0,
        mechanism=privacy.mechanism,
        grid_step=0.0 if grid is None else grid.step,
        dimension=0 if grid is None else grid.dimension,
    )


def secagg_terms(settings: Settings, members: int) -> SecAggTerms:
    """What a charter of so many members says of secure aggregation."""
    secagg = settings.secagg
    return SecAggTerms(
        lane_bits=secagg.lane_bits,
        suite=secagg.suite,
        range_sigmas=secagg.range_sigmas,
        threshold=secagg.threshold_for(members),
        min_survivors=settings.min_survivors_for(members),
        deadline_seconds=secagg.deadline_seconds,
        audit_rounds=secagg.audit_rounds,
        check_fraction=secagg.check_fraction,
        check_probability=secagg.check_probability,
    )
