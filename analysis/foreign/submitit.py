"""Folders of submitit: a job is `<id>_submitted.pkl`, its logs and `<id>_0_result.pkl`. Pickles are never opened."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from analysis.foreign.parts import Part
from gpt_opt.records.state import State
from gpt_opt.records.step_log import read_tail

_SUBMITTED = "_submitted.pkl"
_TAIL_BYTES = 20_000
_ENDS = {b"Job completed successfully": State.COMPLETED, b"triggered an exception": State.FAILED}
"""What submitit logs of a job's end."""


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether submitit wrote jobs into a folder with these names."""
    return any(name.endswith(_SUBMITTED) for name in names)


def read(folder: str, names: Collection[str]) -> dict[str, Part]:
    """Returns what is known of each job, by its path: the folder, or its file where the folder has several jobs."""
    jobs = [name.removesuffix(_SUBMITTED) for name in sorted(names) if name.endswith(_SUBMITTED)]
    return {folder if len(jobs) == 1 else f"{folder}/{job}{_SUBMITTED}": _job(folder, job, names) for job in jobs}


def _job(folder: str, job: str, names: Collection[str]) -> Part:
    part = Part("submitit")
    part.missing.append("its config and its result, which are pickles, and so not read")
    logs = [Path(folder, name) for name in names if re.match(rf"{re.escape(job)}_\d+_log\.(?:out|err)$", name)]
    for log in logs:
        try:
            text = b"\n".join(read_tail(log, _TAIL_BYTES)[0])
        except OSError as error:
            part.problems.add(log, f"cannot be read: {error}")
            continue
        for words, state in _ENDS.items():
            if words in text and part.fixed.get("state") != State.FAILED:
                part.fixed["state"] = str(state)
    return part
