"""What loss=lm asks of a config: the arithmetic of tokens, its data, and no key that it would ignore."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gpt_opt.cli.prepare import prepare
from gpt_opt.config.checks.batches import accumulation_steps, batch_problems, batch_size, nearest
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.config.shards import META_FILE, Meta
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.training.data.shards import write_shard
from tests.conftest import CONFIG_DIR
from tests.helpers.configs import by_hydra

register()
register_resolvers()

PARAMS = "training.training_params"


@cache
def composed(*overrides: str) -> dict[str, Any]:
    return by_hydra(overrides)


def problems(overrides: Sequence[str]) -> list[str]:
    """Composes groups and mandatory keys, once each, and sets the other keys as Hydra would."""
    others = [text for text in overrides if text.startswith(("training.", "model."))]
    config = copy.deepcopy(composed(*(text for text in overrides if text not in others)))
    for key, value in (text.split("=", 1) for text in others):
        *path, name = key.split(".")
        node = reduce(lambda node, part: node[part], path, config)
        assert name in node, key
        node[name] = yaml.safe_load(value)
    return [str(problem) for problem in constraint_problems(config)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    for name in ("train_000001", "val_000000"):
        write_shard(path / f"{name}.bin", np.arange(5000) % 250)
    return path


@pytest.fixture
def shards(folder: Path) -> list[str]:
    return ["training=shards", f"data.dataset.path={folder}"]


def test_the_options_have_no_problems(shards: list[str]) -> None:
    assert problems(shards) == []
    assert problems(["training=pydoc_text"]) == []
    by_rows = [f"{PARAMS}.tokens_processed=null", f"{PARAMS}.batch_size=8", f"{PARAMS}.micro_batch_size=4"]
    assert problems([*shards, *by_rows]) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [f"{PARAMS}.tokens_processed=1000"],
            "tokens_processed: must be devices x context_length x an integer, but 1000 / (1 x 256) = 3.90625\n"
            "      set it to 768 or 1024",
        ),
        (
            [f"{PARAMS}.micro_batch_size=3"],
            "tokens_processed: must be devices x micro_batch_size x context_length x an integer, but "
            "4096 / (1 x 3 x 256) = 5.33333\n      set it to 3840 or 4608, or change micro_batch_size",
        ),
        ([f"{PARAMS}.tokens_processed=100"], "but 100 / (1 x 256) = 0.390625\n      set it to 256"),
        ([f"{PARAMS}.micro_batch_size=0"], "micro_batch_size: must be at least 1, but is 0"),
        ([f"{PARAMS}.gradient_accumulation_steps=2"], "gradient_accumulation_steps: must equal"),
        ([f"{PARAMS}.batch_size=16"], "exactly one of tokens_processed and batch_size must be given, but 2 are"),
        (
            [f"{PARAMS}.tokens_processed=null"],
            "exactly one of tokens_processed and batch_size must be given, but 0 are",
        ),
        ([f"{PARAMS}.context_length=null"], "context_length: must be at least 1 for loss=lm, the tokens of a sequence"),
        ([f"{PARAMS}.context_length=512"], "context_length: must fit the model: context_length=512"),
        ([f"{PARAMS}.tokens_processed=8192"], "must fit a training shard: a step needs 8,193 tokens, "),
        (
            [f"{PARAMS}.val_tokens_processed=1000"],
            "val_tokens_processed: must be context_length=256 x an integer, but 1000 / 256 = 3.90625\n"
            "      set it to 768 or 1024, or to null",
        ),
        ([f"{PARAMS}.max_prompt_length=64"], "max_prompt_length: is 64, but loss=lm, which has no prompts"),
        ([f"{PARAMS}.max_length=64"], "max_length: is 64, but loss=lm"),
        ([f"{PARAMS}.add_bos=false"], "add_bos: is false, but loss=lm"),
        ([f"{PARAMS}.n_examples=15"], "n_examples: must be at least batch_size=16"),
        (["loss=dpo", "loss.beta=0.1"], "data: is data=shards, rows of tokens, from which only loss=lm learns"),
        (["model.tokenizer_name_or_path=gpt2"], "must be the tokenizer of the shards, bytes (258 tokens), but is gpt2"),
    ],
)
def test_what_contradicts_itself_is_named(overrides: list[str], said: str, shards: list[str], folder: Path) -> None:
    (folder / META_FILE).write_text(json.dumps(Meta("bytes", 258, "", 1, 1, 1, {}).to_record()))
    found = problems([*shards, *overrides])
    assert [text for text in found if said in text], found


def test_records_are_refused() -> None:
    (problem,) = problems(["training=shards", "data=pydoc"])
    assert "data: must be token data for loss=lm, but data=pydoc has records" in problem


def test_a_vocabulary_that_is_too_small(shards: list[str], folder: Path) -> None:
    (folder / META_FILE).write_text(json.dumps(Meta("gpt2", 50_257, "", 1, 1, 1, {}).to_record()))
    (problem,) = problems([*shards, "model.tokenizer_name_or_path=gpt2"])
    assert "model.config.vocab_size: must be at least 50,257, the tokens of the shards' tokenizer gpt2" in problem
    (problem,) = problems(shards)
    assert "must be the tokenizer of the shards, gpt2 (50,257 tokens), but is bytes" in problem
    (folder / META_FILE).unlink()


@pytest.mark.parametrize("key", ["tokens_processed", "context_length", "val_tokens_processed"])
def test_other_losses_refuse_the_keys_of_pretraining(key: str) -> None:
    (problem,) = problems(["loss.beta=0.1", f"{PARAMS}.{key}=128"])
    assert f"{key}: is 128, but loss=dpo ignores it: only loss=lm has it" in problem


@pytest.mark.parametrize("key", ["batch_size", "max_length", "max_prompt_length"])
def test_other_losses_need_their_sizes(key: str) -> None:
    assert f"{key}: must be given for loss=dpo, but is null" in problems(["loss.beta=0.1", f"{PARAMS}.{key}=null"])[0]


def test_the_batches_of_several_devices() -> None:
    params = {"batch_size": None, "tokens_processed": 4096, "context_length": 256, "micro_batch_size": 2}
    params["gradient_accumulation_steps"] = None
    assert batch_size(params) == 16
    assert list(batch_problems(params, 4)) == []
    assert [accumulation_steps(params, devices) for devices in (1, 2, 4)] == [8, 4, 2]
    assert "4096 / (3 x 2 x 256)" in str(next(batch_problems(params, 3)))
    assert nearest(4096, 1536) == "3072 or 4608"


MISSING = sorted(
    file.stem
    for file in (CONFIG_DIR / "data").glob("*.yaml")
    if "\n  - shards\n" in file.read_text() or file == "shards"
)


def test_there_are_published_texts() -> None:
    names = "fineweb1B fineweb10B finewebmini fineweb_edu10B slim_pajama1B slim_pajama10B wikitext shakespeare"
    assert set(MISSING) == set(names.split())


@pytest.mark.parametrize("name", MISSING)
def test_missing_shards_are_answered_with_the_command_that_makes_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One problem; the command is one that gptopt prepare takes; its folder is the one that is looked at."""
    monkeypatch.chdir(tmp_path)
    (problem,) = problems([f"training={name}", "model.config.n_positions=1024", "model.archive=null"])
    assert problem.startswith(f"data.dataset.path: must hold shards train_*.bin, but 'data/{name}' is not there\n")
    command = shlex.split(problem.partition("make them: ")[2])
    assert command[:2] == ["gptopt", "prepare"]
    context = prepare.make_context("prepare", command[2:])
    assert context.params["out"] == Path("data", name)
    option = yaml.safe_load((CONFIG_DIR / "data" / f"{name}.yaml").read_text())["dataset"]
    assert context.params["out"] == Path(option["path"])
