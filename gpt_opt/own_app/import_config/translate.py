"""From a post-training YAML with the names of TRL, transformers and PEFT to the settings that are the same training.

Input: the file as plain containers. Output: `Imported`, which says what has no equal here and what was interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.data import PUBLISHED
from gpt_opt.config.suggest import SYNONYMS
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.own_app.import_config.method import LOSS_KEYS, METHOD_STEPS, family_of
from gpt_opt.own_app.import_config.reader import (
    DATASET,
    FINETUNING,
    LOGGING,
    OPTIMIZER,
    PARAMS,
    Imported,
    Reader,
    canonical,
    is_default,
)
from gpt_opt.own_app.import_config.sources import COLUMNS, SOURCE_STEPS
from gpt_opt.own_app.import_config.training import TRAINING_STEPS

_RATES = {"sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "orpo": 1e-6}
"""Learning rates of TRL where none is given."""

_DIRECT = {
    *(f"{PARAMS}.{name}" for name in ("max_length", "max_prompt_length", "max_completion_length", "truncation")),
    *(f"{PARAMS}.{name}" for name in ("eval_batch_size", "max_grad_norm", "gradient_checkpointing", "compile")),
    *(f"{PARAMS}.{name}" for name in ("log_every", "eval_every", "save_every", "save_total_limit", "add_bos")),
    *(f"{OPTIMIZER}.{name}" for name in ("lr", "weight_decay", "betas", "eps")),
    *(f"loss.{name}" for name in set[str]().union(*LOSS_KEYS.values())),
    *(f"lora.{name}" for name in ("r", "lora_alpha", "lora_dropout", "bias", "target_modules", "task_type")),
    *(f"lora.{name}" for name in ("use_rslora", "use_dora")),
    *(f"{FINETUNING}.{name}" for name in ("load_best_model_at_end", "greater_is_better", "early_stopping_patience")),
    *(f"training.sampling.{name}" for name in ("sample_during_eval", "n_samples", "max_new_tokens", "temperature")),
    *(f"{DATASET}.{name}" for name in ("subset", "max_samples", *(f"{column}_column" for column in COLUMNS))),
    *(f"{LOGGING}.{name}" for name in ("logging_dir", "log_level")),
    *(f"{LOGGING}.wandb.{name}" for name in ("project", "entity", "group", "mode", "tags")),
    *("paths.output_dir", "paths.run_name", "seed"),
}
"""Our keys whose values are those of the other names."""


def import_post_training(tree: Mapping[str, Any], model_index: int | None = None) -> Imported:
    """Returns a post-training YAML in keys of ours.

    Args:
        tree: The file, with sections models, dataset, post_training, lora, training, gpu, finetuning, logging.
        model_index: Which of its models to take alone; None takes all, of which a run trains one.

    Raises:
        ConfigError: If it says nothing that could be trained here, or two things of one setting; all problems.
    """
    reader = Reader(tree, model_index)
    for step in (*SOURCE_STEPS, *METHOD_STEPS, *TRAINING_STEPS, _equal, _unknown, _defaults):
        step(reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    for path, value in reader.left.items():
        if value is not None and not is_default(path[-1], value):
            reader.imported.without_equal.append(f"{'.'.join(path)}: {value}")
    return reader.imported


def _equal(reader: Reader) -> None:
    """Takes what has the same values here, under our names or the other names that `SYNONYMS` knows."""
    own = {key.rpartition(".")[2]: key for key in _DIRECT}
    for path in list(reader.left):
        parts = canonical(path)
        readings = [".".join(parts[start:]) for start in range(len(parts))]
        key = next((SYNONYMS[name] for name in readings if SYNONYMS.get(name) in _DIRECT), own.get(path[-1]))
        if key is None or (value := reader.left[path]) is None:
            continue
        del reader.left[path]
        value = "all-linear" if (key, value) == ("lora.target_modules", "all") else value
        if key in reader.imported.settings and reader.imported.settings[key] != value:
            problem = f"says {value} of {key}, but another key says {reader.imported.settings[key]}"
            reader.problems.append(Problem(".".join(path), problem, "leave one of them out"))
        reader.set(key, value)


def _unknown(reader: Reader) -> None:
    """Leaves out what the option of a group has no key for, unless it says nothing."""
    options, settings = reader.imported.options, reader.imported.settings
    allowed = {f"loss.{name}" for name in LOSS_KEYS[family_of(reader)]}
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
            reader.imported.without_equal.append(
                f"{key}: {value} (the option {group}={options.get(group, 'none')} has no such key)"
            )
    if settings.get(f"{OPTIMIZER}.weight_decay"):
        reader.note("training.weight_decay acts on all weights; transformers leaves out biases and norms")


def _defaults(reader: Reader) -> None:
    """Says the defaults of TRL and transformers where ours are others."""
    family, settings = family_of(reader), reader.imported.settings
    longest = settings.get(f"{PARAMS}.max_length", 1024)
    prompt = (
        512
        if family != "sft" and isinstance(longest, int) and longest > 512
        else (longest // 2 if isinstance(longest, int) else 512)
    )
    usual = {
        f"{OPTIMIZER}.lr": ("training.learning_rate", _RATES[family], "the default of TRL"),
        f"{PARAMS}.max_length": ("post_training.max_length", 1024, "the default of TRL"),
        f"{PARAMS}.max_prompt_length": (
            "post_training.max_prompt_length",
            prompt,
            "what is left of a prompt that is too long",
        ),
        f"{PARAMS}.truncation": ("post_training.truncation_mode", "keep_end", "the default of TRL"),
        f"{PARAMS}.log_every": ("training.logging_steps", 10, "the default of TRL"),
        f"{PARAMS}.eval_every": ("training.eval_steps", 500, "the default of transformers"),
        f"{PARAMS}.save_every": ("training.save_steps", 500, "the default of transformers"),
    }
    if family != "sft":
        usual["loss.beta"] = ("post_training.beta", 0.1, "the default of TRL")
    if reader.imported.options.get("lora"):
        usual["lora.lora_alpha"] = ("lora.lora_alpha", 8, "the default of PEFT")
    for key, (name, value, why) in usual.items():
        if key not in settings:
            reader.set(key, value)
            reader.note(f"{name} is not given: {value}, {why}")
    if "paths.output_dir" in settings:
        reader.note("training.output_dir is the root of run directories here; each run has one of its own below it")
