"""Executes one run: skip it, resume it or train it, under a claim, and commit its one result."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from gpt_opt.config.checks.batches import batch_problems
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.files import WEIGHT_KEYS, located
from gpt_opt.config.inputs import AGAIN, changed_inputs, changed_since, inputs_of
from gpt_opt.errors import ConfigError, Problem, RequestError
from gpt_opt.records.claim import Claim, acquire
from gpt_opt.records.io import read_json_object
from gpt_opt.records.provenance import recorded_inputs
from gpt_opt.records.run_dir import RunPaths, saved_step
from gpt_opt.records.run_id import TRAINING, run_id
from gpt_opt.records.state import State, StateUnreadable, has_result, read_state, written_state
from gpt_opt.records.summary import supersede
from gpt_opt.run.attempt import Attempt, relative
from gpt_opt.run.devices import SWEEP, chosen_devices, device_problems, wants_torchrun
from gpt_opt.run.distributed import PeerFailed, peers
from gpt_opt.run.ranks import this_rank, under_torchrun
from gpt_opt.run.signals import StopRequest, stop_on_signals
from gpt_opt.training.checkpointing import latest_checkpoint

if TYPE_CHECKING:
    from gpt_opt.training.interface import Result
    from gpt_opt.training.trackers import Reporters, Tracked

log = logging.getLogger(__name__)


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
        attempt = _Training(config, paths, claim, stop)
        with attempt.recorded():
            if config["rerun"] and (_to_supersede(paths) or attempt.cannot_resume()):
                supersede(paths, claim.attempt)
            elif paths.summary.exists():
                attempt.finish()
                _say_complete(config, paths)
                return
            attempt.prepare(hydra_files, saved_step(paths))
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
    log.info("already complete: %s%s", relative(paths), f", but {changed}: {AGAIN}" if changed else "")


def _to_supersede(paths: RunPaths) -> bool:
    """Returns whether `rerun=true` starts anew: a result, a failure, or records that cannot be read.

    An interrupted rerun is none of these: it resumes.
    """
    try:
        return paths.summary.exists() or written_state(paths).state in (State.FAILED, State.COMPLETED)
    except StateUnreadable:
        return True


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
    if TRAINING.json(stored) != TRAINING.json(json.loads(json.dumps(config))):
        raise ConfigError(
            [
                Problem(
                    str(paths.root),
                    f"belongs to run {run_id(stored)}, but this config is run {run_id(config)}",
                    "choose another directory, or leave hydra.run.dir to its default",
                )
            ]
        )


class _Training(Attempt):
    """One attempt at training."""

    def __init__(self, config: Mapping[str, Any], paths: RunPaths, claim: Claim, stop: StopRequest) -> None:
        super().__init__(config, paths, claim, run_id(config), inputs_of(config))
        self.stop, self.reporters = stop, cast("Reporters | None", None)

    def cannot_resume(self) -> bool:
        """Returns whether the run has checkpoints, but none that it can go on from, or other weights than they had."""
        try:
            latest_checkpoint(self.paths.checkpoints)
        except RequestError:
            return True
        return bool(set(changed_inputs(recorded_inputs(self.paths), self.inputs)) & set(WEIGHT_KEYS))

    def close(self) -> None:
        """Ends the trackers."""
        if self.reporters is not None:
            self.reporters.close(completed=self.state.state is State.COMPLETED)

    def train(self) -> None:
        """Trains, and commits the result.

        Raises:
            Interrupted: If a signal asked the run to stop.
        """
        log.info("run %s: %s", self.state.run_id, relative(self.paths))
        result = self._train()
        if result is None:
            raise self.interrupted(self.stop)
        self.commit(result.to_record())
        log.info("completed: %s", relative(self.paths))

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
            peers().train(config, self.paths, self.claim.attempt)
            with peers().watched(self._end_with):
                paths = self.paths
                folder = Folder(paths.checkpoints, paths.metrics, paths.samples, self.claim.attempt)
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
            self.write_end(state=State.FAILED, error=failed.record)
            self.claim.__exit__()
        finally:
            os._exit(1)
