"""From the `model` group to a tokenizer, a policy and its reference."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from gpt_opt.config.checks.architecture import differences
from gpt_opt.config.checks.models import WEIGHT_FILES, adapters_alone
from gpt_opt.config.files import BYTES, EMBEDDED, SHIPPED, located
from gpt_opt.errors import ConfigError, GptOptError, Problem, first_line
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import run_of
from gpt_opt.training.checkpointing import WEIGHTS, damaged_files
from gpt_opt.training.instantiate import build_target
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from gpt_opt.training.models.mup import with_mup

log = logging.getLogger(__name__)


def build_tokenizer(model: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Builds the tokenizer that `model.tokenizer_name_or_path` names; it always has a padding token.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    name = model["tokenizer_name_or_path"]
    if name == BYTES:
        return byte_tokenizer()
    try:
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=model.get("trust_remote_code", False))
    except (OSError, ValueError) as error:
        raise ConfigError([_not_loaded("model.tokenizer_name_or_path", name, error)]) from error
    tokenizer = cast("PreTrainedTokenizerFast", loaded)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        # Batches of ours are padded with any token and need none; what is saved, and generation, do.
        tokenizer.pad_token = tokenizer.eos_token
        log.info("the tokenizer %s has no padding token: %s, which ends a text, pads too", name, tokenizer.eos_token)
    return tokenizer


_NOT_MODEL_ARGUMENTS = frozenset({"name", "tokenizer_name_or_path", "archive", "reference_dtype"})


def build_model(model: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Builds the model of the `model` group with its start weights, in `policy_dtype`.

    `_target_` makes it, called with the other keys of the group except name, tokenizer_name_or_path, archive and
    reference_dtype. The model's forward takes `input_ids`, `use_cache` and `logits_to_keep`, of which it may ignore the
    last two, and gives an output with `logits`.

    Raises:
        ConfigError: If it cannot be built or loaded, or its vocabulary is smaller than the tokenizer's.
    """
    dtype, archive = model.get("policy_dtype"), model.get("archive")
    arguments = {key: value for key, value in model.items() if key not in _NOT_MODEL_ARGUMENTS}
    built = cast_weights(build_target("model", arguments, PreTrainedModel), dtype)
    if archive is not None:
        load_archive(built, archive, dtype)
        _require_tokenizer_of(archive, model)
    vocabulary = getattr(built.config, "vocab_size", None)
    if vocabulary is None or vocabulary < len(tokenizer):
        if "config" not in model:
            name = model["tokenizer_name_or_path"]
            problem = f"must fit the model, which knows {vocabulary} tokens, but {name!r} has {len(tokenizer)}"
            raise ConfigError([Problem("model.tokenizer_name_or_path", problem)])
        problem = f"must be at least the tokenizer's {len(tokenizer)} tokens, but is {vocabulary}"
        raise ConfigError([Problem("model.config.vocab_size", problem)])
    return built


def require_tokens(key: str, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuses a model `name` that takes the token ids of another tokenizer for other tokens, or has too few.

    Raises:
        ConfigError: If it does.
    """
    if model.config.vocab_size < len(tokenizer):
        problem = f"must know the tokenizer's {len(tokenizer)} tokens, but {name!r} has {model.config.vocab_size}"
        raise ConfigError([Problem(key, problem)])
    if differing := _differing_tokens(name, tokenizer):
        problem = f"must have the tokenizer of the policy, but the one of {name!r} has other ids for {differing}"
        raise ConfigError([Problem(key, problem)])


def _require_tokenizer_of(archive: str, model: Mapping[str, Any]) -> None:
    """Refuses a tokenizer that has other ids for some tokens than the one that weights were trained with.

    That is the one of the run that the weights are a checkpoint of, or of their folder where it holds one.

    Raises:
        ConfigError: If it does.
    """
    folder = Path(archive) if Path(archive).is_dir() else Path(archive).parent
    if (run := run_of(folder)) is not None and run.root != folder:
        theirs = read_json_object(run.config)["model"]["tokenizer_name_or_path"]
    elif (folder / "tokenizer_config.json").is_file():
        theirs = str(folder)
    else:
        return
    name = model["tokenizer_name_or_path"]
    if theirs != name and (differing := _differing_tokens(theirs, build_tokenizer(model))):
        problem = f"must be the tokenizer of model.archive, {theirs}, but {name} has other ids for {differing}"
        raise ConfigError([Problem("model.tokenizer_name_or_path", problem, f"set it to {theirs}")])


def _differing_tokens(name: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """Returns which tokens the tokenizer `name` has other ids for: `'a' and 9 more tokens`; "" where there are none."""
    try:
        own = byte_tokenizer() if name == BYTES else AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError):
        return ""
    if own.get_vocab() == own.get_added_vocab():  # what transformers makes up where there is no tokenizer
        return ""
    theirs = {index: token for token, index in own.get_vocab().items()}
    first, *more = [t for t, index in tokenizer.get_vocab().items() if theirs.get(index, t) != t] or [""]
    return f"{first!r} and {len(more)} more tokens" if more else first and repr(first)


def from_pretrained(
    name_or_path: str,
    trust_remote_code: bool = False,
    policy_dtype: str | None = None,
    attn_implementation: str | None = None,
    *,
    key: str = "model.name_or_path",
) -> PreTrainedModel:
    """Loads a causal language model by hub id or folder.

    Args:
        name_or_path: Hub id or folder.
        trust_remote_code: Whether to run code that comes with the model.
        policy_dtype: Type of the weights, as torch calls it; None takes the stored one.
        attn_implementation: What computes attention; None is the choice of transformers.
        key: The config key that names the model, for the error.

    Raises:
        ConfigError: If it cannot be loaded, or is adapters of a model.
    """
    how = {"dtype": policy_dtype or "auto", "trust_remote_code": trust_remote_code}
    _require_whole(key, name_or_path)
    try:
        loaded = _with_attention(
            attn_implementation, partial(AutoModelForCausalLM.from_pretrained, name_or_path, **how)
        )
    except (OSError, ValueError) as error:
        raise ConfigError([_not_loaded(key, name_or_path, error)]) from error
    if getattr(loaded, "_hf_peft_config_loaded", False):  # transformers has put adapters into their base
        raise ConfigError([adapters_alone(key, name_or_path)])
    return loaded


def _require_whole(key: str, name: str) -> None:
    """Refuses a folder with damaged weights, of which transformers would not say which file it is.

    Raises:
        ConfigError: If there are any.
    """
    if wrong := "; ".join(damaged_files(Path(name), *WEIGHTS)) if Path(name).is_dir() else "":
        problem = f"must have whole weights, but of {name}: {wrong}"
        raise ConfigError([Problem(key, problem, "restore the file, or name another folder")])


def require_positions(model: PreTrainedModel, max_length: int, what: str) -> None:
    """Refuses sequences longer than a model's table of positions, and warns of those that it was not made for.

    Args:
        model: The model.
        max_length: Longest sequence, tokens.
        what: What the model is called in the message.

    Raises:
        ConfigError: If some positions are not in the table.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or max_length <= positions:
        return
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if any(("wpe" in name or "pos" in name) and item.ndim == 2 and len(item) >= positions for name, item in tensors):
        problem = f"must fit the {what}, which knows {positions} positions, but is {max_length}"
        raise ConfigError([Problem("training.training_params.max_length", problem, f"set it to {positions} or less")])
    log.warning("max_length=%d is more than the %d positions that the %s was made for", max_length, positions, what)


def _with_attention(wanted: str | None, make: Callable[..., Any]) -> PreTrainedModel:
    """Makes a model with the attention implementation `wanted`, or with the usual one where that is not available."""
    if wanted is None:
        return cast("PreTrainedModel", make())
    try:
        return cast("PreTrainedModel", make(attn_implementation=wanted))
    except (ImportError, ValueError) as error:
        built = cast("PreTrainedModel", make())
        taken = built.config._attn_implementation
        log.warning("attention %s is not available, taking %s: %s", wanted, taken, first_line(error))
        return built


def cast_weights(model: PreTrainedModel, dtype: str | torch.dtype | None) -> PreTrainedModel:
    """Converts the weights of a model in place; None leaves them.

    Buffers stay as they are: the frequencies of rotary embeddings must not be rounded (`Module.to` would).
    """
    if dtype is not None:
        for weight in model.parameters():
            weight.data = weight.data.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model


def _not_loaded(key: str, name: str, error: Exception) -> Problem:
    needs_trust = "set model.trust_remote_code=true if you trust its code" if "trust_remote_code" in str(error) else ""
    problem = f"must be a hub id or a folder that transformers can load, but {name!r} is not: {first_line(error)}"
    return Problem(key, problem, needs_trust)


def from_config(
    config: Mapping[str, Any], policy_dtype: str | None = None, attn_implementation: str | None = None
) -> PreTrainedModel:
    """Makes a causal language model with random weights.

    Args:
        config: `model_type` and keys of its config class in transformers.
        policy_dtype: Type of the weights: they are drawn in float32 and rounded, so that they are those of a float32
            model.
        attn_implementation: What computes attention; None is the choice of transformers.

    Raises:
        ConfigError: If there is no such model.
    """
    try:
        config = with_mup(config)
        architecture = AutoConfig.for_model(**config)
        known = type(architecture)().to_dict()
        if unknown := [key for key in config if key not in known]:
            raise ConfigError(
                [Problem(f"model.config.{key}", f"is no key of a {config['model_type']}") for key in unknown]
            )
        made = _with_attention(
            attn_implementation,
            lambda **how: AutoModelForCausalLM.from_config(copy.deepcopy(architecture), dtype=torch.float32, **how),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError([Problem("model.config", f"describes no causal language model: {error}")]) from error
    return cast_weights(made, policy_dtype)


def _archive_file(archive: str) -> Path:
    path = SHIPPED if archive == EMBEDDED else Path(archive)
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path)
    if (path / "adapter_model.safetensors").is_file():
        raise ConfigError([adapters_alone("model.archive", archive)])
    _require_whole("model.archive", str(path))
    if not found.is_file():
        problem = (
            f"must be `embedded`, a file of weights, or a folder with {' or '.join(WEIGHT_FILES)}, but is {archive!r}"
        )
        raise ConfigError([Problem("model.archive", problem)])
    return found


ADAPTERS = "adapter_config.json"
"""The file that makes a checkpoint one of adapters."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training loops save the weights beside the states of optimizer and schedule."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the name of every weight."""


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Returns the weights of a file, or of all the files that an index names, by the names that they have in the model.

    Raises:
        ConfigError: If there are none.
    """
    try:
        if file.name.endswith(".index.json"):
            parts = sorted(set(json.loads(file.read_text())["weight_map"].values()))
            return {name: value for part in parts for name, value in _read_weights(file.parent / part).items()}
        weights: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
        )
    except ConfigError:
        raise
    except pickle.UnpicklingError as error:  # whose words advise to run whatever code is in the file
        problem = f"{str(file)!r} must hold weights, but is no file of torch.save with tensors and plain values alone"
        raise ConfigError([Problem("model.archive", problem, "save model.state_dict() itself")]) from error
    except Exception as error:  # whatever a foreign file makes the readers raise
        problem = f"{str(file)!r} must hold weights, but: {first_line(error)}"
        raise ConfigError([Problem("model.archive", problem)]) from error
    while isinstance(weights, Mapping) and (
        inner := next((key for key in _WRAPPERS if isinstance(weights.get(key), Mapping)), "")
    ):
        weights = weights[inner]
    if not isinstance(weights, Mapping) or not all(isinstance(item, torch.Tensor) for item in weights.values()):
        problem = f"{str(file)!r} must hold a mapping of names to tensors, at the top or under {', '.join(_WRAPPERS)}"
        raise ConfigError([Problem("model.archive", problem, "save model.state_dict() itself")])
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if weights and all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return dict(weights)


def _is_zip(file: Path) -> bool:
    """Returns whether torch.save wrote a file as it does since torch 1.6, which can be read as it is needed."""
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def saved_weights(model: PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights of a checkpoint by the names that they have in the model, of any shapes and types.

    transformers saves some families, GPT-NeoX and Mixtral among them, under the names of their first release, and does
    not give those back to `load_state_dict`; it does so where it makes a model.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    if weights.keys() <= model.state_dict().keys():
        return weights
    how = {"config": copy.deepcopy(model.config), "dtype": "auto", "output_loading_info": True}
    try:
        made, info = cast("Any", type(model)).from_pretrained(folder, **how)
    except (OSError, ValueError, RuntimeError, KeyError):
        return weights  # whoever asks says what does not fit
    if info["unexpected_keys"]:
        return weights
    return {name: value for name, value in made.state_dict().items() if name not in info["missing_keys"]}


def merged_model(config: Mapping[str, Any], checkpoint: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """Returns the model that base and adapters of a checkpoint are together, and its tokenizer.

    The sum is taken in float32 and has the type of the base. The generators of random numbers are as before then.

    Args:
        config: The config of the run that the checkpoint is of, `located`; it says what the base is.
        checkpoint: A checkpoint of adapters.

    Raises:
        ConfigError: If the base cannot be built any more.
        GptOptError: If the adapters do not fit it.
    """
    from peft import PeftModel

    with _seeded(config["seed"] % 2**32):  # weights that the run drew at random must be drawn alike
        tokenizer = build_tokenizer(config["model"])
        base = build_model(config["model"], tokenizer)
    stored = base.dtype
    try:
        adapted = PeftModel.from_pretrained(cast_weights(base, torch.float32), str(checkpoint))
    except (RuntimeError, ValueError) as error:
        message = f"the adapters in {checkpoint} must fit the base that the run's config names, but do not: {error}"
        raise GptOptError(message) from error
    return tokenizer, cast_weights(cast("Any", adapted).merge_and_unload(), stored)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    set_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def load_archive(model: PreTrainedModel, archive: str, dtype: str | None) -> None:
    """Loads the weights of `model.archive` into a model that has their shape.

    Args:
        model: The model.
        archive: `embedded`, a state dict (.safetensors, or a file of torch.save, read with weights_only), or a folder
            of a checkpoint; adapters of a run are merged into their base.
        dtype: Type that the weights of the model have; None gives them the one of the archive.

    Raises:
        ConfigError: If there are no weights, or they do not fit.
    """
    run = run_of(Path(archive)) if (Path(archive) / ADAPTERS).is_file() else None
    file = Path(archive) if run is not None else _archive_file(archive)
    if other := differences(json.loads(model.config.to_json_string(use_diff=False)), archive):
        named = ", ".join(f"{key} is {here} here and {there} there" for key, (here, there) in other.items())
        raise ConfigError([_mismatch(archive, named)])
    if run is not None:
        _, merged = merged_model(located(read_json_object(run.config)), file)
        weights = dict(merged.state_dict())
    else:
        weights = _read_weights(file)
    if file != Path(archive) and not weights.keys() <= model.state_dict().keys():
        weights = saved_weights(model, file.parent)
    if dtype is None:
        cast_weights(model, next((item.dtype for item in weights.values() if item.is_floating_point()), None))
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError([_mismatch(archive, _first(str(error).splitlines()[1:], "; "))]) from error
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    if absent := [name for name in missing if name not in tied]:
        raise ConfigError([_mismatch(archive, f"it lacks {_first(absent)}")])
    if unexpected:
        raise ConfigError([_mismatch(archive, f"it also holds {_first(unexpected)}")])


def require_archive(model: Mapping[str, Any]) -> None:
    """Refuses weights of `model.archive` that do not fit the model, without making either of them.

    A model of the user's own making is left to `build_model`.

    Args:
        model: The `model` group.

    Raises:
        ConfigError: As `load_archive`, or if there is no such model.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied to the meta device, and torch says so for each weight
        if model["_target_"].rpartition(".")[2] == "from_config":
            shape = from_config(model["config"])
        elif model["_target_"].rpartition(".")[2] == "from_pretrained":
            name, trusted = model["name_or_path"], model["trust_remote_code"]
            try:
                architecture = AutoConfig.from_pretrained(name, trust_remote_code=trusted)
                shape = AutoModelForCausalLM.from_config(architecture, trust_remote_code=trusted)
            except (OSError, ValueError) as error:
                raise ConfigError([_not_loaded("model.name_or_path", name, error)]) from error
        else:
            return
        if not (Path(model["archive"]) / ADAPTERS).is_file():  # which would have to be merged first
            load_archive(shape, model["archive"], "float32")
    _require_tokenizer_of(model["archive"], model)


_SHOWN = 3
"""Weights that a message names; a model that does not fit may have hundreds."""


def _first(items: Sequence[str], between: str = ", ") -> str:
    """Returns the first few of many items, and the number of the others."""
    more = f" (and {len(items) - _SHOWN:,} more)" if len(items) > _SHOWN else ""
    return between.join(item.strip().rstrip(".") for item in items[:_SHOWN]) + more


def _mismatch(archive: str, what: str) -> Problem:
    return Problem(
        "model.archive",
        f"the weights of {archive!r} must fit the model, but: {what}",
        "change model.config to the shape of the weights, or set model.archive=null for random ones",
    )


def without_dropout(model: nn.Module) -> nn.Module:
    """Sets every dropout probability of a model to 0, as both models of a preference loss have it."""
    for holder, name in _dropouts(model):
        setattr(holder, name, 0.0)
    return model


def has_dropout(model: nn.Module) -> bool:
    """Returns whether any dropout probability of a model is above 0."""
    return any(getattr(holder, name) > 0 for holder, name in _dropouts(model))


def _dropouts(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Yields objects and the names of their dropout probabilities."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p"
        # Some families keep the probability as a number of the module, Falcon reads it from the config.
        for holder in (module, getattr(module, "config", module)):
            yield from (
                (holder, name) for name, value in vars(holder).items() if "drop" in name and type(value) is float
            )


@dataclass
class Reference:
    """The reference of a preference loss.

    It has frozen weights of its own, or is the policy with its adapters switched off, or, before its first step, the
    policy itself.

    Attributes:
        model: Frozen weights; None where it has none of its own.
        fingerprint: Of what it computes by, where its log-probabilities are computed once for all runs; else None.
        is_initial: Whether it computes what the policy does before its first step.
        is_base: Whether it is the policy with its adapters switched off.
        is_policy: Whether it is the policy, which is true before the first step only.
    """

    model: PreTrainedModel | None
    fingerprint: str | None = None
    is_initial: bool = False
    is_base: bool = False
    is_policy: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether it cannot be asked any more."""
        return self.model is None and not (self.is_base or self.is_policy)

    def copy_weights(self, policy: PreTrainedModel) -> None:
        """Gives a reference that is the policy weights of its own; before the first step."""
        # What accelerate puts in the place of `forward` would be that of the policy in the copy too.
        replaced: dict[str, Any] = {
            name: vars(policy).pop(name) for name in ("forward", "_original_forward") if name in vars(policy)
        }
        try:
            self.model = copy.deepcopy(policy).eval().requires_grad_(False)
        finally:
            vars(policy).update(replaced)

    @contextmanager
    def of(self, policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Lends the model whose forward gives the reference's logits, without gradients."""
        assert not self.is_gone, "the reference is asked for what was not kept of it"
        with torch.no_grad(), cast("Any", policy).disable_adapter() if self.is_base else nullcontext():
            yield self.model if self.model is not None else policy
