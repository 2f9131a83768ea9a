"""What `hydra.compose` answers, in a form that two answers can be compared in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gpt_opt.plan.compose.composer import Composed, ComposeFailure, Composer
from tests.plan.compose_schema import CONFIG_DIR

Answer = tuple[Any, ...]


def describe_error(error: BaseException | None) -> Answer:
    """Returns type and text of an error and of its causes."""
    if error is None:
        return ()
    return (type(error).__name__, str(error), *describe_error(error.__cause__))


def by_hydra(points: Iterable[Sequence[str]], config_dir: Path = CONFIG_DIR) -> list[Answer]:
    """Composes points with Hydra's public interface; `repr` tells types, key order and NaN apart."""
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        known: dict[Sequence[str], Answer] = {}
        return [known.get(point) or known.setdefault(point, _by_hydra(point)) for point in map(tuple, points)]


def _by_hydra(overrides: Sequence[str]) -> Answer:
    try:
        config = compose("config", overrides=list(overrides))
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)
    except Exception as error:
        return ("error", *describe_error(error))
    return ("config", repr(tree))


def described(result: Composed | ComposeFailure) -> Answer:
    """Brings an answer of the Composer into the same form."""
    if isinstance(result, ComposeFailure):
        return ("error", *describe_error(result.error))
    return ("config", repr(result.config))


def assert_like_hydra(
    composer: Composer, points: Iterable[Sequence[str]], config_dir: Path = CONFIG_DIR
) -> list[Answer]:
    """Compares every point with Hydra, and the order of the answers with that of the points; returns those."""
    points = [tuple(point) for point in points]
    results = list(composer.compose_many(points))
    assert [result.overrides for result in results] == points
    answers = by_hydra(points, config_dir)
    for point, result, expected in zip(points, results, answers, strict=True):
        assert described(result) == expected, point
    return answers
