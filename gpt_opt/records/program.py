"""How the runs of an application are started: what a submission keeps of it, so that a slot needs no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpt_opt.records.code import ENTRY
from gpt_opt.records.run_dir import RunPaths, saved_step
from gpt_opt.records.state import read_run


@dataclass(frozen=True)
class Program:
    """The program that makes a run.

    Attributes:
        words: Arguments of Python before the overrides of the run; `{app}`, `{run_dir}` and `{run_id}` stand for the
            folder of the application's code, the directory of the run and its id.
        file: What must be in the folder of the application's code.
        on_path: Whether modules are imported from the folder of the application's code.
        folder: That folder, below a snapshot of the code; "" for the snapshot itself, which is gpt-opt's own code.
        warm_imports: What the warm process of a slot imports; none starts every run in a new process.
        torchrun: Whether a run on several GPUs is started by torchrun, else it starts its processes by itself.
        makes_directory: Whether the slot makes the directory of the run, which Hydra does for gpt-opt's own training.
        environment: Lines of bash for the batch script, before anything starts.
        start: Key by which an application is told what a run starts from, as a path; "" for gpt-opt's own training,
            which finds a run by its id.
        checkpoints: Glob below the directory of a run whose newest match it goes on from; None for gpt-opt's own
            checkpoints, "" where it cannot go on.
    """

    words: tuple[str, ...] = (f"{{app}}/{ENTRY}",)
    file: str = ENTRY
    folder: str = ""
    on_path: bool = False
    warm_imports: tuple[str, ...] = ("run_hydra", "gpt_opt.run.before_fork", "gpt_opt.training.warm")
    torchrun: bool = True
    makes_directory: bool = False
    environment: tuple[str, ...] = ()
    checkpoints: str | None = None
    start: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Program:
        """Reads the fields from JSON values; a submission of a version before has none."""
        known = {key: value for key, value in (record or {}).items() if key in {item.name for item in fields(cls)}}
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}
        return cls(**values)

    def checkpoints_of(self, run: RunPaths) -> list[Path]:
        """Returns the checkpoints of a run; those of gpt-opt's own training by their folder."""
        return run.matching(self.checkpoints or run.checkpoints.name)

    def saved_step(self, paths: RunPaths) -> int | None:
        """Returns the step that a run goes on from, 0 where it is not known; None if it starts anew."""
        if self.checkpoints is None:
            return saved_step(paths)
        return read_run(paths).file.step if self.checkpoints and paths.matching(self.checkpoints) else None

    def result_of(self, run: RunPaths) -> Path:
        """Returns what another run starts from: the newest checkpoint of a run, or its directory, absolute."""
        newest = run.newest(self.checkpoints) if self.checkpoints else None
        return (newest or run.root).absolute()

    def arguments(self, app: Path, run_dir: Path, run_id: str, overrides: Sequence[str]) -> list[str]:
        """Returns the arguments of Python that start a run; no shell ever reads the value of a parameter."""
        values = {"{app}": str(app), "{run_dir}": str(run_dir), "{run_id}": run_id}
        return [*(_filled(word, values) for word in self.words), *overrides]


def _filled(word: str, values: Mapping[str, str]) -> str:
    field, rest = next(((name, word.removeprefix(name)) for name in values if word.startswith(name)), ("", word))
    return values.get(field, "") + rest
