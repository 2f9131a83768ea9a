"""What every option of a group has to say, one's own that inherits nothing included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.config.schema import Logging, Lora, ResourcesOptions, Training
from gpt_opt.config.schema.optimizers import OptimizerParams
from gpt_opt.config.schema.sharding import FSDP
from gpt_opt.config.suggest import unknown_key
from gpt_opt.errors import Problem

_WHOLE: Mapping[str, tuple[str, type]] = {
    "training": ("default", Training),
    "logging": ("default", Logging),
    "resources": ("default", ResourcesOptions),
    "lora": ("lora", Lora),
    "fsdp": ("full_shard", FSDP),
}
"""Groups of which every option has the same keys, with an option to inherit from and the type of its keys."""

_MAY_BE_NONE = frozenset({"lora", "fsdp"})

_SHARED = frozenset(get_type_hints(OptimizerParams)) - {"decay_fraction"}  # which options of users lack that are older
_LEAST: Mapping[str, tuple[str, frozenset[str]]] = {
    "loss": ("dpo", frozenset({"name", "_target_"})),
    "data.dataset": ("hf", frozenset({"name", "_target_"})),
    "optimizer.optimizer_params": ("adamw", _SHARED),
}
"""Nodes whose other keys depend on their `_target_`."""


def completeness_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields, a group each, the keys that its option lacks, and those that nothing reads."""
    for group, (option, cls) in _WHOLE.items():
        node = config[group]
        if not node and group in _MAY_BE_NONE:
            continue
        lacking, unknown = _compare(node, cls, f"{group}.")
        if lacking:
            yield _lacking(group, lacking, option)
        for key in unknown:
            yield unknown_key(key, [group, *_leaves(cls, f"{group}.")])
    for key, (option, names) in _LEAST.items():
        group, _, below = key.partition(".")
        node = config[group].get(below) if below and isinstance(config[group], Mapping) else config[group]
        if not isinstance(node, Mapping) or not names <= node.keys():
            lacking = sorted(names - (node.keys() if isinstance(node, Mapping) else set()))
            yield _lacking(group, [f"{key}.{name}" for name in lacking], option)


def type_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields the first value of the wrong type in each group: in options that inherit nothing Hydra does not look."""
    for group, (_, cls) in _WHOLE.items():
        try:
            OmegaConf.merge(OmegaConf.structured(cls), config[group] or {})
        except OmegaConfBaseException as error:
            yield Problem(f"{group}.{error.full_key}", str(error).splitlines()[0])


def _lacking(group: str, keys: list[str], option: str) -> Problem:
    nodes: dict[str, list[str]] = {}
    for key in keys:
        nodes.setdefault(key.rpartition(".")[0], []).append(key.rpartition(".")[2])
    listed = "; ".join(f"{node}: {', '.join(names)}" for node, names in nodes.items())
    fix = f"begin a file of this group with `defaults: [{option}, _self_]`: it brings them"
    if group in _MAY_BE_NONE:
        fix += f"; in another file choose `override /{group}: {option}`, on the command line {group}={option}"
    return Problem(group, f"lacks keys of {listed}", fix)


def _compare(node: Any, cls: type, above: str) -> tuple[list[str], list[str]]:
    """Returns the keys that a node lacks, and those that its type does not have."""
    keys, values = _keys(cls), node if isinstance(node, Mapping) else {}
    lacking: list[str] = []
    unknown = [above + str(key) for key in values if key not in keys]
    for name, kind in keys.items():
        if name not in values:
            lacking += [above + name] if kind is None else sorted(_leaves(kind, f"{above}{name}."))
        elif kind is not None:
            further = _compare(values[name], kind, f"{above}{name}.")
            lacking += further[0]
            unknown += further[1]
    return lacking, unknown


@cache
def _keys(cls: type) -> dict[str, type | None]:
    """Returns the keys of a type, each with its own type where that has keys too."""
    hints = get_type_hints(cls)
    return {name: kind if isinstance(kind, type) and is_dataclass(kind) else None for name, kind in hints.items()}


def _leaves(cls: type, above: str) -> list[str]:
    return _compare({}, cls, above)[0]
