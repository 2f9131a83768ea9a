"""Generations during a training: at every evaluation the models continue the same few validation prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gpt_opt.config.checks.sampling import DEFAULT_SAMPLES
from gpt_opt.errors import ConfigError, DataError, Problem
from gpt_opt.training.models.build import Reference
from gpt_opt.training.parts import Parts
from gpt_opt.training.trainer import ObjectiveTrainer

Row = dict[str, Any]


class GenerationCallback(TrainerCallback):
    """Adds to samples.jsonl what the models of a trainer generate at an evaluation."""

    def __init__(self, generator: Generator, trainer: ObjectiveTrainer) -> None:
        self._generator, self._trainer = generator, trainer

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Generates; every process of a training does."""
        with self._trainer.forwards.generating(f"the generations after step {state.global_step}") as models:
            rows = self._generator.rows(*models, args.device)
        self._trainer.log_generations(rows)


class Generator:
    """Continues the first few distinct validation prompts that have at most max_prompt_length tokens.

    Random numbers are those of the run's seed, the same at every evaluation and for both models: what differs between
    two texts comes from the weights. The global random state is left as it was.

    Args:
        settings: The group training.sampling, switched on.
        parts: Of the training.
        batch_size: Prompts in one forward.
        seed: The run's seed.

    Raises:
        ConfigError: If the model cannot generate.
        DataError: If no prompt is short enough.
    """

    def __init__(self, settings: Mapping[str, Any], parts: Parts, batch_size: int, seed: int) -> None:
        if not hasattr(parts.policy, "generate"):
            problem = f"needs a model with transformers' generate, but {type(parts.policy).__name__} has none"
            raise ConfigError([Problem("training.sampling.sample_during_eval", problem, "set it to false")])
        self._tokenizer, self._batch_size, self._seed = parts.tokenizer, batch_size, seed
        limits = parts.objective.limits
        longest, room = limits.max_prompt_length, limits.max_length - limits.max_prompt_length
        count = settings["n_samples"] if settings["n_samples"] is not None else DEFAULT_SAMPLES
        chosen: dict[tuple[int, ...], tuple[int, list[int] | None]] = {}
        for index, item in enumerate(parts.items.validation):
            prompt, completion = parts.objective.continuation(item)
            if len(prompt) <= longest:
                chosen.setdefault(tuple(prompt), (index, completion))
            if len(chosen) == count:
                break
        if not chosen:
            problem = f"is {longest} tokens, but every validation prompt is longer, so that none can be continued"
            fix = "raise it, or set training.sampling.sample_during_eval=false"
            raise DataError([Problem("training.training_params.max_prompt_length", problem, fix)])
        self._prompts = [list(prompt) for prompt in chosen]
        self._from_data = [{"index": index, "prompt": self._text(prompt)} for prompt, (index, _) in chosen.items()]
        self._completions = [{} if ids is None else {"chosen": self._text(ids)} for _, ids in chosen.values()]
        self._room = settings["max_new_tokens"] if settings["max_new_tokens"] is not None else room
        self._temperature = settings["temperature"]
        self._reference: list[str] | None = None

    def _text(self, ids: Sequence[int]) -> str:
        return cast("str", self._tokenizer.decode(list(ids)))

    def rows(self, policy: PreTrainedModel, reference: Reference | None, device: torch.device) -> list[Row]:
        """Generates; every process of a training must call it at the same step and gets the same.

        Args:
            policy: The model that is trained, in evaluation mode.
            reference: What it is compared with; it never changes and so generates only once, and may be None then.
            device: Of both.

        Returns:
            A row a prompt: `index` in the validation data, from 0; `prompt`; `policy`; `reference`, where there is
            one; `chosen`, the completion of the data, where it is a wanted one. Texts are as the models see them,
            special tokens included: one that does not end in the end-of-sequence token was truncated.
        """
        generated = {"policy": self._generate(policy, device)}
        if reference is not None and self._reference is None:
            with reference.of(policy) as model:
                self._reference = generated["policy"] if reference.is_policy else self._generate(model, device)
        if self._reference is not None:
            generated["reference"] = self._reference
        texts = [dict(zip(generated, texts, strict=True)) for texts in zip(*generated.values(), strict=True)]
        rows = zip(self._from_data, texts, self._completions, strict=True)
        return [{**prompt, **own, **completion} for prompt, own, completion in rows]

    def _generate(self, adapted: PreTrainedModel, device: torch.device) -> list[str]:
        model = cast("Any", adapted).get_base_model() if hasattr(adapted, "get_base_model") else adapted
        texts: list[str] = []
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            torch.manual_seed(self._seed)
            for first in range(0, len(self._prompts), self._batch_size):
                texts += self._continue(model, self._prompts[first : first + self._batch_size], device)
        return texts

    def _continue(self, model: PreTrainedModel, prompts: Sequence[list[int]], device: torch.device) -> list[str]:
        """Continues prompts as one batch, padded on the left."""
        end, width = self._tokenizer.eos_token_id, max(map(len, prompts))
        padded = [[end] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        settings = GenerationConfig(
            max_new_tokens=self._tokens(model, width),
            do_sample=self._temperature > 0,
            **({"temperature": self._temperature, "top_k": 0} if self._temperature > 0 else {}),
            eos_token_id=end,
            pad_token_id=end,
            use_cache=True,
        )
        with _generating_by(model, settings):
            ids = cast("Any", model).generate(
                torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                # A forward of a sharded model is collective: no process stops before the last text ends.
                synced_gpus=torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
            )
        new = ids[:, width:].tolist()
        return [self._text(row[: row.index(end) + 1] if end in row else row) for row in new]

    def _tokens(self, model: PreTrainedModel, width: int) -> int:
        """Returns the tokens that may follow prompts of `width` tokens within the positions of the model."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return int(self._room if positions is None else min(self._room, max(positions - width, 1)))


def generator_of(config: Mapping[str, Any], parts: Parts, batch_size: int) -> Generator | None:
    """Returns what generates at evaluations, `batch_size` prompts at a time; None where that is not asked for."""
    settings = config["training"]["sampling"]
    return Generator(settings, parts, batch_size, config["seed"] % 2**32) if settings["sample_during_eval"] else None


@contextmanager
def _generating_by(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Puts the model's own settings aside, which transformers would mix in: nucleus, penalties, lengths."""
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own
