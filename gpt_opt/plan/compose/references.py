"""The interpolations of a composed config, and which keys each of them can read, told from its text alone.

Input: a `DictConfig`. Output: an `Interpolation` a node that holds one. OmegaConf's own grammar parses each text once;
of a key that is computed, every key below the part that is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, ListConfig, Node
from omegaconf._utils import split_key
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser as Grammar
from omegaconf.grammar_parser import parse

Path = tuple[str | None, ...]
"""Path segments from the root; None is a segment that may have several spellings, as an index or an enum."""

EVERYTHING: Path = ()
"""The path that every key is below."""

_LOOKS_UP = frozenset({"oc.select", "oc.dict.keys", "oc.dict.values"})
"""Resolvers whose first argument is a key of the config, from the root unless it starts with a dot."""

_LITERAL = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)

_PARSES = frozenset({"oc.decode"})
"""Resolvers that parse their argument, so that a text in it may become an interpolation."""

PURE_RESOLVERS = _LOOKS_UP | _PARSES | {"listed_model", "oc.env", "python_version"}
"""Resolvers that return the same for the same arguments, config and environment."""


class Unpredictable(Exception):
    """A value may depend on more than the keys that can be told, so Hydra has to compose the point."""


@dataclass(frozen=True, slots=True, eq=False)
class Interpolation:
    """A node whose text names other keys.

    Attributes:
        node: The node.
        tree: OmegaConf's parse of its text.
        position: Keys and indices from the root of the plain tree to it.
        path: The same, for comparison with other paths.
        reads: Paths that its text names; whatever is at, above or below one of them can change the value.
        resolvers: Names of the resolvers that its text calls.
    """

    node: Node
    tree: Any
    position: tuple[Any, ...]
    path: Path
    reads: frozenset[Path]
    resolvers: frozenset[str]

    def resolve(self) -> Node:
        """Returns what `Node._dereference_node` does, without parsing the text again.

        Raises:
            Exception: Whatever OmegaConf raises.
        """
        container = self.node._get_parent_container()
        assert container is not None
        found = container._resolve_interpolation_from_parse_tree(
            container, self.node, self.node._key(), self.tree, throw_on_resolution_failure=True, memo=None
        )
        assert found is not None
        return found


def overlap(one: Path, other: Path) -> bool:
    """Returns whether two paths are the same, or one is inside the other."""
    return all(a == b or a is None or b is None for a, b in zip(one, other, strict=False))


def find_interpolations(node: Any, position: tuple[Any, ...] = (), path: Path = ()) -> Iterator[Interpolation]:
    """Yields the interpolations below a node in the order in which `OmegaConf.to_container` meets them.

    Raises:
        Unpredictable: If a key above one cannot be told from a path.
    """
    content = node.__dict__["_content"] if isinstance(node, DictConfig | ListConfig) else None
    children: Any = content.items() if isinstance(content, dict) else ()
    children = enumerate(content) if isinstance(content, list) else children
    for key, child in children:
        step = key.name if isinstance(key, Enum) else key
        below = (*path, key if isinstance(key, str) and not isinstance(key, Enum) else None)
        if child._is_interpolation():
            if any(name is not None and set(".[") & set(name) for name in below):
                raise Unpredictable(f"a key of {(*position, step)} holds a dot or a bracket")
            tree = parse(child._value())
            reads = frozenset(_reads(tree, below[:-1]))
            yield Interpolation(child, tree, (*position, step), below, reads, frozenset(_resolvers(tree)))
        else:
            yield from find_interpolations(child, (*position, step), below)


def all_reads(interpolations: Sequence[Interpolation], config: Mapping[str, Any]) -> Iterator[frozenset[Path]]:
    """Yields for each interpolation what it reads, through the interpolations that it reads too.

    Args:
        interpolations: All that the config holds.
        config: The plain config, interpolations not resolved.

    Raises:
        Unpredictable: If text that is parsed may name further keys.
    """
    direct = {
        one: [other for other in interpolations if any(overlap(other.path, path) for path in one.reads)]
        for one in interpolations
    }
    for one in interpolations:
        met, waiting = {one}, [one]
        while waiting:
            further = set(direct[waiting.pop()]) - met
            met |= further
            waiting += further
        reads = frozenset[Path]().union(*(each.reads for each in met))
        if one.resolvers & _PARSES and _parses_interpolation(met, reads, config):
            raise Unpredictable(f"{'.'.join(map(str, one.position))} parses text that may hold an interpolation")
        yield reads


def _parses_interpolation(met: set[Interpolation], reads: frozenset[Path], config: Mapping[str, Any]) -> bool:
    """Returns whether "${" may come out of some interpolations, of the plain texts they read or of the environment."""
    resolvers = frozenset[str]().union(*(each.resolvers for each in met))
    if resolvers - _PARSES - {"oc.env"} or ("oc.env" in resolvers and "$" in "".join(os.environ.values())):
        return True
    texts = {each.path for each in met}
    for path, text in _texts(config):
        if any(overlap(path, read) for read in (*reads, *texts)) and ("\\" if path in texts else "$") in text:
            return True
    return False


def _texts(node: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yields path and text of every string in a plain tree."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _texts(child, (*path, key if isinstance(key, str) else None))
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child, (*path, None))


def _contexts(tree: Any) -> Iterator[Any]:
    """Yields every node of a parse tree."""
    yield tree
    for child in getattr(tree, "children", None) or ():
        yield from _contexts(child)


def _resolvers(tree: Any) -> Iterator[str]:
    return (
        node.getChild(1).getText() for node in _contexts(tree) if isinstance(node, Grammar.InterpolationResolverContext)
    )


def _reads(tree: Any, container: Path) -> Iterator[Path]:
    """Yields the paths that a parse tree names, relative ones from the container of its node."""
    for node in _contexts(tree):
        if isinstance(node, Grammar.InterpolationNodeContext):
            yield _named(node, container)
        elif isinstance(node, Grammar.InterpolationResolverContext) and node.getChild(1).getText() in _LOOKS_UP:
            yield _looked_up(node.getChild(3).getChild(0).getText() if node.getChildCount() > 4 else "")


def _looked_up(key: str) -> Path:
    """Returns the path of an argument that is a key; of a computed one what is surely above the computed part."""
    literal, computed, _ = key.partition("${")
    if not _LITERAL.fullmatch(literal):
        return EVERYTHING
    steps = literal.rstrip(".").split(".")
    return tuple(steps[:-1] if computed and not literal.endswith(".") else steps)


def _named(node: Any, container: Path) -> Path:
    """Returns the path that `${...}` names; of a computed one what is above the computed part."""
    text, computed = "", False
    for child in node.children[1:-1]:
        if computed := isinstance(child.getChild(0), Grammar.InterpolationContext):
            break
        text += child.getText()
    key = text.lstrip(".")
    dots = len(text) - len(key)
    if not key:  # computed from its beginning: the value may bring more dots
        return EVERYTHING
    above = container[: max(0, len(container) + 1 - dots)] if dots else ()
    return (*above, *split_key(key.rstrip(".[") if computed else key))
