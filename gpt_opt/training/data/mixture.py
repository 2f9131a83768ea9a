"""Several data sets as one, in proportion to weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.chat import Document
from gpt_opt.training.data.collect import assemble, hash_fraction
from gpt_opt.training.data.records import Data, Record
from gpt_opt.training.instantiate import call_target


def build_dataset(dataset: Mapping[str, Any]) -> Any:
    """Builds the data set of a `dataset` node of the config: its `_target_`, called with its other keys.

    Raises:
        DataError: If the data cannot be used.
    """
    return call_target({key: value for key, value in dataset.items() if key != "name"})


def build_mixture(parts: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float], seed: int) -> Data:
    """Mixes data sets so that the training and the validation records of each are in proportion to its weight.

    The mixture is the largest one that uses no record twice: what a part has beyond its weight is left out, chosen by a
    hash, and counted.

    Args:
        parts: By a name of one's choice, an option of the `data` group.
        weights: Of each part, by the same names; they need not add up to 1.
        seed: Changes what is left out.

    Raises:
        DataError: If a part cannot be used, or the mixture is empty.
    """
    built: dict[str, Data] = {name: build_dataset(part["dataset"]) for name, part in parts.items()}
    if whole := [
        name for name, data in built.items() if len(data.train) == 1 and isinstance(data.train[0].texts[1], Document)
    ]:
        problem = "must be rows, which the weights count, but is the whole text of a file"
        fix = 'write it in rows, each a JSON line {"text": ...}'
        raise DataError([Problem(f"data.dataset.parts.{name}", problem, fix) for name in whole])
    dropped = Counter({f"{name}: {why}": n for name, data in built.items() for why, n in data.dropped.items()})
    train, validation = (
        _mixed({name: getattr(data, split) for name, data in built.items()}, weights, seed, dropped)
        for split in ("train", "validation")
    )
    advice = "give every part a weight closer to its fraction of all rows, or more rows"
    return assemble(train, validation, dropped, "data.dataset.weights", advice)


def _mixed(
    parts: Mapping[str, Sequence[Record]], weights: Mapping[str, float], seed: int, dropped: Counter[str]
) -> list[Record]:
    if set(parts) != set(weights):
        problem = f"must name the parts {', '.join(parts)}, but names {', '.join(weights)}"
        raise DataError([Problem("data.dataset.weights", problem)])
    # The part that runs out first says how large the whole can be; a tolerance keeps rounding from costing a record.
    most = min(len(records) / weights[name] for name, records in parts.items())
    mixed: list[Record] = []
    for name, records in parts.items():
        size = int(most * weights[name] + 1e-6)
        order = sorted(range(len(records)), key=lambda index: hash_fraction(f"{seed}:{index}", name))
        mixed += [records[index] for index in sorted(order[:size])]
        if left := len(records) - size:
            dropped[f"{name}: beyond its weight"] += left
    return mixed
