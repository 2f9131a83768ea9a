"""Composing the configs of many sweep points: exactly what Hydra composes, without composing each one with Hydra.

Input: lists of override strings (gpt_opt.sweep). Output: `Composed` or `ComposeFailure` per point, in order
(gpt_opt.plan).

Overrides that change the structure (config groups, `+`, `~`, lists, ...) select a base, which Hydra composes once.
Plain values are set in a cheap copy of the base's resolved tree, and the interpolations that can read them are resolved
again. Each distinct override is validated and converted by OmegaConf itself, each distinct interpolation is resolved
by OmegaConf itself, and a point for which that cannot be shown to equal Hydra is composed by Hydra.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.config.explain import missing_keys
from gpt_opt.plan.compose.base import Base, Resolved
from gpt_opt.plan.compose.hydra import Configs, HydraEngine, detached, failed_while_loading, plain
from gpt_opt.plan.compose.overrides import Kind, ParsedOverride, Stages, read_override, stages_of
from gpt_opt.plan.compose.references import PURE_RESOLVERS, Unpredictable

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
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComposeFailure:
    """A point that Hydra refuses.

    Attributes:
        overrides: The point.
        error: What Hydra or OmegaConf raised, without its traceback; points with the same mistake share the exception.
    """

    overrides: tuple[str, ...]
    error: Exception


class _Unloadable(Exception):
    """Hydra refuses the structure before it looks at any value."""


@dataclass(frozen=True, slots=True)
class _Built:
    """A base with as many of the updates as Hydra accepts.

    Attributes:
        base: The base.
        refused: Index among the updates of the first that Hydra refuses.
        error: What Hydra raised for it.
    """

    base: Base
    refused: int = 0
    error: Exception | None = None


class Composer:
    """Composes points of one application.

    Config files, the ConfigStore and resolvers are taken as they are at first use and must then stay as they are; a
    change of the process environment is noticed at the next call. Not thread-safe.

    Args:
        configs: Where the configs are; a folder alone has the primary config `config`.
        pure_resolvers: Custom resolvers that depend on nothing but their arguments and the environment. Points that
            meet any other custom resolver are composed by Hydra.

    Attributes:
        fast: Points resolved without composing them with Hydra.
        slow: Points that Hydra composed, by the reason why.
    """

    def __init__(self, configs: Configs | Path, pure_resolvers: Iterable[str] = ()) -> None:
        self.fast = 0
        self.slow: Counter[str] = Counter()
        self._engine = HydraEngine(configs if isinstance(configs, Configs) else Configs(configs))
        self._pure = PURE_RESOLVERS | frozenset(pure_resolvers)
        self._parsed: dict[str, ParsedOverride] = {}
        self._stages: dict[tuple[str, ...], Stages] = {}
        self._environment = dict(os.environ)
        self._bases: dict[BaseKey, _Built | _Unloadable | Unpredictable] = {}
        self._errors: dict[Hashable, Exception] = {}

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Composes one point.

        Raises:
            Exception: What Hydra or OmegaConf raises for these overrides.
        """
        result = next(self.compose_many([overrides]))
        if isinstance(result, ComposeFailure):
            plain(self._engine.load(overrides))
            raise result.error
        return result

    def again(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Returns the config of a point that was composed before, with all of its resolvers called once more."""
        config = plain(self._engine.load(overrides))
        assert isinstance(config, dict)
        return config

    def compose_many(self, points: Iterable[Sequence[str]]) -> Iterator[Composed | ComposeFailure]:
        """Composes points one after another, in order, as they are asked for; a bad point is a `ComposeFailure`."""
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
        parsed = [self._parse(text) for text in overrides]
        stages = self._sorted(parsed)
        if stages.refused is not None:
            return self._failure(overrides[stages.refused], overrides)
        while True:
            key = (tuple([overrides[i] for i in stages.structure]), tuple([overrides[i] for i in stages.updates]))
            try:
                built = self._base(key)
            except _Unloadable:
                return self._failure(key[0], overrides)
            end = len(parsed) if built.error is None else stages.updates[built.refused]
            found = [(i, built.base.setting(parsed[i])) for i in stages.values if i < end]
            strays = [i for i, setting in found if setting is None]
            if not strays:
                break
            stages = stages.with_updates(strays)
        settings = {parsed[i].key: setting for i, setting in found if setting is not None}
        for error in (*(setting.error for _, setting in found if setting is not None), built.error):
            if error is not None:
                return ComposeFailure(overrides, error)
        try:
            patched = built.base.patch(settings)
        except Unpredictable as reason:
            self._bases[key] = reason
            raise
        if isinstance(patched, Resolved):
            return self._failure(patched, overrides)
        return Composed(overrides, *patched)

    def _parse(self, text: str) -> ParsedOverride:
        found = self._parsed.get(text)
        if found is None:
            if len(self._parsed) >= MAX_STRINGS:
                self._parsed.clear()
            found = self._parsed[text] = read_override(text, self._engine.is_group)
        return found

    def _sorted(self, parsed: Sequence[ParsedOverride]) -> Stages:
        shape = tuple([override.shape for override in parsed])
        stages = self._stages.get(shape)
        if stages is None:
            stages = self._stages[shape] = stages_of(parsed)
        if stages.volatile is not None and stages.refused is None:
            raise Unpredictable(f"{parsed[stages.volatile].key} {Kind.VOLATILE.value}")
        return stages

    def _base(self, key: BaseKey) -> _Built:
        found = self._bases.get(key)
        if found is None:
            try:
                found = self._build(*key)
            except (Unpredictable, _Unloadable) as reason:
                found = reason
            while len(self._bases) >= MAX_BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[key] = found
        if isinstance(found, Exception):
            raise type(found)(*found.args)  # a new one: raising the same again and again would grow its traceback
        return found

    def _build(self, structure: tuple[str, ...], updates: tuple[str, ...]) -> _Built:
        if not updates:
            try:
                return _Built(Base(self._engine.load(structure), self._pure))
            except Exception as error:
                if failed_while_loading(error):
                    raise _Unloadable from None
                raise Unpredictable("Hydra refuses the config without its value overrides") from None
        *before, last = updates
        below = self._base((structure, tuple(before)))
        if below.error is not None:
            return below
        try:
            return _Built(below.base.updated(self._parse(last)))
        except Unpredictable:
            raise
        except Exception as error:  # the result for every point with this update
            return _Built(below.base, len(before), detached(error))

    def _failure(self, culprit: Hashable, overrides: tuple[str, ...]) -> Composed | ComposeFailure:
        """Returns the failure of a point by what spoils it; Hydra words each distinct mistake once."""
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
        return Composed(overrides, config, tuple(sorted(missing_keys(config))))
