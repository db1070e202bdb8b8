"""From the results in a run's folder to its report, its picture and its release."""

from ..adapter.forms import as_lora
from ..atomic import write_bytes, write_text
from ..charter.charter import Charter
from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus, Shown
from ..evaluation.classification import read_classification
from ..evaluation.neutral import Forgetting
from ..privacy.spending import epsilons, exposure
from ..release.facts import ReleaseFacts
from ..release.folder import write_release
from ..release.privacy_statement import PrivacyFacts
from ..release.proof import require_same_model
from ..secagg.transcript import encode
from ..server.run_directory import Committed, RunDirectory
from ..server.spent import rounds_spent
from ..strategies.base import Adapter
from ..strategies.derived import strategy_of
from ..training.source import ModelSource, in_folder
from .consortium import Consortium
from .reporting import report as reports
from .reporting import report_file
from .reporting.confusion import draw as draw_confusion
from .reporting.curves import draw
from .reporting.merging import alone_mean, alone_worst
from .reporting.report import NOT_RUN, Arm, Arms, Curves, Privacy, Report, Wire, finite_points, measured
from .reporting.text_results import TextExample, examples, markdown, read_text
from .text_arms import asked
from .workspace import Workspace

_TRANSCRIPT = "transcript.bin"
FORGETTING = "forgetting"
"""Beside the arms' results, what neutral text says of the federation."""


def assemble(
    settings: Settings, space: Workspace, consortium: Consortium, corpus: Corpus, seconds: dict[str, float]
) -> Report:
    """The report of what the folder holds; an arm without a result was not run."""
    alone, personal = _of_each("alone", space, consortium), _of_each("personal", space, consortium)
    rounds = _rounds(space, consortium)
    return Report(
        experiment=settings.name,
        seeds=(settings.seed,),
        arms=Arms(
            base=_arm(space, "base"),
            alone_mean=alone_mean(alone),
            alone_worst=alone_worst(alone),
            federated=_arm(space, "federated"),
            personal_mean=alone_mean(personal),
            pooled=_arm(space, "pooled"),
            public=_arm(space, "public"),
            probe=_arm(space, "probe"),
            pooled_without_privacy=_arm(space, "pooled_without_privacy"),
            tfidf=_arm(space, "tfidf"),
        ),
        alone=alone,
        personal=personal,
        privacy=_privacy(consortium, _trained(space, consortium), _taken(space, consortium)),
        wire=_wire(consortium, rounds),
        wall_seconds=sum(seconds.values()),
        wall_seconds_by_phase=seconds,
        test_rows=len(corpus.test),
        generation_rows=len(corpus.test if corpus.labels else asked(corpus.test, settings.simulation.generate_rows)),
        curves=_curves(space, alone, rounds),
        config=settings.model_dump(mode="json", by_alias=True),
        versions=reports.versions(),
        rounds=len(rounds),
        forgetting=_forgetting(space),
        examples=_examples(settings, space, corpus),
    )


def write_outcome(done: Report, settings: Settings, space: Workspace, consortium: Consortium, corpus: Corpus) -> None:
    """Picture, release and, last, the report, whose presence says that the run is finished.

    The base model carries no adapter afterwards.

    Raises:
        UserError: the release cannot be written, or is not what was trained.
    """
    draw(done, space.curves)
    draw_confusion(done, space.confusion)
    if done.examples:
        write_text(space.examples, markdown(done.experiment, done.examples))
    rounds = _rounds(space, consortium)
    if rounds:
        facts = _facts(settings, space, consortium, corpus.shown, rounds)
        adapter = published(consortium.charter, rounds[-1])
        write_release(
            facts, space.release, lambda made: require_same_model(made, consortium.base, consortium.lora, adapter)
        )
    report_file.write(done, space.report)


def _examples(settings: Settings, space: Workspace, corpus: Corpus) -> tuple[TextExample, ...]:
    """Of free text, where the test set may be shown; empty elsewhere, and where no answer was generated."""
    answers = [(space.result(arm) or {}).get("answers") for arm in ("base", "federated")]
    if not corpus.shown.test_rows or answers == [None, None]:
        return ()
    means = settings.simulation
    return examples(asked(corpus.test, means.generate_rows), answers[0], answers[1], means.examples)


def published(charter: Charter, done: Committed) -> Adapter:
    """The adapter that is evaluated and released after a round."""
    return strategy_of(charter).published(done.adapter, done.state)


def _rounds(space: Workspace, consortium: Consortium) -> list[Committed]:
    if not space.rounds.exists():
        return []
    run = RunDirectory(space.rounds, consortium.charter.digest())
    return [run.load(number) for number in run.committed()]


def _arm(space: Workspace, name: str, own: str | None = None) -> Arm:
    result = space.result(name)
    if result is None:
        return NOT_RUN
    return measured(
        result["accuracy"],
        result["by_group"],
        own=own,
        exact_match=result.get("exact_match"),
        nll=result.get("nll"),
        classification=read_classification(result.get("classification")),
        measures=result.get("measures"),
        text=read_text(result.get("text")),
    )


def _of_each(arm: str, space: Workspace, consortium: Consortium) -> dict[str, Arm]:
    """An arm that every organization has, of those where it was run."""
    found = {name: _arm(space, f"{arm}-{name}", own=name) for name in consortium.homes}
    return {name: one for name, one in found.items() if one.ran}


def _forgetting(space: Workspace) -> Forgetting | None:
    found = space.result(FORGETTING)
    return None if found is None else Forgetting(**found)


def _trained(space: Workspace, consortium: Consortium) -> dict[str, int]:
    """Rounds whose budget each organization spent in the federation; empty where only other arms were run."""
    if not space.rounds.exists():
        return {}
    charter = consortium.charter
    return rounds_spent(charter, RunDirectory(space.rounds, charter.digest()))


def _taken(space: Workspace, consortium: Consortium) -> dict[str, int]:
    """Personal steps that each organization has taken and paid for."""
    if not consortium.charter.personal_steps:
        return {}
    found = {name: space.result(f"personal-{name}") for name in consortium.homes}
    return {name: int(result["curve"][-1][0]) for name, result in found.items() if result is not None}


def _spent(consortium: Consortium, trained: dict[str, int], personal: dict[str, int]) -> dict[str, float]:
    """Epsilon by organization: of the federation and personal steps, or of the plan where only other arms were run."""
    charter = consortium.charter
    if trained:
        each = strategy_of(charter).steps_per_round
        return epsilons(charter.privacy, 1, {name: each * trained[name] + personal.get(name, 0) for name in trained})
    return dict.fromkeys(consortium.homes, charter.privacy.epsilon)


def _privacy(consortium: Consortium, trained: dict[str, int], personal: dict[str, int]) -> Privacy:
    terms = consortium.charter.privacy
    if not terms.enabled:
        return reports.not_private(terms.unit)
    spent = _spent(consortium, trained, personal)
    return reports.private(terms.unit, terms.delta, spent, _exposures(consortium, trained))


def _exposures(consortium: Consortium, trained: dict[str, int]) -> tuple[str, ...]:
    """The three epsilons of who trained most, or of the plan where only other arms were run; none without sharing."""
    charter = consortium.charter
    most = trained.values() or (charter.rounds,)
    found = exposure(charter.privacy, strategy_of(charter).steps_per_round, most)
    return () if found is None or charter.privacy.shares is None else found.lines(charter.privacy.shares)


def _wire(consortium: Consortium, rounds: list[Committed]) -> Wire | None:
    if not rounds:
        return None
    last = rounds[-1].measured
    return reports.wire(consortium.schema.dimension, last.contributions, last.bytes_up)


def _curves(space: Workspace, alone: dict[str, Arm], rounds: list[Committed]) -> Curves:
    def points(arm: str) -> dict[int, float]:
        result = space.result(arm) or {}
        return {int(number): float(value) for number, value in result.get("curve", [])}

    each = [points(f"alone-{name}") for name in alone]
    shared = sorted(set.intersection(*map(set, each))) if each else []
    return Curves(
        federated=tuple(points("federated").items()),
        alone_mean=tuple((number, sum(curve[number] for curve in each) / len(each)) for number in shared),
        pooled=tuple(points("pooled").items()),
        loss=finite_points((done.number + 1, done.measured.loss) for done in rounds),
        epsilon=finite_points((done.number + 1, max(done.measured.epsilon.values(), default=None)) for done in rounds),
    )


def _facts(
    settings: Settings, space: Workspace, consortium: Consortium, shown: Shown, rounds: list[Committed]
) -> ReleaseFacts:
    """What the release says; it sees no record, only what a corpus shows of itself."""
    charter, last = consortium.charter, rounds[-1]
    strategy = strategy_of(charter)
    trained = _trained(space, consortium)
    private = charter.privacy.enabled
    lora, schema, adapter = as_lora(consortium.lora, consortium.schema, published(charter, last))
    neutral, transcript = _forgetting(space), space.server / _TRANSCRIPT
    write_bytes(transcript, encode(done.record for done in rounds if done.record))
    return ReleaseFacts(
        federation=charter.federation,
        members=tuple(member.name for member in charter.members),
        base_name=charter.model.name,
        base_licence=settings.model.license or "",
        base_source=_source(settings),
        base_digest=charter.model.base_digest,
        tokenizer_digest=charter.model.tokenizer_digest,
        lora=lora,
        schema=schema,
        adapter=adapter,
        trained=_what_was_trained(charter),
        context_length=charter.model.context_length,
        strategy=charter.strategy.described,
        rounds=len(rounds),
        planned_rounds=charter.rounds,
        charter_digest=charter.digest(),
        transcript_head=last.head,
        transcript=transcript,
        privacy=PrivacyFacts(
            charter.privacy,
            # Nothing of the personal steps is in the release.
            _spent(consortium, trained, {}) if private else {},
            {name: count * strategy.steps_per_round for name, count in trained.items()} if private else {},
        ),
        form=settings.data.form,
        data_cards={"all organizations": shown.card},
        preamble=shown.preamble,
        hidden_turns=shown.hidden_turns,
        example_prompt=shown.example_prompt,
        attachments={
            "charter.yaml": (space.server / "charter.yaml").read_bytes(),
            "signatures.json": (space.server / "signatures.json").read_bytes(),
        },
        neutral_nll=None if neutral is None else (neutral.base, neutral.tuned),
    )


def _what_was_trained(charter: Charter) -> str:
    """For the model card: nothing where plain LoRA was."""
    model = charter.model
    if model.basis is None:
        return ""
    kind = {
        "public": "made from public text",
        "self_written": "made from text that the base model wrote by itself",
        "random": "drawn at random",
        "weights": "the leading singular vectors of the frozen weights",
    }[model.basis.source]
    what = "B alone, A is frozen" if model.form == "ffa" else "a core between frozen directions of inputs and outputs"
    over = f"; the loss is taken over {model.basis.vocabulary} tokens" if model.basis.vocabulary else ""
    begun = ", from an adapter trained on public rows with their right answers" if model.basis.start == "public" else ""
    return f"{what}, {kind}{begun} (basis {model.basis.digest[:16]}): {model.dimension} parameters{over}"


def _source(settings: Settings) -> ModelSource | None:
    source = settings.model.source
    return None if in_folder(source) else source
