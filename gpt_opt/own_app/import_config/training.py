"""Batches, length, optimizer, precision, evaluation and trackers of a post-training YAML."""

from __future__ import annotations

from gpt_opt.config.checks.trackers import TRACKERS
from gpt_opt.errors import Problem
from gpt_opt.own_app.import_config.reader import FINETUNING, LOGGING, OPTIMIZER, PARAMS, Reader

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


def _gpu(reader: Reader) -> None:
    ids, ddp = reader.take("device_ids", "gpu_ids"), reader.take("use_ddp", "ddp")
    if isinstance(ids, int):
        ids = [ids]
    if isinstance(ids, list) and len(ids) > 1 and not ddp:
        reader.note(f"gpu.device_ids {ids} without use_ddp: use_ddp=true; DataParallel gives the same batches")
        ddp = True
    if ids is not None:
        reader.set("gpu.device_ids", ids)
    if ddp:
        reader.set("gpu.use_ddp", ddp)


def _batch(reader: Reader) -> None:
    settings = reader.imported.settings
    ids = settings.get("gpu.device_ids")
    devices = len(ids) if isinstance(ids, list) and ids else 1
    whole = reader.take("train_batch_size", "global_batch_size", "total_batch_size", "effective_batch_size")
    device = reader.take("per_device_train_batch_size", "training.batch_size", "batch_size", "micro_batch_size")
    steps = reader.take("gradient_accumulation_steps", "gradient_accumulation", "grad_accumulation_steps")
    steps = reader.number("training.gradient_accumulation_steps", 1 if steps is None else steps)
    if whole is not None:
        reader.set(f"{PARAMS}.batch_size", reader.number("training.train_batch_size", whole))
        if device is None:
            device = max(1, reader.number("training.train_batch_size", whole) // (steps * devices))
    elif device is None:
        device = 8
        reader.note("training.per_device_train_batch_size is not given: 8, the default of transformers")
    device = reader.number("training.batch_size", device)
    reader.set(f"{PARAMS}.micro_batch_size", device)
    if whole is None:
        reader.set(f"{PARAMS}.batch_size", device * steps * devices)
        factors = f"{device} per device x {steps} accumulation steps" + (f" x {devices} GPUs" if devices > 1 else "")
        reader.note(f"training.batch_size: {factors} = batch_size {device * steps * devices}")
    if settings.get("gpu.use_ddp") and not ids:
        reader.note("gpu.use_ddp without device_ids: batch_size is that of 1 GPU; multiply it by the number of GPUs")


def _length(reader: Reader) -> None:
    steps = reader.take("max_steps", "max_train_steps")
    epochs = reader.take("num_train_epochs", "num_epochs", "epochs")
    if isinstance(steps, int) and steps > 0:
        reader.set(f"{PARAMS}.max_steps", steps)
        if epochs is not None:
            reader.note(f"training.num_train_epochs: {epochs} gives way to max_steps {steps}, as in transformers")
        return
    if epochs is None:
        epochs = 3
        reader.note("training.num_train_epochs is not given: 3, the default of transformers")
    reader.set(f"{PARAMS}.max_steps", None)
    reader.set(f"{PARAMS}.num_epochs", epochs)
    reader.note("training.num_train_epochs: what fills no batch at an epoch's end is left out; transformers trains it")


def _optimizer(reader: Reader) -> None:
    name = reader.take("optim", "optimizer.name", "optimizer.type", "optimizer")
    option = _OPTIMIZERS.get(str(name).lower()) if name is not None else "adamw"
    if option is None:
        reader.imported.without_equal.append(f"training.optim: {name} (adamw takes its place)")
    reader.imported.options["optimizer"] = option or "adamw"
    betas = [reader.take("adam_beta1", "beta1"), reader.take("adam_beta2", "beta2")]
    if betas != [None, None]:
        reader.set(
            f"{OPTIMIZER}.betas",
            [usual if own is None else own for own, usual in zip(betas, (0.9, 0.999), strict=True)],
        )
    schedule = reader.take("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule")
    if schedule is None:
        reader.note("training.lr_scheduler_type is not given: linear, the default of transformers")
    if (ours := _SCHEDULES.get(str(schedule or "linear").lower())) is None:
        reader.imported.without_equal.append(f"training.lr_scheduler_type: {schedule} (warm-up-cosine takes its place)")
        ours = "warm-up-cosine"
    if ours == "warm-up-constant":
        reader.note("training.lr_scheduler_type: warm-up-constant begins one step further up, at 1/(n+1) and not at 0")
    reader.set(f"{OPTIMIZER}.lr_schedule", ours)
    steps, ratio = reader.take("warmup_steps", "num_warmup_steps"), reader.take("warmup_ratio")
    if ours == "constant":
        return
    if steps:
        reader.set(f"{PARAMS}.warmup_steps", steps)
    else:
        reader.set(f"{OPTIMIZER}.warm_up_fraction", ratio or 0.0)
        if ratio:
            reader.note("training.warmup_ratio: steps are rounded down; transformers rounds them up")
        if ratio is None and steps is None:
            reader.note("training.warmup_steps is not given: no warm-up, the default of transformers")


def _precision(reader: Reader) -> None:
    types = {"bf16": reader.take("bf16"), "fp16": reader.take("fp16")}
    mixed = reader.take("mixed_precision")
    wanted = [name for name, on in types.items() if on] or [str(mixed if mixed not in (None, False) else "no").lower()]
    if len(wanted) > 1:
        reader.problems.append(Problem("training.bf16", "bf16 and fp16 must not both be true", "leave one of them out"))
    reader.set(f"{PARAMS}.mixed_precision", wanted[0])


def _evaluation(reader: Reader) -> None:
    start = reader.take("resume_from_checkpoint")
    if isinstance(start, str) and start not in ("latest", "auto", "true"):
        reader.set(f"{FINETUNING}.resume_from_checkpoint", start)
    elif start:
        reader.note(f"resume_from_checkpoint: {start} is left out: an unfinished run resumes by itself")
    metric = reader.take("metric_for_best_model")
    best, patience = (next((v for p, v in reader.left.items() if p[-1] == name), None) for name in _CHOICES)
    if not best and patience is None:
        direction = reader.take("greater_is_better")
        if metric is not None or direction is not None:
            reader.note("metric_for_best_model and greater_is_better are left out: nothing asks which model is best")
    elif metric is not None:
        reader.set(f"{FINETUNING}.metric_for_best_model", "eval/" + metric.removeprefix("eval_").removeprefix("eval/"))


def _trackers(reader: Reader) -> None:
    trackers, wandb = reader.take("report_to"), reader.take("use_wandb", "wandb.enabled")
    names = [trackers] if isinstance(trackers, str) else list(trackers or [])
    names = list(TRACKERS) if names == ["all"] else [name for name in names if name not in ("none", "null")]
    settings = [path for path, value in reader.left.items() if "wandb" in ".".join(path) and value is not None]
    if (wandb or (trackers is None and wandb is None and settings)) and "wandb" not in names:
        names.append("wandb")
    for name in [name for name in names if name not in TRACKERS]:
        reader.imported.without_equal.append(f"logging.report_to: {name}")
    reader.set(f"{LOGGING}.report_to", [name for name in names if name in TRACKERS])
    unused = [*(settings if "wandb" not in names else ())]
    unused += [path for path in reader.left if path[-1] == "logging_dir" and "tensorboard" not in names]
    for path in unused:
        if reader.left.pop(path) is not None:
            reader.note(f"{'.'.join(path)} is left out: nothing is reported there")


TRAINING_STEPS = (_gpu, _batch, _length, _optimizer, _precision, _evaluation, _trackers)
