"""muP: initial weights, scales and learning rates that let one learning rate serve every width.

Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466, Table 8 with the rules for Adam, as nanoGPT-mup has them. With
m = width / base width, the matrices between hidden states start at 1/sqrt(m) of their standard deviation and learn at
1/m of the rate; queries and keys are multiplied by 1/d_head; the last hidden state is divided by m before the head.
Embeddings, positions and the head learn at the whole rate; norms and biases too, and never decay. So at the base width
attention alone differs from a model without muP: its scale is 1/d_head, not sqrt(d_head of the base) / d_head.

Weight decay is decoupled and multiplied with the rate of its group: per step a hidden matrix loses
lr * weight_decay / m of itself, an embedding lr * weight_decay. So hidden matrices decay the more slowly the wider the
model is; where that should not depend on the width, sweep `weight_decay` in proportion to it.

Which matrices are hidden is said by name for each architecture, `MUP_HIDDEN`: one that is not listed is refused,
and one with a matrix that is not, as that would learn at the whole rate without a word. All widths of a model have to
grow with that of the residual stream (the inner one of its MLPs, the number or the width of its heads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from gpt_opt.config.checks.architecture import MUP, MUP_HIDDEN
from gpt_opt.config.checks.optimizer_combinations import rate_problems
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.optimizers.build import build_optimizer
from gpt_opt.training.optimizers.roles import NamedParameter, Role, named_parameters

_SUFFIX = "_mup"


def width_multiplier(config: PreTrainedConfig) -> float:
    """Returns the width of a model over the base width of muP; 1 without muP."""
    base = getattr(config, MUP, None)
    return 1.0 if base is None else float(config.hidden_size / base)


def _family(config: PreTrainedConfig) -> str:
    return str(config.model_type).removesuffix(_SUFFIX)


def _is_hidden(name: str, family: str) -> bool:
    module, _, kind = name.rpartition(".")
    return kind == "weight" and module.rpartition(".")[2] in MUP_HIDDEN.get(family, ())


def scale_hidden_weights(model: PreTrainedModel) -> None:
    """Divides the initial hidden matrices by sqrt(m); those that are yet to be loaded (on the device meta) are left."""
    divisor, family = math.sqrt(width_multiplier(model.config)), _family(model.config)
    for name, weight in model.named_parameters():
        if divisor != 1 and not weight.is_meta and _is_hidden(name, family):
            weight.data.div_(divisor)


def mup_parameters(model: PreTrainedModel) -> list[NamedParameter]:
    """Returns the trainable parameters of a model with the learning rates and decays that muP gives them.

    Without muP, or at the base width, all have the whole rate; without muP all decay.

    Args:
        model: The policy, not wrapped.

    Raises:
        ConfigError: If a matrix of the model has no rule.
    """
    parameters = named_parameters(model)
    if getattr(model.config, MUP, None) is None:
        return parameters
    family, rate = _family(model.config), 1 / width_multiplier(model.config)
    unknown = [item.name for item in parameters if item.role is Role.MATRIX and not _is_hidden(item.name, family)]
    if unknown:
        rules = ", ".join(MUP_HIDDEN.get(family, ()))
        problem = f"has rules for {rules} of a {family}, not for {', '.join(unknown[:5])}"
        raise ConfigError([Problem(f"model.config.{MUP}", problem, "set it to null")])
    return [
        replace(
            item,
            lr_multiplier=rate if item.role is Role.MATRIX else 1.0,
            decays=item.role not in (Role.NORM, Role.BIAS),
        )
        for item in parameters
    ]


def optimizer_with_rates(params: Mapping[str, Any], model: PreTrainedModel) -> Optimizer:
    """Builds the optimizer of a policy, with the learning rates of muP where it has that.

    Args:
        params: `optimizer.optimizer_params`.
        model: The policy, not wrapped.

    Raises:
        ConfigError: As `build_optimizer`; or if the optimizer does not take rates for groups: it is declared not to, or
            it is one of the user's own that leaves them out.
    """
    parameters = mup_parameters(model)
    optimizer = build_optimizer(params, model, parameters)
    if (base := getattr(model.config, MUP, None)) is None:
        return optimizer
    if problems := [*rate_problems(params, base)]:
        raise ConfigError(problems)
    rates = {id(own): group["lr"] for group in optimizer.param_groups for own in group["params"]}
    for item in parameters:
        given, wanted = rates[id(item.parameter)], params["lr"] * item.lr_multiplier
        if not math.isclose(given, wanted):
            problem = f"must give {item.name} the rate lr * lr_multiplier = {wanted:g} with muP, but gives {given:g}"
            raise ConfigError([Problem("optimizer.optimizer_params", f"{params['_target_']} {problem}")])
    return optimizer


def with_mup(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `model.config` with the model type that has muP, where it asks for muP.

    transformers' own models get types of their own, `gpt2_mup` for example: plain transformers refuses a checkpoint of
    one, in place of loading it without its scales.

    Raises:
        ConfigError: If the model is of an architecture that muP is not known for.
    """
    family, base = config["model_type"], config.get(MUP)
    if family == "gpt":
        return {**config}
    others = {key: value for key, value in config.items() if key != MUP}
    if base is None:
        return others
    if family not in MUP_HIDDEN:
        problem = f"is known for the model types {', '.join(MUP_HIDDEN)}, but this is a {family}"
        raise ConfigError([Problem(f"model.config.{MUP}", problem, "set it to null")])
    return {**others, "model_type": family + _SUFFIX, MUP: base}


def _scale(model: PreTrainedModel) -> None:
    """Puts the scales of muP into a model of transformers, of which the attention has a `scaling` of 1/sqrt(d_head)."""
    scale_hidden_weights(model)
    for module in map(vars, model.modules()):
        if "scaling" in module and "head_dim" in module:
            module["scaling"] *= module["head_dim"] ** -0.5
    model.get_output_embeddings().register_forward_pre_hook(partial(_divide, width_multiplier(model.config)))


def _divide(divisor: float, head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    return (arguments[0] / divisor,)


class GPT2MupConfig(GPT2Config):
    """GPT-2 with muP."""

    model_type = "gpt2_mup"
    enable_mup_with_base_n_embd: int | None = None


class GPT2MupForCausalLM(GPT2LMHeadModel):
    """GPT-2 with muP."""

    config_class = GPT2MupConfig

    def __init__(self, config: GPT2MupConfig) -> None:
        super().__init__(config)
        _scale(self)


class LlamaMupConfig(LlamaConfig):
    """Llama with muP."""

    model_type = "llama_mup"
    enable_mup_with_base_n_embd: int | None = None


class LlamaMupForCausalLM(LlamaForCausalLM):
    """Llama with muP."""

    config_class = LlamaMupConfig

    def __init__(self, config: LlamaMupConfig) -> None:
        super().__init__(config)
        _scale(self)


class Qwen2MupConfig(Qwen2Config):
    """Qwen2 with muP."""

    model_type = "qwen2_mup"
    enable_mup_with_base_n_embd: int | None = None


class Qwen2MupForCausalLM(Qwen2ForCausalLM):
    """Qwen2 with muP."""

    config_class = Qwen2MupConfig

    def __init__(self, config: Qwen2MupConfig) -> None:
        super().__init__(config)
        _scale(self)


for made in (GPT2MupForCausalLM, LlamaMupForCausalLM, Qwen2MupForCausalLM):
    AutoConfig.register(made.config_class.model_type, made.config_class)
    AutoModelForCausalLM.register(made.config_class, made)
