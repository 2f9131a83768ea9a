"""The sweep directory `sweeps/<name>/<n>/`: what was submitted, with what, and which runs it has."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from gpt_opt.errors import GptOptError, Problem, RequestError
from gpt_opt.records.choices import read_choices
from gpt_opt.records.io import lock, now, read_json_object, read_lines, sync, to_json, write_text
from gpt_opt.records.program import Program
from gpt_opt.records.run_dir import RunFolders, RunPaths


@dataclass(frozen=True, slots=True)
class Workload:
    """What the plan knows of the time that a run takes.

    Attributes:
        name: Runs with the same name take equally long for a step.
        steps: Optimizer steps of the whole run; None where the epochs decide.
        save_every: Optimizer steps between two checkpoints; None where that is not known.
        step_s: Seconds of a step in finished runs of this workload, when it was planned; None where there were none.
        whole: Whether the whole run counts as one step: those of an application are its own affair.
    """

    name: str
    steps: int | None
    save_every: int | None
    step_s: float | None = None
    whole: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Workload:
        """Reads the fields.

        Raises:
            KeyError: If one is missing that every version has written.
        """
        known = record["name"], record["steps"], record["save_every"], record["step_s"]
        return cls(*known, record.get("whole", False))


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One line of plan.jsonl.

    Attributes:
        index: Its position in the plan, from 0: for people and file names, never for identity.
        run_id: Hash of its config.
        run_dir: Where it was expected to lie when it was planned.
        overrides: Hydra override strings that give its config.
        shape: Index into the shapes of the submission: what it needs from the cluster.
        stage: Name of its stage; "" in a sweep without stages.
        number: Its position in the stage; runs among which one is chosen share it.
        parent: Index of the run that it starts from, always a lower one; None where that is none of the sweep.
        choice: Name of the choice that decides whether its parent is started from, see `gpt_opt.records.choices`; "".
        workload: What is known of its time; None in plans of earlier versions.
    """

    index: int
    run_id: str
    run_dir: str
    overrides: tuple[str, ...]
    shape: int = 0
    stage: str = ""
    number: int = 0
    parent: int | None = None
    choice: str = ""
    workload: Workload | None = None

    @property
    def name(self) -> str:
        """What people call it: its index, or `STAGE/NUMBER`."""
        return f"{self.stage}/{self.number}" if self.stage else str(self.index)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> SweepRun:
        """Reads a line.

        Raises:
            KeyError: If a field is missing.
        """
        names = (record["index"], record["run_id"], record["run_dir"])
        place = (record.get("number", 0), record.get("parent"), record.get("choice", ""))
        work = record.get("workload")
        workload = None if work is None else Workload.from_record(work)
        shape, stage = record.get("shape", 0), record.get("stage", "")
        return cls(*names, tuple(record["overrides"]), shape, stage, *place, workload)

    def paths(self, folders: RunFolders | None = None) -> RunPaths:
        """Returns the files of the run, which the id finds; those who ask for many runs share `folders`."""
        found = (folders or RunFolders()).find(os.path.dirname(self.run_dir), self.run_id)
        return RunPaths(Path(found or self.run_dir))


def active(runs: Iterable[SweepRun], chosen: Mapping[str, int]) -> set[int]:
    """Returns the indices of the runs of a sweep that will be made, or were: where one of several is chosen, only that.

    Args:
        runs: Of the plan, in order.
        chosen: Name of a choice to the index of the run that it chose. Of one that is missing, or chose a run which
            will not be made itself, the first stands for it.
    """
    found: set[int] = set()
    parents: dict[str, int] = {}
    for run in runs:
        if run.parent is not None and run.parent not in found:
            continue
        if run.choice and run.parent is not None:
            recorded = chosen.get(run.choice, run.parent)
            if parents.setdefault(run.choice, recorded if recorded in found else run.parent) != run.parent:
                continue
        found.add(run.index)
    return found


@dataclass(frozen=True)
class Job:
    """One job that works, or worked, on a sweep.

    Attributes:
        id: Slurm job id (`12`, or `12_3` of an array), or `local-<pid>`.
        submitted: ISO 8601 UTC.
        runs: Indices of the runs it was given; None for all of its shape.
        shape: The shape of the runs it takes; None for every shape.
    """

    id: str
    submitted: str
    runs: tuple[int, ...] | None = None
    shape: int | None = None


@dataclass(frozen=True)
class Shape:
    """What runs that need the same from the cluster ask for; each shape of a submission has an allocation of its own.

    Attributes:
        resources: What one run needs, as in the sweep file.
        slots: Runs at a time; None where the allocation decides.
    """

    resources: dict[str, Any]
    slots: int | None


@dataclass(frozen=True)
class StageRecord:
    """What a submission keeps of a stage.

    Attributes:
        name: Its name.
        start: What its runs start from, in words; "" for nothing.
        metric: Name and goal of the metric that decides which run is started from; None where all are.
    """

    name: str
    start: str = ""
    metric: dict[str, str] | None = None


@dataclass(frozen=True)
class Submission:
    """submission.json.

    Attributes:
        sweep: Name of the sweep.
        file: The sweep file as the user named it.
        extra: Overrides that were given after the file.
        backend: Its name in `dispatch.backends.base.BACKENDS`.
        shapes: The different needs of its runs, in the order of the plan; `SweepRun.shape` counts them.
        metric: Name and goal of the metric to compare runs by, or None.
        cwd: Working directory of every run: relative paths of configs start here.
        root: The repository of the application.
        cold: Whether each run is a process that imports everything anew, instead of a child of its slot's warm process.
        snapshot: Whether drivers, slots and runs import from `code/`; if not, from the repository.
        created: ISO 8601 UTC.
        script: The exact sbatch text; None where there is none.
        jobs: Every job so far, oldest first.
        stages: Its stages in order; empty where it has none.
        program: How its runs are started.
    """

    sweep: str
    file: str
    extra: tuple[str, ...]
    backend: str
    shapes: tuple[Shape, ...]
    metric: dict[str, str] | None
    cwd: str
    root: str
    snapshot: bool = False
    cold: bool = False
    created: str = field(default_factory=now)
    script: str | None = None
    jobs: tuple[Job, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    program: Program = field(default_factory=Program)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Submission:
        """Reads the fields from JSON values; unknown ones are left out.

        Raises:
            TypeError: If a field is missing.
            LookupError: If a part of one is missing.
        """
        known = {key: value for key, value in record.items() if key in {item.name for item in fields(cls)}}
        jobs = tuple(
            Job(j["id"], j["submitted"], None if j["runs"] is None else tuple(j["runs"]), j.get("shape"))
            for j in known["jobs"]
        )
        # Before runs of one sweep could need different things, a submission had one shape and no list of them.
        shapes = tuple(Shape(item["resources"], item["slots"]) for item in record.get("shapes", [record]))
        stages = tuple(StageRecord(**item) for item in known.get("stages", ()))
        known |= {"extra": tuple(known["extra"]), "shapes": shapes, "jobs": jobs, "stages": stages}
        return cls(**{**known, "program": Program.from_record(known.get("program"))})


class Sweep:
    """One sweep directory: all of it, or the part that one driver works through.

    Args:
        root: The directory `sweeps/<name>/<n>`, absolute.
        shape: The shape of the runs that belong to the part; None for all runs.
    """

    def __init__(self, root: Path, shape: int | None = None) -> None:
        self.root, self.shape = root, shape

    def part(self, shape: int) -> Sweep:
        """Returns the part with the runs of one shape; what its driver writes lies apart from that of others."""
        return Sweep(self.root, shape)

    def parts(self) -> list[Sweep]:
        """Returns a part for each shape that runs have, in the order of the shapes."""
        return [self.part(shape) for shape in sorted({run.shape for run in self.runs})]

    def at(self, root: Path) -> Sweep:
        """Returns the same by another name of the directory."""
        return Sweep(root, self.shape)

    @property
    def driver(self) -> RunPaths:
        """What its driver claims; see `gpt_opt.records.claim`. That of the first, or only, shape claims the root."""
        return RunPaths(self.root / "shapes" / str(self.shape) if self.shape else self.root)

    @property
    def label(self) -> str:
        """`<name>/<n>`, as the user says it."""
        return f"{self.root.parent.name}/{self.root.name}"

    @property
    def submission_file(self) -> Path:
        """Backend, resources and jobs."""
        return self.root / "submission.json"

    @property
    def plan_file(self) -> Path:
        """One line a run."""
        return self.root / "plan.jsonl"

    @property
    def tasks(self) -> Path:
        """The disBatch task file of the last round; its lines can be run by hand."""
        return self.driver.root / "tasks"

    @property
    def logs(self) -> Path:
        """Output of runs (`<index>.out`, `<index>.err`), drivers and jobs."""
        return self.root / "logs"

    @property
    def disbatch(self) -> Path:
        """What disBatch writes, a folder a round."""
        return self.root / "disbatch"

    @property
    def submitit(self) -> Path:
        """What submitit writes."""
        return self.root / "submitit"

    @property
    def control(self) -> Path:
        """Requests to stop; see `gpt_opt.records.stop_requests`."""
        return self.root / "control.jsonl"

    @property
    def lost_nodes(self) -> Path:
        """Nodes whose slots did not start for the last driver, each with the reason."""
        return self.driver.root / "lost_nodes.json"

    @property
    def drivers(self) -> Path:
        """When drivers had slots; see `gpt_opt.records.drivers`."""
        return self.root / "drivers.jsonl"

    @property
    def speeds(self) -> Path:
        """How long runs take, as the driver of this part measured it; see `gpt_opt.records.speeds`."""
        return self.driver.root / "speeds.json"

    @property
    def choices(self) -> Path:
        """Which runs later stages start from; see `gpt_opt.records.choices`."""
        return self.root / "choices.jsonl"

    @property
    def planned_configs(self) -> Path:
        """What each run was planned with; see `gpt_opt.records.planned_configs`."""
        return self.root / "planned_configs.jsonl"

    @property
    def code(self) -> Path:
        """Link to the snapshot of the code that its jobs import; see `gpt_opt.dispatch.snapshot`."""
        return self.root / "code"

    @property
    def attempts_folder(self) -> Path:
        """Where those files lie; of a run that was never started there is none."""
        return self.root / "attempts"

    def attempts(self, run: SweepRun) -> Path:
        """Returns the file of the attempts at a run; see `gpt_opt.records.attempts`."""
        return self.attempts_folder / f"{run.index}.jsonl"

    @cached_property
    def runs(self) -> tuple[SweepRun, ...]:
        """The runs of the plan, or of this part of it, in order.

        Raises:
            GptOptError: If plan.jsonl is not one of ours.
        """
        self.plan_file.stat()  # raises where there is none: an absent plan is no empty one
        lines = read_lines(self.plan_file, SweepRun.from_record)
        if lines.left_out:
            last = len(lines.records) + 1, "it is cut off"
            number, why = lines.foreign[0] if lines.foreign else last
            raise GptOptError(
                f"{self.plan_file}:{number} must be a line of a plan, but is not: {why}; submit the sweep file again"
            )
        return tuple(run for run in lines.records if self.shape in (None, run.shape))

    def run(self, name: str) -> SweepRun:
        """Returns the run with an id, an index or a `STAGE/NUMBER`.

        Raises:
            RequestError: If there is none.
        """
        found = [run for run in self.runs if name in (run.run_id, str(run.index), run.name)]
        if len(found) > 1:  # one of them will be, or was, chosen
            chosen = active(Sweep(self.root).runs, self.chosen())
            found = [run for run in found if run.index in chosen] or found
        if found:
            return found[0]
        indices = f"its index, 0 to {len(self.runs) - 1}"
        if stages := dict.fromkeys(run.stage for run in self.runs if run.stage):
            indices = f"STAGE/INDEX with a stage of {', '.join(stages)}"
        problem = f"must be the id of a run of sweep {self.label}, or {indices}, but is {name!r}"
        raise RequestError([Problem("RUN", problem, f"gptopt status {self.label} lists them")])

    def chosen(self) -> dict[str, int]:
        """Returns the index of the run that each choice took, by the name of the choice."""
        return {name: item.parent for name, item in read_choices(self.choices).items()}

    def alternatives(self, run: SweepRun) -> tuple[SweepRun, ...]:
        """Returns the runs of which only one will be made: `run`, and those that stand for it if another is chosen."""
        if not run.stage:
            return (run,)
        return tuple(item for item in self.runs if (item.stage, item.number) == (run.stage, run.number))

    def submission(self) -> Submission:
        """Reads submission.json.

        Raises:
            GptOptError: If it is not one of ours.
        """
        try:
            return Submission.from_record(read_json_object(self.submission_file))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise GptOptError(
                f"{self.submission_file} must be written by gptopt submit, but: {error!r}; submit the sweep file again"
            ) from error

    def needs(self) -> Shape:
        """Returns what the runs of this part need."""
        return self.submission().shapes[self.shape or 0]

    def add_jobs(self, jobs: Iterable[Job]) -> None:
        """Records further jobs; the caller holds `locked`."""
        submission = self.submission()
        self.write_submission(replace(submission, jobs=(*submission.jobs, *jobs)))

    def write_submission(self, submission: Submission) -> None:
        """Replaces submission.json; the caller holds `locked`."""
        write_text(self.submission_file, to_json(asdict(submission)))

    def write_plan(self, runs: Iterable[SweepRun]) -> None:
        """Replaces plan.jsonl; the caller holds `locked`."""
        write_text(self.plan_file, "".join(json.dumps(asdict(run)) + "\n" for run in runs))
        self.__dict__.pop("runs", None)


def locked(parent: Path) -> IO[str]:
    """Lets one process at a time change what lies in `sweeps/<name>/`; a context manager."""
    parent.mkdir(parents=True, exist_ok=True)
    return lock(parent / ".lock")


def numbers(parent: Path) -> list[int]:
    """Returns the numbers of the submissions in `sweeps/<name>/`, ascending."""
    return sorted(int(entry.name) for entry in parent.glob("*") if entry.name.isdecimal() and entry.is_dir())


def submitted_names(sweeps: Path) -> list[Path]:
    """Returns the folders `sweeps/<name>/` that have submissions, sorted."""
    return sorted(folder for folder in sweeps.glob("[!.]*") if numbers(folder))


def submissions(parent: Path, unreadable: Callable[[Exception], None] = lambda error: None) -> list[Sweep]:
    """Returns the submissions in `sweeps/<name>/` that can be read, oldest first.

    Args:
        parent: `sweeps/<name>`.
        unreadable: Called with what is wrong with each other one.
    """
    found = []
    for sweep in (Sweep(parent / str(number)) for number in numbers(parent)):
        try:
            sweep.submission()
            if sweep.runs:
                found.append(sweep)
        except (OSError, GptOptError) as error:
            unreadable(error)
    return found


def create(
    parent: Path,
    params: str,
    runs: Iterable[SweepRun],
    submission: Submission,
    write_more: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Makes the next `sweeps/<name>/<n>/`, whole or not at all; the caller holds `locked`.

    Args:
        parent: `sweeps/<name>`, absolute.
        params: Text of the sweep file.
        runs: The plan.
        submission: What submission.json holds.
        write_more: Writes what else the directory holds, before it gets its name.
    """
    for remains in parent.glob(".new-*"):
        shutil.rmtree(remains, ignore_errors=True)
    new = Sweep(parent / f".new-{os.getpid()}")
    new.root.mkdir(mode=0o700)
    for folder in ("logs", "disbatch", "attempts"):
        (new.root / folder).mkdir(mode=0o700)
    write_text(new.root / "params.json", params)
    new.write_plan(runs)
    new.control.touch(mode=0o600)
    new.write_submission(submission)
    write_more(new)
    final = parent / str(max(numbers(parent), default=0) + 1)
    new.root.rename(final)
    sync(parent)
    return Sweep(final)


def find(name: str | None, sweeps: Path) -> Sweep:
    """Returns the sweep that a user names: a directory, `<name>/<n>`, `<name>` for its last, None for the last of all.

    Raises:
        RequestError: If there is none; lists what there is.
    """
    choices = [Path(name)] if name is not None and (Path(name) / "submission.json").is_file() else []
    if name is not None:
        choices += [sweeps / name, *submitted(sweeps / name, "*")]
    else:
        choices += submitted(sweeps)
    for choice in choices:
        if (choice / "submission.json").is_file():
            return Sweep(choice.resolve())
    *_, parent, _ = ["", "", *Path(name or "").parts]
    if parent and (known := numbers(sweeps / parent)):
        problem = f"must be a submission of sweep {parent}, but is {name!r}"
        raise RequestError([Problem("SWEEP", problem, f"it has {', '.join(f'{parent}/{number}' for number in known)}")])
    names = [folder.name for folder in submitted_names(sweeps)]
    asked = "must be a submitted sweep" + (f", but is {name!r}" if name is not None else "")
    problem = f"{asked}; {sweeps.absolute()} holds {', '.join(names) or 'none'}"
    near = difflib.get_close_matches(parent or name or "", names, 1)
    fix = (
        f"did you mean {near[0]}?" if near else "gptopt submit FILE makes one; of another folder, change into it first"
    )
    raise RequestError([Problem("SWEEP", problem, fix)])


def submitted(folder: Path, pattern: str = "*/*") -> list[Path]:
    """Returns the sweep directories that a glob finds below a folder, the one that was changed last first."""
    files = [file for file in folder.glob(f"{pattern}/submission.json") if not file.parent.name.startswith(".")]
    return [file.parent for file in sorted(files, key=os.path.getmtime, reverse=True)]
