"""From a resolved config to the run id: equal where the result must be equal, different everywhere else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

NOT_IDENTITY = frozenset(
    {
        *("hydra", "paths", "logging", "gpu", "resources", "deepspeed", "fsdp"),
        *("exp_name", "models", "model_index", "dry_run", "rerun", "training.sampling", "data.dataset.prepare"),
        "loss.precompute_ref_log_probs",
    }
)
"""Keys that, with all below them, cannot change the result of a run: where it writes, what it shows, on what it runs.

Of the other keys `gpt_opt.config.files` lists those that name files, which enter the id by their real paths: one file
is one run, and a folder that moves makes new ones. The content is compared apart, `gpt_opt.config.inputs`.

`models` and `model_index` choose `model.name_or_path`, which counts. `deepspeed` and `fsdp` shard a training over
processes: like their number, that changes nothing but the rounding. Nor does it change more where the log-probabilities
of the reference are computed, before the steps or in each.
"""

ABSENT_MEANS: Mapping[str, Any] = {
    "user": {},
    "training.training_params.eval_batch_size": None,  # counts: kto_pair measures against the rest of a batch
    "training.training_params.max_completion_length": None,
    "training.training_params.group_by_length": False,
    "training.training_params.tokens_processed": None,
    "training.training_params.context_length": None,
    "training.training_params.val_tokens_processed": None,
    "training.training_params.ema_decay": None,
    "loss.train_on_inputs": False,
    "optimizer.optimizer_params.cautious_weight_decay": False,
    "data.dataset.text_column": "text",
    "data.dataset.messages_column": "messages",
    "optimizer.optimizer_params.decay_fraction": None,
    "optimizer.optimizer_params.weight_decay@rmsprop": 0.0,
}
"""Keys that came after the first ids were given, each with the value that means "as before".

A key at that value does not enter the hash, so that ids survive the upgrade that brings the key. Those of a data set
hold for the parts of a mixture too. `key@name` holds where the `name` beside the key is that one: others had it before.
"""

_PART = re.compile(r"^data\.dataset\.(?:parts\.[^.]+\.dataset\.)+")

ID_LENGTH = 12
"""Hex digits of a run id: 48 bits, a collision in 100,000 runs has a probability of 2 in 100,000."""


class Memo(Protocol):
    """What remembers results for other configs of the same request, `gpt_opt.config.remember.Remembered`."""

    def each(self, ask: Callable[[str, Any], T], config: Mapping[str, Any]) -> list[T]:
        """Returns `ask(key, value)` for every top-level key of the config, in its order."""


@dataclass(frozen=True, eq=False)
class Identity:
    """What of a config identifies a run of an application.

    Attributes:
        excluded: Dotted keys that, with all below them, cannot change the result of a run.
        absent_means: As `ABSENT_MEANS`.
    """

    excluded: frozenset[str]
    absent_means: Mapping[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        """Returns whether a dotted key, or a group, is part of what identifies a run."""
        return not any(f"{key}.".startswith(f"{name}.") for name in self.excluded)

    def part(self, config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
        """Returns what identifies a run: a resolved config as plain containers.

        It is without what is excluded, and without the keys of `absent_means` that mean what their absence means.

        Args:
            config: The config, or a part of it.
            above: Where that part is, `training.` for example.
        """
        found = {}
        for key, value in config.items():
            text = key if isinstance(key, str) else json.dumps(key)
            name = above + text
            if name not in self.excluded and not self._means_absence(name, value, config.get("name")):
                found[text] = self.part(value, f"{name}.") if isinstance(value, dict) else value
        return found

    def _means_absence(self, name: str, value: Any, beside: Any) -> bool:
        declared = _PART.sub("data.dataset.", name)
        names = (declared, f"{declared}@{beside}")
        others = (self.absent_means[key] for key in names if key in self.absent_means)
        return any(type(value) is type(other) and bool(value == other) for other in others)

    def json(self, config: Mapping[str, Any], memo: Memo | None = None) -> str:
        """Returns the canonical JSON of what identifies a run: sorted keys, shortest exact floats, no spaces."""
        parts = (
            [self._part_json(*item) for item in config.items()] if memo is None else memo.each(self._part_json, config)
        )
        return f"{{{','.join(part for _, part in sorted(zip(map(str, config), parts, strict=True)) if part)}}}"

    def _part_json(self, key: str, value: Any) -> str:
        """Returns what one top-level key contributes, `"key":value`; nothing where it is not part of the identity."""
        part = self.part({key: value})
        # A path or bytes, which a structured config may hold, by its text.
        return json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)[1:-1]

    def run_id(self, config: Mapping[str, Any], memo: Memo | None = None) -> str:
        """Returns the id of the run that a config describes, `ID_LENGTH` hex digits.

        Args:
            config: The resolved config as plain containers; a position, a file name or a time never enters it.
            memo: What was found for other configs of the same request.
        """
        return hashlib.sha256(self.json(config, memo).encode()).hexdigest()[:ID_LENGTH]

    def differences(self, existing: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Returns the dotted keys in which two resolved configs differ as runs: value there, value here.

        NaN is the same as NaN.
        """
        there, here = leaves(self.part(existing)), leaves(self.part(planned))
        pairs = {key: (there.get(key, _ABSENT), here.get(key, _ABSENT)) for key in sorted({*there, *here})}
        return {
            key: (a, b) for key, (a, b) in pairs.items() if type(a) is not type(b) or (a != b and repr(a) != repr(b))
        }


TRAINING = Identity(NOT_IDENTITY, ABSENT_MEANS)
"""That of gpt-opt's own training."""

run_id = TRAINING.run_id

_ABSENT = "(absent)"


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what lies at the ends of nested dicts by dotted key, in order; an empty dict is such an end."""
    flat: dict[str, Any] = {}
    stack = [("", iter(config.items()))]
    while stack:
        prefix, items = stack[-1]
        for key, value in items:
            if isinstance(value, dict) and value:
                stack.append((f"{prefix}{key}.", iter(value.items())))
                break
            flat[prefix + key] = value
        else:
            stack.pop()
    return flat
