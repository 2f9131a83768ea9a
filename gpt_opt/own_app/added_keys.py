"""Keys that `+key=value` and `++key=value` add: known to the schema, or below a node that takes any key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import split_key

from gpt_opt.app.app import Source
from gpt_opt.config.explain import keys_like
from gpt_opt.config.nested import value_at
from gpt_opt.config.overrides import parse_override
from gpt_opt.config.suggest import unknown_key
from gpt_opt.errors import Problem

_ALIKE = 0.8
_NONE = frozenset({"lora", "deepspeed", "fsdp"})
"""Groups whose option `none` has no keys: they are those of another option."""


@dataclass(frozen=True)
class _Unknown:
    """A key that no schema has.

    Attributes:
        problem: What to say.
        target: Where the `_target_` beside the key is, if one is.
        default: The `_target_` of the option; another one may take any argument.
    """

    problem: Problem
    target: str = ""
    default: str = ""


class AddedKeys:
    """Checks what overrides add, each distinct override once for each choice of options."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[str, ...], list[_Unknown]] = {}
        self._configs: dict[tuple[str, ...], DictConfig] = {}

    def problems(self, overrides: Sequence[str], point: Mapping[str, Any]) -> Iterator[Problem]:
        """Yields a problem for each key that the overrides of a point with this config add and nothing reads."""
        added = [text for text in overrides if text.startswith("+") and not self._source.is_group(text)]
        if not added:
            return
        groups = tuple(text for text in overrides if self._source.is_group(text))
        for text in added:
            key = (text, *groups)
            if key not in self._known:
                self._known[key] = list(self._check(text, groups))
            for found in self._known[key]:
                if not found.target or value_at(point, found.target) == found.default:
                    yield found.problem

    def _check(self, text: str, groups: tuple[str, ...]) -> Iterator[_Unknown]:
        if groups not in self._configs:
            self._configs[groups] = self._source.compose(groups)
        config = self._configs[groups]
        override = parse_override(text)
        path = split_key(override.key_or_group)
        value = override.value()
        for added, given in _leaves(path, value):
            depth = _unknown_at(config, added)
            if depth is not None:
                yield self._explain(config, added, depth, given)

    def _explain(self, config: DictConfig, path: Sequence[str], depth: int, value: str) -> _Unknown:
        key = ".".join(path)
        problem = unknown_key(key, keys_like(config, key), value)
        node = OmegaConf.select(config, ".".join(path[:depth])) if depth else None
        default = str(node.get("_target_") or "") if isinstance(node, DictConfig) else ""
        return _Unknown(problem, ".".join([*path[:depth], "_target_"]) if default else "", default)


def _leaves(path: Sequence[str], value: Any) -> Iterator[tuple[list[str], str]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves([*path, str(key)], below)
    else:
        yield list(path), str(value)


def _unknown_at(config: DictConfig, path: Sequence[str]) -> int | None:
    """Returns which part of a path no schema has, or None where all have one or any key may come."""
    node: Any = config
    for depth, step in enumerate(path):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            return None  # a value, or an object that is given in parts: the config that comes of it is checked
        if path[0] in _NONE and depth == 1 and not node:
            return depth
        child = node._get_node(step, validate_access=False)
        if child is None:
            kind = OmegaConf.get_type(node)
            return depth if is_dataclass(kind) and not _takes(node, step) else None
        node = child
    return None


def _takes(node: DictConfig, key: str) -> bool:
    """Returns whether a class of another library, as an optimizer of torch, may take an argument of this name."""
    target = node._get_node("_target_", validate_access=False)
    if target is None or str(target).startswith("gpt_opt."):
        return False
    return not difflib.get_close_matches(key, [str(name) for name in node], n=1, cutoff=_ALIKE)
