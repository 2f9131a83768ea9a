"""One structural base: a config that Hydra composed, and every way to set plain values in it without Hydra.

Input: a composed `DictConfig` and, per point, the value overrides. Output: the plain tree of the point. OmegaConf
validates and converts each distinct override once, on a copy of the base, and resolves each distinct interpolation
once.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, ListConfig, Node, ValueNode

from gpt_opt.config.remember import MAX_NODES, token
from gpt_opt.plan.compose.hydra import detached, plain
from gpt_opt.plan.compose.overrides import Item
from gpt_opt.plan.compose.references import Part, Path, Unit, holds_interpolation, linked_units
from gpt_opt.plan.compose.trace import Outcome, Recorder, Unpredictable, missing_keys

MAX_REMEMBERED = 50_000
"""Distinct values and outcomes a base may hold before it starts afresh: what keeps memory flat in random sweeps."""


_UNKNOWN = Outcome(None, failed=True)


class Leaf:
    """What one override string puts into one leaf.

    Attributes:
        raw: The value that OmegaConf stored.
        value: The same, in the plain tree (an enum as its name).
        error: What Hydra raised when it set it, if it did.
    """

    __slots__ = ("error", "raw", "value")

    def __init__(self, raw: Any, error: Exception | None = None) -> None:
        self.raw = raw
        self.value = raw.name if isinstance(raw, Enum) else raw
        self.error = error


@dataclass(frozen=True, slots=True)
class Slot:
    """A leaf that points override."""

    path: tuple[str, ...]
    node: ValueNode
    default: Any


@dataclass(frozen=True, slots=True)
class Patched:
    """The config of one point, and how it differs from the base."""

    config: dict[str, Any]
    missing: tuple[str, ...]
    changed: dict[str, Any]


class Base:
    """A config composed from one combination of structural overrides.

    Args:
        config: What Hydra composed; never modified.
        pure: Names of the resolvers that are pure functions of their arguments and of the config.

    Raises:
        Unpredictable: (from every method) some value depends on more than the config, so Hydra must compose each point.
    """

    def __init__(self, config: DictConfig, pure: frozenset[str]) -> None:
        self.config = config
        self._recorder = Recorder(pure)
        self._work: DictConfig | None = None
        self._units: list[Unit] = []
        self._slots: dict[str, Slot] = {}
        self._leaves: dict[str, Leaf] = {}
        self._below = defaultdict[Any, list[str]](list)
        self._nodes: dict[tuple[Any, ...], Any] = {}
        self._state: Mapping[str, str] = {}
        self._stale = True
        self._learned = 0

    def holds(self, item: Item) -> bool:
        """Tell whether the key of a value override is a plain leaf below plain dicts, and watch it from now on."""
        if item.key in self._slots:
            return True
        node = _leaf_at(self._working(), item.path)
        if node is None:
            return False
        self._slots[item.key] = Slot(item.path, node, node.__dict__["_val"])
        self._recorder.watch(node, item.key)
        self._stale = True
        return True

    def leaf(self, item: Item) -> Leaf:
        """Return what the override stores in its leaf; ask `holds` first."""
        leaf = self._leaves.get(item.text)
        if leaf is None:
            leaf = self._leaves[item.text] = self._convert(item)
        return leaf

    def patch(self, values: Sequence[Item]) -> Patched | Outcome:
        """Return the config with these values set, or the first outcome that failed."""
        if self._stale or self._learned + len(self._leaves) > MAX_REMEMBERED:
            self._refresh()
        state = {item.key: item.text for item in values}
        leaves = {item.key: self.leaf(item) for item in values}
        changed: dict[str, Any] = {}
        missing = [key for key in self._missing if key not in state]
        for key, leaf in leaves.items():
            changed[key] = leaf.value
            if leaf.value == "???":
                missing.append(key)
        done: dict[str, Outcome] = {}
        for unit in self._moving:
            if unit.key in state:
                continue
            outcome = self._outcome(unit, state, done)
            if outcome.failed:
                return outcome
            changed[unit.key] = outcome.value
            missing.extend(outcome.missing)
        return Patched(self._tree_with(changed), tuple(sorted(missing)), changed)

    def _tree_with(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tree with these values; below each of its keys points with the same values share one node."""
        tree = self._tree.copy()
        for top, keys in self._below.items():
            given = [key for key in keys if key in changed]
            if not given:
                continue
            name = (top, *[(key, token(changed[key])) for key in given])
            node = self._nodes.get(name)
            if node is None:
                node = self._tree[top]
                for key in given:
                    node = _with(node, self._spots[key][1:], changed[key])
                if len(self._nodes) >= MAX_NODES:
                    self._nodes.clear()
                self._nodes[name] = node
            tree[top] = node
        return tree

    def _working(self) -> DictConfig:
        if self._work is None:
            work = copy.deepcopy(self.config)
            self._units = linked_units(work)
            self._work = work
        return self._work

    def _convert(self, item: Item) -> Leaf:
        slot = self._slots[item.key]
        assert item.override is not None
        before = slot.node.__dict__["_val"]
        try:
            ConfigLoaderImpl._apply_overrides_to_config([item.override], self._working())
            if _leaf_at(self._working(), item.path) is not slot.node:
                raise Unpredictable(f"{item.key} is replaced as a whole by a new value")
            return Leaf(slot.node.__dict__["_val"])
        except Unpredictable:
            raise
        except Exception as error:  # whatever Hydra raises for this override is the answer for every point with it
            return Leaf(None, detached(error))
        finally:
            slot.node.__dict__["_val"] = before

    def _outcome(self, unit: Unit, state: Mapping[str, str], done: dict[str, Outcome]) -> Outcome:
        found = done.get(unit.key)
        if found is None:
            done[unit.key] = _UNKNOWN  # what a text that names itself sees; OmegaConf then reports the cycle
            text = self._text(unit, state, done) if unit.pieces else None
            found = Outcome(text) if text is not None else self._recall(unit, None, state)
            done[unit.key] = found
        return found

    def _text(self, unit: Unit, state: Mapping[str, str], done: dict[str, Outcome]) -> str | None:
        """Join a text from its pieces; None when it has to be resolved as a whole."""
        texts = []
        for piece in unit.pieces:
            if isinstance(piece, str):
                texts.append(piece)
                continue
            value = self._part(unit, piece, state, done)
            if value is None or (unit.alone and not isinstance(value, str)):
                return None
            texts.append(str(value))
        text = "".join(texts)
        return None if "$" in text or "\\" in text or "???" in text else text

    def _part(self, unit: Unit, part: Part, state: Mapping[str, str], done: dict[str, Outcome]) -> Any:
        named = part.unit
        if named is None:
            outcome = self._recall(unit, part, state)
        elif named.key in state:
            return self._leaves[state[named.key]].raw
        else:
            outcome = self._outcome(named, state, done)
        return None if outcome.failed else outcome.value

    def _recall(self, unit: Unit, part: Part | None, state: Mapping[str, str]) -> Outcome:
        """Look up what a unit (or a part of it) resolves to, or have OmegaConf resolve it and remember that."""
        memo = unit.memo if part is None else part.memo
        outcome = memo.find(state)
        if outcome is None:
            self._settle(state)
            compute = unit.compute if part is None else lambda: unit.compute_part(part)
            outcome = self._recorder.run(self._working(), compute)
            if not outcome.failed:
                outcome.missing = tuple(missing_keys(outcome.value, unit.key))
            memo.learn(state, self._recorder.reads, outcome)
            self._learned += 1
        return outcome

    def _settle(self, state: Mapping[str, str]) -> None:
        """Give the watched leaves of the working copy the values of this state."""
        for key, slot in self._slots.items():
            text = state.get(key)
            if text != self._state.get(key):
                slot.node.__dict__["_val"] = slot.default if text is None else self._leaves[text].raw
        self._state = state

    def _refresh(self) -> None:
        """Forget everything, find out what moves with the watched leaves, and build the tree of all that does not."""
        self._working()
        self._settle({})
        self._leaves.clear()
        self._nodes.clear()
        self._learned = 0
        for unit in self._units:
            unit.forget()
        outcomes = {unit.key: self._recall(unit, None, {}) for unit in self._units}
        self._moving = [unit for unit in self._units if unit.memo.depends() or outcomes[unit.key].failed]
        moving = {unit.key for unit in self._moving}
        self._tree = self._still_tree({key: each for key, each in outcomes.items() if key not in moving})
        self._missing = list(missing_keys(self._tree))
        spots = {key: slot.path for key, slot in self._slots.items()}
        self._spots = {unit.key: unit.place for unit in self._moving} | spots
        self._below.clear()
        for key, place in self._spots.items():
            self._below[place[0]].append(key)
        self._stale = False

    def _still_tree(self, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Resolve everything but the units with OmegaConf, and put in the units that never change."""
        fields = [(unit._node().__dict__, unit) for unit in self._units]
        held = [(field, name, field[name]) for field, _ in fields for name in ("_val", "_content") if name in field]
        for field, name, _ in held:
            field[name] = None
        tree: dict[str, Any] = plain(self._working())
        for field, name, value in held:
            field[name] = value
        for unit in self._units:
            if unit.key in outcomes:
                _container(tree, unit.place)[unit.place[-1]] = outcomes[unit.key].value
        return tree


def reads_values(config: DictConfig, item: Item) -> bool:
    """Tell whether applying a layer may read other values of the config: it then depends on what was set before it."""
    node: Any = config
    for step in item.path:
        if node._is_interpolation():
            return True
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            node = node._get_node(step, validate_access=False)
        elif isinstance(node, ListConfig) and not node._is_none() and not node._is_missing() and step.isdecimal():
            node = node._get_node(int(step)) if int(step) < len(node) else None
        else:
            return False
        if not isinstance(node, Node):
            return False
    return holds_interpolation(node)


def with_layer(config: DictConfig, item: Item) -> DictConfig:
    """Return a copy of the config with one override applied by Hydra's own code.

    Raises:
        Exception: Whatever Hydra raises for this override.
    """
    assert item.override is not None
    layered = copy.deepcopy(config)
    ConfigLoaderImpl._apply_overrides_to_config([item.override], layered)
    return layered


def _leaf_at(config: DictConfig, path: Sequence[str]) -> ValueNode | None:
    node: Any = config
    for step in path:
        content = node.__dict__.get("_content") if isinstance(node, DictConfig) else None
        if not isinstance(content, dict):
            return None
        node = content.get(step)
    return node if isinstance(node, ValueNode) else None


def _with(node: Any, place: Path, value: Any) -> Any:
    """Return a tree with another value at a place; what lies elsewhere is shared."""
    if not place:
        return value
    changed = node.copy()
    changed[place[0]] = _with(node[place[0]], place[1:], value)
    return changed


def _container(tree: Any, place: Path) -> Any:
    for step in place[:-1]:
        tree = tree[step]
    return tree
