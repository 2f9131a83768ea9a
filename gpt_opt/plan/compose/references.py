"""The interpolations of a composed config, each with a memory of what it resolved to.

A unit is a node that holds an interpolation and that no other interpolation contains. Text such as
`${model.name}_lr${optimizer.lr}` takes a new value at every point of a grid; it is therefore joined from pieces, and
only the pieces (few values each) go through OmegaConf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from omegaconf import AnyNode, Container, DictConfig, ListConfig, Node, StringNode
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from gpt_opt.plan.compose.hydra import plain
from gpt_opt.plan.compose.trace import Memo, Unpredictable

Path = tuple[Any, ...]

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_]\w*(?:\.\w+)*)\}", re.ASCII)


class Part:
    """One interpolation inside a text.

    Attributes:
        source: Its own text, `${...}`.
        memo: What it turned into, as text.
        unit: The unit that it names, when that unit is itself a text: its value is taken as it is.
    """

    __slots__ = ("memo", "source", "tree", "unit")

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = parse(source)
        self.memo = Memo()
        self.unit: Unit | None = None


class Unit:
    """One node that holds an interpolation.

    Attributes:
        path: Keys from the root to the node.
        key: The same, dotted.
        pieces: Literal text and parts whose concatenation is the value; empty when the value is not such a text.
        memo: What the whole node resolved to.
    """

    __slots__ = ("_child", "_container", "_text", "_tree", "key", "memo", "path", "pieces")

    def __init__(self, container: DictConfig | ListConfig, child: Any, path: Path) -> None:
        if any("." in str(step) or "[" in str(step) for step in path):
            raise Unpredictable(f"a key of {path} holds a dot or a bracket")
        self._container = container
        self._child = child
        self.path = path
        self.key = dotted(path)
        self.memo = Memo()
        self._text = self._node()._value()
        self._tree: Any = parse(self._text)
        self.pieces = self._split()

    @property
    def place(self) -> Path:
        """The path in the plain tree, where enum keys are names."""
        return tuple(step.name if isinstance(step, Enum) else step for step in self.path)

    @property
    def alone(self) -> bool:
        """True when the whole text is one interpolation, whose value is then taken with its type."""
        return len(self.pieces) == 1

    @property
    def parts(self) -> list[Part]:
        """The pieces that are interpolations."""
        return [piece for piece in self.pieces if isinstance(piece, Part)]

    def compute(self) -> Any:
        """Resolve the node as `OmegaConf.to_container` does."""
        node = self._node()
        if node._value() == self._text:  # _dereference_node without parsing the text again
            resolved = self._container._resolve_interpolation_from_parse_tree(
                self._container, node, self._child, self._tree, throw_on_resolution_failure=True, memo=None
            )
            assert resolved is not None
            node = resolved
        if isinstance(node, Container):
            return plain(node)
        value = node._value()
        return value.name if isinstance(value, Enum) else value

    def compute_part(self, part: Part) -> str:
        """Resolve one part as OmegaConf does when it joins a text."""
        return str(self._container.resolve_parse_tree(part.tree, node=self._node(), key=self._child))

    def link(self, units: dict[Path, Unit]) -> None:
        """Point each part that names another unit at it."""
        for part in self.parts:
            named = _REFERENCE.fullmatch(part.source)
            part.unit = units.get(self._target(named[1], named[2])) if named else None

    def forget(self) -> None:
        """Drop everything remembered."""
        self.memo = Memo()
        for part in self.parts:
            part.memo = Memo()

    def _node(self) -> Node:
        node = self._container._get_child(self._child)
        assert isinstance(node, Node)
        return node

    def _target(self, dots: str, key: str) -> Path:
        start = self.path[: len(self.path) - len(dots)] if dots else ()
        return (*start, *key.split("."))

    def _split(self) -> list[str | Part]:
        if not isinstance(self._node(), AnyNode | StringNode) or "\\" in self._text:
            return []
        return [_piece(child, self._text) for child in self._tree.getChild(0).getChildren()]


def linked_units(config: DictConfig) -> list[Unit]:
    """Return the units of a config in the order in which `OmegaConf.to_container` meets them, texts linked to texts."""
    units = list(_find(config, ()))
    by_path = {unit.path: unit for unit in units}
    for unit in units:
        unit.link(by_path)
    settled = False
    while not settled:
        settled = True
        for unit in units:
            for part in unit.parts:
                if part.unit is not None and not part.unit.pieces:
                    part.unit = None
            if unit.alone and isinstance(unit.pieces[0], Part) and unit.pieces[0].unit is None:
                unit.pieces = []
                settled = False
    return units


def holds_interpolation(node: Node) -> bool:
    """Tell whether the node or anything in it is an interpolation."""
    return node._is_interpolation() or next(_find(node, ()), None) is not None


def _piece(child: Any, text: str) -> str | Part:
    if isinstance(child, OmegaConfGrammarParser.InterpolationContext):
        return Part(text[child.start.start : child.stop.stop + 1])
    return str(child.getText())


def _find(node: Node, path: Path) -> Iterator[Unit]:
    content = node.__dict__.get("_content")
    if isinstance(node, DictConfig) and isinstance(content, dict):
        steps: list[Any] = list(content)
    elif isinstance(node, ListConfig) and isinstance(content, list):
        steps = list(range(len(content)))
    else:
        return
    for step in steps:
        child = node._get_child(step)
        assert isinstance(child, Node)
        if child._is_interpolation():
            yield Unit(node, step, (*path, step))
        else:
            yield from _find(child, (*path, step))


def dotted(path: Path) -> str:
    """Write a path as a key: `a.b`, and `a[0]` inside lists."""
    text = ""
    for step in path:
        name = step.name if isinstance(step, Enum) else step
        text += f"[{name}]" if isinstance(step, int) and not isinstance(step, bool) else f".{name}"
    return text.removeprefix(".")
