"""Executes one run: skip it, resume it or train it, under a claim, and commit its one result."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt_opt.config.checks.batches import batch_problems
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.files import WEIGHT_KEYS, located
from gpt_opt.config.inputs import AGAIN, changed_inputs, changed_since, inputs_of
from gpt_opt.errors import ClaimLost, ConfigError, GptOptError, Problem, RequestError, RunFailed, disk_full
from gpt_opt.records.claim import Claim, acquire
from gpt_opt.records.io import now, read_json_object, remove_temporaries, to_json, write_text
from gpt_opt.records.job_id import slurm_ids
from gpt_opt.records.provenance import gpus, recorded_inputs, write_provenance
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import identity_json, run_id
from gpt_opt.records.state import RunState, State, StateUnreadable, has_result, read_state, write_state
from gpt_opt.records.summary import commit_summary, read_summary, supersede
from gpt_opt.run.devices import SWEEP, chosen_devices, device_problems, wants_torchrun
from gpt_opt.run.distributed import PeerFailed, PeerLost, error_record, message_of, peers
from gpt_opt.run.ranks import this_rank, under_torchrun
from gpt_opt.run.signals import StopRequest, stop_on_signals
from gpt_opt.training.checkpointing import latest_checkpoint

if TYPE_CHECKING:
    from gpt_opt.training.interface import Result
    from gpt_opt.training.trackers import Reporters, Tracked

log = logging.getLogger(__name__)


_RESERVE_BYTES = 32 * 1024
"""Room kept on the disk for a last state.json with its traceback."""

_ROOM_S = 3.0
"""How long a run that ends waits for room on a full disk."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did, with a checkpoint; whoever runs a list of runs stops too."""


def execute(config: Mapping[str, Any], paths: RunPaths, hydra_files: Mapping[str, str]) -> None:
    """Brings the run of `config` to its end in the directory `paths`.

    A run that is complete is skipped with one line, unless `config["rerun"]`. An unfinished one resumes from its last
    checkpoint.

    Args:
        config: The resolved config as plain containers.
        paths: The run directory; it exists.
        hydra_files: Texts for .hydra/ by file name.

    Raises:
        ConfigError: If the config contradicts itself, or the directory belongs to another config.
        RequestError: If the data, or something else that was asked for, cannot be used; state.json says FAILED.
        RunHeld: If another living process works on the run.
        PeerLost: If another process of a run of several was killed.
        RunFailed: If training raised; state.json and task.log hold the traceback.
        Interrupted: If a signal asked the run to stop.
    """
    if problems := constraint_problems(config) or list(_process_problems(config)):
        raise ConfigError(problems)
    _require_same_config(config, paths)
    if not config["rerun"] and _is_done(paths):
        _say_complete(config, paths)
        return
    # The claim is let go of before a signal is passed on.
    with chosen_devices(config), stop_on_signals() as stop, acquire(paths) as claim:
        attempt = _Attempt(config, paths, claim, stop)
        with attempt.recorded():
            if config["rerun"] and (_to_supersede(paths) or attempt.cannot_resume()):
                supersede(paths, claim.attempt)
            elif paths.summary.exists():
                attempt.finish()
                _say_complete(config, paths)
                return
            attempt.prepare(hydra_files)
            attempt.train()


def _is_done(paths: RunPaths) -> bool:
    """Returns whether the run is complete; a state.json that cannot be read is no answer and is written anew."""
    if not has_result(paths):
        return False
    try:
        return read_state(paths).state is State.COMPLETED
    except StateUnreadable as error:
        log.warning("%s", error)
        return False


def _process_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields why the training cannot be split over the processes that there are."""
    if (count := this_rank().count) > 1:
        yield from batch_problems(config["training"]["training_params"], count)
    yield from device_problems(config)
    if wants_torchrun(config):
        fix = "start run_hydra.py, which starts it"
        yield Problem("gpu.use_ddp", "needs the processes of torchrun, but this one was started without it", fix)
        return
    for backend in ("deepspeed", "fsdp"):
        if config[backend] and not under_torchrun():
            problem = "shards a training over the processes of torchrun, but this one was started without it"
            fix = "gpu.use_ddp=true, torchrun --nproc-per-node N run_hydra.py ..., or resources.gpus_per_run in a sweep"
            yield Problem(backend, problem, fix)


def _say_complete(config: Mapping[str, Any], paths: RunPaths) -> None:
    """Says in one line that there is nothing to do, and which inputs have changed since."""
    changed = changed_since(recorded_inputs(paths), inputs_of(config))
    log.info("already complete: %s%s", _relative(paths), f", but {changed}: {AGAIN}" if changed else "")


def _to_supersede(paths: RunPaths) -> bool:
    """Returns whether `rerun=true` starts anew: a result, a failure, or records that cannot be read.

    An interrupted rerun is none of these: it resumes.
    """
    try:
        return paths.summary.exists() or read_state(paths).state in (State.FAILED, State.COMPLETED)
    except StateUnreadable:
        return True


def _relative(paths: RunPaths) -> str:
    return os.path.relpath(paths.root)


def _require_same_config(config: Mapping[str, Any], paths: RunPaths) -> None:
    """Refuses a directory whose config.json describes another run.

    Raises:
        ConfigError: If it does; the message names keys that differ.
    """
    if not paths.config.exists():
        return
    try:
        stored = read_json_object(paths.config)
    except ValueError as error:
        problem = f"must be the run's config, but cannot be read: {error}"
        fix = "remove this file; the next start writes it again"
        raise ConfigError([Problem(str(paths.config), problem, fix)]) from error
    if identity_json(stored) != identity_json(json.loads(json.dumps(config))):
        raise ConfigError(
            [
                Problem(
                    str(paths.root),
                    f"belongs to run {run_id(stored)}, but this config is run {run_id(config)}",
                    "choose another directory, or leave hydra.run.dir to its default",
                )
            ]
        )


class _Attempt:
    """One attempt at a run, from claim to result."""

    def __init__(self, config: Mapping[str, Any], paths: RunPaths, claim: Claim, stop: StopRequest) -> None:
        self.config, self.paths, self.claim, self.stop = config, paths, claim, stop
        self.reporters: Reporters | None = None
        self.inputs = inputs_of(config)  # before anything of them is loaded
        self.state = RunState(
            run_id=run_id(config),
            state=State.RUNNING,
            attempt=claim.attempt,
            host=claim.owner.host,
            pid=claim.owner.pid,
            slurm=slurm_ids(),
            gpus=gpus(),
            started=now(),
        )

    def write(self, **changes: Any) -> None:
        """Updates state.json, unless a later attempt owns the run.

        Raises:
            ClaimLost: If one does.
        """
        self.claim.require()
        self.state = replace(self.state, updated=now(), **changes)
        write_state(self.paths, self.state)

    def cannot_resume(self) -> bool:
        """Returns whether the run has checkpoints, but none that it can go on from, or other weights than they had."""
        try:
            latest_checkpoint(self.paths.checkpoints)
        except RequestError:
            return True
        return bool(set(changed_inputs(recorded_inputs(self.paths), self.inputs)) & set(WEIGHT_KEYS))

    def prepare(self, hydra_files: Mapping[str, str]) -> None:
        """Writes what describes the run before it starts, and clears away what a process killed in mid-write left."""
        self.paths.hydra.mkdir(exist_ok=True)
        for folder in (self.paths.root, self.paths.hydra):
            remove_temporaries(folder)
        self.paths.reserve.write_bytes(os.urandom(_RESERVE_BYTES))
        for name, text in hydra_files.items():
            write_text(self.paths.hydra / name, text)
        write_text(self.paths.config, to_json(self.config))
        self.write()
        write_provenance(self.paths, self.config, self.inputs, self.claim.attempt)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Writes down how the block failed, if it does, and gives back the room kept for that; then ends trackers.

        Raises:
            RunFailed: If it raised; other errors of `execute` as they are.
        """
        try:
            yield
        except (ClaimLost, Interrupted):
            raise
        except (KeyboardInterrupt, PeerLost):
            self._write_end(state=State.INTERRUPTED)
            raise
        except Exception as error:
            told = disk_full(error) or error
            raised = isinstance(told, GptOptError)
            extra = {"also_raised": raised}
            log.error("run failed: %s: %s", type(told).__name__, told, exc_info=not raised, extra=extra)
            self._write_end(state=State.FAILED, error={**error_record(error), **message_of(told)})
            if isinstance(error, RequestError):
                raise
            raise RunFailed(f"{_relative(self.paths)}: {type(told).__name__}: {told}") from error
        finally:
            self._give_room()
            if self.reporters is not None:
                self.reporters.close(completed=self.state.state is State.COMPLETED)

    def train(self) -> None:
        """Trains, and commits the result.

        Raises:
            Interrupted: If a signal asked the run to stop.
        """
        log.info("run %s: %s", self.state.run_id, _relative(self.paths))
        result = self._train()
        if result is None:
            self._write_end(state=State.INTERRUPTED)
            name = self.stop.signal.name if self.stop.signal else "a signal"
            log.info(
                "interrupted by %s at step %d of %s; the same command goes on from there",
                name,
                self.state.step,
                self.state.total_steps,
            )
            raise Interrupted(name)
        self._commit(result)
        log.info("completed: %s", _relative(self.paths))

    def _give_room(self) -> None:
        """Gives back the room that was kept, unless it is a later attempt's by now."""
        if self.claim.is_mine():
            self.paths.reserve.unlink(missing_ok=True)

    def _write_end(self, **changes: Any) -> None:
        """Writes how the run ended, on a disk that is full as soon as there is room again, if that is soon."""
        self._give_room()
        deadline = time.monotonic() + _ROOM_S
        while True:
            try:
                self.write(**changes)
                return
            except OSError as problem:
                if time.monotonic() > deadline:
                    log.error("%s cannot say so: %s", self.paths.state, problem)
                    return
            time.sleep(_ROOM_S / 10)

    def _train(self) -> Result | None:
        from gpt_opt.training.interface import Folder, Hooks  # torch only from here on: skipping a run stays quick
        from gpt_opt.training.loop import train
        from gpt_opt.training.trackers import Reporters

        self.reporters = Reporters(self._tracked())
        hooks = Hooks(
            progress=lambda step, total: self.write(step=step, total_steps=total),
            stop_requested=lambda: bool(self.stop),
            fence=self.claim.require,
            report=self.reporters.log,
        )
        if self.stop:
            return None  # before the other processes are told to train: they may be gone by the same signal
        try:
            config = located(self.config)
            peers().train(config, self.paths)
            with peers().watched(self._end_with):
                paths = self.paths
                folder = Folder(paths.checkpoints, paths.metrics, paths.samples)
                return train(config, folder, hooks, self.inputs)
        except Exception as error:
            peers().raise_if_lost(error)
            raise

    def _tracked(self) -> Tracked:
        """Returns the run as trackers know it: one run there for each result, `<id>`, `<id>-1` after a rerun, ..."""
        from gpt_opt.training.trackers import Tracked

        identity, reruns = self.state.run_id, len(list(self.paths.superseded.glob("*")))
        identity += f"-{reruns}" if reruns else ""
        label = self.paths.root.name.removesuffix(f"-{self.state.run_id}")
        paths = self.paths
        return Tracked(identity, f"{label}-{identity}", paths.root, paths.metrics, os.environ.get(SWEEP), self.config)

    def _end_with(self, failed: PeerFailed) -> None:
        """Ends this process, whatever its main thread waits for, because another process of the run failed."""
        log.error("run failed: %s", failed)
        try:
            self._write_end(state=State.FAILED, error=failed.record)
            self.claim.__exit__()
        finally:
            os._exit(1)

    def _commit(self, result: Result) -> None:
        """Writes the summary: once, last, never over another one; nothing is kept for a full disk beside a result."""
        self.claim.require()
        self._give_room()
        record = {"run_id": self.state.run_id, "attempt": self.claim.attempt, **result.to_record()}
        if not commit_summary(self.paths, record):
            raise ClaimLost(f"{self.paths.summary} exists already: another attempt committed its result first")
        self.finish()

    def finish(self) -> None:
        """Marks the run COMPLETED on the strength of its summary."""
        step = read_summary(self.paths)["step"]
        self.write(state=State.COMPLETED, step=step, total_steps=step)
