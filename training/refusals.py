"""Models and settings that per-unit gradients get wrong or make meaningless: refused by name, before training."""

from typing import Any

from peft import PeftModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from .adapter import parameters_of


def refuse(model: PeftModel) -> None:
    """Refuse, by name, what no way of computing per-unit gradients here can train.

    Raises:
        UserError: DoRA and other variants of LoRA, LoRA on embeddings or on bare parameters, batch normalization,
            active dropout, or trained parameters that are not LoRA matrices: whole modules, tied or not, biases, full
            fine-tuning, and methods other than LoRA.
    """
    for config in model.peft_config.values():
        _refuse_config(config)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise _refused(f"batch normalization ({name})", "it mixes the rows of a batch", "choose another model")
        if isinstance(module, nn.Dropout) and module.p > 0 and module.training:
            raise _refused(f"active dropout ({name})", "gradients cannot be repeated", "put the model in eval mode")
        for variant in dict(getattr(module, "lora_variant", {})).values():
            raise _refused(
                f"LoRA variant {type(variant).__name__}", "its maps are not plain linear maps", "use plain LoRA"
            )
    shared = _shared(model)
    for name, parameter in parameters_of(model).items():
        if ".lora_embedding_" in name:
            raise _refused(f"LoRA on embeddings ({name})", "it is not a linear map", "choose linear targets")
        if ".lora_A." in name or ".lora_B." in name or ".lora_R." in name:
            if not name.endswith(".weight"):
                raise _refused(f"training of the bias {name}", "only LoRA matrices are", "train LoRA matrices only")
        elif id(parameter) in shared:
            raise _refused(
                f"training of {name}, tied to {shared[id(parameter)]}",
                "one weight then has two gradients",
                "train LoRA matrices only",
            )
        else:
            raise _refused(f"training of {name}", "only LoRA matrices are", "train LoRA matrices only")


def refuse_under_hooks(model: PeftModel) -> None:
    """Refuse, by name, what only `hooks` gets wrong.

    Raises:
        UserError: gradient checkpointing that is not reentrant.
    """
    for name, module in model.named_modules():
        recompute: Any = getattr(module, "_gradient_checkpointing_func", None)
        if not getattr(module, "gradient_checkpointing", False) or recompute is None:
            continue
        if not getattr(recompute, "keywords", {}).get("use_reentrant", False):
            raise _refused(
                f"gradient checkpointing that is not reentrant ({name})",
                "Opacus' hooks then see no activations",
                "set use_reentrant=True",
            )


def _refuse_config(config: Any) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise _refused(f"PEFT method {kind}", "only LoRA matrices are", "use LoRA")
    if getattr(config, "use_dora", False):
        raise _refused("DoRA", "its magnitudes mix the rows of a batch, also under ghost clipping", "switch DoRA off")
    whole = getattr(config, "modules_to_save", None)
    if whole:
        raise _refused(
            f"full training of {', '.join(sorted(whole))} (modules_to_save)",
            "only LoRA matrices are, and tied weights would have two gradients",
            "remove modules_to_save",
        )
    bare = getattr(config, "target_parameters", None)
    if bare:  # PEFT itself adds those of experts whose names are among the targets, as a set
        mend = "choose linear targets: in model.lora.targets no names of experts' maps"
        raise _refused(f"LoRA on parameters ({min(bare)})", "it is not a linear map", mend)
    if getattr(config, "trainable_token_indices", None):
        raise _refused("training of single tokens' embeddings", "only LoRA matrices are", "choose linear targets")


def _shared(model: PeftModel) -> dict[int, str]:
    """Parameters that stand in several modules: id -> the second module's name for it."""
    first: set[int] = set()
    again: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            again.setdefault(id(parameter), name)
        first.add(id(parameter))
    return again


def _refused(what: str, why: str, mend: str) -> UserError:
    return UserError(f"{what} cannot be trained with per-unit gradients, because {why}", mend)
