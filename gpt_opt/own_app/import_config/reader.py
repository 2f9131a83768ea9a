"""What a post-training YAML gives, read key by key: what is taken, what is left, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_opt.errors import Problem

PARAMS = "training.training_params"
OPTIMIZER = "optimizer.optimizer_params"
DATASET = "data.dataset"
LOGGING = "logging.logging_params"
FINETUNING = "training.finetuning"
Path = tuple[str, ...]
_SECTIONS = {
    **dict.fromkeys(("data", "datasets"), "dataset"),
    **dict.fromkeys(("peft", "peft_config", "lora_config"), "lora"),
    **dict.fromkeys(("training_args", "training_arguments", "train"), "training"),
    **dict.fromkeys(("gpus", "hardware", "distributed"), "gpu"),
}
"""Other names of sections."""

FLAT_MODELS = ("model_name_or_path", "base_model", "huggingface_id", "model_id", "model_name")
_FLAT_OF_MODEL = (
    "trust_remote_code",
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "flash_attention",
    "tokenizer_name",
)
"""Names of the model in a file without sections, as TRL, axolotl and LLaMA-Factory read it, and what belongs to it."""

_ANY = object()
_AS_EVER: Mapping[str, Any] = {
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"), "steps"),
    **dict.fromkeys(("do_train", "do_eval", "disable_dropout", "save_safetensors", "enabled"), True),
    **dict.fromkeys(("push_to_hub", "packing", "use_weighting", "sync_ref_model"), False),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "fan_in_fan_out", "inference_mode", "is_encoder_decoder"), False),
    **dict.fromkeys(("dataloader_num_workers", "dataset_num_proc", "dataloader_pin_memory", "num_proc"), _ANY),
    **dict.fromkeys(("remove_unused_columns", "ddp_find_unused_parameters", "gradient_checkpointing_kwargs"), _ANY),
    **dict.fromkeys(("precompute_ref_log_probs", "label_pad_token_id", "padding_value", "overwrite_output_dir"), _ANY),
    **dict.fromkeys(("logging_first_step", "device_map", "description"), _ANY),
    "f_divergence_type": "reverse_kl",
    "early_stopping_threshold": 0,
}
"""Names without an equal, and the value at which they say what is done here anyway, or change no result."""


@dataclass
class Imported:
    """A post-training YAML in keys of ours.

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


class Reader:
    """What a file gives and is not read yet, and what came of the rest.

    Args:
        tree: The file.
        model_index: Which of its models to take alone; None takes all.

    Attributes:
        models: What it says of models.
        left: What is not read yet.
        imported: What came of the rest.
        problems: What is wrong with it.
    """

    def __init__(self, tree: Mapping[str, Any], model_index: int | None) -> None:
        self.model_index = model_index
        rest = dict(tree)
        self.models = rest.pop("models", rest.pop("model", None))
        if self.models is None and any(rest.get(name) is not None for name in FLAT_MODELS):
            self.models = {name: rest.pop(name) for name in (*FLAT_MODELS, *_FLAT_OF_MODEL) if name in rest}
        for section in ("dataset", "datasets", "data"):
            value = rest.get(section)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            rest |= {section: {"name": value}} if isinstance(value, str) else {section: value} if value else {}
        self.left: dict[Path, Any] = dict(_leaves(rest))
        self.imported = Imported()
        self.problems: list[Problem] = []

    def take(self, *names: str) -> Any:
        """Returns the value of the first of these names that is given, and None where none is.

        A name is the last parts of a path: `learning_rate`, `lora.r`.
        """
        values: dict[str, Any] = {}
        for name in names:
            parts = tuple(name.split("."))
            for path in [path for path in self.left if canonical(path)[-len(parts) :] == parts]:
                if (value := self.left.pop(path)) is not None:
                    values[".".join(path)] = value
        if len({repr(value) for value in values.values()}) > 1:
            given = " and ".join(f"{name}: {value}" for name, value in values.items())
            self.problems.append(Problem(next(iter(values)), f"is given twice: {given}", "leave one of them out"))
        return next(iter(values.values()), None)

    def set(self, key: str, value: Any) -> None:
        """Notes a setting."""
        self.imported.settings[key] = value

    def note(self, text: str) -> None:
        """Notes what was interpreted."""
        self.imported.interpreted.append(text)

    def number(self, name: str, value: Any) -> int:
        """Returns a value that must be an integer of at least 1, and 1 with a problem where it is not."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.problems.append(Problem(name, f"must be an integer of at least 1, but is {value!r}"))
        return 1


def is_default(name: str, value: Any) -> bool:
    """Returns whether a name without an equal here says what is done anyway, or changes no result."""
    return name in _AS_EVER and (_AS_EVER[name] is _ANY or _AS_EVER[name] == value)


def canonical(path: Path) -> Path:
    """Returns a path with the one name of its section."""
    return (_SECTIONS.get(path[0], path[0]), *path[1:])


def _leaves(tree: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value
