"""From the `model` and `lora` groups to a tokenizer, a policy and its reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent / "tiny_gpt2"
"""The shipped checkpoint, `model.archive=embedded`."""


def build_tokenizer(model: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Builds the tokenizer that `model.tokenizer_name_or_path` names.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    name = model["tokenizer_name_or_path"]
    if name == "bytes":
        return byte_tokenizer()
    try:
        return cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise ConfigError([_not_loaded("model.tokenizer_name_or_path", name, error)]) from error


def build_model(model: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Builds the model of the `model` group, in float32, with its start weights.

    Raises:
        ConfigError: If it cannot be built or loaded, or its vocabulary is smaller than the tokenizer's.
    """
    if "name_or_path" in model:
        built = load_pretrained("model.name_or_path", model["name_or_path"])
    else:
        built = _from_config(model["config"])
    if model["archive"] is not None:
        _load_archive(built, model["archive"])
    if built.config.vocab_size < len(tokenizer):
        problem = f"must be at least the tokenizer's {len(tokenizer)} tokens, but is {built.config.vocab_size}"
        raise ConfigError([Problem("model.config.vocab_size", problem)])
    return built


def load_pretrained(key: str, name: str) -> PreTrainedModel:
    """Loads a causal language model by hub id or folder, in float32.

    Args:
        key: The config key that names it, for the error.
        name: Hub id or folder.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    try:
        return cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32))
    except (OSError, ValueError) as error:
        raise ConfigError([_not_loaded(key, name, error)]) from error


def _not_loaded(key: str, name: str, error: Exception) -> Problem:
    first_line = str(error).strip().partition("\n")[0]
    return Problem(key, f"must be a hub id or a folder that transformers can load, but {name!r} is not: {first_line}")


def _from_config(config: Mapping[str, Any]) -> PreTrainedModel:
    try:
        architecture = AutoConfig.for_model(**config)
        known = type(architecture)().to_dict()
        if unknown := [key for key in config if key not in known]:
            raise ConfigError(
                [Problem(f"model.config.{key}", f"is no key of a {config['model_type']}") for key in unknown]
            )
        return cast("PreTrainedModel", AutoModelForCausalLM.from_config(architecture, dtype=torch.float32))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError([Problem("model.config", f"describes no causal language model: {error}")]) from error


def _archive_file(archive: str) -> Path:
    path = EMBEDDED if archive == "embedded" else Path(archive)
    names = ("model.safetensors", "pytorch_model.bin")
    found = next((path / name for name in names if (path / name).is_file()), path)
    if not found.is_file():
        problem = f"must be `embedded`, a file of weights, or a folder with {' or '.join(names)}, but is {archive!r}"
        raise ConfigError([Problem("model.archive", problem)])
    return found


def _load_archive(model: PreTrainedModel, archive: str) -> None:
    file = _archive_file(archive)
    try:
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    except Exception as error:  # whatever a foreign file makes the readers raise
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError([Problem("model.archive", f"{str(file)!r} must hold weights, but: {first_line}")]) from error
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError([_mismatch(archive, str(error).partition("\n")[2].strip())]) from error
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    if absent := [name for name in missing if name not in tied]:
        raise ConfigError([_mismatch(archive, f"it lacks {', '.join(absent[:5])}")])
    if unexpected:
        raise ConfigError([_mismatch(archive, f"it also holds {', '.join(unexpected[:5])}")])


def _mismatch(archive: str, what: str) -> Problem:
    return Problem(
        "model.archive",
        f"the weights of {archive!r} must fit the model, but: {what}",
        "change model.config to the shape of the weights, or set model.archive=null for random ones",
    )


def without_dropout(model: nn.Module) -> nn.Module:
    """Sets every dropout probability of a model to 0: both models of a preference loss must be deterministic."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    return model


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """Wraps a model with low-rank adapters; only they are trained.

    Raises:
        ConfigError: If PEFT refuses the settings.
    """
    from peft import LoraConfig, get_peft_model

    try:
        return cast("PreTrainedModel", get_peft_model(model, LoraConfig(**lora)))
    except (ValueError, TypeError) as error:
        raise ConfigError([Problem("lora", f"PEFT refuses these settings: {error}")]) from error


@dataclass
class Reference:
    """The reference of a preference loss: frozen weights, or the policy's own base with its adapters switched off.

    Attributes:
        model: Frozen weights; None where the policy's base serves.
    """

    model: PreTrainedModel | None

    @contextmanager
    def of(self, policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Lends the model whose forward gives the reference's logits, without gradients."""
        switched_off = nullcontext() if self.model is not None else cast("Any", policy).disable_adapter()
        with torch.no_grad(), switched_off:
            yield self.model if self.model is not None else policy
