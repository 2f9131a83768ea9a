"""Remembering what OmegaConf computed, by the config values that it read on the way.

A resolved interpolation is a pure function of the leaves that OmegaConf reads while it resolves it. Which leaves these
are need not be guessed from the text: `Recorder` watches the real thing read them, however it gets there (relative and
nested keys, whole nodes, resolvers that walk the config). `Memo` is the table from what was read to what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf, ValueNode
from omegaconf.basecontainer import BaseContainer

PURE_RESOLVERS = frozenset(
    [
        "listed_model",
        "oc.create",
        "oc.decode",
        "oc.deprecated",
        "oc.dict.keys",
        "oc.dict.values",
        "oc.env",
        "oc.select",
        "python_version",
    ]
)
"""Resolvers that return the same for the same arguments, config and environment."""


class Unpredictable(Exception):
    """A value depends on something other than the config, so it cannot be remembered."""


class Outcome:
    """What one computation gave.

    Attributes:
        value: The plain value; None when it failed.
        failed: True when OmegaConf raised.
        missing: Keys of the config that hold "???" because of this value.
    """

    __slots__ = ("failed", "missing", "value")

    def __init__(self, value: Any, failed: bool = False) -> None:
        self.value = value
        self.failed = failed
        self.missing: tuple[str, ...] = ()


class _Step:
    """One leaf read, and what follows for each value that it had."""

    __slots__ = ("branches", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.branches: dict[str | None, _Step | Outcome] = {}


class Memo:
    """Outcomes of one deterministic computation, found again by replaying its reads.

    After the same reads the next read is the same leaf, so the reads form a tree whose leaves are outcomes. A state
    maps keys to override strings: two equal strings set equal values; a key that is absent has the value of the base.
    """

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Step | Outcome | None = None

    def find(self, state: Mapping[str, str]) -> Outcome | None:
        """Return the outcome for this state, or None when this combination of values was not seen yet."""
        node = self._root
        while isinstance(node, _Step):
            node = node.branches.get(state.get(node.key))
        return node

    def learn(self, state: Mapping[str, str], reads: Iterable[str], outcome: Outcome) -> None:
        """Keep `outcome` for every state that agrees with this one on `reads`, in the order they were read."""
        parent: _Step | None = None
        branch: str | None = None
        for key in reads:
            node = self._root if parent is None else parent.branches.get(branch)
            if node is None:
                node = _Step(key)
                self._attach(parent, branch, node)
            if not isinstance(node, _Step) or node.key != key:
                raise Unpredictable("the same values were read in another order")
            parent, branch = node, state.get(key)
        self._attach(parent, branch, outcome)

    def depends(self) -> bool:
        """Tell whether any watched leaf was read."""
        return isinstance(self._root, _Step)

    def _attach(self, parent: _Step | None, branch: str | None, node: _Step | Outcome) -> None:
        if parent is None:
            self._root = node
        else:
            parent.branches[branch] = node


class _WatchedValue:
    """Data descriptor over a node's `_val` that notes every read."""

    def __get__(self, node: Any, owner: type) -> Any:
        fields = node.__dict__
        fields["_recorder"].reads[fields["_watched_as"]] = None
        return fields["_val"]

    def __set__(self, node: Any, value: Any) -> None:
        node.__dict__["_val"] = value


_watched_classes: dict[type, type] = {}


class Recorder:
    """Watches OmegaConf compute.

    Attributes:
        reads: Watched keys that were read, in order of first read.
    """

    def __init__(self, pure: frozenset[str]) -> None:
        self.reads: dict[str, None] = {}
        self._pure = pure

    def watch(self, node: ValueNode, key: str) -> None:
        """Note every later read of this leaf under `key`."""
        kind = type(node)
        if kind not in _watched_classes:
            _watched_classes[kind] = type(f"Watched{kind.__name__}", (kind,), {"_val": _WatchedValue()})
        node.__dict__.update(_recorder=self, _watched_as=key)
        node.__class__ = _watched_classes[kind]

    def run(self, config: BaseContainer, compute: Callable[[], Any]) -> Outcome:
        """Run one computation over `config` and note what it reads.

        Raises:
            Unpredictable: It called a resolver that is not known to be pure, or one that caches.
        """
        OmegaConf.clear_cache(config)
        self.reads.clear()
        with _resolvers_used() as used:
            try:
                outcome = Outcome(compute())
            except Exception:  # the error to report comes from Hydra, for the whole point
                outcome = Outcome(None, failed=True)
        impure = sorted(used - self._pure)
        if impure or OmegaConf.get_cache(config):
            raise Unpredictable(f"resolver {', '.join(impure) or 'with use_cache'} may not repeat itself")
        return outcome


class _CallLog(dict[str, Any]):
    """A table of resolvers that notes which are looked up."""

    def __init__(self, table: Mapping[str, Any], used: set[str]) -> None:
        super().__init__(table)
        self._used = used

    def __getitem__(self, name: str) -> Any:
        self._used.add(name)
        return super().__getitem__(name)


@contextmanager
def _resolvers_used() -> Iterator[set[str]]:
    used: set[str] = set()
    table = BaseContainer._resolvers
    BaseContainer._resolvers = _CallLog(table, used)
    try:
        yield used
    finally:
        BaseContainer._resolvers = table


def missing_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys in a plain tree that hold "???": `a.b`, `a[0]` inside lists, the prefix for a scalar."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from missing_keys(child, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from missing_keys(child, f"{prefix}[{index}]")
    elif isinstance(value, str) and value == "???":
        yield prefix
