"""Combinations that cannot work, refused before anything loads: each one line that says why and how to mend it."""

import os
from pathlib import Path

from ..errors import UserError
from ..privacy.noise_shares import NoiseShares, most_colluders
from ..privacy.terms import largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS
from ..spelling import plain, plain_id
from ..strategies.derived import made
from ..strategies.own import located
from .schema import (
    DPFedSGDSettings,
    FedAvgSettings,
    FFALoRASettings,
    OwnSettings,
    RoLoRASettings,
    Settings,
    StrategySettings,
)

# Of the mean change that SGD on the server takes; 1 is plain FedAvg.
_LEAST_SERVER_RATE = 0.1


def check(settings: Settings) -> None:
    """Refuse what several keys together make impossible.

    Raises:
        UserError: the first such combination.
    """
    _check_strategy(settings)
    _check_privacy(settings)
    _check_secagg(settings)
    _check_encoding(settings)
    _check_model(settings)
    _check_data(settings)
    _check_simulation(settings)
    _check_basis(settings)


def _check_strategy(settings: Settings) -> None:
    strategy = settings.strategy
    if isinstance(strategy, FedAvgSettings):
        _check_home(strategy)
    if isinstance(strategy, OwnSettings):
        _check_own(strategy)
    if settings.personal_steps and not strategy.one_noised_gradient:
        raise UserError(
            f"personal_steps={settings.personal_steps} with {named(strategy)}, which trains at home already",
            "set personal_steps=0, or choose strategy=dp_fedsgd",
        )
    form = settings.model.lora.form
    if isinstance(strategy, RoLoRASettings) and form != "lora":
        raise UserError(
            f"strategy=rolora with model.lora.form={form}: there is no A to train in turn",
            "set model.lora.form=lora (recipe=lora), or strategy=dp_fedsgd",
        )
    if isinstance(strategy, FFALoRASettings) and form == "core":
        raise UserError(
            "strategy=ffa with model.lora.form=core: there is no B to train", "set strategy=dp_fedsgd, or recipe=lora"
        )
    if isinstance(strategy, DPFedSGDSettings) and strategy.learning_rate is None:
        _check_rate(settings)
    if isinstance(strategy, RoLoRASettings) and settings.rounds < 2:
        raise UserError(
            "strategy=rolora with rounds=1: B is trained in the first round and A in the second",
            "set rounds=2 or more, or choose strategy=ffa",
        )


def _check_own(strategy: OwnSettings) -> None:
    """The class is there, and is made by these settings. Raises UserError."""
    name, code = strategy.read()
    made(name, code.digest, strategy.options)


def named(strategy: StrategySettings) -> str:
    """A strategy as it was asked for on the command line."""
    if isinstance(strategy, OwnSettings):
        return f"strategy=own ({strategy.code})"
    return f"strategy={strategy.target.split('.')[-2]}"


def _check_rate(settings: Settings) -> None:
    """A rate that is not set needs a scale for it: that of given directions under SGD, or of Adam's steps."""
    form, optimizer = settings.model.lora.form, settings.strategy.options["server_optimizer"]
    if optimizer not in (None, "adam") and not (optimizer == "sgd" and form != "lora"):
        raise UserError(
            f"strategy.learning_rate is null with strategy.server_optimizer={optimizer} and model.lora.form={form}",
            "set strategy.learning_rate, e.g. to what `cotune tune` finds",
        )


def _check_home(strategy: FedAvgSettings) -> None:
    """What the steps at home make of each other's settings."""
    rate, mu, decay = strategy.local_learning_rate or 1.0, strategy.proximal, strategy.local_weight_decay
    if strategy.local_optimizer == "sgd" and decay > 0:
        raise UserError(
            f"strategy.local_weight_decay={decay:g} with strategy.local_optimizer=sgd, which decays nothing",
            "set strategy.local_weight_decay=0, or strategy.local_optimizer=adamw",
        )
    beta1, beta2 = strategy.local_beta1, strategy.local_beta2
    if beta1 * beta1 > beta2:
        raise UserError(
            f"strategy.local_beta1={beta1:g} with strategy.local_beta2={beta2:g}: gradients would be remembered longer "
            "than their squares, and nothing would bound a step",
            f"set strategy.local_beta2={beta1 * beta1:.3g} or more",
        )
    if rate * decay > 1:
        raise UserError(
            f"strategy.local_weight_decay={decay:g} at strategy.local_learning_rate={rate:g} takes more than a weight",
            f"set strategy.local_weight_decay={1 / rate:g} or less",
        )
    if strategy.server_optimizer == "sgd" and strategy.learning_rate < _LEAST_SERVER_RATE:
        # The rate of another strategy, left over by an experiment's preset, would teach nothing and say nothing.
        raise UserError(
            f"strategy.learning_rate={strategy.learning_rate:g} with strategy=fedavg and sgd: of what organizations "
            "learned the server would take so small a fraction",
            f"set strategy.learning_rate=1, or {_LEAST_SERVER_RATE:g} or more",
        )
    if mu > 0 and strategy.local_steps == 1:
        raise UserError(
            f"strategy.proximal={mu:g} with strategy.local_steps=1: one step has nothing to be pulled back from",
            "set strategy.local_steps=2 or more, or strategy.proximal=0",
        )
    if strategy.local_optimizer == "sgd" and rate * mu > 1:
        raise UserError(
            f"strategy.proximal={mu:g} at strategy.local_learning_rate={rate:g} pulls beyond the round's adapter",
            f"set strategy.proximal={1 / rate:g} or less",
        )


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


def _check_data(settings: Settings) -> None:
    data = settings.data
    if data.corpus == "own":
        _check_own_corpus(settings)
        return
    if data.code is not None:
        raise UserError(f"data.code with data={data.corpus}: it would be ignored", "choose data=own, or set it to null")
    if data.corpus != "files":
        if data.package is None:
            raise UserError(f"data.corpus={data.corpus} without data.package", f"choose data={data.corpus}")
        for key in ("rows_per_organization", "dominance", "skew", "test_rows"):
            if getattr(data, key) is None:
                raise UserError(f"data.{key} is null, but data.corpus={data.corpus} is split by it", f"set data.{key}")
        if data.corpus != "clauses" and data.skew == "family":
            raise UserError(
                f"data.skew=family with data.corpus={data.corpus}: only clauses have families", "set data.skew=label"
            )
        task = "text" if data.corpus == "phenotypes" else "labels"
        if data.task != task:
            raise UserError(
                f"data.task={data.task} with data.corpus={data.corpus}, whose answers are {task}",
                f"set data.task={task}",
            )
        if not data.public_test:
            raise UserError(
                f"data.public_test=false with data.corpus={data.corpus}, which anybody may read",
                "set data.public_test=true",
            )
        if data.public_system is not None:
            raise UserError(
                f"data.public_system with data.corpus={data.corpus}: it would be ignored", "set data.public_system=null"
            )
        if data.turns != "last":
            raise UserError(
                f"data.turns=all with data.corpus={data.corpus}, without conversations", "set data.turns=last"
            )
        if data.files or data.test_file is not None or data.validation_file is not None:
            raise UserError(f"data.files with data.corpus={data.corpus}: they would be ignored", "choose data=files")
        return
    if data.organizations != len(data.files):
        raise UserError(
            f"data.organizations={data.organizations}, but data.files lists {len(data.files)}",
            "list one file an organization, or set data.organizations=null",
        )
    places = [_place(file) for file in data.files]
    if len(set(places)) != len(places):
        raise UserError("data.files lists a file twice", "give each organization a file of its own")
    if data.test_file is None:
        raise UserError("data.corpus=files without data.test_file", "set data.test_file")
    if _place(data.test_file) in places:
        raise UserError(f"data.test_file={data.test_file} is also an organization's file", "keep the test rows apart")
    if data.validation_file is not None and _place(data.validation_file) in (*places, _place(data.test_file)):
        raise UserError(
            f"data.validation_file={data.validation_file} is also an organization's file or the test file",
            "keep the validation rows apart, or set it to null",
        )
    for key in ("skew", "dominance", "rows_per_organization"):
        if getattr(data, key) is not None:
            raise UserError(f"data.{key} with data.corpus=files: your files are the split", f"set data.{key}=null")
    if data.turns == "all" and data.form != "messages":
        raise UserError(
            f"data.turns=all with data.form={data.form}, whose rows have one answer each",
            "set data.turns=last, or data.form=messages",
        )
    if data.turns == "all" and data.rows_are_units:
        raise UserError(
            "data.turns=all with data.rows_are_units=true: the answers of one conversation would be units apart",
            "set data.rows_are_units=false and data.columns.unit=null, so that each conversation is a unit",
        )
    required = {"instruction": ("prompt", "answer"), "completion": ("prompt", "answer"), "messages": ("messages",)}
    for column in required[data.form]:
        if getattr(data.columns, column) is None:
            raise UserError(
                f"data.columns.{column} is null, but data.form={data.form} needs it",
                f"set data.columns.{column} to the column's name",
            )


def _check_own_corpus(settings: Settings) -> None:
    """What a function builds is all that there is of it."""
    data = settings.data
    if data.code is None:
        raise UserError("data=own without data.code", "set data.code=FILE.py:function")
    located(data.code)
    for key in ("package", "skew", "test_file", "validation_file", "public_file", "public_system"):
        if getattr(data, key) is not None:
            raise UserError(f"data.{key} with data=own: it would be ignored", f"set data.{key}=null")
    if data.files:
        raise UserError("data.files with data=own: they would be ignored", "choose data=files")


def _place(file: Path) -> str:
    """One spelling for all paths to a file: without links and dots, and for file systems that take forms as one."""
    return plain(os.path.realpath(file))


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
