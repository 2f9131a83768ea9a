"""What plans the sweeps of an application: this process, or a process of the application's own."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt_opt.app.app import App
from gpt_opt.errors import GptOptError
from gpt_opt.plan.existing import Nearest
from gpt_opt.plan.planner import Plan, Planner

_NO_FLAGS: Mapping[str, Any] = MappingProxyType({})


def planner_of(app: App) -> Planner | PlannerApart:
    """Returns what plans the sweeps of an application."""
    return PlannerApart(app) if app.planned_apart else Planner(app)


class PlannerApart:
    """Plans in a process of the application's own, so that what the application registers stays there.

    Args:
        app: The application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def plan(
        self,
        file: Path,
        extra: Sequence[str] = (),
        slots: int = 1,
        sweeps: Path = Path("sweeps"),
        flags: Mapping[str, Any] = _NO_FLAGS,
    ) -> Plan:
        """Plans a sweep file.

        Raises:
            RequestError: If the file or a point is wrong.
        """
        plan: Plan = self._ask("plan", file, tuple(extra), slots, sweeps, dict(flags))
        return plan

    def plan_points(
        self, name: str, lists: Sequence[Sequence[str]], sweeps: Path, flags: Mapping[str, Any] = _NO_FLAGS
    ) -> Plan:
        """Plans points that are given as override strings.

        Raises:
            RequestError: If a point is wrong.
        """
        plan: Plan = self._ask("plan_points", name, [list(point) for point in lists], sweeps, dict(flags))
        return plan

    def nearest(self, overrides: Sequence[str]) -> Nearest | None:
        """Returns the existing run that is nearest to a point."""
        nearest: Nearest | None = self._ask("nearest", tuple(overrides))
        return nearest

    def _ask(self, question: str, *arguments: Any) -> Any:
        """Has a new process answer; what that prints is for people and goes to standard error."""
        # -P: the folder of a script is on its path, the working directory is not.
        command = [sys.executable, "-P", "-m", "gpt_opt.plan.child"]
        done = subprocess.run(
            command,
            input=pickle.dumps((self._app, question, arguments)),
            stdout=subprocess.PIPE,
            check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # at Ctrl-C this process ends it
        )
        try:
            error, answer = pickle.loads(done.stdout)
        except (EOFError, pickle.UnpicklingError) as problem:
            message = f"the process that composes its configs ended with exit code {done.returncode}, without an answer"
            raise GptOptError(f"{self._app.name}: {message}; what it said is above") from problem
        if error is not None:
            raise error
        return answer
