"""What came of a submission, as a person reads it."""

from __future__ import annotations

from gpt_opt.dispatch.driver import retry_hints
from gpt_opt.dispatch.submit import Outcome


def as_text(outcome: Outcome) -> str:
    """Returns the runs of a submission by what becomes of them, its jobs, and what to do next."""
    state, sweep = outcome.state, outcome.sweep
    numbers = {"done": state.done, "to run": state.runnable, "at work": state.held, "left to you": state.left}
    counts = ", ".join(f"{len(runs)} {name}" for name, runs in numbers.items() if runs)
    lines = [f"sweep {sweep.label}: {len(sweep.runs)} runs ({counts})"]
    ids = list(dict.fromkeys(job.id.partition("_")[0] for job in outcome.started))
    if outcome.started:
        lines.append(f"submitted job {', '.join(ids)}" if not ids[0].startswith("local") else f"started {ids[0]}")
    if outcome.alive:
        alive = sorted({job.id.partition("_")[0] for job in outcome.alive})
        lines.append(f"at work already: job {', '.join(alive)}")
    if not outcome.started and not outcome.alive:
        lines.append("nothing to submit")
    if state.left:
        lines += [f"{len(state.left)} failed or cancelled runs are not started again", *retry_hints(sweep, state)]
    lines.append(f"gptopt status {sweep.label}")
    return "\n".join(lines)
