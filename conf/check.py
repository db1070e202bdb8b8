"""Combinations that cannot work, refused before anything loads: each one line that says why and how to mend it."""

from ..errors import UserError
from ..privacy.noise_shares import NoiseShares, most_colluders
from ..privacy.terms import largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS
from ..spelling import plain, plain_id
from ..strategies.own import located
from .check_data import check_data
from .check_strategy import check_strategy, named
from .schema import Settings


def check(settings: Settings) -> None:
    """Refuse what several keys together make impossible.

    Raises:
        UserError: the first such combination.
    """
    check_strategy(settings)
    _check_privacy(settings)
    _check_secagg(settings)
    _check_encoding(settings)
    _check_model(settings)
    check_data(settings)
    _check_simulation(settings)
    _check_basis(settings)


def _check_privacy(settings: Settings) -> None:
    privacy = settings.privacy
    if "|" in plain_id(privacy.unit) or plain(privacy.unit) != privacy.unit:
        raise UserError(
            f"privacy.unit={privacy.unit!a} is not a plain word", "name it in plain characters, without a vertical bar"
        )
    if not privacy.enabled and privacy.epsilon is not None:
        raise UserError(
            f"privacy.enabled=false adds no noise, yet privacy.epsilon={privacy.epsilon:g} promises a bound",
            "choose privacy=none, or set privacy.enabled=true",
        )
    if not privacy.enabled and privacy.delta is not None:
        raise UserError(
            f"privacy.enabled=false adds no noise, yet privacy.delta={privacy.delta:g} promises a bound",
            "choose privacy=none, or set privacy.enabled=true",
        )
    if privacy.enabled and privacy.epsilon is None:
        raise UserError("privacy.enabled=true without privacy.epsilon", "set privacy.epsilon, e.g. privacy.epsilon=8")
    if privacy.trust == "honest_majority":
        _check_shared_noise(settings)
    if privacy.mechanism == "skellam":
        _check_integers(settings)
    units = settings.data.units_per_organization
    if privacy.delta is not None and units is not None and privacy.delta > (limit := largest_delta(units)):
        raise UserError(
            f"privacy.delta={privacy.delta:g} is above 1/(10 n) for n={units} units",
            f"set privacy.delta={limit:.3g} or less, or null",
        )


def _check_integers(settings: Settings) -> None:
    if not settings.privacy.enabled:
        raise UserError("privacy.mechanism=skellam with privacy.enabled=false", "set privacy.mechanism=gaussian")
    if not settings.strategy.one_noised_gradient:
        raise UserError(
            f"privacy.mechanism=skellam with {named(settings.strategy)}: what local steps make of the noised "
            "integers is not on their grid",
            "set privacy.mechanism=gaussian, or choose strategy=dp_fedsgd",
        )


def _check_shared_noise(settings: Settings) -> None:
    privacy, count = settings.privacy, settings.data.organizations
    if not privacy.enabled:
        raise UserError("privacy.trust=honest_majority with privacy.enabled=false", "set privacy.trust=nobody")
    if not settings.strategy.one_noised_gradient:
        raise UserError(
            f"privacy.trust=honest_majority with {named(settings.strategy)}: after several local steps a sum is "
            "not a signal plus one Gaussian",
            "set privacy.trust=nobody, or choose strategy=dp_fedsgd",
        )
    NoiseShares(count, privacy.colluders, privacy.dropouts)  # refuses where nobody is left to add noise
    survivors = settings.min_survivors_for(count)
    if survivors < count - privacy.dropouts:
        raise UserError(
            f"secagg.min_survivors={survivors} opens sums with less noise than privacy.dropouts={privacy.dropouts} "
            "allows",
            f"set secagg.min_survivors={count - privacy.dropouts} or null",
        )
    threshold = settings.secagg.threshold_for(count)
    if privacy.colluders > (most := most_colluders(count, threshold)):
        raise UserError(
            f"privacy.colluders={privacy.colluders} and the coordinator could open single contributions of {count} "
            "organizations",
            f"set privacy.colluders={most} or less",
        )


def _check_secagg(settings: Settings) -> None:
    secagg, count = settings.secagg, settings.data.organizations
    if count < MIN_MEMBERS:
        raise UserError(
            f"secure aggregation with {count} organization(s): one of two learns the other's update by subtraction",
            "name the files of at least 3 organizations in data.files"
            if settings.data.corpus == "files" and len(settings.data.files) < 3
            else "set data.organizations=3 or more",
        )
    if count > 200:
        raise UserError(
            f"secure aggregation with {count} organizations: the protocol serves 3 to 200",
            "set data.organizations=200 or less",
        )
    least, threshold = least_threshold(count), secagg.threshold_for(count)
    if not least <= threshold <= count:
        raise UserError(
            f"secagg.threshold={threshold} for {count} organizations: it must be {least} to {count}",
            f"set secagg.threshold={least} or null",
        )
    low, survivors = max(MIN_MEMBERS, threshold), settings.min_survivors_for(count)
    if not low <= survivors <= count:
        raise UserError(
            f"secagg.min_survivors={survivors} for {count} organizations: it must be {low} to {count}",
            f"set secagg.min_survivors={low} or null",
        )


def _check_encoding(settings: Settings) -> None:
    count = settings.data.organizations
    if (2**settings.secagg.lane_bits - 1) // (2 * count) < 1:
        needed = (2 * count).bit_length()
        raise UserError(
            f"secagg.lane_bits={settings.secagg.lane_bits} cannot hold the sum of {count} organizations",
            f"set secagg.lane_bits={needed} or more",
        )


def _check_model(settings: Settings) -> None:
    model = settings.model
    if model.cache_features and model.top_layers == 0:
        raise UserError(
            "model.cache_features=true with model.top_layers=0: no layer is frozen, so nothing can be cached",
            "set model.top_layers, e.g. 4, or model.cache_features=false",
        )
    if "all-linear" in model.lora.targets and len(model.lora.targets) > 1:
        raise UserError("model.lora.targets names all-linear and further layers", "keep all-linear alone, or drop it")


def _check_basis(settings: Settings) -> None:
    """Where the directions of a form come from."""
    model, data = settings.model, settings.data
    form, source = model.lora.form, model.basis.source
    if data.public_file is not None and data.corpus != "files":
        raise UserError(f"data.public_file with data={data.corpus}, which brings its own", "set it to null")
    if model.basis.start == "public" and form == "lora":
        raise UserError(
            "model.basis.start=public with model.lora.form=lora: plain LoRA has no basis to begin from",
            "set model.basis.start=zero, or recipe=core",
        )
    if form == "lora":
        return
    if form == "core" and data.task == "text":
        raise UserError(
            "model.lora.form=core with data.task=text: a core moves the tokens of a few labels, not of free text",
            "set recipe=text",
        )
    without = data.corpus == "files" and data.public_file is None
    if source == "public" and without:
        raise UserError(
            f"model.lora.form={form} is made from public text, and there is none",
            "set data.public_file, or model.basis.source=self_written",
        )
    if data.form == "completion" and (source == "self_written" or (source is None and without)):
        raise UserError(
            f"model.lora.form={form} with data.form=completion, which has no user's turn that a model could write",
            "set data.public_file, or recipe=lora",
        )


def _check_simulation(settings: Settings) -> None:
    arms = settings.simulation.arms
    if len(set(arms)) != len(arms):
        raise UserError("simulation.arms names an arm twice", "name each arm once")
    for place in settings.simulation.metrics:
        located(place)
    names = [place.rpartition(":")[2] for place in settings.simulation.metrics]
    if len(set(names)) != len(names):
        raise UserError("simulation.metrics has two functions of one name", "name them differently")
    if "personal" in arms and "federated" not in arms:
        raise UserError("simulation.arms has personal without federated, which it goes on from", "add federated")
    data = settings.data
    if settings.simulation.judge == "validation" and data.corpus == "files" and data.validation_file is None:
        raise UserError("simulation.judge=validation without data.validation_file", "set it, or simulation.judge=test")
