"""The type of every config key.

One dataclass for each option of a group: a key that an option would ignore does not exist in it. No field has a
default here; the YAML files in hydra_conf/ hold every default, once, beside its meaning and unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from gpt_opt.config.hydra_defaults import override_hydra_anywhere
from gpt_opt.config.schema.data import DATA_SCHEMAS
from gpt_opt.config.schema.made import Named
from gpt_opt.config.schema.models import MODEL_SCHEMAS
from gpt_opt.config.schema.optimizers import OPTIMIZER_SCHEMAS
from gpt_opt.config.schema.optimizers_packages import PACKAGE_SCHEMAS
from gpt_opt.config.schema.sharding import SHARDING_SCHEMAS, register_variants

VERSION_BASE = "1.3"
"""The `version_base` that Hydra composes the configs with."""

JOB_NAME = "run_hydra"
"""Hydra's name of a run's program, `hydra.job.name`."""


@dataclass
class Gpu:
    """GPUs of a run that is started by hand."""

    device_ids: list[int] | None
    use_ddp: bool


@dataclass
class Root:
    """Keys outside the groups; the groups are typed by their options."""

    model: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    training: Any = MISSING
    lora: Any = MISSING
    logging: Any = MISSING
    resources: Any = MISSING
    deepspeed: Any = MISSING
    fsdp: Any = MISSING
    paths: Any = MISSING
    collator: Any = MISSING
    aligner: Any = MISSING
    callbacks: list[Any] = MISSING
    seed: int = MISSING
    gpu: Gpu = MISSING
    models: list[Any] | None = MISSING  # of texts and mappings, which OmegaConf cannot say
    model_index: int | None = MISSING
    exp_name: str | None = MISSING
    user: dict[str, Any] = MISSING
    dry_run: bool = MISSING
    rerun: bool = MISSING


class LossType(StrEnum):
    """Variant of loss=dpo."""

    sigmoid = "sigmoid"
    robust = "robust"
    hinge = "hinge"
    ipo = "ipo"
    ipo_sum = "ipo_sum"
    kto_pair = "kto_pair"


@dataclass
class DPOLoss(Named):
    """loss=dpo, and each of its variants by its own name."""

    loss_type: LossType
    beta: float
    label_smoothing: float
    reference_free: bool
    use_ref_model: bool
    ref_model_id: str | None
    precompute_ref_log_probs: bool


@dataclass
class KTOLoss(Named):
    """loss=kto."""

    beta: float
    desirable_weight: float
    undesirable_weight: float
    ref_model_id: str | None
    precompute_ref_log_probs: bool


@dataclass
class ORPOLoss(Named):
    """loss=orpo."""

    beta: float
    sft_term: bool
    use_ref_model: bool
    ref_model_id: str | None


class Reduction(StrEnum):
    """How the loss of fine-tuning is averaged."""

    token_mean = "token_mean"
    sequence_sum = "sequence_sum"
    sequence_mean = "sequence_mean"


@dataclass
class SFTLoss(Named):
    """loss=sft."""

    reduction: Reduction
    train_on_inputs: bool


@dataclass
class LMLoss(Named):
    """loss=lm."""


class Truncation(StrEnum):
    """Which end of a prompt that is too long to keep, or that the row is left out."""

    keep_start = "keep_start"
    keep_end = "keep_end"
    drop = "drop"


class Precision(StrEnum):
    """Type of activations."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass
class TrainingParams:
    """Keys of the training loop."""

    batch_size: int | None
    tokens_processed: int | None
    micro_batch_size: int | None
    eval_batch_size: int | None
    group_by_length: bool
    gradient_accumulation_steps: int | None
    max_length: int | None
    max_prompt_length: int | None
    max_completion_length: int | None
    truncation: Truncation
    add_bos: bool
    context_length: int | None
    val_tokens_processed: int | None
    max_steps: int | None
    num_epochs: float | None
    n_examples: int | None
    warmup_steps: int | None
    max_grad_norm: float
    ema_decay: float | None
    mixed_precision: Precision
    gradient_checkpointing: bool
    compile: bool
    log_every: int
    eval_every: int
    save_every: int
    save_total_limit: int | None


@dataclass
class Finetuning:
    """Where training starts, when it ends early, and which checkpoint is the final one."""

    resume_from_checkpoint: str | None
    load_best_model_at_end: bool
    metric_for_best_model: str | None
    greater_is_better: bool | None
    early_stopping_patience: int | None


@dataclass
class Sampling:
    """What the models write at every evaluation."""

    sample_during_eval: bool
    n_samples: int | None
    max_new_tokens: int | None
    temperature: float


@dataclass
class Training:
    """training=default."""

    training_params: TrainingParams
    finetuning: Finetuning
    sampling: Sampling


class LoraBias(StrEnum):
    """Which biases are trained beside the adapters."""

    none = "none"
    all = "all"
    lora_only = "lora_only"


class TaskType(StrEnum):
    """Kind of model, as PEFT calls it."""

    CAUSAL_LM = "CAUSAL_LM"


@dataclass
class Lora:
    """lora=lora."""

    r: int
    lora_alpha: int
    lora_dropout: float
    bias: LoraBias
    target_modules: Any  # list[str], all-linear or None, which OmegaConf cannot say
    task_type: TaskType
    use_rslora: bool
    use_dora: bool


class LogLevel(StrEnum):
    """Least severe message shown."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class WandbMode(StrEnum):
    """Whether wandb uploads."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class WandbParams:
    """Where wandb puts a run."""

    project: str | None
    entity: str | None
    group: str | None
    mode: WandbMode | None
    tags: list[str]


@dataclass
class LoggingParams:
    """Keys of the messages of a run, and of the trackers it reports to."""

    log_level: LogLevel
    report_to: list[str]
    logging_dir: str | None
    wandb: WandbParams


@dataclass
class Logging:
    """The group logging."""

    logging_params: LoggingParams


@dataclass
class OutputPaths:
    """paths=default."""

    output_dir: str
    run_name: str | None


@dataclass
class LocalPaths:
    """paths=local_run_dir."""

    local_dirs: list[str]


@dataclass
class ResourcesOptions:
    """resources=default: what a run needs from the cluster; null leaves it to the sweep file."""

    gpus_per_run: int | None
    nodes_per_run: int | None
    cpus_per_run: int | None
    mem_gb: float | None
    time_min: int | None
    partition: str | None
    qos: str | None
    account: str | None
    constraint: str | None
    exclude: str | None
    runs_per_gpu: int | None
    sbatch: list[str]


SCHEMAS: dict[str, type] = {
    "root": Root,
    **DATA_SCHEMAS,
    **MODEL_SCHEMAS,
    "loss/dpo": DPOLoss,
    "loss/kto": KTOLoss,
    "loss/orpo": ORPOLoss,
    "loss/sft": SFTLoss,
    "loss/lm": LMLoss,
    **OPTIMIZER_SCHEMAS,
    **PACKAGE_SCHEMAS,
    "training/default": Training,
    "lora/lora": Lora,
    **SHARDING_SCHEMAS,
    "logging/default": Logging,
    "resources/default": ResourcesOptions,
    "paths/default": OutputPaths,
    "paths/local_run_dir": LocalPaths,
}
"""Schema of each option, by its path below the group `schema`."""


@cache
def switches() -> frozenset[str]:
    """Returns the keys of all options that are true or false, by their last parts."""
    return frozenset(name for schema in SCHEMAS.values() for name in _switches(schema))


def _switches(cls: type) -> Iterator[str]:
    for name, kind in get_type_hints(cls).items():
        if kind in (bool, bool | None):
            yield name
        elif isinstance(kind, type) and is_dataclass(kind):
            yield from _switches(kind)


@cache
def register() -> None:
    """Makes the schemas known to Hydra as the config group `schema`; the second time does nothing."""
    override_hydra_anywhere()
    store = ConfigStore.instance()
    root = OmegaConf.structured(Root)
    root._get_node("user")._set_flag("struct", False)  # takes any key without a plus
    for path, node in {**SCHEMAS, "root": root}.items():
        group, _, name = f"schema/{path}".rpartition("/")
        store.store(group=group, name=name, node=node)
    register_variants()
