"""What runs cost, where they come from, and how to make them again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from analysis.report.contents import Contents
from analysis.report.costs import total
from analysis.report.markup import Html, command, details, joined, table, tag
from analysis.report.origin import Field, Origin
from analysis.report.texts import moment
from gpt_opt.errors import counted, duration
from gpt_opt.records.state import State


def cost_table(contents: Contents) -> Html:
    """Returns wall time, time of runs and GPU-hours."""
    cost = total(run.cost for run in contents.runs)
    rows = []
    if cost.begin is not None and cost.end is not None:
        rows += [("first start", moment(cost.begin)), ("last end", moment(cost.end))]
        rows += [("wall time", duration(cost.end - cost.begin))]
    rows.append(("time of all runs", f"{duration(cost.seconds)} in {counted(cost.attempts, 'attempt')}"))
    on_gpus = f"{cost.gpu_seconds / 3600:.3g}: the time of each attempt times its GPUs"
    rows.append(("GPU-hours", on_gpus if cost.gpu_seconds else "0: no attempt had a GPU"))
    status = contents.source.status
    if status is not None and status["efficiency"] is not None:
        times = f"{duration(status['trained_s'])} of training in {duration(status['allocated_s'])} of slots"
        rows.append(("sweep efficiency", f"{status['efficiency']:.2f}: {times}"))
    free = sum(run.state == State.COMPLETED and not run.cost.attempts for run in contents.runs)
    if free and contents.source.sweep is not None:
        outside = f"{counted(free, 'run')} had been completed outside this sweep, and cost it nothing"
        rows.append(("made before", outside))
    return table([], rows)


def _field(field: Field) -> tuple[str, Html]:
    lines = []
    for value, names in field.values:
        of = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        which = None if field.is_shared else tag("span", f" {counted(len(names), 'run')}: {of}", class_="soft")
        lines.append(tag("div", value, which))
    return field.name, joined(*lines)


def provenance(origin: Origin) -> Html | None:
    """Returns code, machines, jobs and packages; None where no run has begun."""
    rows: list[Sequence[object]] = [_field(field) for field in (*origin.fields, *origin.differing)]
    if origin.packages:
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in origin.packages.items())))
    if not rows:
        return None
    pins = "\n".join(f"{name}=={version}" for name, version in origin.more_packages.items())
    more = details(f"All other packages ({len(origin.more_packages)})", tag("pre", pins, tabindex=0)) if pins else None
    return joined(table([], rows), more)


def commands(contents: Contents, origin: Origin) -> Html:
    """Returns the commands that make the runs again, all together and each by hand."""
    parts: list[Html | None] = [
        tag("p", "In the folder that the runs were started in, with the packages above.", class_="note")
    ]
    commits = origin.commits
    if len(commits) == 1 and re.fullmatch(r"[0-9a-f]{40}", commits[0]):
        parts += [tag("h3", "The code"), command(f"git checkout {commits[0]}")]
    if origin.is_dirty:
        note = "There were changes that were not committed: git apply takes provenance.diff of the directory of a run."
        parts.append(tag("p", note, class_="note"))
    sweep = contents.source.sweep
    if sweep is not None and (submission := sweep.submission()).file:
        words = ["gptopt", "submit", submission.file, *submission.extra, "--backend", submission.backend]
        parts += [tag("h3", "All runs"), command(shlex.join(words))]
        try:
            text = (sweep.root / "params.json").read_text(encoding="utf-8")
            parts.append(details(f"The sweep file {submission.file}", tag("pre", text, tabindex=0)))
        except (OSError, ValueError):
            pass
    known = sum(run.overrides is not None for run in contents.runs) if contents.program is not None else 0
    by_hand = details(counted(known, "command"), tag("pre", id="by-hand", tabindex=0))
    parts += [tag("h3", "Each run by hand"), by_hand] if known else []
    return joined(*parts)
