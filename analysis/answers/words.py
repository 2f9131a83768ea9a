"""An answer in words: one sentence, and what stands below its table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.answers.compare import Pair, number_of
from analysis.answers.cost import TIME, ToTarget
from analysis.answers.importance import matters
from analysis.answers.metric import meant
from analysis.parameters import short_names
from gpt_opt.errors import counted
from gpt_opt.records.metrics import EVALUATION, is_percent, metric_label, metric_text

if TYPE_CHECKING:
    from analysis.answers.answer import Answer

COST_NAMES = {TIME: "seconds", "tokens": "tokens", "gpu_s": "GPU seconds"}
"""What tables and sentences call a cost."""

MANY_SEEDS = 50
"""Seeds from which nobody would run so many: settings that need them are called as good as equal."""

_MOST_NAMED = 5
_LIKE = 0.1
"""Part by which costs may differ and still be called alike: the same run takes so much longer on another day."""


def p_text(p: float) -> str:
    """Returns `p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def difference_text(metric: str, difference: float) -> str:
    """Returns the size of a difference of two values; of percentages in points."""
    return f"{100 * abs(difference):.2g} points" if is_percent(metric) else f"{abs(difference):.2g}"


def _cost_text(name: str, value: float) -> str:
    return f"{value:,.0f} {COST_NAMES[name]}" if value >= 100 else f"{value:.3g} {COST_NAMES[name]}"


def summary(answer: Answer) -> str:
    """Returns the answer in one sentence."""
    return _best_and_next(answer) + _better_but_diverged(answer)


def _better_but_diverged(answer: Answer) -> str:
    """Returns which settings are better by their means and are not called the best, because runs of them diverged."""
    best = answer.best
    if best is None or best.diverged:
        return ""
    better = [
        item
        for item in answer.settings
        if item.n and item.diverged and (item.mean > best.mean if answer.greater else item.mean < best.mean)
    ]
    names = "; ".join(
        f"{item.against(best)} has a better mean, {metric_text(answer.metric, item.mean)}, but of its runs "
        f"{item.diverged} of {item.planned} diverged"
        for item in better[:_MOST_NAMED]
    )
    more = f"; so it is with {len(better) - _MOST_NAMED} more" if len(better) > _MOST_NAMED else ""
    return f" ({names}{more})" if better else ""


def _best_and_next(answer: Answer) -> str:
    label = metric_label(answer.metric)
    comparison = answer.comparison
    if comparison is None:
        counts = ", ".join(f"{count} {_COUNTED[name]}" for name, count in answer.counts.items() if count)
        yet = " yet" if answer.counts["unfinished"] else ""
        return f"no run has a final {label}{yet}: {counts}" if counts else "there are no runs"
    best, rival = comparison.best, comparison.next
    values = counted(best.n, "run") if answer.averaged else number_of(best.n, answer.over)
    value = f"{best.text(answer.metric)} over {values}"
    if rival is None:
        lone = "" if len(answer.settings) == 1 else ", the only setting with a value"
        return f"{best.label}{lone}: {label} {value}"
    name = rival.other.against(best)
    if comparison.tied:
        return f"{best.label} and {name} have the same best {label}, {value}: they cannot be told apart"
    head = f"{best.label} has the best {label}, {value}"
    if rival.distinguishable:
        return f"{head}, distinguishable from the next, {name} ({_difference(answer, rival)})"
    if not rival.test:
        fewer = min(best.n, rival.other.n)
        return (
            f"{head}; not enough {number_of(None, answer.over)} to tell it from the next, {name} at "
            f"{metric_text(answer.metric, rival.other.mean)}: at least 2 a setting are needed, and there "
            f"{'is' if fewer == 1 else 'are'} {fewer}"
        )
    like = f"cannot be told from the next, {name} ({_difference(answer, rival)})"
    return f"{head}, but {like}{_needed(answer, rival)}"


_COUNTED = {
    "counted": "with a value",
    "failed": "failed",
    "diverged": "diverged",
    "unfinished": "unfinished",
    "missing": "COMPLETED without a value of it",
}


def _difference(answer: Answer, pair: Pair) -> str:
    if not pair.agrees:
        better = f"in the {number_of(pair.n, answer.over)} compared that one is better by"
        return f"{better} {difference_text(answer.metric, pair.difference)}, {p_text(pair.p)}"
    return f"difference {difference_text(answer.metric, pair.difference)}, {p_text(pair.p)}"


def _needed(answer: Answer, pair: Pair) -> str:
    """Returns what it would take to tell two settings apart."""
    if pair.constant:
        return f": the difference is the same in all {number_of(None, answer.over)}, so chance cannot be estimated"
    if not pair.agrees:
        return f": run the same {number_of(None, answer.over)} in both"
    if pair.seeds is None:
        return ": the two may well be equal"
    if pair.seeds <= pair.n:
        return f": a few more {number_of(None, answer.over)} might tell"
    if pair.seeds > MANY_SEEDS:
        many = number_of(pair.seeds, answer.over)
        return f": the two may well be equal; were they not, it would take about {many} a setting to tell"
    would = f"were the difference what it seems, about {pair.seeds} a setting would tell"
    return f": not enough {number_of(None, answer.over)}; {would}"


def remarks(answer: Answer) -> list[str]:
    """Returns what stands below the table, a line each."""
    lines = [
        _left_out(answer),
        _without(answer),
        _adjusted(answer),
        _method(answer),
        *_also_best(answer),
        _averaged(answer),
        _scale(answer),
        _shares(answer),
    ]
    lines += [edge.sentence() for edge in answer.edges]
    lines += [_front(answer), _target(answer)]
    return [line for line in lines if line]


def _left_out(answer: Answer) -> str:
    counts = answer.counts
    left = ", ".join(f"{count} {_COUNTED[name]}" for name, count in counts.items() if count and name != "counted")
    total = sum(counts.values())
    return f"{counts['counted']} of {total} runs are in the means; the others are not: {left}" if left else ""


def _without(answer: Answer) -> str:
    """Returns which metrics there are where runs have ended without the one that is asked for."""
    if answer.comparison is not None or not answer.counts["missing"] or not answer.known:
        return ""
    return f"the runs have no {answer.metric}: {meant(answer.metric, answer.known)}"


def _adjusted(answer: Answer) -> str:
    if answer.comparison is None or not answer.comparison.is_adjusted:
        return ""
    seeds = number_of(None, answer.over)
    like = f"as if they had, by what {seeds} change in others"
    return f"not all settings have the same {seeds} so far: they are ranked {like}"


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


_OF_LOSS = ("loss", "rewards/margins", "rewards/chosen")
"""Metrics that the keys of the loss rescale: at another beta the same model has another value."""


def _scale(answer: Answer) -> str:
    """Returns which keys change what the metric measures, so that its values are not of one kind."""
    name = answer.metric.removeprefix(EVALUATION)
    groups = ("data", "loss") if name in _OF_LOSS else ("data",)
    keys = [key for key in (*answer.by, *answer.averaged) if key.split(".")[0] in groups]
    if not keys:
        return ""
    verb = "changes" if len(keys) == 1 else "change"
    what = f"{', '.join(keys)} {verb} what {metric_label(answer.metric)} measures"
    return f"note: {what}, so settings may not be comparable by it"


def _shares(answer: Answer) -> str:
    """Returns how the variance of the metric divides among the parameters; nothing where any division would fit."""
    shares = answer.shares
    if shares is None or not shares.freedom:
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
    if answer.cost != TIME and answer.best is not None and answer.cost not in answer.best.costs:
        return f"what quality costs cannot be said: the best runs have no {COST_NAMES[answer.cost]}"
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
