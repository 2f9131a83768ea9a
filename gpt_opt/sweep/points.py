"""A space -> its points, in a fixed order, one at a time.

The order is that of nested loops: the axes of `grid` in the order of the file, then `zip`, then `random`, then the
members of `union`, the last of these fastest. Excluded points are left out and take no index. Within a point, `base`
comes first and the rest follows in the same order, so that Hydra applies it in this order.

Counting does not enumerate. Each row of an axis is only asked which exclude entries it could satisfy (a bit mask); rows
with the same mask are counted together, and the masks of the axes are combined with `and`. A point is dropped when a
bit is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from gpt_opt.sweep.json_file import Json
from gpt_opt.sweep.model import Items, Space
from gpt_opt.sweep.overrides import target, to_override

_Entry = Mapping[str, frozenset[Any]]
"""An exclude entry: the targets that are still to be matched, and the values of each."""
_Rows = list[tuple[Items, int]]


@dataclass(frozen=True, slots=True)
class Point:
    """One line of a grid.

    Attributes:
        index: Position among the points of the space, from 0.
        items: Override keys and values, in the order they are applied.
    """

    index: int
    items: Items

    def overrides(self) -> list[str]:
        """Returns the point as arguments for Hydra."""
        return [to_override(key, value) for key, value in self.items]


def points(space: Space) -> Iterator[Point]:
    """Enumerates the points of a space, holding one at a time."""
    return (Point(index, items) for index, (items, _) in enumerate(_walk(space, ())))


def count(space: Space) -> int:
    """Counts the points of a space without enumerating them."""
    return sum(_kept(space, ()).values())


def survey(space: Space) -> tuple[int, tuple[int, ...]]:
    """Returns how many points the exclude entries of `space` itself keep, and the indexes of those that match none."""
    own = len(space.exclude)
    masks = _joint(space, ())
    used = 0
    for mask in masks:
        used |= mask
    kept = sum(number for mask, number in masks.items() if not mask & ((1 << own) - 1))
    return kept, tuple(i for i in range(own) if not used >> i & 1)


def values_by_key(space: Space) -> dict[str, dict[str, Json]]:
    """Returns for every key of a space its distinct values under their repr: 1 and 1.0 are two."""
    found = {key: {repr(v): v} for key, v in space.base}
    for axis in space.axes:
        for key, values in zip(axis.keys, zip(*axis.rows, strict=True), strict=True):
            found[key] = {repr(v): v for v in values}
    members = [values_by_key(member) for member in space.union]
    for key in dict.fromkeys(chain.from_iterable(members)):
        found[key] = {name: v for member in members for name, v in member.get(key, {}).items()}
    return found


def frozen(value: Json) -> Any:
    """Returns a hashable stand-in: equal for equal JSON values, where 1 and 1.0 are equal and true and 1 are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("list", *map(frozen, value))
    if isinstance(value, dict):
        return ("object", frozenset((key, frozen(item)) for key, item in value.items()))
    return value


def _entries(space: Space) -> tuple[_Entry, ...]:
    return tuple(
        {target(key): frozenset(map(frozen, values)) for key, values in entry.conditions} for entry in space.exclude
    )


def _parts(space: Space, entries: tuple[_Entry, ...]) -> list[_Rows]:
    """Returns base and axes as rows of items, each with the mask of the entries that it does not rule out."""
    parts = [[(space.base, _mask(space.base, entries))]] if space.base else []
    for axis in space.axes:
        rows = (tuple(zip(axis.keys, row, strict=True)) for row in axis.rows)
        parts.append([(items, _mask(items, entries)) for items in rows])
    return parts


def _mask(items: Items, entries: tuple[_Entry, ...]) -> int:
    if not entries:
        return 0
    values = {target(key): frozen(value) for key, value in items}
    return sum(
        1 << bit
        for bit, entry in enumerate(entries)
        if all(value in entry[name] for name, value in values.items() if name in entry)
    )


def _pending(space: Space, entries: tuple[_Entry, ...]) -> tuple[_Entry, ...]:
    """Returns what is left of each entry for the members of the union to match."""
    here = {target(key) for key, _ in space.base} | {target(key) for axis in space.axes for key in axis.keys}
    return tuple({name: values for name, values in entry.items() if name not in here} for entry in entries)


def _start(space: Space, pending: tuple[_Entry, ...]) -> int:
    """Returns the mask of entries that can match at all: without a union, nothing may be left to match."""
    return sum(1 << bit for bit, entry in enumerate(pending) if space.union or not entry)


def _walk(space: Space, outer: tuple[_Entry, ...]) -> Iterator[tuple[Items, int]]:
    """Yields the points that the space's own entries keep, each with the mask of the outer entries."""
    own = len(space.exclude)
    entries = (*_entries(space), *outer)
    pending = _pending(space, entries)
    start, dropped = _start(space, pending), (1 << own) - 1
    for rows in product(*_parts(space, entries)):
        head = tuple(chain.from_iterable([items for items, _ in rows]))
        mask = start
        if start:
            for _, bits in rows:
                mask &= bits
        for tail, bits in _tails(space, pending):
            if not mask & bits & dropped:
                yield head + tail, (mask & bits) >> own


def _tails(space: Space, pending: tuple[_Entry, ...]) -> Iterable[tuple[Items, int]]:
    if not space.union:
        return [((), -1)]
    return chain.from_iterable(_walk(member, pending) for member in space.union)


def _joint(space: Space, outer: tuple[_Entry, ...]) -> Counter[int]:
    """Counts the points before exclusion by the mask of all entries, own ones in the low bits."""
    entries = (*_entries(space), *outer)
    pending = _pending(space, entries)
    total = Counter({_start(space, pending): 1})
    for rows in _parts(space, entries):
        total = _combined(total, Counter(mask for _, mask in rows))
    if space.union:
        tails: Counter[int] = Counter()
        for member in space.union:
            tails.update(_kept(member, pending))
        total = _combined(total, tails)
    return total


def _kept(space: Space, outer: tuple[_Entry, ...]) -> Counter[int]:
    own = len(space.exclude)
    kept: Counter[int] = Counter()
    for mask, number in _joint(space, outer).items():
        if not mask & ((1 << own) - 1):
            kept[mask >> own] += number
    return kept


def _combined(left: Counter[int], right: Counter[int]) -> Counter[int]:
    both: Counter[int] = Counter()
    for a, m in left.items():
        for b, n in right.items():
            both[a & b] += m * n
    return both
