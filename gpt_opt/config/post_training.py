"""From a post-training YAML in the words of TRL, transformers and PEFT to the settings that are the same training.

Input: the file as plain containers. Output: `Imported`, which says what has no equal here and what was interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_opt.config.checks.data import PUBLISHED
from gpt_opt.config.checks.losses import LOSS_TYPES
from gpt_opt.config.checks.trackers import TRACKERS
from gpt_opt.config.suggest import SYNONYMS
from gpt_opt.errors import ConfigError, Problem

_PARAMS = "training.training_params"
_OPTIMIZER = "optimizer.optimizer_params"
_DATASET = "data.dataset"
_LOGGING = "logging.logging_params"
_FINETUNING = "training.finetuning"

Path = tuple[str, ...]

_SECTIONS = {
    **dict.fromkeys(("data", "datasets"), "dataset"),
    **dict.fromkeys(("peft", "peft_config", "lora_config"), "lora"),
    **dict.fromkeys(("training_args", "training_arguments", "train"), "training"),
    **dict.fromkeys(("gpus", "hardware", "distributed"), "gpu"),
}
"""Other names of sections."""

_METHODS = {**{name: name for name in ("dpo", "sft", "kto", "orpo", "ipo", "hinge", "robust")}, "slic": "hinge"}
_LOSS_KEYS = {
    "dpo": {"beta", "label_smoothing", "reference_free", "use_ref_model", "ref_model_id"},
    "kto": {"beta", "desirable_weight", "undesirable_weight", "ref_model_id"},
    "orpo": {"beta"},
    "sft": set[str](),
}
_RATES = {"sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "orpo": 1e-6}
"""Learning rates of TRL where none is given."""

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
_COLUMNS = ("prompt", "chosen", "rejected", "completion", "label")

_DIRECT = {
    *(f"{_PARAMS}.{name}" for name in ("max_length", "max_prompt_length", "max_completion_length", "truncation")),
    *(f"{_PARAMS}.{name}" for name in ("eval_batch_size", "max_grad_norm", "gradient_checkpointing", "compile")),
    *(f"{_PARAMS}.{name}" for name in ("log_every", "eval_every", "save_every", "save_total_limit", "add_bos")),
    *(f"{_OPTIMIZER}.{name}" for name in ("lr", "weight_decay", "betas", "eps")),
    *(f"loss.{name}" for name in set[str]().union(*_LOSS_KEYS.values())),
    *(f"lora.{name}" for name in ("r", "lora_alpha", "lora_dropout", "bias", "target_modules", "task_type")),
    *(f"lora.{name}" for name in ("use_rslora", "use_dora")),
    *(f"{_FINETUNING}.{name}" for name in ("load_best_model_at_end", "greater_is_better", "early_stopping_patience")),
    *(f"training.sampling.{name}" for name in ("sample_during_eval", "n_samples", "max_new_tokens", "temperature")),
    *(f"{_DATASET}.{name}" for name in ("subset", "max_samples", *(f"{column}_column" for column in _COLUMNS))),
    *(f"{_LOGGING}.{name}" for name in ("logging_dir", "log_level")),
    *(f"{_LOGGING}.wandb.{name}" for name in ("project", "entity", "group", "mode", "tags")),
    *("paths.output_dir", "paths.run_name", "seed"),
}
"""Our keys whose values are those of the other names."""

_ANY = object()
_AS_EVER: Mapping[str, Any] = {
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"), "steps"),
    **dict.fromkeys(("do_train", "do_eval", "disable_dropout", "save_safetensors", "enabled"), True),
    **dict.fromkeys(("push_to_hub", "packing", "use_weighting", "sync_ref_model", "group_by_length"), False),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "fan_in_fan_out", "inference_mode", "is_encoder_decoder"), False),
    **dict.fromkeys(("dataloader_num_workers", "dataset_num_proc", "dataloader_pin_memory", "num_proc"), _ANY),
    **dict.fromkeys(("remove_unused_columns", "ddp_find_unused_parameters", "gradient_checkpointing_kwargs"), _ANY),
    **dict.fromkeys(("precompute_ref_log_probs", "label_pad_token_id", "padding_value", "overwrite_output_dir"), _ANY),
    **dict.fromkeys(("logging_first_step", "device_map", "description"), _ANY),
    "f_divergence_type": "reverse_kl",
    "early_stopping_threshold": 0,
}
"""Names without an equal, and the value at which they say what is done here anyway, or change no result."""


_FLAT_MODELS = ("model_name_or_path", "base_model", "huggingface_id", "model_id", "model_name")
_FLAT_OF_MODEL = (
    "trust_remote_code",
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "flash_attention",
    "tokenizer_name",
)
"""Names of the model in a file without sections, as TRL, axolotl and LLaMA-Factory read it, and what belongs to it."""


@dataclass
class Imported:
    """A post-training YAML in our words.

    Attributes:
        options: Config group to option.
        settings: Config key to value.
        without_equal: What was left out, with its value.
        interpreted: What was not taken word by word.
    """

    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    without_equal: list[str] = field(default_factory=list)
    interpreted: list[str] = field(default_factory=list)


def import_post_training(tree: Mapping[str, Any], model_index: int | None = None) -> Imported:
    """Returns a post-training YAML in our words.

    Args:
        tree: The file, with sections models, dataset, post_training, lora, training, gpu, finetuning, logging.
        model_index: Which of its models to take alone; None takes all, of which a run trains one.

    Raises:
        ConfigError: If it says nothing that could be trained here, or two things of one setting; all problems.
    """
    reader = _Reader(tree)
    steps: tuple[Callable[[_Reader], None], ...] = (
        lambda given: _models(given, model_index),
        *(_dataset, _loss, _lora, _gpu, _batch, _length, _optimizer, _precision, _evaluation, _trackers, _direct),
        *(_ignored, _defaults),
    )
    for step in steps:
        step(reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    for path, value in reader.left.items():
        if value is not None and not _as_ever(path[-1], value):
            reader.found.without_equal.append(f"{'.'.join(path)}: {value}")
    return reader.found


def _as_ever(name: str, value: Any) -> bool:
    return name in _AS_EVER and (_AS_EVER[name] is _ANY or _AS_EVER[name] == value)


class _Reader:
    """What a file gives and is not read yet, and what came of the rest."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        rest = dict(tree)
        self.models = rest.pop("models", rest.pop("model", None))
        if self.models is None and any(rest.get(name) is not None for name in _FLAT_MODELS):
            self.models = {name: rest.pop(name) for name in (*_FLAT_MODELS, *_FLAT_OF_MODEL) if name in rest}
        for section in ("dataset", "datasets", "data"):
            value = rest.get(section)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            rest |= {section: {"name": value}} if isinstance(value, str) else {section: value} if value else {}
        self.left: dict[Path, Any] = dict(_leaves(rest))
        self.found = Imported()
        self.problems: list[Problem] = []

    def take(self, *names: str) -> Any:
        """Returns the value of the first of these names that is given, and None where none is.

        A name is the last parts of a path: `learning_rate`, `lora.r`.
        """
        given: dict[str, Any] = {}
        for name in names:
            parts = tuple(name.split("."))
            for path in [path for path in self.left if _canonical(path)[-len(parts) :] == parts]:
                if (value := self.left.pop(path)) is not None:
                    given[".".join(path)] = value
        if len({repr(value) for value in given.values()}) > 1:
            said = " and ".join(f"{name}: {value}" for name, value in given.items())
            self.problems.append(Problem(next(iter(given)), f"is given twice: {said}", "leave one of them out"))
        return next(iter(given.values()), None)

    def set(self, key: str, value: Any) -> None:
        """Notes a setting."""
        self.found.settings[key] = value

    def tell(self, text: str) -> None:
        """Notes what was interpreted."""
        self.found.interpreted.append(text)

    def number(self, name: str, value: Any) -> int:
        """Returns a value that must be an integer of at least 1, and 1 with a problem where it is not."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.problems.append(Problem(name, f"must be an integer of at least 1, but is {value!r}"))
        return 1


def _leaves(tree: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _canonical(path: Path) -> Path:
    return (_SECTIONS.get(path[0], path[0]), *path[1:])


def _models(given: _Reader, index: int | None) -> None:
    listed = given.models if isinstance(given.models, list) else [given.models]
    entries = [_entry(given, f"models[{place}]", entry) for place, entry in enumerate(listed) if entry is not None]
    if not entries:
        fix = "models: [{name: my-model, huggingface_id: HUB_ID_OR_FOLDER}]"
        given.problems.append(Problem("models", "must list at least one model, but lists none", fix))
        return
    if index is not None and not 0 <= index < len(entries):
        problem = f"must be an index of the file's models, 0 to {len(entries) - 1}, but is {index}"
        given.problems.append(Problem("--model-index", problem))
        return
    given.found.options["model"] = "hf"
    if len(entries) == 1 or index is not None:
        for key, value in entries[index or 0].items():
            given.set(f"model.{key}", value)
        return
    if any(set(entry) - {"name", "name_or_path", "trust_remote_code"} for entry in entries):
        more = sorted({key for entry in entries for key in entry} - {"name", "name_or_path", "trust_remote_code"})
        given.tell(f"models: {', '.join(more)} of single models are left out; --model-index N imports one model whole")
    kept = ("name", "name_or_path", "trust_remote_code")
    given.set("models", [{key: entry[key] for key in kept if key in entry} for entry in entries])
    given.set("model_index", 0)
    given.tell(f"models: model_index=0 to {len(entries) - 1} chooses one, -m goes through all")


def _entry(given: _Reader, where: str, entry: Any) -> dict[str, Any]:
    """Returns one model in keys of the group model."""
    left = dict(entry) if isinstance(entry, Mapping) else {"huggingface_id": entry}
    found: dict[str, Any] = {}
    names = (*("huggingface_id", "name_or_path", "hf_id", "path", "id"), *_FLAT_MODELS, "name")
    source = next((left.pop(name) for name in names if left.get(name) is not None), None)
    if not isinstance(source, str):
        given.problems.append(Problem(where, f"must have a text huggingface_id, but is {entry!r}"))
        return {"name_or_path": ""}
    if left.get("name") is not None:
        found["name"] = str(left.pop("name"))
    found["name_or_path"] = source
    for name, value in left.items():
        key = "trust_remote_code" if name == "trust_remote_code" else SYNONYMS.get(name, f"model.{name}")[6:]
        if key == "policy_dtype" and value is not None:
            found[key] = None if value == "auto" else str(value).removeprefix("torch.")
        elif key == "attn_implementation" and isinstance(value, bool):
            found |= {key: "flash_attention_2"} if value else {}
        elif key in ("trust_remote_code", "tokenizer_name_or_path", "attn_implementation") and value is not None:
            found[key] = value
        elif value is not None and not _as_ever(name, value):
            given.found.without_equal.append(f"{where}.{name}: {value}")
    return found


def _dataset(given: _Reader) -> None:
    name = given.take("dataset.path", "dataset.local_path", "dataset.data_path", "dataset.file", "dataset.data_files")
    other = given.take("dataset.name", "dataset.huggingface_id", "dataset.dataset_name", "dataset_name", "dataset_path")
    name, other = (other, None) if name is None else (name, other)
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    if not isinstance(name, str):
        listed = next((value for path, value in given.left.items() if _canonical(path) == ("dataset",)), name)
        problem = f"must be one name on the hub, folder or file, but is {listed!r}"
        fix = "dataset: {name: HUB_ID_OR_PATH}; of several data sets hydra_conf/data/mixture.yaml makes one"
        given.problems.append(Problem("dataset.name", problem, fix))
        return
    if other is not None:
        given.tell(f"dataset.name: {other} is not needed beside the path {name}")
    columns = {column: given.take(f"{column}_column", f"{column}_field", f"{column}_key") for column in _COLUMNS}
    other_columns = {column: value for column, value in columns.items() if value not in (None, column)}
    option = PUBLISHED.get(name) if not other_columns else None
    given.found.options["data"] = option or "hf"
    if option is None:
        given.set(f"{_DATASET}.path", name)
    for column, value in other_columns.items():
        given.set(f"{_DATASET}.{column}_column", value)
    if (subset := given.take("dataset.subset", "dataset.config", "dataset.config_name")) is not None:
        given.set(f"{_DATASET}.subset", subset)
    if (split := given.take("train_split", "dataset.split", "dataset_train_split")) is not None:
        given.set(f"{_DATASET}.split", split)
    validation = given.take("eval_split", "test_split", "validation_split", "dataset_test_split", "val_split")
    share = given.take("test_size", "eval_size", "val_size", "val_set_size", "validation_size", "eval_ratio")
    if (held_out := validation if validation is not None else share) is not None:
        given.set(f"{_DATASET}.validation_split", held_out)
    elif option is None:
        given.set(f"{_DATASET}.validation_split", 0.1)
        given.tell("dataset: no split to evaluate on is given, so 0.1 of the prompts are held out")


def _loss(given: _Reader) -> None:
    method = given.take("method", "post_training.type", "post_training.algorithm", "post_training.name", "rl")
    method = given.left.pop(("stage",), None) if method is None else method
    if method is None:
        method = next((path[0] for path in given.left if path[0] in _METHODS), None)
    if method is None:
        method = "dpo"
        given.tell("post_training.method is not given: dpo; `post_training: {method: sft}` is fine-tuning")
    loss = _METHODS.get(str(method).lower())
    if loss is None:
        problem = f"must be one of {', '.join(_METHODS)}, but is {method}"
        given.problems.append(Problem("post_training.method", problem, "the others are not built here"))
        return
    kind = given.take("loss_type", "pref_loss")
    kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    if loss == "dpo" and kind not in (None, "sigmoid"):
        if kind not in LOSS_TYPES:
            problem = f"must be one of {', '.join(LOSS_TYPES)}, but is {kind}"
            given.problems.append(Problem("post_training.loss_type", problem, "the others are not built here"))
            return
        loss = kind
    elif loss == "kto" and kind not in (None, "kto"):
        given.problems.append(Problem("post_training.loss_type", f"must be kto with method: kto, but is {kind}"))
    elif kind is not None and loss not in ("dpo", "kto", kind):
        given.found.without_equal.append(f"post_training.loss_type: {kind}")
    given.found.options["loss"] = loss
    if loss == "sft" and given.take("assistant_only_loss") is not True:
        text = "of dialogues the assistant's messages are learned; TRL learns all without assistant_only_loss: true"
        given.tell(f"post_training: {text}")


def _family(given: _Reader) -> str:
    loss = given.found.options.get("loss", "dpo")
    return loss if loss in _LOSS_KEYS else "dpo"


def _lora(given: _Reader) -> None:
    switch = given.take("lora.enabled", "lora.enable", "lora.use_lora", "use_lora", "use_peft", "lora.use_peft")
    if (adapter := given.take("adapter", "finetuning_type")) is not None:
        switch = adapter in ("lora", "qlora")
        if adapter not in ("lora", "full"):
            place = "lora" if switch else "no adapter"
            given.found.without_equal.append(f"adapter: {adapter} ({place} takes its place)")
    if given.take("lora_target_linear"):
        given.set("lora.target_modules", "all-linear")
    paths = [path for path in given.left if _canonical(path)[0] == "lora"]
    if switch is False or (switch is None and not paths):
        for path in paths:
            del given.left[path]
        if paths:
            given.tell("lora is switched off: its settings are left out")
        return
    given.found.options["lora"] = "lora"


def _gpu(given: _Reader) -> None:
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


def _batch(given: _Reader) -> None:
    settings = given.found.settings
    ids = settings.get("gpu.device_ids")
    devices = len(ids) if isinstance(ids, list) and ids else 1
    whole = given.take("train_batch_size", "global_batch_size", "total_batch_size", "effective_batch_size")
    device = given.take("per_device_train_batch_size", "training.batch_size", "batch_size", "micro_batch_size")
    steps = given.take("gradient_accumulation_steps", "gradient_accumulation", "grad_accumulation_steps")
    steps = given.number("training.gradient_accumulation_steps", 1 if steps is None else steps)
    if whole is not None:
        given.set(f"{_PARAMS}.batch_size", given.number("training.train_batch_size", whole))
        if device is None:
            device = max(1, given.number("training.train_batch_size", whole) // (steps * devices))
    elif device is None:
        device = 8
        given.tell("training.per_device_train_batch_size is not given: 8, the default of transformers")
    device = given.number("training.batch_size", device)
    given.set(f"{_PARAMS}.micro_batch_size", device)
    if whole is None:
        given.set(f"{_PARAMS}.batch_size", device * steps * devices)
        factors = f"{device} per device x {steps} accumulation steps" + (f" x {devices} GPUs" if devices > 1 else "")
        given.tell(f"training.batch_size: {factors} = batch_size {device * steps * devices}")
    if settings.get("gpu.use_ddp") and not ids:
        given.tell("gpu.use_ddp without device_ids: batch_size is that of 1 GPU; multiply it by the number of GPUs")


def _length(given: _Reader) -> None:
    steps = given.take("max_steps", "max_train_steps")
    epochs = given.take("num_train_epochs", "num_epochs", "epochs")
    if isinstance(steps, int) and steps > 0:
        given.set(f"{_PARAMS}.max_steps", steps)
        if epochs is not None:
            given.tell(f"training.num_train_epochs: {epochs} gives way to max_steps {steps}, as in transformers")
        return
    if epochs is None:
        epochs = 3
        given.tell("training.num_train_epochs is not given: 3, the default of transformers")
    given.set(f"{_PARAMS}.max_steps", None)
    given.set(f"{_PARAMS}.num_epochs", epochs)
    given.tell("training.num_train_epochs: what fills no batch at an epoch's end is left out; transformers trains it")


def _optimizer(given: _Reader) -> None:
    name = given.take("optim", "optimizer.name", "optimizer.type", "optimizer")
    option = _OPTIMIZERS.get(str(name).lower()) if name is not None else "adamw"
    if option is None:
        given.found.without_equal.append(f"training.optim: {name} (adamw takes its place)")
    given.found.options["optimizer"] = option or "adamw"
    betas = [given.take("adam_beta1", "beta1"), given.take("adam_beta2", "beta2")]
    if betas != [None, None]:
        given.set(
            f"{_OPTIMIZER}.betas",
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
    given.set(f"{_OPTIMIZER}.lr_schedule", ours)
    steps, ratio = given.take("warmup_steps", "num_warmup_steps"), given.take("warmup_ratio")
    if ours == "constant":
        return
    if steps:
        given.set(f"{_PARAMS}.warmup_steps", steps)
    else:
        given.set(f"{_OPTIMIZER}.warm_up_fraction", ratio or 0.0)
        if ratio:
            given.tell("training.warmup_ratio: steps are rounded down; transformers rounds them up")
        if ratio is None and steps is None:
            given.tell("training.warmup_steps is not given: no warm-up, the default of transformers")


def _precision(given: _Reader) -> None:
    types = {"bf16": given.take("bf16"), "fp16": given.take("fp16")}
    mixed = given.take("mixed_precision")
    wanted = [name for name, on in types.items() if on] or [str(mixed if mixed not in (None, False) else "no").lower()]
    if len(wanted) > 1:
        given.problems.append(Problem("training.bf16", "bf16 and fp16 must not both be true", "leave one of them out"))
    given.set(f"{_PARAMS}.mixed_precision", wanted[0])


def _evaluation(given: _Reader) -> None:
    start = given.take("resume_from_checkpoint")
    if isinstance(start, str) and start not in ("latest", "auto", "true"):
        given.set(f"{_FINETUNING}.resume_from_checkpoint", start)
    elif start:
        given.tell(f"resume_from_checkpoint: {start} is left out: an unfinished run resumes by itself")
    metric = given.take("metric_for_best_model")
    best, patience = (next((v for p, v in given.left.items() if p[-1] == name), None) for name in _CHOICES)
    if not best and patience is None:
        direction = given.take("greater_is_better")
        if metric is not None or direction is not None:
            given.tell("metric_for_best_model and greater_is_better are left out: nothing asks which model is best")
    elif metric is not None:
        given.set(f"{_FINETUNING}.metric_for_best_model", "eval/" + metric.removeprefix("eval_").removeprefix("eval/"))


_CHOICES = ("load_best_model_at_end", "early_stopping_patience")


def _trackers(given: _Reader) -> None:
    said, wandb = given.take("report_to"), given.take("use_wandb", "wandb.enabled")
    names = [said] if isinstance(said, str) else list(said or [])
    names = list(TRACKERS) if names == ["all"] else [name for name in names if name not in ("none", "null")]
    settings = [path for path, value in given.left.items() if "wandb" in ".".join(path) and value is not None]
    if (wandb or (said is None and wandb is None and settings)) and "wandb" not in names:
        names.append("wandb")
    for name in [name for name in names if name not in TRACKERS]:
        given.found.without_equal.append(f"logging.report_to: {name}")
    given.set(f"{_LOGGING}.report_to", [name for name in names if name in TRACKERS])
    unused = [*(settings if "wandb" not in names else ())]
    unused += [path for path in given.left if path[-1] == "logging_dir" and "tensorboard" not in names]
    for path in unused:
        if given.left.pop(path) is not None:
            given.tell(f"{'.'.join(path)} is left out: nothing is reported there")


def _direct(given: _Reader) -> None:
    """Takes what has the same values here, under our names or the other names that `SYNONYMS` knows."""
    own = {key.rpartition(".")[2]: key for key in _DIRECT}
    for path in list(given.left):
        canonical = _canonical(path)
        readings = [".".join(canonical[start:]) for start in range(len(canonical))]
        key = next((SYNONYMS[name] for name in readings if SYNONYMS.get(name) in _DIRECT), own.get(path[-1]))
        if key is None or (value := given.left[path]) is None:
            continue
        del given.left[path]
        value = "all-linear" if (key, value) == ("lora.target_modules", "all") else value
        if key in given.found.settings and given.found.settings[key] != value:
            problem = f"says {value} of {key}, but another key says {given.found.settings[key]}"
            given.problems.append(Problem(".".join(path), problem, "leave one of them out"))
        given.set(key, value)


def _ignored(given: _Reader) -> None:
    """Leaves out what the option of a group has no key for, unless it says nothing."""
    options, settings = given.found.options, given.found.settings
    allowed = {f"loss.{name}" for name in _LOSS_KEYS[_family(given)]}
    published = options.get("data") in PUBLISHED.values()
    for key in list(settings):
        group, _, leaf = key.partition(".")
        lost = group == "loss" and key not in allowed
        lost |= group == "lora" and "lora" not in options
        lost |= options.get("optimizer") == "rmsprop" and leaf in (
            "optimizer_params.weight_decay",
            "optimizer_params.betas",
        )
        lost |= published and leaf.endswith("_column")
        if lost and (value := settings.pop(key)) not in (None, False, 0):
            given.found.without_equal.append(
                f"{key}: {value} (the option {group}={options.get(group, 'none')} has no such key)"
            )
    if settings.get(f"{_OPTIMIZER}.weight_decay"):
        given.tell("training.weight_decay acts on all weights; transformers leaves out biases and norms")


def _defaults(given: _Reader) -> None:
    """Says the defaults of TRL and transformers where ours are others."""
    family, settings = _family(given), given.found.settings
    longest = settings.get(f"{_PARAMS}.max_length", 1024)
    prompt = (
        512
        if family != "sft" and isinstance(longest, int) and longest > 512
        else (longest // 2 if isinstance(longest, int) else 512)
    )
    usual = {
        f"{_OPTIMIZER}.lr": ("training.learning_rate", _RATES[family], "the default of TRL"),
        f"{_PARAMS}.max_length": ("post_training.max_length", 1024, "the default of TRL"),
        f"{_PARAMS}.max_prompt_length": (
            "post_training.max_prompt_length",
            prompt,
            "what is left of a prompt that is too long",
        ),
        f"{_PARAMS}.truncation": ("post_training.truncation_mode", "keep_end", "the default of TRL"),
        f"{_PARAMS}.log_every": ("training.logging_steps", 10, "the default of TRL"),
        f"{_PARAMS}.eval_every": ("training.eval_steps", 500, "the default of transformers"),
        f"{_PARAMS}.save_every": ("training.save_steps", 500, "the default of transformers"),
    }
    if family != "sft":
        usual["loss.beta"] = ("post_training.beta", 0.1, "the default of TRL")
    if given.found.options.get("lora"):
        usual["lora.lora_alpha"] = ("lora.lora_alpha", 8, "the default of PEFT")
    for key, (name, value, why) in usual.items():
        if key not in settings:
            given.set(key, value)
            given.tell(f"{name} is not given: {value}, {why}")
    if "paths.output_dir" in settings:
        given.tell("training.output_dir is the root of run directories here; each run has one of its own below it")
