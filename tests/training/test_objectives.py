"""Whole runs of every loss: metrics, micro-batches, resuming, adapters, references, data of the wrong kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt_opt.errors import DataError
from gpt_opt.training.build import build
from gpt_opt.training.data.order import Batch, Collate
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.data.records import Example, ExampleData, Pair, PairData
from gpt_opt.training.describe import describe
from gpt_opt.training.loop import train
from gpt_opt.training.losses import KTO, token_logps
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.models.build import Reference
from gpt_opt.training.models.byte_tokenizer import END_OF_TEXT
from gpt_opt.training.objectives import Objective
from gpt_opt.training.objectives.sft import OTHER_COMPLETION
from tests.conftest import Runner
from tests.run.test_distributed import two_as_one
from tests.training.test_training import config, equal, final_weights, finish, folder, hooks, rows

LIVE = "loss.precompute_ref_log_probs=false"
KTO_LOSS = ["loss=kto", "loss.beta=0.1"]
PREFERENCES = [
    "dpo",
    "robust",
    "hinge",
    "ipo",
    "ipo_sum",
    "kto",
    "kto_pair",
    "orpo",
]
SHARED = {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
SHARED |= {"logps/chosen", "logps/rejected"}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preference_losses_report_alike(tmp_path: Path, small: list[str], name: str) -> None:
    result = finish([*small, f"loss={name}", "loss.beta=0.1"], folder(tmp_path / "run"))
    names = SHARED | ({"kto/kl"} if name == "kto" else set())
    own = {"grad_norm", "learning_rate", "tokens_per_second"}
    measured = names | {"seconds"} | (set() if name == "orpo" else {"kl"})
    assert result.metrics.keys() == names | own | {f"eval/{metric}" for metric in measured}
    margin = result.metrics["eval/rewards/chosen"] - result.metrics["eval/rewards/rejected"]
    assert result.metrics["eval/rewards/margins"] == pytest.approx(margin, rel=1e-5, abs=1e-7)


def test_the_losses_start_where_policy_and_reference_are_one(tmp_path: Path, small: list[str]) -> None:
    for name, expected in {"hinge": 1.0, "ipo": 25.0, "ipo_sum": 25.0, "kto": 0.5, "kto_pair": 0.5}.items():
        place = folder(tmp_path / name)
        assert train(config([*small, f"loss={name}", "loss.beta=0.1"]), place, hooks(stop_at=1)) is None
        start = rows(place)[0]
        assert start["eval/loss"] == pytest.approx(expected), name
        assert start["eval/kl"] == 0


@pytest.mark.parametrize("extra", [[], ["lora=lora"], ["model.policy_dtype=bfloat16"]], ids=["whole", "lora", "bf16"])
def test_the_reference_computes_with_the_precision_of_the_policy(
    tmp_path: Path, small: list[str], extra: list[str]
) -> None:
    mixed = "training.training_params.mixed_precision=bf16"
    place = folder(tmp_path / "run")
    assert train(config([*small, "loss.beta=0.1", mixed, *extra]), place, hooks(stop_at=1)) is None
    assert rows(place)[0]["eval/kl"] == 0
    assert rows(place)[0]["eval/rewards/margins"] == 0


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize(
    "loss",
    [KTO_LOSS, ["loss=orpo", "loss.beta=0.1"], ["loss=sft", "loss.reduction=sequence_mean"]],
    ids=["kto", "orpo", "sft_sequence_mean"],
)
def test_micro_batches_change_nothing_but_rounding(
    tmp_path: Path, small: list[str], loss: list[str], micro: int
) -> None:
    """Of KTO too: its reference point is that of the whole step, so a single answer at a time will do."""
    fast = [*small, *loss, "optimizer.optimizer_params.lr=0.01", "training.training_params.warmup_steps=0"]
    whole, parts = folder(tmp_path / "whole"), folder(tmp_path / "parts")
    finish(fast, whole)
    finish([*fast, f"training.training_params.micro_batch_size={micro}"], parts)
    for name in {"loss", "grad_norm", "eval/loss"} | ({"kto/kl", "eval/kto/kl"} if loss is KTO_LOSS else set()):
        values = [[row[name] for row in rows(place) if name in row] for place in (whole, parts)]
        assert len(values[0]) >= 4
        assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-5), name


def test_an_interrupted_run_of_kto_ends_like_an_undisturbed_one(tmp_path: Path, small: list[str]) -> None:
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish([*small, *KTO_LOSS], whole)
    assert train(config([*small, *KTO_LOSS]), broken, hooks(stop_at=5)) is None
    finish([*small, *KTO_LOSS], broken)
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))


def test_kto_with_adapters_has_the_base_as_reference(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    rate = "optimizer.optimizer_params.lr=0.01"
    result = finish([*small, *KTO_LOSS, "lora=lora", "lora.r=4", "lora.target_modules=[c_attn]", rate], place)
    start = rows(place)[0]
    assert (start["eval/kl"], start["eval/kto/kl"]) == (0, 0)
    assert result.metrics["eval/kl"] > 0


@pytest.mark.parametrize("lora", ["none", "lora"])
def test_no_reference_model_means_the_start_of_the_policy(tmp_path: Path, small: list[str], lora: str) -> None:
    chosen = [*small, "loss.beta=0.1", f"lora={lora}", "optimizer.optimizer_params.lr=0.01"]
    kept, switched = folder(tmp_path / "kept"), folder(tmp_path / "switched")
    finish(chosen, kept)
    result = finish([*chosen, "loss.use_ref_model=false"], switched)
    assert result.metrics["eval/kl"] > 0
    assert rows(kept) == rows(switched)


def test_orpo_keeps_a_reference_only_to_measure_the_divergence_from_it(tmp_path: Path, small: list[str]) -> None:
    loss = [*small, "loss=orpo", "loss.beta=0.1"]
    alone, measured = folder(tmp_path / "alone"), folder(tmp_path / "measured")
    finish(loss, alone)
    result = finish([*loss, "loss.use_ref_model=true"], measured)
    assert build(config(loss)).reference is None
    assert result.metrics["eval/kl"] > 0
    assert equal(final_weights(alone), final_weights(measured))


@pytest.mark.parametrize("loss", [["loss=orpo", "loss.use_ref_model=true"], ["loss.reference_free=true", LIVE]])
def test_a_reference_that_only_measures_runs_only_where_its_divergence_is_logged(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, loss: list[str]
) -> None:
    """In 12 steps every second is logged, and there are evaluations before, in and after them, every 4 steps."""
    seen = []
    lend = Reference.of
    monkeypatch.setattr(Reference, "of", lambda *given: seen.append(given) or lend(*given))
    finish([*small, *loss, "loss.beta=0.1"], folder(tmp_path / "run"))
    validation = len(build(config([*small, *loss, "loss.beta=0.1"])).items.validation)
    assert len(seen) == 6 + 4 * math.ceil(validation / 8)


def judged(label: str = "both") -> ExampleData:
    """A data set of single answers, all good or some good and some bad."""
    found = [Example(f"{index}: ", f"{index + 1}", label == "good" or index % 3 == 0) for index in range(40)]
    return ExampleData(tuple(found[:32]), tuple(found[32:]), "0" * 64)


def with_examples(overrides: list[str], **settings: Any) -> dict[str, Any]:
    made = config(overrides)
    made["data"]["dataset"] = {"name": "judged", "_target_": f"{__name__}.judged", **settings}
    return made


def test_kto_takes_single_answers(tmp_path: Path, small: list[str], caplog: pytest.LogCaptureFixture) -> None:
    made = with_examples([*small, *KTO_LOSS, "loss.undesirable_weight=0.5"])
    with caplog.at_level("INFO"):
        result = train(made, folder(tmp_path / "run"), hooks())
    assert result is not None
    assert {"rewards/chosen", "rewards/rejected"} <= result.metrics.keys()
    assert "11 desirable and 21 undesirable completions, 11 to 10.5 with their weights" in caplog.text
    assert "32 training and 8 validation examples" in describe(made)


def test_kto_takes_answers_of_one_kind(tmp_path: Path, small: list[str]) -> None:
    result = train(with_examples([*small, *KTO_LOSS], label="good"), folder(tmp_path / "run"), hooks())
    assert result is not None
    assert "rewards/chosen" in result.metrics
    assert not {"rewards/rejected", "rewards/margins"} & result.metrics.keys()


@pytest.mark.parametrize("loss", [["loss.beta=0.1"], ["loss=orpo", "loss.beta=0.1"]])
def test_single_answers_are_refused_by_losses_over_pairs(small: list[str], loss: list[str]) -> None:
    with pytest.raises(DataError, match=r"data\.dataset: must give pairs") as caught:
        build(with_examples([*small, *loss]))
    assert "take loss=kto" in str(caught.value)


def test_kto_on_pairs_sees_twice_as_many_examples(small: list[str]) -> None:
    parts, pairs = build(config([*small, *KTO_LOSS])), build(config([*small, "loss.beta=0.1"]))
    assert isinstance(parts.objective.loss, KTO)
    assert (len(parts.items.train), len(parts.items.validation)) == (
        2 * len(pairs.items.train),
        2 * len(pairs.items.validation),
    )
    assert parts.items.fingerprint == pairs.items.fingerprint


def paired() -> PairData:
    """Pairs of which some have one prompt, and a rejected answer that is too long and cannot be used."""
    rejected = "x" * 500 + END_OF_TEXT
    found = [Pair(f"{index}", f"{index + 1}", rejected) for index in range(40)]
    return PairData((*found[:32], Pair("0", "one", "1")), tuple(found[32:]), "0" * 64)


def test_fine_tuning_looks_at_no_rejected_answer(small: list[str]) -> None:
    made = config([*small, "loss=sft"])
    made["data"]["dataset"] = {"name": "paired", "_target_": f"{__name__}.paired"}
    parts = build(made)
    ids = [[*f"{index + 1}".encode(), 256] for index in range(1, 32)]
    assert [item.ids[1] for item in parts.items.train] == [[*b"one", 256], *ids]
    assert parts.items.report["train"] == {"rows": 32, "prompts_truncated": 0, "completions_truncated": 0}
    assert parts.items.report["dropped"] == {OTHER_COMPLETION: 1}


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_give_the_numbers_of_one_with_kto(tmp_path: Path, run_hydra: Runner) -> None:
    two_as_one(tmp_path, run_hydra, KTO_LOSS)


class Blocks(Objective):
    """Language modelling on blocks of a file of token ids, which is mapped and never tokenized."""

    item_name = "blocks"
    keeps_dropout = True

    def __init__(self, *parts: Any, file: str) -> None:
        super().__init__(*parts)
        self.file = file

    def items(self, config: Mapping[str, Any], tokenizer: Any) -> Items:
        blocks: Any = np.memmap(self.file, dtype=np.uint16, mode="r").reshape(-1, 32)
        return Items(blocks[8:], blocks[:8], {"train": {"rows": len(blocks) - 8}}, "f" * 64)

    def collator(self) -> Collate:
        return BlockCollator()

    def continuation(self, item: Any) -> tuple[list[int], list[int] | None]:
        return item[:8].tolist(), item[8:].tolist()

    def uses_reference(self, config: Mapping[str, Any]) -> bool:
        return False

    def loss_denominator(self, batch: Batch) -> float:
        return float(batch["labels"].numel())

    def batch_loss(
        self, model: Any, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[torch.Tensor, float]:
        total, count = -token_logps(self.forwards.logits(model, batch), batch["labels"]).sum(), batch["labels"].numel()
        metrics.add_sum("loss", total, count)
        return total, float(count)


class BlockCollator:
    def rows(self, item: Any) -> list[Any]:
        return [(item[:1], item[1:])]

    def __call__(self, batch: Sequence[Any]) -> dict[str, Any]:
        ids = torch.from_numpy(np.stack(batch).astype(np.int64))
        return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "logits_to_keep": ids.shape[1] - 1}


def test_an_objective_needs_no_records(tmp_path: Path, small: list[str]) -> None:
    """Ten of the 258 tokens are in the file, each after the one before: the loss falls from about ln 258 = 5.55."""
    (np.arange(32 * 72) % 10).astype(np.uint16).tofile(tmp_path / "tokens.bin")
    aligner = f"aligner={{_target_: {__name__}.Blocks, file: {tmp_path / 'tokens.bin'}}}"
    fast = "optimizer.optimizer_params.lr=0.03"
    overrides = [*small, "loss=sft", aligner, fast, "training.sampling.sample_during_eval=true"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    result = finish(overrides, whole)
    assert train(config(overrides), broken, hooks(stop_at=5)) is None
    finish(overrides, broken)
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))
    assert result.metrics["eval/loss"] < 3 < 5 < rows(whole)[0]["eval/loss"]
    assert result.tokens == 12 * 8 * 32
    assert "64 training and 8 validation blocks" in describe(config(overrides))
    written = [json.loads(line) for line in whole.samples.read_text().splitlines()]
    assert written[0]["chosen"] == "".join(chr(token % 10) for token in range(8, 32))
