"""One run of an application: its directory is claimed, its process started, watched and stopped, its result committed.

    python -m gpt_opt.run.supervise --settings gptopt.toml --run-dir DIR --id ID -- OVERRIDE...

The application knows nothing of this. Exit code 0 is COMPLETED. SIGTERM, or a warning of the time limit, reaches it as
SIGTERM; after `grace_s` it is killed. What it leaves in its directory is there when it starts again, with the overrides
of [resume] where it can go on, or else is put aside.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from gpt_opt.app.code import code_of
from gpt_opt.app.command import names_module, parse_command
from gpt_opt.app.metrics import MetricsCopy
from gpt_opt.app.settings import AppSettings, read_settings
from gpt_opt.errors import ClaimLost, ConfigError, Problem, exit_code
from gpt_opt.records.claim import Claim, acquire
from gpt_opt.records.io import now, read_json_object, to_json, write_text
from gpt_opt.records.planned_configs import planned_config
from gpt_opt.records.program import Program
from gpt_opt.records.provenance import gpus
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import Identity
from gpt_opt.records.state import State, StateUnreadable, is_done
from gpt_opt.records.step_log import NOT_METRICS, read_metrics
from gpt_opt.records.sweep_dir import Sweep
from gpt_opt.reporting import RUN_DIR, STOP_FILE
from gpt_opt.run.app_process import Process, Starter, WarmStarter, is_warm
from gpt_opt.run.attempt import Attempt, relative
from gpt_opt.run.error_log import ErrorLog
from gpt_opt.run.planned import RUN_ID, SWEEP_DIR
from gpt_opt.run.same_config import HydraConfig, require_same
from gpt_opt.run.signals import StopRequest, adopt_orphans, stop_on_signals

log = logging.getLogger("gpt_opt.run.supervise")  # whose name is __main__ where it runs

POLL_S = 0.2
_METRICS_S = 2.0
_OF_A_TASK = re.compile(
    r"SLURM_(N?TASKS|NPROCS|PROCID|LOCALID|NODEID|GTIDS|NNODES|JOB_NUM_NODES|(JOB_)?NODELIST|STEP|SRUN_|LAUNCH_)|PMIX?_"
)
"""Variables that tell a process which of the tasks of a job it is. Lightning and others would take the slots of a sweep
for the ranks of one training, and wait for them; a run is alone, and its job is not its own to requeue."""
_OURS = frozenset({"claims", "superseded", "state.json"})


def supervise(
    settings: AppSettings,
    paths: RunPaths,
    config: Mapping[str, Any],
    run_id: str,
    overrides: Sequence[str],
    starter: Starter | WarmStarter,
    repository: Path,
) -> int:
    """Brings a run to its end.

    Args:
        settings: Of the application.
        paths: The run directory; it may be missing.
        config: The planned config, resolved.
        run_id: Of that.
        overrides: What gives it.
        starter: Of the application's process.
        repository: Where the run was planned; the settings may be those of a snapshot of it.

    Returns:
        The exit code: 0 where the run is COMPLETED, that of the application where it failed.

    Raises:
        RunHeld: If another living process works on the run.
        Interrupted: If a signal asked the run to stop.
        ClaimLost: If another attempt has taken the run.
    """
    if _is_done(paths):
        log.info("already complete: %s", relative(paths))
        return 0
    paths.root.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    answer = f"SIGTERM to the application, which has {settings.grace_s:g} s to end"
    with stop_on_signals(answer) as stop, acquire(paths) as claim:
        attempt = Attempt(config, paths, claim, run_id, {})
        with attempt.recorded():
            if paths.summary.exists():
                attempt.finish()
                return 0
            given = _made_ready(settings, paths, claim)
            saved_step = Program(checkpoints=settings.checkpoints or "").saved_step(paths)
            attempt.prepare({}, saved_step, partial(code_of, settings.root))
            log.info("run %s: %s", run_id, relative(paths))
            return _Watch(settings, attempt, stop, repository).run(starter, overrides, given)


def _is_done(paths: RunPaths) -> bool:
    try:
        return is_done(paths)
    except StateUnreadable as error:
        log.warning("%s", error)
        return False


def newest_checkpoint(settings: AppSettings, paths: RunPaths) -> Path | None:
    """Returns the checkpoint of a run that was written last, by its time; None where there is none."""
    return None if settings.checkpoints is None else paths.newest(settings.checkpoints)


def _made_ready(settings: AppSettings, paths: RunPaths, claim: Claim) -> list[str]:
    """Makes the directory fit for a start; returns what lets the application go on from its newest checkpoint."""
    checkpoint = newest_checkpoint(settings, paths)
    if checkpoint is not None:
        log.info("goes on from %s", checkpoint.relative_to(paths.root))
        return settings.resume_words(checkpoint.absolute())
    left = [path for path in paths.root.iterdir() if path.name not in _OURS]
    if left:
        former = paths.superseded / f"before-attempt-{claim.attempt:04d}"
        former.mkdir(parents=True)
        for path in left:
            path.rename(former / path.name)
        log.info("starts anew; what the attempt before left is in %s", former.relative_to(paths.root))
    return []


class _Watch:
    """Watches the application of one attempt; `stop` says whether this process was asked to stop."""

    def __init__(self, settings: AppSettings, attempt: Attempt, stop: StopRequest, repository: Path) -> None:
        self._settings, self._attempt, self._stop, self._paths = settings, attempt, stop, attempt.paths
        self._repository = repository
        self._stop_file = self._paths.root / ".stop.tmp"
        self._clock = _Clock(self._paths.root / "time.json")
        self._metrics = MetricsCopy(self._paths.root, settings.metrics, attempt.claim.require)
        self._log = ErrorLog()
        self._looked_at = 0.0

    def run(self, starter: Starter | WarmStarter, overrides: Sequence[str], resume: Sequence[str]) -> int:
        """Starts the application, and returns its exit code when its end is written down.

        Raises:
            Interrupted: If it was asked to stop.
        """
        if self._stop:
            raise self._attempt.interrupted(self._stop, self._next_start())
        environment, words = self._environment(), self._words(overrides, resume)
        self._hydra_config = HydraConfig(self._paths.hydra / "config.yaml")
        process = starter.start(words, environment)
        try:
            code = self._ended(process)
        except BaseException:
            process.kill()  # before the claim is given back: nobody else may begin while it still writes
            process.wait(POLL_S)
            raise
        self._require_planned(ended=True)
        self._look(ended=True)
        self._stop_file.unlink(missing_ok=True)
        if self._stop:  # with exit code 0 too: it has stopped, and not come to its end
            raise self._attempt.interrupted(self._stop, self._next_start())
        if code < 0:
            _end_by(-code)
        return self._end(code)

    def _next_start(self) -> str:
        """Returns what another start would do now, in words."""
        checkpoint = newest_checkpoint(self._settings, self._paths)
        if checkpoint is None:
            return "the next start begins anew, in a clean directory"
        return f"the next start goes on from {checkpoint.relative_to(self._paths.root)}"

    def _ended(self, process: Process) -> int:
        """Returns the exit code of the application, which is stopped where this process is asked to."""
        deadline: float | None = None
        while (code := process.wait(POLL_S)) is None:
            self._look()
            self._require_planned()
            if self._stop and deadline is None:
                self._stop_file.touch()
                process.stop()
                deadline = time.monotonic() + self._settings.grace_s
            elif deadline is not None and time.monotonic() > deadline:
                log.warning("still there %g s after SIGTERM (grace_s): it is killed", self._settings.grace_s)
                process.kill()
        return code

    def _require_planned(self, ended: bool = False) -> None:
        """Refuses a config that was edited since, which an application of Hydra composes by itself."""
        if (started := self._hydra_config.read(ended)) is not None:
            self._require_same(started)

    def _require_same(self, started: Mapping[str, Any]) -> None:
        attempt = self._attempt
        require_same(self._settings, attempt.config, started, attempt.state.run_id, self._repository)

    def _environment(self) -> dict[str, str]:
        """Returns the environment of the application."""
        folder = str(self._paths.root.absolute())
        environment = {name: value for name, value in os.environ.items() if not _OF_A_TASK.match(name)}
        environment = {"HYDRA_FULL_ERROR": "1", **environment}  # else Hydra hides the line that failed
        environment |= {RUN_DIR: folder, STOP_FILE: str(self._stop_file.absolute())}
        folders, own = environment.get("PATH", "").split(os.pathsep), str(Path(sys.executable).parent)
        if own not in folders:  # this Python was not activated: `python` of a command would be another one
            environment["PATH"] = os.pathsep.join([own, *folders])
        app = self._settings
        if app.command is not None and names_module(app.command, app.root):  # else that of the working directory
            path = os.pathsep.join(filter(None, [str(app.root.absolute()), environment.get("PYTHONPATH")]))
            environment |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}
        if app.metrics.source == "wandb":  # whose own folder is the working directory
            environment = {"WANDB_MODE": "offline", "WANDB_DIR": folder, **environment}
        return environment

    def _words(self, overrides: Sequence[str], resume: Sequence[str]) -> list[str]:
        app, folder = self._settings, self._paths.root.absolute()
        if app.command is None:
            # A config may ask for a multirun by itself, as one that has a search of its own does.
            return [*overrides, *resume, "hydra.mode=RUN", f"hydra.run.dir={_quoted(str(folder))}"]
        from gpt_opt.app.defaults import compose_defaults  # Hydra, which only a command needs here

        config = compose_defaults(app, overrides)
        self._require_same(config)
        return [*parse_command(app.command, app.root).words(config, folder), *resume]

    def _look(self, ended: bool = False) -> None:
        """Takes note of new metrics; what cannot be read or written costs a line, no run.

        Raises:
            ClaimLost: If another attempt has taken the run, which this one slept through.
        """
        if not ended and time.monotonic() < self._looked_at + _METRICS_S:
            return
        self._looked_at = time.monotonic()
        try:
            self._attempt.claim.require()
            self._clock.write(self._attempt.claim.require)
            step = self._metrics.update()
            if step is not None and step > self._attempt.state.step:
                self._attempt.write(step=step, total_steps=self._metrics.total_steps)
        except ClaimLost:
            raise
        except Exception as error:
            log.warning("its progress cannot be recorded now: %s: %s", type(error).__name__, error)

    def _end(self, code: int) -> int:
        if code:
            self._attempt.write_end(state=State.FAILED, error=self._log.error(code))
            log.error("run failed: exit code %d", code)
            return code
        rows = read_metrics(self._paths.metrics).records
        last = {name: value for row in rows for name, value in row.items() if name not in NOT_METRICS}
        step = max((row["step"] for row in rows), default=0)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._attempt.commit(
            {
                "step": step,
                "final_step": step,
                "metrics": last,
                "time_s": round(self._clock.seconds(), 3),
                "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),
                "device": ", ".join(f"GPU {name}" for name in gpus()) or "cpu",
            }
        )
        log.info("completed: %s", relative(self._paths))
        return 0


def _end_by(number: int) -> NoReturn:
    """Ends this process as its application ended, so that whoever watches it sees the same."""
    log.error("the application was ended by signal %d", number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(1)
    os._exit(128 + number)


class _Clock:
    """Seconds that an application has run, over the attempts that went on from one another.

    Args:
        file: Where they are kept; it is put aside with what an attempt left that nothing goes on from.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._began, self._before = file, time.monotonic(), 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._before = float(read_json_object(file)["time_s"])

    def seconds(self) -> float:
        """Returns them."""
        return self._before + time.monotonic() - self._began

    def write(self, fence: Callable[[], None]) -> None:
        """Keeps them; without, a run that goes on counts from here. `fence` as of `write_text`."""
        with suppress(OSError):
            write_text(self._file, to_json({"time_s": round(self.seconds(), 3), "updated": now()}), fence)


def _quoted(path: str) -> str:
    """Returns a path as a value of Hydra's grammar, whatever is in it."""
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", path)
    return f"'{text}'"


# -- the command line -----------------------------------------------------------------------------------------------


def _planned(run_id: str) -> tuple[Mapping[str, Any], Path]:
    """Returns the config that was planned for the run of this process, and the repository it was planned in.

    Raises:
        ConfigError: If its sweep does not have it.
    """
    folder, whole = os.environ.get(SWEEP_DIR), Identity(frozenset())
    sweep = Sweep(Path(folder or ""))
    config = planned_config(sweep.planned_configs, run_id, whole) if folder and run_id else None
    if config is None:
        problem = f"must name a sweep with the run {run_id or '(none)'}, but is {folder!r}"
        raise ConfigError([Problem(SWEEP_DIR, problem, "start runs by gptopt exec, or a line of the task file")])
    return config, Path(sweep.submission().root)


def main() -> None:
    """Reads the command line; in a forked process, becomes the application."""
    parser = argparse.ArgumentParser(prog="supervise", description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--id", default=os.environ.get(RUN_ID, ""))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")
    starters: list[Starter | WarmStarter] = []

    def lead() -> int:
        run_id, settings = options.id, read_settings(options.settings)
        config, repository = _planned(run_id)
        starter = WarmStarter(settings) if is_warm(settings) else Starter(settings)
        starters.append(starter)
        if isinstance(starter, WarmStarter) and starter.words is not None:
            return 0
        paths = RunPaths(options.run_dir)
        return supervise(settings, paths, config, run_id, options.overrides, starter, repository)

    code = exit_code(lead)
    for starter in starters:
        if isinstance(starter, WarmStarter) and starter.words is not None:
            starter.run()
            return
    sys.exit(code)


if __name__ == "__main__":
    main()
