"""The metrics by their names in metrics.jsonl and summary.json: their labels, formats, units and directions.

Of a training and of its evaluations the names are the same, but for `eval/` in front of the latter.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EVALUATION = "eval/"
"""What the names of an evaluation's metrics begin with."""


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric.

    Attributes:
        label: What tables and figures call it, without `train` or `eval`.
        greater_is_better: None where neither way is better in itself.
        unit: Empty for a pure number.
        form: Format of a value in tables, figures and views.
        log: Name and format in log lines; None leaves it out.
        log_training: Whether log lines have it for training steps too, not for evaluations alone.
        in_training: Whether training steps have it.
        in_evaluation: Whether evaluations have it.
    """

    label: str
    greater_is_better: bool | None = None
    unit: str = ""
    form: str = ".4f"
    log: tuple[str, str] | None = None
    log_training: bool = True
    in_training: bool = True
    in_evaluation: bool = True


METRICS: Mapping[str, MetricInfo] = {
    "loss": MetricInfo("loss", False, log=("loss", ".4f")),
    "perplexity": MetricInfo("perplexity", False, log=("perplexity", ".2f"), log_training=False),
    "rewards/accuracies": MetricInfo("accuracy", True, form=".1%", log=("accuracy", ".2%")),
    "rewards/margins": MetricInfo("margin", True, log=("margin", ".4f"), log_training=False),
    "rewards/chosen": MetricInfo("chosen reward", True),
    "rewards/rejected": MetricInfo("rejected reward"),
    "logps/chosen": MetricInfo("chosen log-probability", True, "nats"),
    "logps/rejected": MetricInfo("rejected log-probability", None, "nats"),
    "kl": MetricInfo("KL", False, "nats", log=("kl", ".4f"), log_training=False),
    "kto/kl": MetricInfo("reference point", None, "nats"),
    "learning_rate": MetricInfo("learning rate", form=".3e", log=("lr", ".3e"), in_evaluation=False),
    "grad_norm": MetricInfo("gradient norm", in_evaluation=False),
    "tokens_per_second": MetricInfo("speed", None, "tokens/s", ".0f", in_evaluation=False),
    "seconds": MetricInfo("evaluation time", None, "s", ".1f", in_training=False),
    "time_s": MetricInfo("seconds", None, "s", ".1f", in_evaluation=False),  # of summary.json alone
}
"""The one registry. A training writes no metric that is not in it; a user's own loss may."""


@dataclass(frozen=True)
class KnownMetrics:
    """What is known of the metrics of a run before it is made.

    Attributes:
        names: Metrics that its summary.json may have.
        complete: Whether it has no others.
    """

    names: frozenset[str] = frozenset()
    complete: bool = False


USUAL = ("eval/rewards/accuracies", "eval/loss", "loss")
"""What runs are compared by unless someone says otherwise: the first of these that they have."""

SHOWN = ("loss", "eval/loss", "eval/perplexity", "eval/rewards/accuracies", "eval/rewards/margins", "eval/kl")
"""What tables of runs show of the registry."""

MOST_SHOWN = 4
"""Metrics in no registry that they show beside."""


SPLITS = ("eval", "val", "valid", "validation", "dev", "test", "", "train", "training")
"""Parts of data with which names of metrics begin, `val/loss` or `val_loss`; first those to compare runs by."""

_SPLIT = re.compile(rf"({'|'.join(filter(None, SPLITS))})[/_.](.+)")

_LESS = "loss nll ppl perplexity error err mse mae rmse wer cer fid bpb bpc"
_GREATER = "acc accuracy f1 auc auroc precision recall map iou miou dice bleu rouge r2 psnr ssim reward return score"
_DIRECTIONS: Mapping[str, bool] = dict.fromkeys(_LESS.split(), False) | dict.fromkeys(_GREATER.split(), True)
"""Words in the names of metrics that are not in the registry, and whether greater values are better then."""


def metric_info(name: str) -> MetricInfo | None:
    """Returns what is known of a metric of a training or an evaluation; None of a user's own."""
    return METRICS.get(name.removeprefix(EVALUATION))


def metric_label(name: str) -> str:
    """Returns what tables and figures call a metric: `eval loss`; plain `learning rate` where one side alone has it."""
    info = metric_info(name)
    if info is None:
        return name
    both = info.in_training and info.in_evaluation
    return f"{'eval' if name.startswith(EVALUATION) else 'train'} {info.label}" if both else info.label


def metric_text(name: str, value: float) -> str:
    """Returns a value as tables, figures and views show it."""
    info = metric_info(name)
    if info is None or not math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:.3e}" if info.form == ".4f" and abs(value) >= 10_000 else f"{value:{info.form}}"


def is_percent(name: str) -> bool:
    """Returns whether a metric is a fraction that is shown in percent."""
    info = metric_info(name)
    return info is not None and info.form.endswith("%")


def greater_is_better(name: str) -> bool | None:
    """Returns the direction of a metric, None where it has none; of one that is not in the registry by its name."""
    if (info := metric_info(name)) is not None:
        return info.greater_is_better
    words = reversed(re.findall(r"[a-z0-9]+", name.lower()))
    return next((_DIRECTIONS[word] for word in words if word in _DIRECTIONS), None)


def split_of(name: str) -> tuple[str, str]:
    """Returns the part of data that a metric is of, by its name, and the rest of it: `val` and `loss`; "" for none."""
    found = _SPLIT.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def is_of_training(name: str) -> bool:
    """Returns whether a metric is of training steps, by its name."""
    return split_of(name)[0] in SPLITS[SPLITS.index("") :]


def own_metrics(names: Iterable[str]) -> list[str]:
    """Returns the metrics that have a direction but are in no registry, the one to compare runs by first.

    Those of evaluations come before those of training; of one part of data those of which more is better first.
    """
    own = [name for name in names if metric_info(name) is None and greater_is_better(name) is not None]
    return sorted(own, key=lambda name: (SPLITS.index(split_of(name)[0]), not greater_is_better(name), len(name)))


def in_order(names: Iterable[str]) -> list[str]:
    """Returns metrics in the order of the registry, each before that of the evaluation; a user's own ones come last."""
    rank = {name: number for number, name in enumerate(METRICS)}
    bases = {name: name.removeprefix(EVALUATION) for name in names}
    return sorted(bases, key=lambda name: (rank.get(bases[name], len(rank)), bases[name], name != bases[name]))


def comparable() -> list[str]:
    """Returns the metrics of evaluations that have a direction."""
    known = METRICS.items()
    return [EVALUATION + name for name, item in known if item.in_evaluation and item.greater_is_better is not None]


def plain(name: str) -> str:
    """Returns a name in lower case, with a blank for all that is no letter or digit."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def nearest_metrics(name: str, metrics: Iterable[str], most: int = 1) -> list[str]:
    """Returns the metrics whose names or labels are most like a name, `most` at most, the nearest first.

    Parts of data, as in `eval/loss`, do not make names alike; of two that are, that of the same part comes first.
    """
    split, rest = split_of(name)
    owners: dict[str, list[str]] = {}
    for metric in sorted(metrics, key=lambda metric: (split_of(metric)[0] != split, not metric.startswith(EVALUATION))):
        info = metric_info(metric)
        for form in {plain(split_of(metric)[1]), plain(info.label if info else metric)}:
            owners.setdefault(form, []).append(metric)
    near = difflib.get_close_matches(plain(rest), list(owners), n=most, cutoff=0.6)
    return list(dict.fromkeys(metric for form in near for metric in owners[form]))[:most]


def did_you_mean(name: str, metrics: Iterable[str]) -> str:
    """Returns which of some metrics a name that is none of them may mean, else all of them; "" where there is none."""
    known = in_order(metrics)
    if near := nearest_metrics(name, known):
        return f"did you mean {near[0]}?"
    return f"take one of {', '.join(known)}" if known else ""
