"""Whole sweeps from Python: `gpt_opt.sweep("params/beta_sweep.json")`, as `gptopt` has them on the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_opt.config.overrides import parse_override
from gpt_opt.dispatch.actions import cancel, open_runs, retry
from gpt_opt.dispatch.backends.limits import check_plan, usable_backend
from gpt_opt.dispatch.start import Outcome
from gpt_opt.dispatch.submit import Request, submit
from gpt_opt.dispatch.sweep_status import SweepStatus, gather
from gpt_opt.own_app.here import app_here
from gpt_opt.plan.planner import Plan
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.sweep_dir import Sweep, find
from gpt_opt.sweep.grid import load_grid
from gpt_opt.sweep.overrides import target

if TYPE_CHECKING:
    import pandas as pd


class SweepHandle:
    """A sweep file, and what was submitted of it from this working directory.

    Args:
        file: The sweep file.
        overrides: Hydra overrides for every point, applied last.

    Raises:
        SweepError: If the file is wrong.
    """

    def __init__(self, file: str | Path, overrides: Sequence[str] = ()) -> None:
        self.file, self.overrides = Path(file), tuple(overrides)
        self.name = load_grid(self.file).name

    def plan(self, backend: str | None = None) -> Plan:
        """Checks every point and says what would run; writes nothing.

        Args:
            backend: As for `submit`; None where there is no Slurm refuses only what no backend can do.

        Raises:
            RequestError: If the file or a point is wrong, or the backend cannot do it.
        """
        plan = planner_of(app_here()).plan(self.file, self.overrides)
        check_plan(plan.shapes, backend)
        return plan

    def submit(self, backend: str | None = None, slots: int | None = None, **resources: Any) -> Outcome:
        """Submits all that is not done and not on its way; returns at once.

        Args:
            backend: `disbatch`, `submitit` or `local`; None for disbatch, or local where there is no Slurm.
            slots: Runs at a time; None for one a run, up to a limit.
            resources: What one run needs, over what the file says: the fields of `gpt_opt.sweep.model.Resources`.

        Raises:
            RequestError: If the request is wrong; nothing was submitted.
            GptOptError: If Slurm refuses; what it took before is recorded.
        """
        chosen = usable_backend(backend, str(self.file))
        return submit(Request(self.file, self.overrides, chosen, slots, resources, app_here(), SWEEPS))

    def _submitted(self) -> Sweep:
        return find(self.name, SWEEPS)

    def status(self) -> SweepStatus:
        """Returns how the runs of the last submission are doing.

        Raises:
            RequestError: If nothing was submitted.
        """
        return gather(self._submitted())

    def wait(self, poll_s: float = 2.0) -> SweepStatus:
        """Waits until nothing works on the sweep any more; returns its status then."""
        while not ((status := self.status()).all_done or status.idle):
            time.sleep(poll_s)
        return status

    def retry(self, state: str = "FAILED") -> Outcome:
        """Starts runs again that failed, were CANCELLED or are STALE.

        Raises:
            ConfigError: If there are none.
        """
        return retry(self._submitted(), state, ())

    def cancel(self) -> None:
        """Stops all runs, each with a checkpoint."""
        sweep = self._submitted()
        cancel(sweep, open_runs(sweep, None))

    def runs(self) -> pd.DataFrame:
        """Returns a row for every run: `name`, `stage`, `parent`, `state`, its parameters, then results and config.

        The columns after `state` are those of the keys that the sweep gives, by their dotted keys, and those of
        `analysis.load_runs` for runs that have begun.
        """
        import pandas as pd

        from analysis.load import load_runs

        status = self.status()
        names = {item.run.index: item.run.name for item in status.runs}
        begun = [item.run_dir for item in status.runs if Path(item.run_dir).is_dir()]
        results = load_runs(begun).set_index("run_id") if begun else pd.DataFrame()
        rows = []
        for item in status.runs:
            parent = names.get(item.run.parent) if item.run.parent is not None else None
            row = {"name": item.run.name, "stage": item.run.stage or None, "parent": parent, "state": str(item.state)}
            parts = [(target(text.partition("=")[0]), text) for text in item.run.overrides]
            # loss=dpo is left out: the column loss is the metric, and loss.name is in the config.
            given: dict[str, Any] = {key: parse_override(text).value() for key, text in parts if key != "loss"}
            known = results.loc[item.run.run_id].to_dict() if item.run.run_id in results.index else {}
            rows.append(
                {**given, **{str(key): value for key, value in known.items()}, **row, "run_id": item.run.run_id}
            )
        first = ["name", "stage", "parent", "state", "run_id"]
        frame = pd.DataFrame(rows)
        return frame[[*first, *(name for name in frame.columns if name not in first)]]


def sweep(file: str | Path, overrides: Sequence[str] = ()) -> SweepHandle:
    """Returns a handle on a sweep file.

    Args:
        file: The sweep file, for example params/beta_sweep.json.
        overrides: Hydra overrides for every point, applied last.

    Raises:
        SweepError: If the file is wrong.
    """
    return SweepHandle(file, overrides)
