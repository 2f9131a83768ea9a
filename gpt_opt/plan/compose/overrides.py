"""Override strings, parsed once by Hydra's own grammar and sorted by what they can change.

Input: `"loss.beta=0.1"`. Output: a `ParsedOverride` that says which stage of composing the string belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf._utils import split_key

from gpt_opt.config.overrides import parse_override

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_OF_HYDRA = re.compile(r"hydra([./@\[]|$)")


class Kind(Enum):
    """What an override string can change, and so how it is handled."""

    MALFORMED = "does not parse"
    SWEEP = "stands for several values, which only --multirun takes"
    STRUCTURE = "changes the defaults list or the hydra node: Hydra composes it"
    UPDATE = "changes the shape of the composed config: OmegaConf applies it, in order"
    VALUE = "sets one scalar: may be applied to a finished tree"
    VOLATILE = "means something else at every call, or changes where configs are searched"


@dataclass(frozen=True, slots=True)
class ParsedOverride:
    """One override string and what Hydra's grammar makes of it.

    Attributes:
        text: The string as given.
        kind: What it can change.
        key: The dotted key (`a.b`), without `+` or `~`.
        path: The key, split as OmegaConf splits it.
        override: Hydra's own parse; None for a malformed string.
        shape: Kind and key, as one string.
    """

    text: str
    kind: Kind
    key: str
    path: tuple[str, ...]
    override: Override | None
    shape: str


def read_override(text: str, is_group: Callable[[str], bool]) -> ParsedOverride:
    """Returns what an override string is; never raises for a bad one."""
    try:
        override = parse_override(text)
        path = tuple(split_key(override.key_or_group))
        kind = _kind(override, text, is_group)
    except Exception:  # whatever the parser raises, Hydra raises it again for the point and words it
        return ParsedOverride(text, Kind.MALFORMED, "", (), None, Kind.MALFORMED.name)
    key = override.key_or_group
    return ParsedOverride(text, kind, key, path, override, f"{kind.name}:{key}")


def _kind(override: Override, text: str, is_group: Callable[[str], bool]) -> Kind:
    if override.is_sweep_override():
        return Kind.SWEEP
    key, value = override.key_or_group, override.value()
    if key.startswith("hydra.searchpath") or "shuffle" in text:
        return Kind.VOLATILE
    if _OF_HYDRA.match(key) or (is_group(key) and not isinstance(value, dict)):
        return Kind.STRUCTURE
    # A "$" may be a part of an interpolation, as it is or once a resolver parses the text.
    scalar = not isinstance(value, dict | list) and not (isinstance(value, str) and "$" in value)
    change = override.type is OverrideType.CHANGE and override.package is None
    return Kind.VALUE if change and scalar and _DOTTED.fullmatch(key) else Kind.UPDATE


@dataclass(frozen=True, slots=True)
class Stages:
    """Which overrides of a point belong to which stage, as indices into the point in its own order.

    Attributes:
        structure: What Hydra composes.
        updates: What OmegaConf applies to that, in order.
        values: What may be set in a finished tree, in any order.
        refused: The override for which Hydra refuses the point before it looks at any config.
        volatile: The override for which Hydra must compose every point itself.
    """

    structure: tuple[int, ...]
    updates: tuple[int, ...]
    values: tuple[int, ...]
    refused: int | None
    volatile: int | None

    def with_updates(self, more: Collection[int]) -> Stages:
        """Returns the stages in which these values are updates."""
        values = tuple(i for i in self.values if i not in more)
        return replace(self, updates=tuple(sorted({*self.updates, *more})), values=values)


def stages_of(overrides: Sequence[ParsedOverride]) -> Stages:
    """Sorts the overrides of a point into stages; depends on their `shape` alone."""
    by_kind: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    for index, override in enumerate(overrides):
        by_kind[override.kind].append(index)
    malformed, sweeps, volatile = (by_kind[kind] for kind in (Kind.MALFORMED, Kind.SWEEP, Kind.VOLATILE))
    # The order in which Hydra looks: it parses all, then reads hydra.searchpath, then refuses sweeps.
    refused = malformed[:1] or ([] if volatile else sweeps[:1])
    stages = Stages(
        structure=tuple(by_kind[Kind.STRUCTURE]),
        updates=tuple(by_kind[Kind.UPDATE]),
        values=tuple(by_kind[Kind.VALUE]),
        refused=refused[0] if refused else None,
        volatile=volatile[0] if volatile else None,
    )
    return stages.with_updates(_order_matters(overrides, stages))


def _order_matters(overrides: Sequence[ParsedOverride], stages: Stages) -> set[int]:
    """Returns the values that may not be set out of turn: their key is inside, around or equal to that of another.

    Equal keys of two plain values are fine, since the later simply wins.
    """
    found: set[int] = set()
    for one in stages.values:
        for other in (*stages.updates, *stages.values):
            here, there = overrides[one].path, overrides[other].path
            depth = min(len(here), len(there))
            equal_values = here == there and overrides[other].kind is Kind.VALUE
            if here[:depth] == there[:depth] and not equal_values:
                found.add(one)
    return found
