"""What was meant by a name that is none of ours: the field's other names for our keys, and the nearest valid name."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from gpt_opt.errors import Problem
from gpt_opt.records.run_dir import RunPaths, checkpoints

_PARAMS = "training.training_params"
_OPTIMIZER = "optimizer.optimizer_params"
_DATASET = "data.dataset"
_LOGGING = "logging.logging_params"

_NAMES: Mapping[str, str] = {
    f"{_OPTIMIZER}.lr": "learning_rate base_lr peak_lr max_lr init_lr step_size",
    f"{_OPTIMIZER}.weight_decay": "wd l2 decay",
    f"{_OPTIMIZER}.betas": "adam_betas adam_beta1 adam_beta2 beta1 beta2",
    f"{_OPTIMIZER}.eps": "epsilon adam_epsilon adam_eps",
    f"{_OPTIMIZER}.lr_schedule": "lr_schedule lr_scheduler lr_scheduler_type scheduler scheduler_type schedule",
    f"{_OPTIMIZER}.warm_up_fraction": "warmup_ratio warmup_fraction warm_up_ratio",
    "optimizer=": "optim optimizer_name optimizer_type optim_type",
    f"{_PARAMS}.batch_size": "train_batch_size global_batch_size total_batch_size effective_batch_size",
    f"{_PARAMS}.micro_batch_size": "per_device_train_batch_size per_gpu_train_batch_size micro_train_batch_size "
    "device_batch_size train_micro_batch_size_per_gpu per_device_batch_size microbatch_size",
    f"{_PARAMS}.eval_batch_size": "per_device_eval_batch_size per_gpu_eval_batch_size validation_batch_size",
    f"{_PARAMS}.gradient_accumulation_steps": "gradient_accumulation grad_accum grad_accumulation_steps grad_acc "
    "accumulation_steps accumulate_grad_batches accum_steps gradient_accumulation_iters",
    f"{_PARAMS}.max_length": "max_seq_length max_seq_len max_sequence_length cutoff_len sequence_len sequence_length "
    "seq_len seq_length model_max_length max_len",
    f"{_PARAMS}.context_length": "block_size context_len",
    f"{_PARAMS}.tokens_processed": "tokens_per_step batch_tokens total_batch_tokens",
    f"{_PARAMS}.max_prompt_length": "max_prompt_len prompt_length max_source_length",
    f"{_PARAMS}.max_completion_length": "max_completion_len completion_length max_response_length max_target_length "
    "max_answer_length",
    f"{_PARAMS}.truncation": "truncation_mode truncation_side",
    f"{_PARAMS}.num_epochs": "num_train_epochs n_epochs epochs max_epochs train_epochs num_epoch",
    f"{_PARAMS}.max_steps": "num_steps total_steps train_steps max_train_steps num_train_steps num_training_steps "
    "n_steps iterations max_iters train_iters",
    f"{_PARAMS}.n_examples": "num_examples num_train_examples",
    f"{_PARAMS}.warmup_steps": "num_warmup_steps warmup warmup_iters lr_warmup_steps warm_up_steps",
    f"{_PARAMS}.max_grad_norm": "gradient_clip_val gradient_clipping clip_grad_norm clip_grad grad_clip max_norm",
    f"{_PARAMS}.mixed_precision": "mixed_precision precision amp",
    f"{_PARAMS}.mixed_precision=fp16": "fp16 float16 half",
    f"{_PARAMS}.mixed_precision=bf16": "bf16 bfloat16",
    f"{_PARAMS}.gradient_checkpointing": "activation_checkpointing enable_activation_checkpointing grad_checkpointing",
    f"{_PARAMS}.compile": "torch_compile use_compile compile_model",
    f"{_PARAMS}.log_every": "logging_steps log_steps log_interval log_freq log_every_n_steps logging_interval",
    f"{_PARAMS}.eval_every": "eval_steps eval_interval eval_freq evaluation_steps val_check_interval",
    f"{_PARAMS}.save_every": "save_steps save_interval save_freq save_every_n_steps checkpointing_steps "
    "checkpoint_every checkpoint_interval ckpt_every",
    f"{_PARAMS}.save_total_limit": "max_checkpoints keep_last keep_last_n_checkpoints",
    "training.finetuning.resume_from_checkpoint": "resume resume_from ckpt_path",
    "training.finetuning.metric_for_best_model": "monitor best_metric",
    "training.finetuning.early_stopping_patience": "patience early_stopping",
    "training.sampling.sample_during_eval": "generate_during_eval",
    "training.sampling.n_samples": "n_eval_model_samples num_generations num_samples_to_generate",
    "lora=lora": "use_peft use_lora peft peft_config use_adapters lora.enabled lora.enable lora.use_lora",
    "lora.r": "lora_r lora_rank lora.rank peft_r peft.r peft_config.r rank",
    "lora.lora_alpha": "lora.alpha peft_alpha peft.alpha peft_lora_alpha",
    "lora.lora_dropout": "lora.dropout peft_dropout peft.dropout peft_lora_dropout",
    "lora.bias": "lora_bias peft_bias",
    "lora.target_modules": "lora_target_modules lora_target lora_modules lora.modules peft_target_modules",
    "lora.task_type": "lora_task_type peft_task_type",
    "lora.use_rslora": "rslora",
    "lora.use_dora": "dora",
    "loss=": "loss_name objective algorithm rl stage",
    "loss.beta": "beta dpo_beta pref_beta kl_beta",
    "loss.loss_type": "pref_loss dpo_loss_type dpo_loss",
    "loss.label_smoothing": "label_smoothing_factor",
    "loss.train_on_inputs": "train_on_input train_on_prompt",
    "loss.ref_model_id": "ref_model ref_model_name_or_path ref_model_path ref_model_name reference_model",
    "model.name_or_path": "model_name_or_path draft_model_name_or_path draft_model huggingface_id hf_id model_name "
    "model_id model_path base_model pretrained_model pretrained_model_name_or_path",
    "model.tokenizer_name_or_path": "tokenizer tokenizer_name tokenizer_path tokenizer_id",
    "model.archive": "init_from load_from model_checkpoint sft_checkpoint pretrain_checkpoint checkpoint",
    "model.policy_dtype": "torch_dtype dtype model_dtype",
    "model.attn_implementation": "attn_impl attention_implementation use_flash_attention_2 use_flash_attention "
    "flash_attention flash_attn",
    "model.config.n_embd": "hidden_size d_model embed_dim n_embed",
    "model.config.n_layer": "num_hidden_layers num_layers n_layers",
    "model.config.n_head": "num_attention_heads num_heads n_heads",
    "model.config.n_positions": "max_position_embeddings n_ctx",
    f"{_DATASET}.path": "dataset_name dataset_path dataset_id dataset_name_or_path data_path data_files "
    "train_file train_data",
    f"{_DATASET}.subset": "dataset_config dataset_config_name dataset_subset",
    f"{_DATASET}.split": "dataset_split dataset_train_split train_split",
    f"{_DATASET}.max_samples": "max_train_samples num_samples max_examples",
    f"{_DATASET}.validation_split": "val_split val_size val_set_size test_size test_split eval_split "
    "validation_split_percentage validation_fraction",
    f"{_LOGGING}.report_to": "report_to log_with logger loggers tracker trackers use_wandb",
    f"{_LOGGING}.logging_dir": "log_dir tensorboard_dir tb_dir",
    f"{_LOGGING}.log_level": "verbosity verbose",
    f"{_LOGGING}.wandb.project": "wandb_project project_name",
    f"{_LOGGING}.wandb.entity": "wandb_entity",
    f"{_LOGGING}.wandb.group": "wandb_group",
    f"{_LOGGING}.wandb.mode": "wandb_mode",
    f"{_LOGGING}.wandb.tags": "wandb_tags",
    "paths.output_dir": "out_dir outdir output_folder output_path save_dir output",
    "paths.run_name": "wandb_name wandb_run_name",
    "exp_name": "experiment_name experiment",
    "seed": "random_seed manual_seed data_seed",
    "dry_run": "dryrun dry",
    "rerun": "force overwrite overwrite_output_dir",
    "gpu.device_ids": "cuda_visible_devices gpu_ids devices device",
    "gpu.use_ddp": "ddp data_parallel",
    "resources.gpus_per_run": "gpus num_gpus n_gpus n_gpu gpus_per_node gpus_per_task nproc_per_node num_processes",
    "resources.nodes_per_run": "nodes num_nodes nnodes",
    "resources.cpus_per_run": "cpus cpus_per_task",
    "resources.mem_gb": "mem memory",
    "resources.time_min": "time time_limit walltime timeout_min",
    "fsdp=full_shard": "use_fsdp fsdp_config fsdp_sharding_strategy",
    "deepspeed=zero2": "use_deepspeed deepspeed_config deepspeed_stage zero_stage",
    "+exp=NAME, with hydra_conf/exp/NAME.yaml; `gptopt import-config` makes one of TRL's": "config config_file exp",
    "--cfg job": "print_config show_config",
    "-m": "sweep",
}
"""What to write here, to what libraries of the field call it: TRL, transformers, PEFT, Accelerate, torchtune, axolotl,
LLaMA-Factory, nanoGPT, Lightning, the DPO reference, Slurm.

On the left a config key; `key=value` where the name says the value too, `group=` where its value is an option; or what
to type as it stands.
"""

OPTIONS: Mapping[str, str] = {
    **{f"lora.{name}": "lora=lora" for name in ("r", "lora_alpha", "lora_dropout", "bias", "target_modules")},
    **{f"lora.{name}": "lora=lora" for name in ("task_type", "use_rslora", "use_dora")},
    **{f"model.{name}": "model=hf" for name in ("name_or_path", "trust_remote_code")},
    **{f"model.config.{name}": "model=tiny-gpt2" for name in ("n_embd", "n_layer", "n_head", "n_positions")},
    **{f"{_DATASET}.{name}": "data=hf" for name in ("path", "subset", "split", "validation_split")},
    **{f"{_DATASET}.{name}_column": "data=hf" for name in ("prompt", "chosen", "rejected", "completion", "label")},
    **{f"{_DATASET}.{name}": "data=mixture" for name in ("parts", "weights")},
    **{f"loss.{name}": "loss=dpo" for name in ("beta", "loss_type", "label_smoothing", "reference_free")},
    **{f"loss.{name}": "loss=kto" for name in ("desirable_weight", "undesirable_weight")},
    **{f"loss.{name}": "loss=sft" for name in ("reduction", "train_on_inputs")},
    **{f"{_OPTIMIZER}.{name}": "optimizer=adamw" for name in ("weight_decay", "betas", "eps")},
    f"{_OPTIMIZER}.alpha": "optimizer=rmsprop",
    **{f"{_OPTIMIZER}.{name}": "optimizer=sgd-m" for name in ("momentum", "nesterov")},
    **{f"{_OPTIMIZER}.{name}": "optimizer=muon" for name in ("muon_lr", "muon_lr_ratio", "polar_method", "ns_steps")},
    **{f"{_OPTIMIZER}.{name}": "optimizer=dap-ns-nadam" for name in ("accelerated", "rcond", "xtx_subsample")},
    f"{_OPTIMIZER}.fstar": "optimizer=muon-momo",
    f"{_OPTIMIZER}.use_fstar": "optimizer=momo",
}
"""Keys that exist with some options only, and an option that has each."""

SYNONYMS: Mapping[str, str] = {
    **{key.rpartition(".")[2]: key for key in OPTIONS},
    **{name: target for target, names in _NAMES.items() for name in names.split()},
}
"""Other name, in small letters with underscores, to what to write here; `_NAMES` says what the latter can be."""

_VALUES: Mapping[str, Mapping[str, str]] = {
    "optimizer=": {name: "adamw" for name in ("adamw_torch", "adamw_torch_fused", "adamw_hf")}
    | {name: name for name in ("adamw", "adam", "nadam", "rmsprop", "sgd", "muon", "scion")},
    "loss=": {name: name for name in ("dpo", "kto", "orpo", "sft", "ipo", "hinge")},
    f"{_OPTIMIZER}.lr_schedule": {
        "cosine": "warm-up-cosine",
        "constant_with_warmup": "warm-up-constant",
        "linear": "warm-up-linear",
    },
    f"{_PARAMS}.mixed_precision": {
        **{name: "fp16" for name in ("float16", "16-mixed", "half")},
        **{name: "bf16" for name in ("bfloat16", "bf16-mixed", "true")},
        **{name: "no" for name in ("fp32", "float32", "32", "false", "no")},
    },
    f"{_LOGGING}.report_to": {
        **{name: f"[{name}]" for name in ("wandb", "tensorboard", "mlflow")},
        **{name: "[]" for name in ("none", "false", "null")},
        "true": "[wandb]",
    },
}
"""What our value is for a value of the other name, where the two differ."""

_DIFFERS = {"warm-up-linear": "; the schedule linear is another: 1 / (steps + 1)"}
"""What to know of one of our values whose name elsewhere is that of another value of ours."""

_OFF = {f"{_PARAMS}.mixed_precision": "no", "lora": "none", "fsdp": "none", "deepspeed": "none"}
"""The value that leaves out what a name with a value of its own asks for: `fp16=false`."""

_PLAIN = re.compile(r"[\w./:+-]+|\[[\w./:+, -]*\]")


UNKNOWN_KEY = "is not a key of this config"


def unknown_key(key: str, valid: Collection[str], value: str | None = None) -> Problem:
    """Returns the problem of a key that there is not; the arguments are those of `suggestion`."""
    return Problem(key, UNKNOWN_KEY, suggestion(key, valid, value))


def suggestion(wrong: str, valid: Collection[str], value: str | None = None) -> str:
    """Returns what to write in place of a name that is not valid.

    Args:
        wrong: A dotted config key, a field of a dataclass, or a flag with its dashes.
        valid: The names that are valid in its place. Where none has a dot they are fields, of which a key is known by
            its last part, and overrides are an argument of their own.
        value: The value that it was given, as an override has it; it is translated where the two differ.
    """
    names, flag = frozenset(valid), wrong.startswith("-")
    if flag:
        wrong = wrong.lstrip("-").replace("-", "_")
    for name in _readings(wrong) if _of_ours else ():
        target = SYNONYMS.get(name) or (name if name in OPTIONS else None)
        if target is not None and (text := _instead(target, names, value, flag)):
            return text
    if near := _near(wrong, names):
        return f"write {near}={_translated(near, value)}" if flag else f"did you mean {near}?"
    siblings = sorted(name for name in names if name.rpartition(".")[0] == wrong.rpartition(".")[0])
    if _has_dots(names) and _of_ours and ("." not in wrong or not siblings):
        return "`python run_hydra.py --cfg job` shows all keys; one of your own goes below user, as user.NAME=VALUE"
    shown = siblings or sorted(names if _of_ours else {name.partition(".")[0] for name in names})
    return f"valid here: {', '.join(name for name in shown if _of_ours or name != 'hydra')}"


def typed(key: str, path: Path) -> str:
    """Returns an override that names a path, as a shell is told it: Hydra wants quotes around names with = and such."""
    text = str(path)
    return f"{key}={text}" if re.fullmatch(r"[\w./~-]+", text) else f"\"{key}='{text}'\""


def existing_path(key: str, path: Path) -> str:
    """Returns what to write in place of a path that does not exist: the one most like it, or what its folder holds."""
    missing = path.absolute()
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    try:
        names = sorted(name for name in os.listdir(missing.parent) if not name.startswith("."))
    except OSError:
        return ""
    alike = [name for name in names if (missing.parent / name).is_dir() or _is_alike(missing, PurePath(name))]
    if near := difflib.get_close_matches(missing.name, alike, 1):
        meant = missing.with_name(near[0]) / path.absolute().relative_to(missing)
        if meant.exists():
            return f"did you mean {typed(key, meant)}"
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{missing.parent} holds {', '.join(names[:_SHOWN]) or 'nothing'}{more}"


def _is_alike(file: PurePath, other: PurePath) -> bool:
    """Returns whether one file may be meant by another: one of its kind with a name like it, or with the same name."""
    same_kind = file.suffix == other.suffix and difflib.get_close_matches(file.stem, [other.stem])
    return bool(same_kind) or file.stem == other.stem


def checkpoint_of_run(key: str, folder: Path) -> str:
    """Returns what to take of a folder that is a run directory, or its folder of checkpoints; empty for others."""
    found = checkpoints(RunPaths(folder).checkpoints) or checkpoints(folder)
    return f"take a checkpoint of this run: {typed(key, found[-1])}" if found else ""


_SHOWN = 8
"""Names of a folder that a suggestion lists."""


def _readings(wrong: str) -> Iterator[str]:
    """Yields the name in small letters with underscores, then without its first parts: `a.b.c`, `b.c`, `c`."""
    name = wrong.replace("-", "_").lower()
    while name:
        yield name
        name = name.partition(".")[2]


_of_ours = True


def forget_synonyms() -> None:
    """Makes this process one of another application, of whose keys no synonyms are known."""
    global _of_ours
    _of_ours = False


def _has_dots(names: Iterable[str]) -> bool:
    return any("." in name for name in names)


def _instead(target: str, valid: Collection[str], value: str | None, whole: bool) -> str:
    """Returns how to say `target` where these names are valid; empty where it cannot be said.

    Args:
        target: What `_NAMES` has on its left side.
        valid: The names that are valid.
        value: The value of the other name.
        whole: Whether to say the value although it needs no translation.
    """
    if target.startswith(("+", "-")):
        return f"write {target}"
    key, sign, _ = target.partition("=")
    ours = _translated(target, value)
    leaf = key.rpartition(".")[2]
    translated = whole or bool(sign) or (value is not None and ours != value)
    if not _has_dots(valid):
        if leaf in valid:
            return f'write {leaf}="{ours}"' if translated and '"' not in ours else f"did you mean {leaf}?"
        overrides = [*filter(None, [OPTIONS.get(key)]), f"{key}={ours}"]
        return f"write overrides={json.dumps(overrides)}"
    if key in valid:
        return f"write {key}={ours}{_DIFFERS.get(ours, '')}" if translated else f"did you mean {key}?"
    return f"write {OPTIONS[key]} {key}={ours}" if key in OPTIONS else ""


def _translated(target: str, value: str | None) -> str:
    """Returns what the value of another name is for `target`."""
    key, _, fixed = target.partition("=")
    given = (value or "").strip("'\"")
    if fixed:
        return _OFF.get(key, fixed) if given.lower() in ("false", "no", "none", "null", "0") else fixed
    ours = _VALUES.get(target, {}).get(given.lower())
    unknown = "OPTION" if target.endswith("=") else "true" if not value and _is_switch(key) else "VALUE"
    return ours or (value if value and unknown == "VALUE" and _PLAIN.fullmatch(value) else unknown)


def _is_switch(key: str) -> bool:
    """Returns whether a key is true or false."""
    from gpt_opt.config.schema import switches  # takes a tenth of a second, and is asked when something is wrong

    return _of_ours and key.rpartition(".")[2] in switches()


def _near(wrong: str, valid: Collection[str]) -> str | None:
    """Returns the valid name that is most like `wrong`: the same last part anywhere, or else one in the same group."""
    near = nearest(wrong, valid)
    if near and near.rpartition(".")[2] == wrong.rpartition(".")[2]:
        return near
    group = wrong.partition(".")[0] + "."
    return nearest(wrong, [name for name in valid if name.startswith(group)]) or near


def _initials(name: str) -> str:
    return "".join(part[0] for part in name.split("_") if part)


def _likeness(name: str, candidate: str) -> float:
    """Returns how probably `candidate` was meant, from 0 to 1; `learning_rate` means `lr`."""
    wanted_leaf, leaf = name.rpartition(".")[2], candidate.rpartition(".")[2]
    names = difflib.SequenceMatcher(None, wanted_leaf, leaf).ratio()
    initials = len(wanted_leaf) > 1 < len(leaf) and (leaf == _initials(wanted_leaf) or wanted_leaf == _initials(leaf))
    if leaf == wanted_leaf or initials:
        names = 1.0
    return 0.8 * names + 0.2 * difflib.SequenceMatcher(None, name, candidate).ratio()


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Returns the valid dotted key most like `name`, or None when none is like it."""
    likeness, best = max(((_likeness(name, key), key) for key in valid), default=(0.0, ""))
    return best if likeness >= 0.6 else None
