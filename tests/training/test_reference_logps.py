"""The reference's log-probabilities, computed once: what a live reference says, for all runs that need the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_opt.config.cache import VARIABLE
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.data.order import Collator
from gpt_opt.training.interface import Folder
from gpt_opt.training.loop import train
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.models.build import Reference
from gpt_opt.training.reference_logps import ReferenceLogps
from gpt_opt.training.trainer import ObjectiveTrainer
from tests.training.test_training import config, equal, final_weights, finish, folder, hooks, rows

DPO = ["loss.beta=0.1"]
LIVE = "loss.precompute_ref_log_probs=false"
LORA = ["lora=lora", "lora.r=2", "lora.target_modules=[c_attn]", "lora.lora_dropout=0.5"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def trainer_of(overrides: Sequence[str], place: Folder) -> ObjectiveTrainer:
    made = config(overrides)
    place.checkpoints.mkdir()
    return build_trainer(made, build(made), place, hooks())


def steps(trainer: ObjectiveTrainer, live: bool) -> list[tuple[float, torch.Tensor]]:
    """Returns the loss of the first two steps and its gradient, each a whole batch, after weights have moved."""
    torch.manual_seed(0)
    policy, task = trainer.forwards.policy, trainer.task
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight += 0.02 * torch.randn_like(weight)
    collator = task.collator if live else trainer.data_collator
    policy.eval()  # without the dropout of adapters
    found = []
    for step in range(2):
        batch = dict(collator([task.order[index] for index in task.order.of_step(step)]))
        assert ("reference_logps" in batch) is not live
        trainer.objective.prepare([batch])
        loss, _ = trainer.objective.batch_loss(policy, batch, MetricAccumulator(), with_kl=False)
        gradients = torch.autograd.grad(loss, weights)
        found.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    return found


@pytest.mark.parametrize(
    "loss",
    [
        *([f"loss={name}"] for name in ("dpo", "robust", "hinge", "ipo", "ipo_sum", "kto", "kto_pair")),
        ["loss.label_smoothing=0.2"],
        LORA,
        ["loss=kto", *LORA],
        ["model.policy_dtype=bfloat16", "model.reference_dtype=float32"],
    ],
    ids=lambda loss: " ".join(loss)[:12],
)
def test_losses_and_gradients_are_those_of_a_live_reference(tmp_path: Path, small: list[str], loss: list[str]) -> None:
    trainer = trainer_of([*small, *DPO, *loss], folder(tmp_path / "run"))
    trainer.precompute_reference_logps()
    live = steps(trainer_of([*small, *DPO, *loss, LIVE], folder(tmp_path / "live")), live=True)
    calls: list[Any] = []
    trainer.forwards.reference_predictions = lambda batch: calls.append(batch)  # type: ignore[method-assign]
    for (mine, my_gradient), (theirs, their_gradient) in zip(steps(trainer, live=False), live, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
        assert torch.allclose(my_gradient.float(), their_gradient.float(), rtol=1e-3, atol=1e-5)
    assert not calls


def test_a_run_ends_as_with_a_live_reference(tmp_path: Path, small: list[str], cache: Path) -> None:
    live, first, second = (folder(tmp_path / name) for name in ("live", "first", "second"))
    finish([*small, *DPO, LIVE], live)
    assert not cache.exists()
    finish([*small, *DPO], first)
    finish([*small, *DPO], second)
    assert rows(first) == rows(second)
    assert equal(final_weights(first), final_weights(second))
    for mine, theirs in zip(rows(first), rows(live), strict=True):
        assert theirs.keys() - mine.keys() == ({"kl"} if "loss" in mine else set())
        assert mine == pytest.approx({name: theirs[name] for name in mine}, rel=2e-4, abs=2e-6)
    assert rows(first)[0]["eval/kl"] == rows(first)[0]["eval/rewards/margins"] == 0


@pytest.mark.parametrize(
    "more", [[], ["model.policy_dtype=bfloat16"], LORA, ["loss=kto"]], ids=["f32", "bf16", "lora", "kto"]
)
def test_before_the_first_step_every_pair_is_a_tie(tmp_path: Path, small: list[str], more: list[str]) -> None:
    """To the bit, though the numbers of the file were computed among others."""
    place = folder(tmp_path / "run")
    keys = "training.training_params"
    once = [f"{keys}.max_steps=1", f"{keys}.log_every=1", f"{keys}.micro_batch_size=3", f"{keys}.batch_size=9"]
    finish([*small, *DPO, *more, *once], place)
    [row] = [row for row in rows(place) if "loss" in row]
    assert row["loss"] == pytest.approx(0.5 if "loss=kto" in more else math.log(2), abs=1e-7)
    assert row["rewards/margins"] == row["rewards/chosen"] == row["rewards/accuracies"] == 0


def test_steps_do_without_the_reference(tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lent: list[Any] = []
    lend = Reference.of
    monkeypatch.setattr(Reference, "of", lambda *given: lent.append(given) or lend(*given))
    counts = []
    for name, more in {"first": [], "beta": ["loss.beta=0.3"]}.items():
        lent.clear()
        finish([*small, *DPO, *more, "training.training_params.max_steps=4"], folder(tmp_path / name))
        counts.append(len(lent))
    assert counts == [2, 1]  # a batch of validation data before the steps, and one of all training sequences


def test_betas_seeds_losses_and_adapters_share_a_file(tmp_path: Path, small: list[str]) -> None:
    """Of an epoch of 73 pairs one is left out, another one with another seed: the file has all."""
    weights = tmp_path / "weights.pt"
    torch.save(build(config([*small, *DPO])).policy.state_dict(), weights)
    longer = [*small, f"model.archive={weights}", "training.training_params.max_steps=7"]
    files = set()
    others = [["loss.beta=0.5", "seed=1"], ["loss=ipo", "loss.beta=1", "seed=2"], [*DPO, *LORA]]
    for index, more in enumerate([DPO, *others]):
        logps = trainer_of([*longer, *more], folder(tmp_path / str(index))).task.reference_logps
        assert logps is not None
        files.add(logps.file)
    assert len(files) == 1


def test_whatever_changes_the_numbers_changes_the_file(tmp_path: Path, small: list[str]) -> None:
    params = "training.training_params"
    cases: list[list[str]] = [
        [],
        ["seed=1"],  # other weights
        ["model.config.activation_function=relu"],
        ["model.reference_dtype=bfloat16"],
        ["model.attn_implementation=eager"],
        [f"{params}.mixed_precision=bf16"],
        [f"{params}.max_length=16", f"{params}.max_prompt_length=8"],
        ["data.dataset.max_samples=70"],
        ["loss=kto"],
    ]
    files = set()
    for index, case in enumerate(cases):
        logps = trainer_of([*small, *DPO, *case], folder(tmp_path / str(index))).task.reference_logps
        assert logps is not None
        files.add(logps.file)
    assert len(files) == len(cases)


def test_only_the_sequences_of_the_steps_are_computed_where_they_are_a_small_part(
    tmp_path: Path, small: list[str]
) -> None:
    trainer = trainer_of([*small, *DPO, "training.training_params.max_steps=1"], folder(tmp_path / "run"))
    trainer.precompute_reference_logps()
    taken = [trainer.task.order[index] for index in range(8)]
    others = [item for item in trainer.task.order._items if item not in taken]
    assert "reference_logps" in trainer.data_collator(taken)
    assert "reference_logps" not in trainer.data_collator([others[0]])
    assert "reference_logps" not in trainer.data_collator([taken[0], others[0]])


ROWS = [([1, 2], [3]), ([1], [2, 3]), ([5, 6, 7], [8, 9]), ([1, 2], [3]), ([4], [4]), ([1, 2], [6, 1])]


def test_equal_sequences_have_equal_numbers_and_others_their_own(tmp_path: Path) -> None:
    """A prompt is none of the completion: (1 2 | 3) is not (1 | 2 3)."""
    logps = ReferenceLogps(ROWS, "identity", tmp_path)
    seen = []

    def compute(batch: Any) -> torch.Tensor:
        seen.append(len(batch["input_ids"]))
        return -batch["labels"].clamp(min=0).sum(-1).float()

    assert logps.fill(compute, lambda: False)
    assert seen == [2, 3]  # the two of one prompt, for a forward that shares it; then the others
    assert ReferenceLogps(ROWS[::-1], "identity", tmp_path).file == logps.file
    assert ReferenceLogps(ROWS, "other", tmp_path).file != logps.file

    class Pairs(Collator):
        def rows(self, item: Any) -> list[Any]:
            return [ROWS[index] for index in item]

    batch = logps.collator(Pairs())([(0, 3), (1, 2), (5, 4)])
    assert isinstance(batch["reference_logps"], torch.Tensor)
    assert batch["reference_logps"].tolist() == [-3, -5, -7, -3, -17, -4]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["collator={_target_: gpt_opt.training.data.order.Collator}"], "a collator or an aligner of the user's own"),
        (["aligner={_target_: gpt_opt.training.objectives.PreferenceObjective}"], "a collator or an aligner"),
        (["fsdp=full_shard"], "weights are sharded"),
        ([], "there is no cache, GPTOPT_CACHE is empty"),
    ],
    ids=["collator", "aligner", "fsdp", "no cache"],
)
def test_it_is_off_where_it_might_be_wrong_and_says_so(
    small: list[str], more: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not more:
        monkeypatch.setenv(VARIABLE, "")
    with caplog.at_level("INFO"):
        reference = build(config([*small, *DPO, *more])).reference
    assert reference is not None
    assert reference.fingerprint is None
    assert reason in caplog.text


def test_a_cache_that_cannot_be_written_costs_a_line_and_no_run(
    tmp_path: Path, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    live, other = folder(tmp_path / "live"), folder(tmp_path / "other")
    fewer = [*small, *DPO, "training.training_params.max_steps=4"]
    finish(fewer, live)
    assert caplog.text.count("reference log-probabilities cannot be kept") == 1
    finish([*fewer, LIVE], other)
    assert [row.get("loss") for row in rows(live)] == [row.get("loss") for row in rows(other)]
    assert not [row for row in rows(live) if "kl" in row]


def test_batches_that_do_not_fit_into_the_memory_cost_a_line_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def compute(_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    logps = ReferenceLogps(ROWS, "identity", tmp_path)
    assert not logps.fill(compute, lambda: False)
    assert "do not fit, and are computed in each step: CUDA out of memory" in caplog.text
    assert logps.fill(lambda batch: -batch["labels"].clamp(min=0).sum(-1).float(), lambda: False), "no lock is left"


def test_a_loss_without_a_reference_has_none_before_evaluations(tmp_path: Path, small: list[str], cache: Path) -> None:
    place = folder(tmp_path / "run")
    free = [*small, *DPO, "loss.reference_free=true", "training.training_params.max_steps=4"]
    assert train(config(free), place, hooks()) is not None
    assert not cache.exists()
    assert [row["step"] for row in rows(place) if "eval/kl" in row] == [0, 4]
    assert not [row for row in rows(place) if "kl" in row]
