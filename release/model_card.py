"""The model card of a release: a README in the form that model hubs read (YAML header, Markdown)."""

import json
import shlex

from .facts import ReleaseFacts
from .privacy_statement import statement_sentence


def model_card(facts: ReleaseFacts) -> str:
    """The card as Markdown. Holds no data: only descriptions that the members agreed to publish."""
    parts = (_header(facts), _what(facts), _privacy(facts), _data(facts), _training(facts), _loading(facts))
    return "\n".join(parts)


def _header(facts: ReleaseFacts) -> str:
    licence = facts.base_licence.lower() or "other"
    # JSON strings are YAML strings: names from people are quoted, never pasted.
    return "\n".join(
        (
            "---",
            "library_name: peft",
            f"base_model: {json.dumps(facts.base_name)}",
            f"license: {json.dumps(licence)}",
            "pipeline_tag: text-generation",
            "tags: [lora, federated-learning, differential-privacy, cotune]"
            if facts.privacy.terms.enabled
            else "tags: [lora, federated-learning, cotune]",
            "---",
            "",
        )
    )


def _what(facts: ReleaseFacts) -> str:
    trained = f"; trained was {facts.trained}" if facts.trained else ""
    layers = f"the top {facts.lora.top_layers} layers" if facts.lora.top_layers else "all layers"
    return f"""# {facts.federation}: a LoRA adapter for {facts.base_name}

Trained by {len(facts.members)} organizations together, without any of them giving its data away.

- Members: {", ".join(facts.members)}
- Base model: {facts.base_name}, licence {facts.base_licence or "not stated"}, SHA-256 `{facts.base_digest}`
- Adapter: LoRA, rank {facts.lora.rank}, alpha {facts.lora.alpha:g}{", rsLoRA scaling" if facts.lora.rslora else ""}, \
{", ".join(facts.lora.targets)} in {layers}, {facts.schema.dimension} parameters{trained}
- The adapter alone is in this folder. The base model and its licence stay with their owners.
"""


def _privacy(facts: ReleaseFacts) -> str:
    lines = ["## Privacy", "", statement_sentence(facts.privacy), ""]
    if facts.privacy.terms.enabled:
        lines += ["It does not cover:", "", *(f"- {text}" for text in facts.privacy.does_not_cover), ""]
    return "\n".join(
        [*lines, "The whole statement: `privacy_statement.md`, for programs `privacy_statement.json`.", ""]
    )


def _data(facts: ReleaseFacts) -> str:
    lines = ["## Data", "", f"Privacy unit: {facts.privacy.terms.unit}. No record is part of this release.", ""]
    for name, card in facts.data_cards.items():
        lines += [f"### {name}", "", _deeper(card.strip()), ""]
    return "\n".join(lines)


def _deeper(markdown: str) -> str:
    """Headings of an embedded card three levels down, so that the model card keeps one outline."""
    return "\n".join("###" + line if line.startswith("#") else line for line in markdown.splitlines())


def _training(facts: ReleaseFacts) -> str:
    early = "" if facts.rounds == facts.planned_rounds else f" of {facts.planned_rounds} planned"
    return f"""## Training

- Strategy: {facts.strategy}; rounds: {facts.rounds}{early}; context: {facts.context_length} tokens
- Charter, SHA-256: `{facts.charter_digest}`
- Transcript head: `{facts.transcript_head}`
{_forgetting(facts)}"""


def _forgetting(facts: ReleaseFacts) -> str:
    if facts.neutral_nll is None:
        return ""
    before, after = facts.neutral_nll
    return f"- Neutral English prose: {before:.3f} nats a token with the base model, {after:.3f} with the adapter\n"


_FETCHED = ("fetches the base model", "")


def _loading(facts: ReleaseFacts) -> str:
    turns = [{"role": role, "content": content} for role, content in facts.preamble]
    plain = facts.form == "completion"
    asked = "plain text, without a chat template" if plain else "a user's turn in the chat template"
    layout = [f"Prompts were {asked}."]
    if facts.preamble:
        layout += ["Before every training prompt stood these turns:", "", f"    {json.dumps(turns)}", ""]
    if facts.hidden_turns:
        layout += ["They may have begun with further turns, which are not part of this release."]
    own = facts.base_source is None
    how, place = ("takes the base model from your folder", " model=local model.name=FOLDER") if own else _FETCHED
    example = f" --prompt {shlex.quote(facts.example_prompt)}" if facts.example_prompt else ""
    prompts = "\n".join(layout)
    return f"""## Loading

With cotune, which {how}, checks its digest and answers side by side:

    cotune chat .{place}{example}

With PEFT:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained({json.dumps(facts.base_name)})
    model = PeftModel.from_pretrained(base, ".")

Where the adapter was trained on a quantized copy of the base, answers differ a little from those on the original.

{prompts}
"""
