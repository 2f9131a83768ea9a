"""A config that Hydra composed, and every way to set plain values in it without Hydra.

Input: a composed `DictConfig` and, per point, the values of some keys. Output: the plain tree of the point. OmegaConf
itself converts each distinct override once, and resolves each interpolation once for each distinct set of values that
it can read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import Container, DictConfig, OmegaConf, ValueNode

from gpt_opt.config.explain import missing_keys
from gpt_opt.config.nested import with_value
from gpt_opt.config.remember import MAX_NODES, token
from gpt_opt.plan.compose.hydra import detached, plain, unresolved
from gpt_opt.plan.compose.overrides import ParsedOverride
from gpt_opt.plan.compose.references import Interpolation, Path, Unpredictable, all_reads, find_interpolations, overlap

MAX_REMEMBERED = 50_000
"""Distinct values that a base remembers before it starts afresh: what keeps memory flat in random sweeps."""

_RELATIVE = re.compile(r"\$\{\s*\.|oc\.(select|dict)")
"""What reads another key where the same text stands elsewhere: OmegaConf caches a call by the text of its arguments."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an override string stores in its target.

    Attributes:
        text: The override string.
        target: The node that it sets.
        raw: The value that OmegaConf stores there.
        value: The same, in the plain tree (an enum as its name).
        error: What Hydra raises when it sets it, if it does.
    """

    text: str
    target: ValueNode
    raw: Any
    value: Any
    error: Exception | None


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """What an interpolation comes to.

    Attributes:
        value: The plain value; None when it failed.
        failed: Whether OmegaConf raised.
        missing: Keys of the config that hold "???" because of this value.
    """

    value: Any
    failed: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Affected:
    """What may differ from the base in points that set certain keys.

    Attributes:
        interpolations: Those to resolve again, each with the set keys that it can read.
        positions: By top-level key, the dotted keys and the positions below it.
        missing: The keys that are missing whatever the values are.
    """

    interpolations: list[tuple[str, Interpolation, list[str]]]
    positions: dict[Any, list[tuple[str, tuple[Any, ...]]]]
    missing: list[str]


class Base:
    """A config composed from one combination of the overrides that change its structure.

    Args:
        config: What Hydra composed. Values are set in it for the time of a question, and put back.
        pure: Names of the resolvers that depend on nothing but their arguments and the environment.
    """

    def __init__(self, config: DictConfig, pure: frozenset[str]) -> None:
        self._config, self._pure = config, pure
        self._cached = pure & OmegaConf.get_cache(config).keys()
        self._settings: dict[str, Setting | None] = {}
        self._resolved: dict[tuple[str, ...], Resolved] = {}
        self._affected: dict[tuple[str, ...], _Affected] = {}
        self._nodes: dict[tuple[Any, ...], Any] = {}

    def updated(self, override: ParsedOverride) -> Base:
        """Returns a base with one more override, applied by Hydra's own code.

        Raises:
            Unpredictable: If it reads other values, so that it depends on what was set before it.
            Exception: Whatever Hydra raises for this override.
        """
        if any(overlap(item.path, override.path) for item in self._interpolations):
            raise Unpredictable(f"{override.text} goes through an interpolation")
        config = copy.deepcopy(self._config)
        _apply(override, config)
        return Base(config, self._pure)

    def setting(self, override: ParsedOverride) -> Setting | None:
        """Returns what an override stores in its target; None where that is no scalar below plain dicts."""
        if override.text not in self._settings:
            if len(self._settings) >= MAX_REMEMBERED:
                self._settings.clear()
            self._settings[override.text] = self._convert(override)
        return self._settings[override.text]

    def patch(self, settings: Mapping[str, Setting]) -> tuple[dict[str, Any], tuple[str, ...]] | Resolved:
        """Returns the plain config with these values and the keys still missing in it, or what cannot be resolved.

        Args:
            settings: By dotted key; none with an error.

        Raises:
            Unpredictable: If some value depends on more than the config.
        """
        affected = self._affected_by(tuple(settings))
        changed = {key: setting.value for key, setting in settings.items()}
        missing = [*affected.missing, *(key for key, value in changed.items() if value == "???")]
        for name, interpolation, keys in affected.interpolations:
            found = self._resolve(name, interpolation, [settings[key] for key in keys])
            if found.failed:
                return found
            changed[name] = found.value
            missing += found.missing
        return self._tree_with(affected, changed), tuple(sorted(missing))

    @cached_property
    def _interpolations(self) -> list[Interpolation]:
        return list(find_interpolations(self._config))

    @cached_property
    def _reads(self) -> list[tuple[str, Interpolation, frozenset[Path]]]:
        """Each interpolation with its key and all that it can read."""
        impure = sorted({name for item in self._interpolations for name in item.resolvers} - self._pure)
        if impure:
            raise Unpredictable(f"resolver {', '.join(impure)} may not repeat itself")
        if self._cached:
            raise Unpredictable(f"resolver {', '.join(sorted(self._cached))} was called before all values were set")
        reads = all_reads(self._interpolations, unresolved(self._config))
        return [(_dotted(item.position), item, found) for item, found in zip(self._interpolations, reads, strict=True)]

    @cached_property
    def _tree(self) -> dict[str, Any]:
        """The plain config; an interpolation that cannot be resolved stands there as text."""
        tree = unresolved(self._config)
        for key, item, _ in self._reads:
            if not (found := self._resolve(key, item, ())).failed:
                tree = with_value(tree, item.position, found.value)
        return tree

    def _convert(self, override: ParsedOverride) -> Setting | None:
        container: Any = self._config
        for step in override.path[:-1]:
            container = _children(container).get(step)
        name = override.path[-1]
        target = _children(container).get(name)
        if not isinstance(target, ValueNode):
            return None
        before = target._val
        try:
            _apply(override, self._config)
            if _children(container)[name] is not target:  # OmegaConf put a new node there
                return None
            raw = target._val
            return Setting(override.text, target, raw, raw.name if isinstance(raw, Enum) else raw, None)
        except Exception as error:  # whatever Hydra raises for this override is the result for every point with it
            return Setting(override.text, target, None, None, detached(error))
        finally:
            target._val = before
            _children(container)[name] = target

    def _affected_by(self, keys: tuple[str, ...]) -> _Affected:
        if keys not in self._affected:
            positions = {key: tuple(key.split(".")) for key in keys}
            interpolations = []
            for name, item, reads in self._reads:
                read = [key for key in keys if any(overlap(positions[key], path) for path in reads)]
                if name not in keys and (read or self._resolve(name, item, ()).failed):
                    interpolations.append((name, item, read))
            found = [*positions.items(), *((name, item.position) for name, item, _ in interpolations)]
            below: dict[Any, list[tuple[str, tuple[Any, ...]]]] = {}
            rest = self._tree
            for key, position in found:
                below.setdefault(position[0], []).append((key, position))
                rest = with_value(rest, position, None)
            self._affected[keys] = _Affected(interpolations, below, list(missing_keys(rest)))
        return self._affected[keys]

    def _resolve(self, key: str, interpolation: Interpolation, settings: Sequence[Setting]) -> Resolved:
        """Returns what an interpolation comes to with these values of the keys that it can read."""
        name = (key, *[setting.text for setting in settings])
        if name not in self._resolved:
            if len(self._resolved) >= MAX_REMEMBERED:
                self._resolved.clear()
            self._resolved[name] = self._ask(key, interpolation, settings)
        return self._resolved[name]

    def _ask(self, key: str, interpolation: Interpolation, settings: Sequence[Setting]) -> Resolved:
        """Has OmegaConf resolve an interpolation, as `OmegaConf.to_container` does."""
        before = [setting.target._val for setting in settings]
        for setting in settings:
            setting.target._val = setting.raw
        OmegaConf.clear_cache(self._config)
        try:
            node = interpolation.resolve()
            value = plain(node) if isinstance(node, Container) else node._value()
            cached = OmegaConf.get_cache(self._config)
        except Exception:  # the error to report comes from Hydra, for the whole point
            return Resolved(None, failed=True)
        finally:
            for setting, value_before in zip(settings, before, strict=True):
                setting.target._val = value_before
            OmegaConf.clear_cache(self._config)
        if not cached.keys() <= self._pure or _RELATIVE.search(str([list(calls) for calls in cached.values()])):
            raise Unpredictable(f"{key} calls a resolver with use_cache, which may not repeat itself")
        value = value.name if isinstance(value, Enum) else value
        return Resolved(value, missing=tuple(missing_keys(value, key)))

    def _tree_with(self, affected: _Affected, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the tree with these values; below each top-level key points with the same values share one node."""
        tree = self._tree.copy()
        for top, positions in affected.positions.items():
            name = (top, *[(key, token(changed[key])) for key, _ in positions])
            node = self._nodes.get(name)
            if node is None:
                node = self._tree[top]
                for key, position in positions:
                    node = with_value(node, position[1:], changed[key])
                if len(self._nodes) >= MAX_NODES:
                    self._nodes.clear()
                self._nodes[name] = node
            tree[top] = node
        return tree


def _apply(override: ParsedOverride, config: DictConfig) -> None:
    assert override.override is not None
    ConfigLoaderImpl._apply_overrides_to_config([override.override], config)


def _children(node: Any) -> dict[Any, Any]:
    """Returns the nodes in a dict, by key; nothing of anything else."""
    content = node.__dict__["_content"] if isinstance(node, DictConfig) else None
    return content if isinstance(content, dict) else {}


def _dotted(position: tuple[Any, ...]) -> str:
    """Returns a position as a key: `a.b`, and `a[0]` inside lists."""
    steps = [f"[{step}]" if isinstance(step, int) and not isinstance(step, bool) else f".{step}" for step in position]
    return "".join(steps).removeprefix(".")
