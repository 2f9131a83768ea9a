"""summary.json of a run: its one result, written once and last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpt_opt.records.io import create_text, number, read_json_object, to_json
from gpt_opt.records.run_dir import RunPaths


def commit_summary(paths: RunPaths, record: Mapping[str, Any], fence: Callable[[], None]) -> bool:
    """Writes the result of a run; returns whether this call did, rather than another attempt before it.

    Args:
        paths: The run.
        record: `run_id`, `attempt` and the fields of `gpt_opt.training.interface.Result`: `step`, `metrics` by flat
            name, `time_s` in seconds, `tokens`, `peak_memory_mb` in MiB, `device` and others.
        fence: As of `gpt_opt.records.io.write_text`.
    """
    return create_text(paths.summary, to_json(record), fence)


def read_summary(paths: RunPaths) -> dict[str, Any]:
    """Reads the result of a run.

    Raises:
        OSError: If there is none, or it cannot be read.
        ValueError: If it is not one of ours.
    """
    return read_json_object(paths.summary)


def time_s_of(summary: Mapping[str, Any]) -> float | None:
    """Returns the training time that a summary has, in seconds; None where it has none."""
    return number(summary.get("time_s"))


def supersede(paths: RunPaths, attempt: int) -> None:
    """Puts everything of a result aside, the summary last; the caller holds the claim number `attempt`.

    Whenever this is cut short, what stays is either a result still, or has no checkpoint to resume from.
    """
    former = paths.superseded / f"before-attempt-{attempt:04d}"
    former.mkdir(parents=True)
    for item in (paths.checkpoints, paths.metrics, paths.samples, paths.provenance, paths.state, paths.summary):
        if item.exists():
            item.replace(former / item.name)
