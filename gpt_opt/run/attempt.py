"""One attempt at a run, from its claim to its result: what is written into the directory, and when."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from gpt_opt.errors import ClaimLost, GptOptError, Interrupted, RequestError, RunFailed, disk_full
from gpt_opt.records.claim import Claim
from gpt_opt.records.code import Code
from gpt_opt.records.io import now, remove_temporaries, to_json, write_text
from gpt_opt.records.job_id import slurm_ids
from gpt_opt.records.provenance import Inputs, gpus, write_provenance
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, read_run, write_state
from gpt_opt.records.summary import commit_summary, read_summary
from gpt_opt.run.distributed import PeerLost, error_record, message_of
from gpt_opt.run.signals import StopRequest

log = logging.getLogger(__name__)

_RESERVE_BYTES = 32 * 1024
"""Room kept on the disk for a last state.json with its traceback."""

_ROOM_S = 3.0
"""How long a run that ends waits for room on a full disk."""


class Attempt:
    """One attempt at a run.

    Args:
        config: The resolved config as plain containers.
        paths: The run directory.
        claim: On it, held by this process.
        run_id: Of the config.
        inputs: Files and modules of the run with their fingerprints, taken before anything of them is loaded.
    """

    def __init__(self, config: Mapping[str, Any], paths: RunPaths, claim: Claim, run_id: str, inputs: Inputs) -> None:
        self.config, self.paths, self.claim, self.inputs = config, paths, claim, inputs
        self.state = RunState(
            run_id=run_id,
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
        self.state = replace(self.state, updated=now(), **changes)
        write_state(self.paths, self.state, self.claim.require)

    def prepare(
        self, hydra_files: Mapping[str, str], saved_step: int | None, live: Callable[[], Code] | None = None
    ) -> None:
        """Writes what describes the run before it starts.

        Args:
            hydra_files: Texts for `.hydra`, by name.
            saved_step: The step that it goes on from; None where it starts anew.
            live: As of `provenance_of_code`.
        """
        fence = self.claim.require
        fence()
        self.paths.hydra.mkdir(exist_ok=True)
        remove_temporaries(self.paths.hydra)
        self.paths.reserve.write_bytes(os.urandom(_RESERVE_BYTES))
        for name, text in hydra_files.items():
            write_text(self.paths.hydra / name, text, fence)
        write_text(self.paths.config, to_json(self.config), fence)
        if saved_step is None:
            self.write()
        else:
            self.write(step=saved_step, total_steps=read_run(self.paths).file.total_steps)
        write_provenance(self.paths, self.config, self.inputs, self.claim.attempt, live, fence)

    def close(self) -> None:
        """Ends what else was told of the run; the state is written."""

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
            self.write_end(state=State.INTERRUPTED)
            raise
        except Exception as error:
            shown = disk_full(error) or error
            raised = isinstance(shown, GptOptError)
            extra = {"also_raised": raised}
            log.error("run failed: %s: %s", type(shown).__name__, shown, exc_info=not raised, extra=extra)
            self.write_end(state=State.FAILED, error={**error_record(error), **message_of(shown)})
            if isinstance(error, RequestError):
                raise
            raise RunFailed(f"{relative(self.paths)}: {type(shown).__name__}: {shown}") from error
        finally:
            self._give_room()
            self.close()

    def _give_room(self) -> None:
        """Gives back the room that was kept, unless it is a later attempt's by now."""
        with suppress(OSError):
            if self.claim.is_mine():
                self.paths.reserve.unlink(missing_ok=True)

    def write_end(self, **changes: Any) -> None:
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

    def interrupted(self, stop: StopRequest, then: str = "the same command goes on from there") -> Interrupted:
        """Writes down that the run stopped as it was asked to, and returns what to raise.

        Args:
            stop: By what.
            then: What starting it once more does, in words.

        Raises:
            KeyboardInterrupt: If it was asked to end at once.
        """
        stop.raise_at_once()
        self.write_end(state=State.INTERRUPTED)
        name = stop.signal.name if stop.signal else "a signal"
        total = "" if self.state.total_steps is None else f" of {self.state.total_steps}"
        log.info("interrupted by %s at step %d%s; %s", name, self.state.step, total, then)
        return Interrupted(name)

    def commit(self, result: Mapping[str, Any]) -> None:
        """Writes the summary: once, last, never over another one; nothing is kept for a full disk beside a result.

        Args:
            result: What `commit_summary` takes, without `run_id` and `attempt`.
        """
        self._give_room()
        record = {"run_id": self.state.run_id, "attempt": self.claim.attempt, **result}
        if not commit_summary(self.paths, record, self.claim.require):
            raise ClaimLost(f"{self.paths.summary} exists already: another attempt committed its result first")
        self.finish()

    def finish(self) -> None:
        """Marks the run COMPLETED on the strength of its summary."""
        step = read_summary(self.paths)["step"]
        total = step or self.state.total_steps  # None for an application that tells of no steps
        self.write(state=State.COMPLETED, step=step, total_steps=total)


def relative(paths: RunPaths) -> str:
    """Returns a run directory as people read it."""
    return os.path.relpath(paths.root)
