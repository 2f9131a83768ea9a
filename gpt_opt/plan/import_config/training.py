"""Batches, length, optimizer, precision, evaluation and trackers of a post-training YAML."""

from __future__ import annotations

from gpt_opt.config.checks.trackers import TRACKERS
from gpt_opt.errors import Problem
from gpt_opt.plan.import_config.reader import FINETUNING, LOGGING, OPTIMIZER, PARAMS, Reader

_SCHEDULES = {
    "linear": "warm-up-linear",
    "cosine": "warm-up-cosine",
    "constant": "constant",
    "constant_with_warmup": "warm-up-constant",
}
_OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw_32bit"), "adamw"),
    "rmsprop": "rmsprop",
}
_CHOICES = ("load_best_model_at_end", "early_stopping_patience")


def _gpu(given: Reader) -> None:
    ids, ddp = given.take("device_ids", "gpu_ids"), given.take("use_ddp", "ddp")
    if isinstance(ids, int):
        ids = [ids]
    if isinstance(ids, list) and len(ids) > 1 and not ddp:
        given.tell(f"gpu.device_ids {ids} without use_ddp: use_ddp=true; DataParallel gives the same batches")
        ddp = True
    if ids is not None:
        given.set("gpu.device_ids", ids)
    if ddp:
        given.set("gpu.use_ddp", ddp)


def _batch(given: Reader) -> None:
    settings = given.found.settings
    ids = settings.get("gpu.device_ids")
    devices = len(ids) if isinstance(ids, list) and ids else 1
    whole = given.take("train_batch_size", "global_batch_size", "total_batch_size", "effective_batch_size")
    device = given.take("per_device_train_batch_size", "training.batch_size", "batch_size", "micro_batch_size")
    steps = given.take("gradient_accumulation_steps", "gradient_accumulation", "grad_accumulation_steps")
    steps = given.number("training.gradient_accumulation_steps", 1 if steps is None else steps)
    if whole is not None:
        given.set(f"{PARAMS}.batch_size", given.number("training.train_batch_size", whole))
        if device is None:
            device = max(1, given.number("training.train_batch_size", whole) // (steps * devices))
    elif device is None:
        device = 8
        given.tell("training.per_device_train_batch_size is not given: 8, the default of transformers")
    device = given.number("training.batch_size", device)
    given.set(f"{PARAMS}.micro_batch_size", device)
    if whole is None:
        given.set(f"{PARAMS}.batch_size", device * steps * devices)
        factors = f"{device} per device x {steps} accumulation steps" + (f" x {devices} GPUs" if devices > 1 else "")
        given.tell(f"training.batch_size: {factors} = batch_size {device * steps * devices}")
    if settings.get("gpu.use_ddp") and not ids:
        given.tell("gpu.use_ddp without device_ids: batch_size is that of 1 GPU; multiply it by the number of GPUs")


def _length(given: Reader) -> None:
    steps = given.take("max_steps", "max_train_steps")
    epochs = given.take("num_train_epochs", "num_epochs", "epochs")
    if isinstance(steps, int) and steps > 0:
        given.set(f"{PARAMS}.max_steps", steps)
        if epochs is not None:
            given.tell(f"training.num_train_epochs: {epochs} gives way to max_steps {steps}, as in transformers")
        return
    if epochs is None:
        epochs = 3
        given.tell("training.num_train_epochs is not given: 3, the default of transformers")
    given.set(f"{PARAMS}.max_steps", None)
    given.set(f"{PARAMS}.num_epochs", epochs)
    given.tell("training.num_train_epochs: what fills no batch at an epoch's end is left out; transformers trains it")


def _optimizer(given: Reader) -> None:
    name = given.take("optim", "optimizer.name", "optimizer.type", "optimizer")
    option = _OPTIMIZERS.get(str(name).lower()) if name is not None else "adamw"
    if option is None:
        given.found.without_equal.append(f"training.optim: {name} (adamw takes its place)")
    given.found.options["optimizer"] = option or "adamw"
    betas = [given.take("adam_beta1", "beta1"), given.take("adam_beta2", "beta2")]
    if betas != [None, None]:
        given.set(
            f"{OPTIMIZER}.betas",
            [usual if own is None else own for own, usual in zip(betas, (0.9, 0.999), strict=True)],
        )
    schedule = given.take("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule")
    if schedule is None:
        given.tell("training.lr_scheduler_type is not given: linear, the default of transformers")
    if (ours := _SCHEDULES.get(str(schedule or "linear").lower())) is None:
        given.found.without_equal.append(f"training.lr_scheduler_type: {schedule} (warm-up-cosine takes its place)")
        ours = "warm-up-cosine"
    if ours == "warm-up-constant":
        given.tell("training.lr_scheduler_type: warm-up-constant begins one step further up, at 1/(n+1) and not at 0")
    given.set(f"{OPTIMIZER}.lr_schedule", ours)
    steps, ratio = given.take("warmup_steps", "num_warmup_steps"), given.take("warmup_ratio")
    if ours == "constant":
        return
    if steps:
        given.set(f"{PARAMS}.warmup_steps", steps)
    else:
        given.set(f"{OPTIMIZER}.warm_up_fraction", ratio or 0.0)
        if ratio:
            given.tell("training.warmup_ratio: steps are rounded down; transformers rounds them up")
        if ratio is None and steps is None:
            given.tell("training.warmup_steps is not given: no warm-up, the default of transformers")


def _precision(given: Reader) -> None:
    types = {"bf16": given.take("bf16"), "fp16": given.take("fp16")}
    mixed = given.take("mixed_precision")
    wanted = [name for name, on in types.items() if on] or [str(mixed if mixed not in (None, False) else "no").lower()]
    if len(wanted) > 1:
        given.problems.append(Problem("training.bf16", "bf16 and fp16 must not both be true", "leave one of them out"))
    given.set(f"{PARAMS}.mixed_precision", wanted[0])


def _evaluation(given: Reader) -> None:
    start = given.take("resume_from_checkpoint")
    if isinstance(start, str) and start not in ("latest", "auto", "true"):
        given.set(f"{FINETUNING}.resume_from_checkpoint", start)
    elif start:
        given.tell(f"resume_from_checkpoint: {start} is left out: an unfinished run resumes by itself")
    metric = given.take("metric_for_best_model")
    best, patience = (next((v for p, v in given.left.items() if p[-1] == name), None) for name in _CHOICES)
    if not best and patience is None:
        direction = given.take("greater_is_better")
        if metric is not None or direction is not None:
            given.tell("metric_for_best_model and greater_is_better are left out: nothing asks which model is best")
    elif metric is not None:
        given.set(f"{FINETUNING}.metric_for_best_model", "eval/" + metric.removeprefix("eval_").removeprefix("eval/"))


def _trackers(given: Reader) -> None:
    said, wandb = given.take("report_to"), given.take("use_wandb", "wandb.enabled")
    names = [said] if isinstance(said, str) else list(said or [])
    names = list(TRACKERS) if names == ["all"] else [name for name in names if name not in ("none", "null")]
    settings = [path for path, value in given.left.items() if "wandb" in ".".join(path) and value is not None]
    if (wandb or (said is None and wandb is None and settings)) and "wandb" not in names:
        names.append("wandb")
    for name in [name for name in names if name not in TRACKERS]:
        given.found.without_equal.append(f"logging.report_to: {name}")
    given.set(f"{LOGGING}.report_to", [name for name in names if name in TRACKERS])
    unused = [*(settings if "wandb" not in names else ())]
    unused += [path for path in given.left if path[-1] == "logging_dir" and "tensorboard" not in names]
    for path in unused:
        if given.left.pop(path) is not None:
            given.tell(f"{'.'.join(path)} is left out: nothing is reported there")


TRAINING_STEPS = (_gpu, _batch, _length, _optimizer, _precision, _evaluation, _trackers)
