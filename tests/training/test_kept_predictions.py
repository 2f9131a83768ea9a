"""What is kept of a reference: evaluations say the same as with its weights, which are let go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from gpt_opt.config.cache import VARIABLE
from gpt_opt.training import forwards
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.kept_predictions import KeptPredictions
from gpt_opt.training.losses.predictions import Head, Predictions
from gpt_opt.training.models.build import Reference
from tests.training.test_training import config, finish, folder, hooks, rows

DPO = ["loss.beta=0.1"]
LORA = ["lora=lora", "lora.r=2", "lora.target_modules=[c_attn]"]
OFTEN = ["optimizer.optimizer_params.lr=1e-2", "training.training_params.eval_every=2"]
BF16 = ["training.training_params.mixed_precision=bf16"]
MEASURED = ("eval/loss", "eval/kl", "eval/rewards/margins", "eval/rewards/accuracies", "eval/logps/chosen")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def evaluations(overrides: list[str], place: Path) -> list[list[float]]:
    finish(overrides, made := folder(place))
    return [[row[name] for name in MEASURED if name in row] for row in rows(made) if "eval/loss" in row]


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "LEAST_BYTES", 0)
    monkeypatch.setattr(forwards, "bytes_of", lambda weights: 0)


@pytest.mark.parametrize(
    "more",
    [
        [],
        BF16,
        ["loss=kto"],
        LORA,
        [*LORA, "lora.bias=all"],
        ["model.reference_dtype=bfloat16"],
        ["model.attn_implementation=eager"],
        ["training.training_params.ema_decay=0.9"],
    ],
    ids=["dpo", "bf16", "kto", "lora", "biases", "own", "padded", "ema"],
)
def test_evaluations_are_to_the_bit_those_of_a_reference_at_hand(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    kept = evaluations([*small, *DPO, *OFTEN, *more], tmp_path / "kept")
    no_room(monkeypatch)
    live = evaluations([*small, *DPO, *OFTEN, *more], tmp_path / "live")
    assert kept == live
    assert len(kept) == 7
    assert kept[-1][1] > 0
    in_steps = "loss.precompute_ref_log_probs=false"
    assert evaluations([*small, *DPO, *OFTEN, *more, in_steps], tmp_path / "in steps")[0] == kept[0]


@pytest.mark.parametrize(
    ("more", "stays"),
    [
        ([], False),
        (["model.reference_dtype=bfloat16"], False),
        (LORA, False),
        (["loss.precompute_ref_log_probs=false"], True),
        (["loss.reference_free=true"], True),
    ],
    ids=["dpo", "own", "lora", "live", "free"],
)
def test_weights_of_a_reference_that_nothing_asks_are_let_go(
    tmp_path: Path, small: list[str], more: list[str], stays: bool
) -> None:
    whole = config([*small, *DPO, *more])
    parts, place = build(whole), folder(tmp_path / "run")
    place.checkpoints.mkdir()
    trainer = build_trainer(whole, parts, place, hooks())
    trainer.precompute_reference_logps()
    trainer.args.eval_on_start = True
    trainer.train()
    assert parts.reference is not None
    assert (parts.reference.model is not None) is stays


def test_without_room_the_policy_is_copied_before_its_first_step(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room(monkeypatch)
    made: list[Reference] = []
    copy = Reference.copy_weights

    def counted(reference: Reference, policy: PreTrainedModel) -> None:
        made.append(reference)
        copy(reference, policy)

    monkeypatch.setattr(Reference, "copy_weights", counted)
    result = finish([*small, *DPO, *OFTEN, *BF16], folder(tmp_path / "run"))
    assert len(made) == 1
    assert made[0].model is not None
    assert result.metrics["eval/kl"] > 0


def test_what_is_kept_is_what_was_given_and_no_more_than_there_is_room_for() -> None:
    batch = {"input_ids": torch.arange(6).view(2, 3), "labels": torch.arange(6).view(2, 3)}
    other = {**batch, "labels": batch["labels"] + 1}
    states, weight = torch.randn(6, 4), torch.randn(6, 4)
    given = Predictions(Head(states, weight), batch["labels"].view(-1), (2, 3))
    kept = KeptPredictions(2 * 4 * 6 * 4)
    kept.add(batch, given, changes=True)
    kept.leave()
    assert kept.is_whole
    expected = given.logps()
    weight.zero_()
    found = kept.get(batch, torch.device("cpu"))
    assert found is not None
    assert torch.equal(found.logps(), expected)
    assert kept.get(other, torch.device("cpu")) is None
    full = KeptPredictions(2 * 4 * 6 * 4 - 1)
    full.add(batch, given, changes=True)
    full.leave()
    assert not full.is_whole
    assert full.get(batch, torch.device("cpu")) is None
