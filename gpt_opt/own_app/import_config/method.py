"""Loss and adapters of a post-training YAML."""

from __future__ import annotations

from gpt_opt.config.checks.losses import LOSS_TYPES
from gpt_opt.errors import Problem
from gpt_opt.own_app.import_config.reader import Reader, canonical

_METHODS = {**{name: name for name in ("dpo", "sft", "kto", "orpo", "ipo", "hinge", "robust")}, "slic": "hinge"}
LOSS_KEYS = {
    "dpo": {"beta", "label_smoothing", "reference_free", "use_ref_model", "ref_model_id"},
    "kto": {"beta", "desirable_weight", "undesirable_weight", "ref_model_id"},
    "orpo": {"beta"},
    "sft": set[str](),
}


def _loss(reader: Reader) -> None:
    method = reader.take("method", "post_training.type", "post_training.algorithm", "post_training.name", "rl")
    method = reader.left.pop(("stage",), None) if method is None else method
    if method is None:
        method = next((path[0] for path in reader.left if path[0] in _METHODS), None)
    if method is None:
        method = "dpo"
        reader.note("post_training.method is not given: dpo; `post_training: {method: sft}` is fine-tuning")
    loss = _METHODS.get(str(method).lower())
    if loss is None:
        problem = f"must be one of {', '.join(_METHODS)}, but is {method}"
        reader.problems.append(Problem("post_training.method", problem, "the others are not built here"))
        return
    kind = reader.take("loss_type", "pref_loss")
    kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    if loss == "dpo" and kind not in (None, "sigmoid"):
        if kind not in LOSS_TYPES:
            problem = f"must be one of {', '.join(LOSS_TYPES)}, but is {kind}"
            reader.problems.append(Problem("post_training.loss_type", problem, "the others are not built here"))
            return
        loss = kind
    elif loss == "kto" and kind not in (None, "kto"):
        reader.problems.append(Problem("post_training.loss_type", f"must be kto with method: kto, but is {kind}"))
    elif kind is not None and loss not in ("dpo", "kto", kind):
        reader.imported.without_equal.append(f"post_training.loss_type: {kind}")
    reader.imported.options["loss"] = loss
    if loss == "sft" and reader.take("assistant_only_loss") is not True:
        text = "of dialogues the assistant's messages are learned; TRL learns all without assistant_only_loss: true"
        reader.note(f"post_training: {text}")


def family_of(reader: Reader) -> str:
    """Returns the loss whose keys the chosen one has."""
    loss = reader.imported.options.get("loss", "dpo")
    return loss if loss in LOSS_KEYS else "dpo"


def _lora(reader: Reader) -> None:
    switch = reader.take("lora.enabled", "lora.enable", "lora.use_lora", "use_lora", "use_peft", "lora.use_peft")
    if (adapter := reader.take("adapter", "finetuning_type")) is not None:
        switch = adapter in ("lora", "qlora")
        if adapter not in ("lora", "full"):
            replacement = "lora" if switch else "no adapter"
            reader.imported.without_equal.append(f"adapter: {adapter} ({replacement} takes its place)")
    if reader.take("lora_target_linear"):
        reader.set("lora.target_modules", "all-linear")
    paths = [path for path in reader.left if canonical(path)[0] == "lora"]
    if switch is False or (switch is None and not paths):
        for path in paths:
            del reader.left[path]
        if paths:
            reader.note("lora is switched off: its settings are left out")
        return
    reader.imported.options["lora"] = "lora"


METHOD_STEPS = (_loss, _lora)
