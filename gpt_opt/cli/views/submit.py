"""What came of a submission, as a person reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gpt_opt.cli.views.status import choice_line
from gpt_opt.dispatch.classify import retry_hints
from gpt_opt.dispatch.start import Outcome
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import counted
from gpt_opt.records.job_id import JobId


def as_text(outcome: Outcome) -> str:
    """Returns the runs of a submission by what becomes of them, its jobs, and what to do next."""
    runs, sweep = outcome.runs, outcome.sweep
    lines = [f"sweep {sweep.label}: {counted(len(runs.items), 'run')} ({runs.counts('running')})"]
    ids = list(dict.fromkeys(JobId(job.id).array for job in outcome.started))
    if outcome.started:
        lines.append(f"submitted job {', '.join(ids)}" if not ids[0].startswith("local") else f"started {ids[0]}")
    if outcome.alive:
        alive = sorted({JobId(job.id).array for job in outcome.alive})
        lines.append(f"submitted already: job {', '.join(alive)}")
    if not outcome.started and not outcome.alive:
        others = counted(len(runs.waiting_for_others), "run")
        waits = f": {others} can be submitted when runs that other jobs work on have ended"
        lines.append("nothing to submit" + (waits if runs.waiting_for_others else ""))
    if runs.blocked:
        lines += _blocked(outcome)
    if runs.needs_retry:
        was, be = ("was", "is") if len(runs.needs_retry) == 1 else ("were", "are")
        failed = f"{counted(len(runs.needs_retry), 'run')} that failed, {was} cancelled or {be} STALE"
        lines.append(f"{failed} {be} not started again")
        lines += retry_hints(sweep.label, runs.items.values())
    lines.append(f"gptopt status {sweep.label}")
    return "\n".join(lines)


def _blocked(outcome: Outcome) -> Iterator[str]:
    """Yields why runs are blocked: what keeps a choice from being made, and what the runs are that they start from."""
    status = gather(outcome.sweep, ask_slurm=False)
    stuck = {name: choice for name, choice in status.choices.items() if choice.is_blocked}
    yield from (choice_line(status, name, choice) for name, choice in stuck.items())
    items = {item.run.index: item for item in status.runs}
    parents = Counter(run.parent for run in outcome.runs.blocked if run.choice not in stuck)
    for index, number in parents.items():
        parent = items[index or 0]
        verb = "is" if number == 1 else "are"
        yield f"{counted(number, 'run')} {verb} blocked by {parent.run.name}, which is {parent.state}"
