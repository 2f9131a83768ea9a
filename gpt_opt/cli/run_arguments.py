"""Runs as people name them on the command line: a directory, an id, or SWEEP INDEX."""

from __future__ import annotations

from pathlib import Path

from gpt_opt.cli.arguments import SWEEPS
from gpt_opt.errors import Problem, RequestError
from gpt_opt.records.run_dir import RunPaths, checkpoints, run_of
from gpt_opt.records.run_reference import RunIndex, RunReference
from gpt_opt.records.sweep_dir import Sweep, find, submissions, submitted_names

OUTPUTS = Path("outputs")
"""Where run directories lie unless a config says otherwise."""


def named_runs(words: tuple[str, ...]) -> list[RunPaths]:
    """Returns the runs that words of a command line name, in their order.

    A word is the directory or a checkpoint of a run, the id of one, or a sweep; after a sweep come indices (`3`,
    `dpo/3`) of its runs.

    Raises:
        RequestError: If a word is none of these, or no run of a sweep follows it.
    """
    found: list[RunPaths] = []
    sweep, unused = None, ""
    for word in words:
        run = _lone_run(word) or (None if sweep is None else _run_of(sweep, word))
        if run is not None:
            found.append(run)
            unused = ""
        else:
            sweep, unused = _sweep(word, sweep, unused), word
    if unused and sweep is not None:
        fix = f"gptopt status {sweep.label} lists them: {unused} 0"
        raise RequestError([Problem("RUN", f"must be followed by the index of a run, but sweep {unused} is not", fix)])
    return found


def _lone_run(word: str) -> RunPaths | None:
    """Returns the run with a directory or an id."""
    paths = run_of(Path(word).resolve())
    reference = RunReference.parse(word)
    if paths is not None or reference is None:
        return paths
    if (found := RunIndex().find(str(OUTPUTS), reference.run_id)) is not None:
        return found
    for folder in submitted_names(SWEEPS):
        for sweep in submissions(folder):
            run = next((run for run in sweep.runs if run.run_id == reference.run_id), None)
            if run is not None:
                return run.paths()
    return None


def _run_of(sweep: Sweep, word: str) -> RunPaths | None:
    try:
        return sweep.run(word).paths()
    except RequestError:
        return None


def _sweep(word: str, before: Sweep | None, unused: str) -> Sweep:
    try:
        if unused and before is not None:
            before.run(word)  # raises, with the runs that there are
        return find(word, SWEEPS)
    except RequestError as error:
        if before is not None:
            before.run(word)
        problem = f"must be the directory of a run, the id of one below {OUTPUTS}/, or SWEEP INDEX, but is {word!r}"
        raise RequestError([Problem("RUN", problem, "gptopt status SWEEP lists the runs of a sweep")]) from error


def one_run(words: tuple[str, ...]) -> tuple[RunPaths, Path | None]:
    """Returns the run that words of a command line name, with its checkpoint where they name one.

    Raises:
        RequestError: If they are not one that has begun, or it has no such checkpoint.
    """
    (paths,) = _begun(words, 1, "gptopt export beta_sweep 0")
    given, reference = Path(words[0]).resolve(), RunReference.parse(words[0])
    checkpoint = given if given.parent == paths.checkpoints.resolve() else None
    if reference is not None and reference.step is not None:
        checkpoint = paths.checkpoints / f"checkpoint-{reference.step}"
    if checkpoint is not None and not checkpoint.is_dir():
        kept = ", ".join(folder.name for folder in checkpoints(paths.checkpoints)) or "none"
        problem = f"must be a checkpoint that was kept, but there is no {checkpoint}"
        raise RequestError([Problem("RUN", problem, f"the run has {kept}")])
    return paths, checkpoint


def two_runs(words: tuple[str, ...]) -> tuple[RunPaths, RunPaths]:
    """Returns the two runs that words of a command line name.

    Raises:
        RequestError: If they are not two that have begun.
    """
    first, second = _begun(words, 2, "gptopt diff beta_sweep 0 2")
    return first, second


def _begun(words: tuple[str, ...], number: int, example: str) -> list[RunPaths]:
    found = named_runs(words)
    if len(found) != number:
        wanted = "one run" if number == 1 else "two runs"
        problem = f"must be {wanted}, but got {len(found)}"
        raise RequestError([Problem(" ".join(["RUN"] * number), problem, f"for example: {example}")])
    problems = [
        Problem(
            "RUN", f"must be a run that has begun, but there is no {run.config}", "gptopt status says how it stands"
        )
        for run in found
        if not run.config.exists()
    ]
    if problems:
        raise RequestError(problems)
    return found
