"""Composing the configs of many sweep points: exactly what Hydra composes, without composing each one with Hydra.

Input: lists of override strings (gpt_opt.sweep). Output: `Composed` or `ComposeFailure` per point, in order
(gpt_opt.plan).

Overrides that change the structure (config groups, `+`, `~`, lists, ...) select a base, which Hydra composes once.
Plain values are set in a cheap copy of the base's resolved tree, and the interpolations that read them are resolved
again. Each distinct override is validated and converted by OmegaConf itself, each distinct interpolation is resolved
by OmegaConf itself, and a point for which that cannot be shown to equal Hydra is composed by Hydra.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.plan.compose.base import Base, reads_values, with_layer
from gpt_opt.plan.compose.hydra import HydraEngine, detached, failed_while_loading, plain
from gpt_opt.plan.compose.overrides import Item, Kind, Layout, lay_out, read_override
from gpt_opt.plan.compose.trace import PURE_RESOLVERS, Outcome, Unpredictable, missing_keys

BaseKey = tuple[tuple[str, ...], tuple[str, ...]]
"""The override strings that select a base: those Hydra composes, and those OmegaConf applies on top, in order."""

MAX_BASES = 512
MAX_STRINGS = 200_000


@dataclass(frozen=True, slots=True)
class Composed:
    """The resolved config of one point.

    Attributes:
        overrides: The point.
        config: `OmegaConf.to_container(hydra.compose(...), resolve=True, enum_to_str=True)`. Read-only by contract:
            points share the subtrees in which they do not differ.
        missing: Keys that still hold "???", sorted: `a.b`, and `a[0]` inside lists.
        base_key: Points with equal keys have equal values at every key that `changed` names for neither of them. None
            when Hydra composed the point.
        changed: Dotted key to final value, for everything that an override or an interpolation may have made different
            from the base. Empty when Hydra composed the point.
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]
    missing: tuple[str, ...]
    base_key: BaseKey | None
    changed: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ComposeFailure:
    """A point that Hydra refuses.

    Attributes:
        overrides: The point.
        error: What Hydra or OmegaConf raised, without its traceback; points with the same mistake share the exception.
    """

    overrides: tuple[str, ...]
    error: Exception


class _Unloadable:
    """Choices that Hydra refuses before it looks at any value."""


@dataclass(frozen=True, slots=True)
class _BrokenLayer:
    """Layers of which Hydra refuses one; those before it are fine."""

    index: int
    error: Exception


class Composer:
    """Composes points from one config folder.

    Config files, the ConfigStore and resolvers are taken as they are at first use and must then stay as they are; a
    change of the process environment is noticed at the next call. Not thread-safe.

    Args:
        config_dir: Folder of the primary config.
        config_name: Name of the primary config, without `.yaml`.
        pure_resolvers: Custom resolvers that return the same for the same arguments, config and environment. Points
            that meet any other custom resolver are composed by Hydra.
        further: Folder of more config groups, as `--config-dir` gives one.

    Attributes:
        fast: Points answered without composing them with Hydra.
        slow: Points that Hydra composed, by the reason why.
    """

    def __init__(
        self,
        config_dir: Path,
        config_name: str = "config",
        pure_resolvers: Iterable[str] = (),
        further: Path | None = None,
    ) -> None:
        self.fast = 0
        self.slow: Counter[str] = Counter()
        self._engine = HydraEngine(Path(config_dir), config_name, further)
        self._pure = PURE_RESOLVERS | frozenset(pure_resolvers)
        self._items: dict[str, Item] = {}
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._environment = dict(os.environ)
        self._bases: dict[BaseKey, Base | _Unloadable | _BrokenLayer | Unpredictable] = {}
        self._errors: dict[Hashable, Exception] = {}

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Compose one point.

        Raises:
            Exception: What Hydra or OmegaConf raises for these overrides.
        """
        result = next(self.compose_many([overrides]))
        if isinstance(result, ComposeFailure):
            plain(self._engine.load(overrides))
            raise result.error
        return result

    def compose_many(self, points: Iterable[Sequence[str]]) -> Iterator[Composed | ComposeFailure]:
        """Compose points one after another, in order, as they are asked for; a bad point is a `ComposeFailure`."""
        if dict(os.environ) != self._environment:
            self._environment = dict(os.environ)
            self._bases.clear()
            self._errors.clear()
        for overrides in points:
            yield self._point(tuple(overrides))

    def _point(self, overrides: tuple[str, ...]) -> Composed | ComposeFailure:
        slow_before = self.slow.total()
        try:
            result = self._fast(overrides)
        except Unpredictable as reason:
            return self._by_hydra(overrides, str(reason))
        except Exception as surprise:  # a library that behaves in a way not foreseen here: Hydra decides, `slow` tells
            return self._by_hydra(overrides, f"{type(surprise).__name__}: {surprise}")
        if self.slow.total() == slow_before:
            self.fast += 1
        return result

    def _fast(self, overrides: tuple[str, ...]) -> Composed | ComposeFailure:
        items = [self._item(text) for text in overrides]
        layout = self._layout(items)
        if layout.refused is not None:
            return self._failure(overrides[layout.refused], overrides)
        while True:
            key = (tuple([overrides[i] for i in layout.choices]), tuple([overrides[i] for i in layout.layers]))
            base, broken = self._usable(key)
            if isinstance(base, _Unloadable):
                return self._failure(key[0], overrides)
            stop = len(items) if broken is None else layout.layers[broken.index]
            before = [i for i in layout.values if i < stop]
            strays = [i for i in before if not base.holds(items[i])]
            if not strays:
                break
            layout = layout.with_layers(strays)
        values = [items[i] for i in before]
        for item in values:
            error = base.leaf(item).error
            if error is not None:
                return ComposeFailure(overrides, error)
        if broken is not None:
            return ComposeFailure(overrides, broken.error)
        return self._patched(base, key, values, overrides)

    def _patched(
        self, base: Base, key: BaseKey, values: Sequence[Item], overrides: tuple[str, ...]
    ) -> Composed | ComposeFailure:
        try:
            patched = base.patch(values)
        except Unpredictable as reason:
            self._bases[key] = reason
            raise
        if isinstance(patched, Outcome):
            return self._failure(patched, overrides)
        return Composed(overrides, patched.config, patched.missing, key, patched.changed)

    def _item(self, text: str) -> Item:
        item = self._items.get(text)
        if item is None:
            if len(self._items) >= MAX_STRINGS:
                self._items.clear()
            item = self._items[text] = read_override(text, self._engine.is_group)
        return item

    def _layout(self, items: Sequence[Item]) -> Layout:
        shape = tuple([item.shape for item in items])
        layout = self._layouts.get(shape)
        if layout is None:
            layout = self._layouts[shape] = lay_out(items)
        if layout.opaque is not None and layout.refused is None:
            raise Unpredictable(f"{items[layout.opaque].key} {Kind.OPAQUE.value}")
        return layout

    def _usable(self, key: BaseKey) -> tuple[Base | _Unloadable, _BrokenLayer | None]:
        """Return the base, or the base below the layer that Hydra refuses and what is wrong with that layer."""
        base = self._base(key)
        if isinstance(base, _BrokenLayer):
            return self._usable((key[0], key[1][: base.index]))[0], base
        return base, None

    def _base(self, key: BaseKey) -> Base | _Unloadable | _BrokenLayer:
        base = self._bases.get(key)
        if base is None:
            try:
                base = self._build(key)
            except Unpredictable as reason:
                base = reason
            while len(self._bases) >= MAX_BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[key] = base
        if isinstance(base, Unpredictable):
            raise Unpredictable(str(base))  # a new one: raising the same again and again would grow its traceback
        return base

    def _build(self, key: BaseKey) -> Base | _Unloadable | _BrokenLayer:
        choices, layers = key
        if not layers:
            try:
                return Base(self._engine.load(choices), self._pure)
            except Exception as error:
                if failed_while_loading(error):
                    return _Unloadable()
                raise Unpredictable("Hydra refuses the config without its value overrides") from None
        below = self._base((choices, layers[:-1]))
        if not isinstance(below, Base):
            return below
        item = self._item(layers[-1])
        if reads_values(below.config, item):
            raise Unpredictable(f"{item.text} goes through an interpolation")
        try:
            return Base(with_layer(below.config, item), self._pure)
        except Exception as error:  # the answer for every point with this layer
            return _BrokenLayer(len(layers) - 1, detached(error))

    def _failure(self, culprit: Hashable, overrides: tuple[str, ...]) -> Composed | ComposeFailure:
        """Report a point by what spoils it; Hydra words each distinct mistake once."""
        error = self._errors.get(culprit)
        if error is not None:
            return ComposeFailure(overrides, error)
        result = self._by_hydra(overrides, "first point with this mistake")
        if isinstance(result, ComposeFailure):
            if len(self._errors) >= MAX_STRINGS:
                self._errors.clear()
            self._errors[culprit] = result.error
        return result

    def _by_hydra(self, overrides: tuple[str, ...], reason: str) -> Composed | ComposeFailure:
        self.slow[reason] += 1
        try:
            config = plain(self._engine.load(overrides))
        except Exception as error:  # one bad point must not end the stream
            return ComposeFailure(overrides, detached(error))
        return Composed(overrides, config, tuple(sorted(missing_keys(config))), None, {})
