"""What must hold between the keys of a loss; pure functions of plain containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.nested import Config
from gpt_opt.errors import Problem
from gpt_opt.records.metrics import EVALUATION, KnownMetrics

LOSS_TYPES: dict[str, frozenset[str]] = {
    "sigmoid": frozenset({"label_smoothing", "reference_free"}),
    "robust": frozenset({"label_smoothing", "reference_free"}),
    "hinge": frozenset({"reference_free"}),
    "ipo": frozenset({"reference_free"}),
    "ipo_sum": frozenset({"reference_free"}),
    "kto_pair": frozenset(),
}
"""Values of `loss.loss_type`, and which of the settings that not all of them share each one uses."""


_OF_PAIRS = ("loss", *(f"{kind}/{side}" for kind in ("rewards", "logps") for side in ("chosen", "rejected")))
_OF_PAIRS += ("rewards/accuracies", "rewards/margins")
_OF_LOSS: Mapping[str, tuple[str, ...]] = {
    "LM": ("loss", "perplexity"),
    "SFT": ("loss", "logps/chosen"),
    "KTO": (*_OF_PAIRS, "kto/kl"),
}
"""Metrics that the objective of a loss gives, by the last part of its `_target_`; of any other they are `_OF_PAIRS`."""

_OF_STEPS = ("learning_rate", "grad_norm", "tokens_per_second")


def metrics_of(config: Config) -> KnownMetrics:
    """Returns the metrics of a training; parts of the user's own may give more."""
    target, own = str(config["loss"].get("_target_")), config.get("aligner") or config.get("callbacks")
    given = _OF_LOSS.get(target.rpartition(".")[2], _OF_PAIRS)
    divergence = ["kl"] if has_reference(config) else []
    steps = [*_OF_STEPS, *([] if precomputes(config) else divergence)]
    names = {*given, *steps, *(EVALUATION + name for name in (*given, *divergence, "seconds"))}
    return KnownMetrics(frozenset(names), target.startswith("gpt_opt.training.losses.") and not own)


def has_reference(config: Config) -> bool:
    """Returns whether a training compares the policy with a reference model.

    A loss whose formula has one always does: `loss.use_ref_model=false` then only says that no other model is named.
    """
    loss = config["loss"]
    kept = loss.get("use_ref_model", "ref_model_id" in loss)
    return bool(kept or loss.get("reference_free") is False or "desirable_weight" in loss)


def keeps_reference(config: Config) -> bool:
    """Returns whether the reference is a model of its own, beside the policy.

    It is not where only adapters are trained: without them the policy is the reference.
    """
    lora = config["lora"]
    base_stays = lora and lora.get("bias", "none") == "none" and config["loss"].get("ref_model_id") is None
    return has_reference(config) and not base_stays


def precomputes(config: Config) -> bool:
    """Returns whether the reference's log-probabilities are to be computed once, for all runs that need the same."""
    return bool(config["loss"].get("precompute_ref_log_probs", False))


def loss_problems(config: Config) -> Iterator[Problem]:
    """Checks the keys of the loss, one by one and against each other."""
    loss = config["loss"]
    for key in ("beta", "desirable_weight", "undesirable_weight"):
        if loss.get(key) is not None and not 0 < loss[key] < float("inf"):
            hint = "0.1 is a usual value" if key == "beta" else ""
            yield Problem(f"loss.{key}", f"must be a finite number above 0, but is {loss[key]}", hint)
    smoothing = loss.get("label_smoothing")
    if smoothing is not None and not 0 <= smoothing < 0.5:
        yield Problem("loss.label_smoothing", f"0 <= label_smoothing < 0.5 must hold, but it is {smoothing}")
    elif "loss_type" in loss:
        yield from variant_problems(loss)
    if loss.get("use_ref_model") is False and loss["ref_model_id"] is not None:
        yield Problem("loss.ref_model_id", f"is {loss['ref_model_id']!r}, but loss.use_ref_model=false would ignore it")
    if loss.get("train_on_inputs"):
        yield from _ignored_lengths(config["training"]["training_params"])
    if "desirable_weight" in loss and config["training"]["training_params"]["batch_size"] == 1:
        problem = "must be at least 2 for kto, which also scores each completion under the prompt of another, but is 1"
        yield Problem("training.training_params.batch_size", problem)


def _ignored_lengths(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields keys of truncation that are set although nothing is truncated."""
    for key, unset in {"max_completion_length": None, "truncation": "keep_start"}.items():
        if params[key] != unset:
            problem = f"is {params[key]}, but loss.train_on_inputs=true ignores it: it truncates nothing"
            yield Problem(f"training.training_params.{key}", problem, f"set it to {unset or 'null'}")


def variant_problems(loss: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that `loss_type` exists and uses every setting that was changed.

    Args:
        loss: `loss_type`, `label_smoothing` and `reference_free`.
    """
    kind = loss["loss_type"]
    if kind not in LOSS_TYPES:
        yield Problem("loss.loss_type", f"must be one of {', '.join(LOSS_TYPES)}, but is {kind!r}")
        return
    for key in ("label_smoothing", "reference_free"):
        if loss[key] and key not in LOSS_TYPES[kind]:
            users = ", ".join(name for name, used in LOSS_TYPES.items() if key in used)
            yield Problem(
                f"loss.{key}",
                f"is {loss[key]}, but loss.loss_type={kind} would ignore it",
                f"leave it at its default, or choose a loss_type that uses it: {users}",
            )
    if kind == "robust" and not loss["label_smoothing"]:
        yield Problem(
            "loss.label_smoothing",
            "must be above 0 for loss.loss_type=robust, the assumed fraction of flipped preferences, but is 0",
            "set it, 0.1 for example; without it the loss is loss.loss_type=sigmoid",
        )
