"""What follows from parts of a config, asked once for each distinct value of those parts within one request.

The points of a sweep share the nodes in which they do not differ (`gpt_opt.plan.compose.base`), so a node is told by
its identity, and what follows for one point holds for every point with the same nodes. Files may change between
requests: each has a `Remembered` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeVar, cast

T = TypeVar("T")

MAX_NODES = 5_000
"""Distinct nodes after which everything is asked anew: what keeps memory flat where every point has its own."""

_KEYS = object()
"""Stands for the question which keys a config has."""


def token(value: Any) -> Hashable:
    """Returns what tells a value of a config from others: a node's identity; 1, 1.0, -0.0, True and '1' all differ."""
    return id(value) if isinstance(value, dict | list) else repr(value)


class Remembered:
    """Results of functions that depend on nothing but their arguments, and on files that do not change meanwhile."""

    def __init__(self) -> None:
        self._nodes: dict[int, Any] = {}  # keeps them alive, so that no other node gets the identity of one
        self._results: dict[tuple[Hashable, ...], Any] = {}
        self._tables: dict[Hashable, dict[tuple[Any, ...], _Table]] = {}
        self._config: Mapping[str, Any] | None = None
        self._tokens = _Tokens()

    def __call__(self, ask: Callable[..., T], *values: Any) -> T:
        """Returns `ask(*values)`; each value is a node, a scalar or something else with a `repr` of its own."""
        key = (ask, *[self._token(value) for value in values])
        if key not in self._results:
            self._results[key] = ask(*values)
        return cast("T", self._results[key])

    def of(self, ask: Callable[[Mapping[str, Any]], T], config: Mapping[str, Any]) -> T:
        """Returns `ask(config)`; which top-level keys of the config it reads is seen, not declared."""
        tokens, tables = self._look_at(config), self._tables.setdefault(ask, {})
        for read, results in tables.values():
            result = results.get(read(tokens), _KEYS)
            if result is not _KEYS:
                return cast("T", result)
        view = _View(config)
        result = ask(view)
        reads = tuple(view.reads) or (_KEYS,)
        read, results = tables.setdefault(reads, (itemgetter(*reads), {}))
        results[read(tokens)] = result
        return result

    def each(self, ask: Callable[[str, Any], T], config: Mapping[str, Any]) -> list[T]:
        """Returns `ask(key, value)` for every top-level key of the config, in its order."""
        tokens, results = self._look_at(config), self._results
        result = []
        for key, value in config.items():
            name = (ask, key, tokens[key])
            if name not in results:
                results[name] = ask(key, value)
            result.append(results[name])
        return result

    def _look_at(self, config: Mapping[str, Any]) -> _Tokens:
        """Returns the tokens of the values of a config; of the last one they are known."""
        if config is not self._config:
            if len(self._nodes) > MAX_NODES:
                self._nodes.clear()
                self._results.clear()
                self._tables.clear()
            self._config, self._tokens = config, _Tokens()
            for key, value in config.items():
                self._tokens[key] = self._token(value)
            self._tokens[_KEYS] = tuple(config)
        return self._tokens

    def _token(self, value: Any) -> Hashable:
        result = token(value)
        if isinstance(result, int):
            self._nodes.setdefault(result, value)
        return result


class _Tokens(dict[Any, Hashable]):
    """The tokens of the values of a config; None for a key that it does not have."""

    def __missing__(self, key: Any) -> None:
        return None


_Table = tuple[Callable[[_Tokens], Hashable], dict[Hashable, Any]]
"""How the tokens of what a function read are taken, and its result for each that were met."""


class _View(Mapping[str, Any]):
    """A config that notes which of its top-level keys are read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.reads: dict[Any, None] = {}

    def __getitem__(self, key: str) -> Any:
        self.reads[key] = None
        return self._config[key]

    def __iter__(self) -> Iterator[str]:
        self.reads[_KEYS] = None
        return iter(self._config)

    def __len__(self) -> int:
        self.reads[_KEYS] = None
        return len(self._config)
