"""Measuring the validation items, each one once, and what follows from an evaluation that is the best so far."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from gpt_opt.records.metrics import EVALUATION
from gpt_opt.training.data.order import Batch, Collate
from gpt_opt.training.distributed import Processes
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.model_selection import Best
from gpt_opt.training.objectives import Objective


@torch.no_grad()
def measure(
    objective: Objective,
    model: PreTrainedModel,
    items: Sequence[Any],
    collator: Collate,
    batch_size: int,
    processes: Processes,
) -> dict[str, float]:
    """Returns the metrics of items, split over the processes, which all call this.

    Args:
        objective: What computes them.
        model: The policy itself; it leaves in the mode that it came in.
        items: As the collator takes them.
        collator: Makes batches.
        batch_size: Items of a batch.
        processes: Of the training.

    Returns:
        By names that begin with `EVALUATION`; `eval/seconds` is how long it took.
    """
    # With fewer items than processes some had none, and no names to sum: then each measures all of them.
    processes = processes if len(items) >= processes.count else processes.alone()
    # A generator of its own keeps the loader from drawing on the global random state, which a resume must find.
    loader = DataLoader(
        cast("Any", items),
        batch_sampler=even_batches(len(items), batch_size, processes.rank, processes.count),
        collate_fn=collator,
        generator=torch.Generator(),
    )
    training, metrics, started = model.training, MetricAccumulator(), time.perf_counter()
    model.eval()
    objective.prepare(cast("Iterable[Batch]", loader))
    for batch in loader:
        objective.batch_loss(model, objective.forwards.on_device(cast("Batch", batch)), metrics, with_kl=True)
    model.train(training)
    means = objective.finish(metrics.take(processes.sum))
    seconds = round(time.perf_counter() - started, 3)
    return {EVALUATION + name: value for name, value in {**means, "seconds": seconds}.items()}


def even_batches(items: int, size: int, rank: int, count: int) -> list[list[int]]:
    """Splits items across ranks, and those of each into batches.

    Where weights are sharded the processes gather them together in every forward. So all have the same number of
    batches, none of them empty: for that a batch of several processes has up to 2 items where `size` is 1.

    Args:
        items: Number of items, at least `count`.
        size: Items of a batch.
        rank: The process that asks.
        count: Number of processes.

    Returns:
        The indices of the items of each batch.
    """
    mine = range(rank, items, count)
    if count == 1:
        return [list(mine[start : start + size]) for start in range(0, items, size)]
    most = math.ceil(items / count)
    batches = math.ceil(most / max(size, 2))
    bounds = [len(mine) * index // batches for index in range(batches + 1)]
    return [list(mine[start:end]) for start, end in itertools.pairwise(bounds)]


def compare(best: Best, step: int, metrics: dict[str, float], processes: Processes) -> tuple[bool, bool]:
    """Returns whether an evaluation calls for a checkpoint, and whether it ends the training.

    It calls for one when it is the best of the training, and ends it when there was none better for too long.

    Raises:
        ConfigError: If it lacks what evaluations are compared by.
    """
    best.require_metric(metrics)
    if step == 0:
        return False, False
    # The first process decides for all: numbers of others may differ in the last digit.
    improved = processes.rank == 0 and best.see(step, metrics)
    stops = processes.any(processes.rank == 0 and best.over)
    return processes.any(improved and best.keeps) or stops, stops
