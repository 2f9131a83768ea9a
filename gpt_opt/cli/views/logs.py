"""What the runs of a sweep, or its drivers, wrote: printed, and followed while they write on."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from gpt_opt.dispatch.classify import RunClassifier
from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.dispatch.jobs import living_jobs
from gpt_opt.dispatch.slurm import SlurmError
from gpt_opt.errors import GptOptError
from gpt_opt.records.sweep_dir import Sweep, SweepRun

POLL_S = 0.5
"""How often a followed file is looked at."""

_PATIENCE, _MOST_S = 20, 15.0
"""Whether to go on is asked again after 20 times as long as the answer took, at most 15 s: that spares Slurm."""

_CHUNK = 1 << 16


class _Tail:
    """Prints what files hold and what is added to them, each part under the name of its file."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._read: dict[Path, int] = {}
        self._decoders: dict[Path, codecs.IncrementalDecoder] = {}
        self._under: Path | None = None

    def print_new(self, files: Sequence[Path]) -> bool:
        """Prints everything new and returns whether there was any."""
        return any([self._print_new(file) for file in files])

    def _print_new(self, file: Path) -> bool:
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            return False
        with stream:
            if stream.seek(0, 2) < self._read.get(file, 0):
                self._read[file] = 0  # it was begun anew
            stream.seek(self._read.get(file, 0))
            found = False
            while chunk := stream.read(_CHUNK):
                self._write(file, chunk)
                found = True
            self._read[file] = stream.tell()
        self._out.flush()
        return found

    def _write(self, file: Path, chunk: bytes) -> None:
        if self._under != file:
            self._out.write(f"{'' if self._under is None else chr(10)}==> {file} <==\n")
            self._under = file
        decoder = self._decoders.setdefault(file, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        self._out.write(decoder.decode(chunk))


def _run_files(sweep: Sweep, run: SweepRun) -> list[Path]:
    own = [sweep.logs / f"{run.index}.{end}" for end in ("out", "err")]
    return own if any(file.exists() and file.stat().st_size for file in own) else [run.paths().task_log]


def _sweep_goes_on(sweep: Sweep) -> bool:
    """Returns whether a driver or a job works on a sweep, or waits to."""
    try:
        return bool(living_jobs(sweep))
    except SlurmError:
        return is_driven(sweep)


def _run_goes_on(sweep: Sweep, run: SweepRun) -> bool:
    """Returns whether a run is running, or waits for a driver or a job that will start it."""
    what = RunClassifier(sweep, sweep.submission()).read(run)
    return what.is_running or (what.is_due and _sweep_goes_on(sweep))


def show(sweep: Sweep, run: SweepRun | None, follow: bool, out: TextIO) -> None:
    """Prints the output of a run, or of the drivers of a sweep.

    Args:
        sweep: The sweep directory.
        run: The run; its own task.log is taken where the sweep has no output of it. None for the drivers' logs.
        follow: Whether to go on until the run ends, or the driver, or Ctrl-C.
        out: Where to.

    Raises:
        GptOptError: If there is nothing yet, and nothing to wait for.
    """
    tail = _Tail(out)
    if run is None:
        _follow(tail, lambda: sorted(sweep.logs.glob("driver-*.out")), lambda: follow and _sweep_goes_on(sweep), sweep)
    else:
        chosen = run
        _follow(tail, lambda: _run_files(sweep, chosen), lambda: follow and _run_goes_on(sweep, chosen), sweep)


def _follow(tail: _Tail, files: Callable[[], list[Path]], goes_on: Callable[[], bool], sweep: Sweep) -> None:
    any_output, last, ask_at = False, False, 0.0
    while True:
        if (began := time.monotonic()) >= ask_at:
            last = not goes_on()  # asked first: what is written before the end is still printed
            ask_at = time.monotonic() + min(_MOST_S, _PATIENCE * (time.monotonic() - began))
        any_output = tail.print_new(files()) or any_output
        if last:
            break
        time.sleep(POLL_S)
    if not any_output:
        raise GptOptError(
            f"there must be output to show, but {sweep.logs} has none of this yet; gptopt status {sweep.label} says "
            "what runs, gptopt logs -f waits for a run"
        )
