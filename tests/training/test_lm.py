"""Pretraining: labels shifted once, rows in order, exact resume, the same validation every time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from gpt_opt.config.shards import META_FILE, Meta, find_shards
from gpt_opt.errors import ConfigError, DataError
from gpt_opt.training.build import build
from gpt_opt.training.data.encode import vocabulary_sha256
from gpt_opt.training.data.order import SequentialOrder
from gpt_opt.training.data.shards import ShardRows, open_shard, write_shard
from gpt_opt.training.describe import describe
from gpt_opt.training.losses import LM
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from gpt_opt.training.objectives import LMObjective, objective_of
from gpt_opt.training.objectives.lm import TokenCollator
from tests.conftest import Runner
from tests.run.test_distributed import two_as_one
from tests.training.test_training import config, equal, final_weights, finish, folder, hooks, rows, train

CONTEXT, STEP_ROWS = 8, 4
PARAMS = "training.training_params"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training shards of 5, 0 and 4 steps of 4 rows of 8 tokens (the second is too small), and 70 to validate on."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("shards")
    for name, count in (("val_000000", 70), ("train_000001", 5 * 32 + 9), ("train_000002", 32), ("train_000003", 129)):
        write_shard(path / f"{name}.bin", draw.integers(0, 256, count))
    return path


@pytest.fixture(scope="module")
def overrides(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of 12 steps in two micro-batches, over the border of an epoch of 9."""
    return [
        "training=shards",
        f"data.dataset.path={shards}",
        "model.archive=null",
        "model.config.n_layer=1",
        "model.config.n_embd=16",
        "model.config.n_head=2",
        "model.config.resid_pdrop=0.1",  # dropout: the random state must be restored too
        "optimizer.optimizer_params.lr=1e-2",
        f"{PARAMS}.context_length={CONTEXT}",
        f"{PARAMS}.tokens_processed={CONTEXT * STEP_ROWS}",
        f"{PARAMS}.micro_batch_size=2",
        f"{PARAMS}.val_tokens_processed=40",
        f"{PARAMS}.max_steps=12",
        f"{PARAMS}.log_every=1",
        f"{PARAMS}.eval_every=3",
        f"{PARAMS}.save_every=4",
    ]


@pytest.fixture(scope="module")
def whole(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = folder(tmp_path_factory.mktemp("lm") / "whole")
    return place, finish(overrides, place)


def test_labels_are_shifted_once(overrides: list[str]) -> None:
    """The loss is what transformers computes of the same tokens, with a shift of its own."""
    parts = build(config(overrides))
    assert isinstance(parts.objective, LMObjective)
    items = [parts.items.train[index] for index in range(3)]
    batch = parts.collator(items)
    inputs, labels = batch["input_ids"], batch["labels"]
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(labels, torch.Tensor)
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert labels[:, -1].tolist() == [int(item[-1]) for item in items]
    parts.policy.eval()
    whole = torch.from_numpy(np.stack(items))
    theirs = parts.policy(input_ids=whole, labels=whole).loss
    ours = LM()(parts.policy(input_ids=inputs).logits, labels) / labels.numel()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    shifted_twice = parts.policy(input_ids=inputs, labels=labels).loss
    assert abs(shifted_twice.item() - ours.item()) > 1e-3


def test_ranks_get_the_rows_of_the_specification(vectors: dict[str, Any], tmp_path: Path) -> None:
    """As the data loader of two processes splits the order: no row twice, each where section D says."""
    case = vectors["shard_loader"]
    b, t = case["inputs"]["B"], case["inputs"]["T"]
    write_shard(tmp_path / "train_000001.bin", np.arange(30))
    write_shard(tmp_path / "train_000002.bin", np.arange(100, 125))
    shards = [open_shard(file) for file in find_shards(tmp_path, "train")]
    for world in (1, 2):
        found = ShardRows(shards, t, b * world, 65_536)
        order = SequentialOrder(found, b * world, len(found) // (b * world), 0, "sequences")
        for rank in range(world):
            loader = DataLoader(order, batch_size=b, collate_fn=TokenCollator())
            mine = prepare_data_loader(loader, num_processes=world, process_index=rank, put_on_device=False)
            firsts = [int(batch["input_ids"][0, 0]) for batch in mine]
            assert firsts == case["expected"]["first_token_of_each_batch"][f"world{world}_rank{rank}"]


def test_the_order_is_that_of_the_shards_whatever_the_seed() -> None:
    order = SequentialOrder(range(7), 3, 5, 9, "sequences")
    assert [order[index] for index in range(len(order))] == [0, 1, 2, 3, 4, 5] * 2 + [0, 1, 2]
    assert "seed" not in order.settings()


def test_what_a_run_takes_and_writes(whole: Any, overrides: list[str]) -> None:
    place, result = whole
    assert result.tokens == 12 * 32
    assert result.data["train"] == {"rows": 36, "tokens": 288, "shards": 3}
    assert result.data["validation"] == {"rows": 5, "tokens": 40, "shards": 1}
    written = rows(place)
    rates = [row["learning_rate"] for row in written if "learning_rate" in row]
    assert len(rates) == 12
    # The cosine of 12 steps with 1 step of warm-up, whose end is that of the training.
    assert rates[-1] == pytest.approx(1e-2 * (1 + math.cos(math.pi * 10 / 11)) / 2)
    evaluations = [row for row in written if "eval/loss" in row]
    assert [row["step"] for row in evaluations] == [0, 3, 6, 9, 12]
    for row in evaluations:
        assert row["eval/perplexity"] == pytest.approx(math.exp(row["eval/loss"]))


@pytest.mark.parametrize("stop_at", [6, 10])
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    whole: Any, overrides: list[str], tmp_path: Path, stop_at: int
) -> None:
    """In the last shard, after the one that is passed over, and in the second epoch."""
    broken = folder(tmp_path / "broken")
    assert train(config(overrides), broken, hooks(stop_at)) is None
    result = finish(overrides, broken)
    assert equal(final_weights(whole[0]), final_weights(broken))
    assert rows(whole[0]) == rows(broken)
    assert result.tokens == whole[1].tokens


def test_a_killed_run_goes_on_from_its_checkpoint(whole: Any, overrides: list[str], tmp_path: Path) -> None:
    class Kill(BaseException):
        pass

    def kill(step: int) -> None:
        if step == 7:
            raise Kill

    broken = folder(tmp_path / "broken")
    with pytest.raises(Kill):
        train(config(overrides), broken, hooks(on_step=kill))
    finish(overrides, broken)
    assert equal(final_weights(whole[0]), final_weights(broken))
    assert rows(whole[0]) == rows(broken)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_share_the_rows_of_a_step(overrides: list[str], tmp_path: Path, run_hydra: Runner) -> None:
    alike = [item for item in overrides if "resid_pdrop" not in item]  # each process draws its own dropout
    two_as_one(
        tmp_path, run_hydra, ["model.config.resid_pdrop=0"], lambda place: [*alike, f"paths.output_dir={place}/outputs"]
    )


def test_every_evaluation_measures_the_same_tokens(overrides: list[str], tmp_path: Path) -> None:
    place = folder(tmp_path / "run")
    still = ["optimizer.optimizer_params.lr=0", f"{PARAMS}.max_steps=4", f"{PARAMS}.eval_every=1"]
    finish([*overrides, *still], place)
    losses = [row["eval/loss"] for row in rows(place) if "eval/loss" in row]
    assert len(losses) == 5
    assert len(set(losses)) == 1


def test_micro_batches_change_nothing_but_rounding(whole: Any, overrides: list[str], tmp_path: Path) -> None:
    quiet, parts = "model.config.resid_pdrop=0", []
    for micro in (1, 4):
        place = folder(tmp_path / str(micro))
        finish([*overrides, quiet, f"{PARAMS}.micro_batch_size={micro}", f"{PARAMS}.max_steps=3"], place)
        parts.append(rows(place))
    for row, other in zip(*parts, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_epochs_are_whole_steps(overrides: list[str]) -> None:
    parts = build(config([*overrides, f"{PARAMS}.max_steps=null", f"{PARAMS}.num_epochs=2"]))
    assert parts.steps == 18
    order = parts.order(config(overrides))
    assert [int(order[index][0]) for index in range(36)] == [int(row[0]) for row in parts.items.train]
    assert np.array_equal(order[36], parts.items.train[0])


def test_a_dry_run_says_what_follows_from_the_tokens(overrides: list[str]) -> None:
    text = describe(config(overrides))
    assert "steps          12 of 4 (1.33 epochs)" in text
    assert "step           32 tokens: 2 x 2 sequences on 1 device" in text
    assert "tokens         384 in all, 8 in the longest sequence" in text


def test_more_validation_tokens_than_there_are(overrides: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"val_tokens_processed: must be at most the 64 tokens .* but is 72\n.*set it to 64"
    ):
        build(config([*overrides, f"{PARAMS}.val_tokens_processed=72"]))


def test_generations_continue_the_first_half_of_a_row(overrides: list[str], tmp_path: Path) -> None:
    place = folder(tmp_path / "run")
    asked = ["training.sampling.sample_during_eval=true", "training.sampling.n_samples=2", f"{PARAMS}.max_steps=1"]
    finish([*overrides, *asked], place)
    written = [json.loads(line) for line in place.samples.read_text().splitlines()]
    assert [row["index"] for row in written] == [0, 1, 0, 1]
    assert all(row["prompt"] and row["policy"] for row in written)


def test_shards_of_another_tokenizer_are_refused(overrides: list[str], shards: Path, tmp_path: Path) -> None:
    own = byte_tokenizer()
    meta = Meta("bytes", len(own), vocabulary_sha256(own), 1, 1, 1, {})
    for file in shards.glob("*.bin"):
        (tmp_path / file.name).symlink_to(file)
    there = [*overrides, f"data.dataset.path={tmp_path}"]
    (tmp_path / META_FILE).write_text(json.dumps(meta.to_record()))
    assert len(build(config(there)).items.train) == 36
    other = replace(meta, tokenizer="me/bytes", vocabulary="0" * 64)
    (tmp_path / META_FILE).write_text(json.dumps(other.to_record()))
    with pytest.raises(DataError, match=r"tokenizer of the shards, me/bytes \(258 tokens\)"):
        build(config(there))


def test_the_embedded_text_is_documents_back_to_back() -> None:
    items = build(config(["training=pydoc_text", "model.archive=null"])).items
    first = items.train[0]
    assert first[0] == 256
    assert byte_tokenizer().decode(first[1:]).isascii()
    assert items.report["train"]["tokens"] > 900_000


def test_data_that_is_no_tokens_is_refused(overrides: list[str]) -> None:
    wrong = config(overrides)
    wrong["data"]["dataset"] = {"name": "x", "_target_": "builtins.dict"}
    with pytest.raises(ConfigError, match=r"must give a TokenData, but builtins.dict gives a dict"):
        build(wrong)


def test_the_objective_of_the_loss() -> None:
    assert objective_of(LM()) is LMObjective
