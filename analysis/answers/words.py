"""An answer in words: one sentence, and what stands below its table."""

from __future__ import annotations

import math

from analysis.answers.answer import Answer
from analysis.answers.compare import Pair
from analysis.answers.cost import TIME, ToTarget
from analysis.answers.importance import matters
from analysis.parameters import short_names
from gpt_opt.records.metrics import metric_label, metric_text

COST_NAMES = {TIME: "seconds", "tokens": "tokens", "gpu_s": "GPU seconds"}
"""What tables and sentences call a cost."""

_MOST_NAMED = 5
_LIKE = 0.02
"""Part by which costs may differ and still be called alike."""


def p_text(p: float) -> str:
    """Returns `p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def number_of(count: int, over: str) -> str:
    """Returns `3 seeds`, `1 seed`."""
    return f"{count} {over}{'' if count == 1 else 's'}"


def _cost_text(name: str, value: float) -> str:
    return f"{value:,.0f} {COST_NAMES[name]}" if value >= 100 else f"{value:.3g} {COST_NAMES[name]}"


def summary(answer: Answer) -> str:
    """Returns the answer in one sentence."""
    label = metric_label(answer.metric)
    comparison = answer.comparison
    if comparison is None:
        counts = ", ".join(f"{count} {_COUNTED[name]}" for name, count in answer.counts.items() if count)
        return f"no run has a final {label} yet: {counts}" if counts else "there are no runs"
    best, rival = comparison.best, comparison.next
    value = f"{best.text(answer.metric)} over {number_of(best.n, answer.over)}"
    if rival is None:
        lone = "" if len(answer.settings) == 1 else ", the only setting with a value"
        return f"{best.label}{lone}: {label} {value}"
    head = f"{best.label} has the best {label}, {value}"
    if rival.distinguishable:
        return f"{head}, distinguishable from the next, {rival.other.against(best)} ({_difference(answer, rival)})"
    if not rival.test:
        fewer = min(best.n, rival.other.n)
        return (
            f"{head}; not enough {answer.over}s to tell it from the next, {rival.other.against(best)} at "
            f"{metric_text(answer.metric, rival.other.mean)}: at least 2 a setting are needed, and there "
            f"{'is' if fewer == 1 else 'are'} {fewer}"
        )
    like = f"cannot be told from the next, {rival.other.against(best)} ({_difference(answer, rival)})"
    return f"{head}, but {like}{_needed(answer, rival)}"


_COUNTED = {
    "counted": "with a value",
    "failed": "failed",
    "diverged": "diverged",
    "unfinished": "unfinished",
    "missing": "COMPLETED without a value of it",
}


def _difference(answer: Answer, pair: Pair) -> str:
    return f"difference {metric_text(answer.metric, abs(pair.difference))}, {p_text(pair.p)}"


def _needed(answer: Answer, pair: Pair) -> str:
    """Returns what it would take to tell two settings apart."""
    if pair.constant:
        return f": the difference is the same for every {answer.over}, so chance cannot be estimated"
    if pair.seeds is None:
        return ": the two may well be equal"
    if pair.seeds <= pair.n:
        return f": another {answer.over} or two might tell"
    return f": not enough {answer.over}s; were the difference what it seems, about {pair.seeds} a setting would tell"


def remarks(answer: Answer) -> list[str]:
    """Returns what stands below the table, a line each."""
    lines = [_left_out(answer), _method(answer), *_also_best(answer), _averaged(answer), _shares(answer)]
    lines += [edge.sentence() for edge in answer.edges]
    lines += [_front(answer), _target(answer)]
    return [line for line in lines if line]


def _left_out(answer: Answer) -> str:
    counts = answer.counts
    left = ", ".join(f"{count} {_COUNTED[name]}" for name, count in counts.items() if count and name != "counted")
    total = sum(counts.values())
    return f"{counts['counted']} of {total} runs are in the means; the others are not: {left}" if left else ""


def _method(answer: Answer) -> str:
    method = "" if answer.comparison is None else answer.comparison.method
    return f"test: {method}" if method else ""


def _also_best(answer: Answer) -> list[str]:
    """Returns which further settings may be as good as the best one, where that is not clear from the sentence."""
    if answer.comparison is None:
        return []
    others = [pair.other for pair in answer.comparison.pairs if pair.test and not pair.distinguishable]
    tested = sum(bool(pair.test) for pair in answer.comparison.pairs)
    if len(others) < 2:
        return []
    best = answer.comparison.best
    names = "; ".join(item.against(best) for item in others[:_MOST_NAMED])
    more = f"; and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return [f"{len(others)} of {tested} other settings cannot be told from the best: {names}{more}"]


def _averaged(answer: Answer) -> str:
    names = ", ".join(answer.averaged)
    return f"each setting is the mean over {names} too, which vary within it" if names else ""


def _shares(answer: Answer) -> str:
    """Returns how the variance of the metric divides among the parameters."""
    shares = answer.shares
    if shares is None:
        return ""
    names = short_names(list(shares.of_factor))
    parts = []
    for key, share in sorted(shares.of_factor.items(), key=lambda item: -item[1]):
        chance = " (no more than chance)" if matters(shares, key) is False else ""
        parts.append(f"{names[key]} {share:.0%}{chance}")
    if shares.overlap > 0.005:
        parts.append(f"{shares.overlap:.0%} by several together that do not vary independently")
    if shares.left > 0.005:
        parts.append(f"{shares.left:.0%} is left to interactions and chance")
    return f"variance of the {shares.count} values explained: {', '.join(parts)}"


def _front(answer: Answer) -> str:
    """Returns the settings that no other one beats in quality and cost; nothing where costs are alike."""
    costs = [item.costs[answer.cost] for item in answer.front]
    if len(costs) < 2 or costs[-1] - costs[0] <= _LIKE * costs[-1]:
        return ""
    points = (
        f"{item.label} ({metric_text(answer.metric, item.mean)}, {_cost_text(answer.cost, item.costs[answer.cost])})"
        for item in answer.front
    )
    return f"no setting is both better and cheaper than these: {'; '.join(points)}"


def _target(answer: Answer) -> str:
    if answer.target is None:
        return ""
    goal = f"{metric_label(answer.metric)} {metric_text(answer.metric, answer.target)}"
    reached = [item for item in answer.reaches if item.reached]
    if not reached:
        return f"no run reached {goal}"
    fastest = min(reached, key=lambda item: item.steps)
    return f"{fastest.setting.label} reaches {goal} in the fewest steps, {reach_text(fastest)}"


def reach_text(item: ToTarget) -> str:
    """Returns `120 steps, 34 s (2 of 3)`; `not reached`."""
    if not item.reached:
        return "not reached"
    seconds = "" if math.isnan(item.seconds) else f", {item.seconds:.3g} s"
    some = "" if item.reached == item.setting.n else f" ({item.reached} of {item.setting.n})"
    return f"{item.steps:.0f} steps{seconds}{some}"
