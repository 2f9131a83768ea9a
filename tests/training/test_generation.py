"""Texts of policy and reference at every evaluation: what they are, when, and that nothing else depends on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import GenerationConfig

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.errors import ConfigError, DataError
from gpt_opt.records.run_id import run_id
from gpt_opt.training import loop
from gpt_opt.training.build import build
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.generation import Generator, generator_of
from gpt_opt.training.interface import Folder
from gpt_opt.training.loop import train
from gpt_opt.training.parts import Parts
from tests.training.test_training import DPO, SFT, config, finish, folder, hooks, rows

KEYS = "training.training_params"
SAMPLING = "training.sampling"
ON = [f"{SAMPLING}.sample_during_eval=true", f"{SAMPLING}.n_samples=3"]
FAST = ["optimizer.optimizer_params.lr=0.01"]  # so that the texts change between evaluations
END = "<|endoftext|>"


def samples(place: Folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.samples.read_text().splitlines()]


def files(place: Folder) -> dict[str, bytes]:
    """The bytes of the last checkpoint, without the files that hold seconds and paths."""
    (last,) = place.checkpoints.iterdir()
    others = ("progress.json", "sizes.json", "trainer_state.json", "training_args.bin")
    return {path.name: path.read_bytes() for path in last.iterdir() if path.name not in others}


def test_every_evaluation_has_a_row_a_prompt(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    finish([*small, *DPO, *FAST, *ON], place)
    found = samples(place)
    assert [(row["step"], row["index"]) for row in found] == [
        (step, item) for step in (0, 4, 8, 12) for item in (0, 1, 2)
    ]
    validation = build_dataset(config([*small, *DPO])["data"]["dataset"]).validation
    for row in found:
        assert list(row) == ["step", "index", "prompt", "policy", "reference", "chosen"]
        assert (row["prompt"], row["chosen"]) == (
            validation[row["index"]].prompt,
            validation[row["index"]].chosen + END,
        )
    assert all(row["reference"] == first["reference"] for row, first in zip(found, found[:3] * 4, strict=True))
    assert [row["policy"] for row in found[:3]] == [row["reference"] for row in found[:3]]
    assert [row["policy"] for row in found[9:]] != [row["reference"] for row in found[9:]]


@pytest.mark.parametrize("temperature", ["0", "1"])
@pytest.mark.parametrize("loss", [DPO, SFT], ids=["dpo", "sft with dropout"])
def test_a_run_is_the_same_with_and_without_samples(
    tmp_path: Path, small: list[str], loss: list[str], temperature: str
) -> None:
    without, sampled = folder(tmp_path / "without"), folder(tmp_path / "with")
    overrides = [*small, *loss]
    first = finish(overrides, without)
    second = finish([*overrides, *ON, f"{SAMPLING}.temperature={temperature}"], sampled)
    assert not without.samples.exists()
    assert len(samples(sampled)) == 12
    assert rows(without) == rows(sampled)
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "generation_config.json"} <= files(without).keys()
    assert files(without) == files(sampled)
    assert first.tokens == second.tokens


def test_samples_are_no_part_of_what_identifies_a_run(small: list[str]) -> None:
    assert run_id(config([*small, *DPO, *ON])) == run_id(config([*small, *DPO]))


@pytest.mark.parametrize("stop_at", [3, 4, 9])
def test_an_interrupted_run_has_the_samples_of_an_undisturbed_one(
    tmp_path: Path, small: list[str], stop_at: int
) -> None:
    overrides = [*small, *DPO, *FAST, *ON, f"{SAMPLING}.temperature=1"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish(overrides, whole)
    assert train(config(overrides), broken, hooks(stop_at)) is None
    finish(overrides, broken)
    assert whole.samples.read_bytes() == broken.samples.read_bytes()


def test_a_crash_after_the_last_checkpoint_repeats_no_samples(tmp_path: Path, small: list[str]) -> None:
    class Crash(Exception):
        pass

    def crash(step: int) -> None:
        if step == 7:
            raise Crash

    overrides = [*small, *DPO, *FAST, *ON, f"{KEYS}.eval_every=3"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish(overrides, whole)
    with pytest.raises(Crash):
        train(config(overrides), broken, hooks(on_step=crash))
    assert samples(broken)[-1]["step"] == 6  # after the checkpoint of step 4
    with broken.samples.open("a") as stream:
        stream.write('{"step": 9, "ind')
    finish(overrides, broken)
    assert whole.samples.read_bytes() == broken.samples.read_bytes()


def test_adapters_are_off_for_the_reference(tmp_path: Path, small: list[str]) -> None:
    place, without = folder(tmp_path / "run"), folder(tmp_path / "without")
    overrides = [*small, *DPO, "lora=lora", "lora.r=4", "optimizer.optimizer_params.lr=0.05"]
    finish([*overrides, *ON], place)
    finish(overrides, without)
    found = samples(place)
    assert [row["policy"] for row in found[:3]] == [row["reference"] for row in found[:3]]
    assert [row["policy"] for row in found[9:]] != [row["reference"] for row in found[9:]]
    assert (rows(place), files(place)) == (rows(without), files(without))


def test_fine_tuning_has_no_reference(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    finish([*small, "loss=sft", *ON], place)
    assert {tuple(row) for row in samples(place)} == {("step", "index", "prompt", "policy", "chosen")}


def test_a_judged_answer_is_shown_where_it_is_wanted(tmp_path: Path, small: list[str]) -> None:
    data = tmp_path / "judged.jsonl"
    judged = [{"prompt": f"{index} ", "completion": f"{index + 1}", "label": index % 2 == 0} for index in range(80)]
    data.write_text("".join(json.dumps(row) + "\n" for row in judged))
    place = folder(tmp_path / "run")
    own = [item for item in small if not item.startswith("data")]
    finish([*own, "data=hf", f"data.dataset.path={data}", "loss=kto", *DPO, *ON, f"{SAMPLING}.n_samples=8"], place)
    found = samples(place)[:8]
    assert all(("chosen" in row) == (int(row["prompt"]) % 2 == 0) for row in found)
    assert {"chosen" in row for row in found} == {True, False}
    assert all(row["policy"] == row["reference"] for row in found)


def test_a_prompt_is_continued_alike_alone_and_beside_longer_ones(tmp_path: Path, small: list[str]) -> None:
    whole, alone = folder(tmp_path / "whole"), folder(tmp_path / "alone")
    overrides = [*small, *DPO, *FAST, *ON, f"{SAMPLING}.n_samples=8"]
    finish(overrides, whole)
    finish([*overrides, f"{KEYS}.micro_batch_size=1", f"{KEYS}.max_steps=4"], alone)
    texts = [row["policy"] for row in samples(whole) if row["step"] == 0]
    assert len({len(row["prompt"]) for row in samples(alone)}) > 1
    assert [row["policy"] for row in samples(alone) if row["step"] == 0] == texts


@pytest.mark.parametrize("extra", [f"{KEYS}.mixed_precision=bf16", f"{KEYS}.gradient_checkpointing=true"])
def test_the_model_writes_from_its_cache(
    tmp_path: Path, small: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    whole = build

    def see(_: torch.nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        if inputs["use_cache"]:
            widths.append(inputs["input_ids"].shape[1])

    def watched(*arguments: Any) -> Parts:
        parts = whole(*arguments)
        parts.policy.register_forward_pre_hook(see, with_kwargs=True)
        return parts

    monkeypatch.setattr(loop, "build", watched)
    place = folder(tmp_path / "run")
    finish([*small, *DPO, *ON, extra], place)
    assert widths.count(1) > len(widths) / 2
    assert all(row["policy"] == row["reference"] for row in samples(place)[:3])


def sampler(overrides: list[str]) -> tuple[Parts, Generator]:
    parts = build(config(overrides))
    made = generator_of(config(overrides), parts, 8)
    assert made is not None
    return parts, made


def written(parts: Parts, made: Generator) -> list[list[int]]:
    """The texts of the policy as token ids."""
    parts.policy.eval()
    cast("Any", parts.tokenizer).decode = list
    return [row["policy"] for row in made.rows(parts.policy, None, torch.device("cpu"))]


def test_texts_end_at_the_limit_or_at_the_end_of_sequence(small: list[str]) -> None:
    parts, made = sampler([*small, *DPO, *ON])
    assert [len(ids) for ids in written(parts, made)] == [64 - 32] * 3
    parts, made = sampler([*small, *DPO, *ON, f"{SAMPLING}.max_new_tokens=5"])
    assert [len(ids) for ids in written(parts, made)] == [5] * 3
    parts.policy.config.max_position_embeddings = max(len(item.prompt) for item in parts.items.validation[:3]) + 2
    assert [len(ids) for ids in written(parts, made)] == [2] * 3
    with torch.no_grad():  # the hidden state is at least as much of the end's as of any other token's
        parts.policy.get_input_embeddings().weight.zero_()
    parts.tokenizer.eos_token_id = 0  # of equal logits the first is the greatest
    assert [len(ids) for ids in written(parts, made)] == [1] * 3


def test_the_settings_of_a_model_itself_play_no_part(small: list[str]) -> None:
    parts, made = sampler([*small, *DPO, *ON, f"{SAMPLING}.temperature=1"])
    expected = written(parts, made)
    own = parts.policy.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=9.0, max_length=1, min_new_tokens=40
    )
    assert written(parts, made) == expected
    assert parts.policy.generation_config is own
    assert written(*sampler([*small, *DPO, *ON])) != expected


def test_too_long_prompts_are_passed_over(small: list[str]) -> None:
    parts, made = sampler([*small, *DPO, *ON, f"{KEYS}.max_prompt_length=7"])
    found = made.rows(parts.policy, None, torch.device("cpu"))
    lengths = [len(item.prompt) for item in parts.items.validation]
    assert [row["index"] for row in found] == [index for index, length in enumerate(lengths) if length <= 7]
    with pytest.raises(DataError, match="every validation prompt is longer"):
        sampler([*small, *DPO, *ON, f"{KEYS}.max_prompt_length=2"])


def test_a_model_that_cannot_write_is_an_error(small: list[str]) -> None:
    parts = replace(build(config([*small, *DPO])), policy=cast("Any", torch.nn.Linear(1, 1)))
    with pytest.raises(ConfigError, match="needs a model with transformers' generate, but Linear has none"):
        generator_of(config([*small, *DPO, *ON]), parts, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["n_samples=3"], "n_samples: is 3, but it is ignored"),
        (["max_new_tokens=3"], "max_new_tokens: is 3, but it is ignored"),
        (["temperature=1"], "temperature: is 1.0, but it is ignored"),
        (["sample_during_eval=true", "n_samples=0"], "n_samples: must be at least 1, but is 0"),
        (["sample_during_eval=true", "max_new_tokens=33"], "at most max_length - max_prompt_length = 32, but is 33"),
        (["sample_during_eval=true", "max_new_tokens=0"], "max_new_tokens: must be at least 1"),
        (["sample_during_eval=true", "temperature=-1"], "temperature: must be a finite number of at least 0"),
        (["sample_during_eval=true", "temperature=nan"], "temperature: must be a finite number of at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(small: list[str], settings: list[str], words: str) -> None:
    (problem,) = constraint_problems(config([*small, *DPO, *(f"{SAMPLING}.{item}" for item in settings)]))
    assert words in str(problem)
