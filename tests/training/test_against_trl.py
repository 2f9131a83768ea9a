"""Losses, gradients and whole training steps against TRL's, and each place where the two differ on purpose."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainingArguments

from gpt_opt.errors import DataError
from gpt_opt.training.data.order import Collator, TrainingOrder
from gpt_opt.training.data.records import Pair, PairData, TokenizedPair
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize
from gpt_opt.training.distributed import fresh_accelerate
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.losses import DPO, IGNORED, IPO, KTO, ORPO, SFT, Hinge, PairLoss, Robust
from gpt_opt.training.models.build import Reference
from gpt_opt.training.models.byte_tokenizer import END_OF_TEXT, VOCAB_SIZE, byte_tokenizer
from gpt_opt.training.objectives import objective_of
from gpt_opt.training.objectives.unpaired import unpaired
from gpt_opt.training.optimizers.evaluation_weights import EvaluationWeights
from gpt_opt.training.trainer import ObjectiveTrainer, Task

trl = pytest.importorskip("trl", reason="the peer is a development tool")
datasets = pytest.importorskip("datasets")

BETA = 0.3
LIMITS = SequenceLimits(max_length=80, max_prompt_length=40, truncation_side="right")
SMOOTHING = 0.1
# Unequal lengths on both sides, an answer that is longer than its rival, bytes beyond ASCII, a space at the border.
PAIRS = [
    Pair("Question: what is two and two?", " It is four.", " It is a number between three and nine."),
    Pair("def add(a, b):", "\n    return a + b\n", "\n    pass\n"),
    Pair("A", "b", "c"),
    Pair("Grüße aus ", "Köln — bis bald", "Ulm"),
    Pair("The capital of France is", " Paris", " London, I think"),
    Pair("1 2 3 ", "4 5 6 7 8 9", "9 9"),
    Pair("\ttabs\t", "and\nnewlines\n\n", "and none"),
    Pair("Say nothing.", " ", "Nothing."),
]


@pytest.fixture(autouse=True)
def _no_state_between_trainers() -> Iterator[None]:
    with fresh_accelerate():
        yield


def tiny_model(seed: int) -> GPT2LMHeadModel:
    """Returns a random model whose distributions are far from uniform, so that no gradient is lost in rounding."""
    torch.manual_seed(seed)
    shape = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=80,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=257,
    )
    return GPT2LMHeadModel(shape)


def arguments(kind: Callable[..., Any], folder: Path, **settings: Any) -> Any:
    """Returns the training arguments that both sides share."""
    shared = {
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": len(PAIRS),
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": kind is not TrainingArguments,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    return kind(**{**shared, **settings})


def our_trainer(
    folder: Path,
    policy: GPT2LMHeadModel,
    loss: PairLoss | KTO | SFT,
    reference: GPT2LMHeadModel | None,
    **settings: Any,
) -> Any:
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    objective = objective_of(loss)(loss, LIMITS)
    pairs = objective.records(PairData(tuple(PAIRS), (), "")).train
    records = EXAMPLES if isinstance(loss, KTO) else pairs
    task = Task(
        order=InOrder(tokenize(records, byte_tokenizer(), LIMITS), objective),
        validation=(),
        collator=objective.collator(),
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: 1.0),
        save_total_limit=None,
        folder=Folder(folder / "checkpoints", folder / "metrics.jsonl", folder / "samples.jsonl"),
        hooks=Hooks(lambda step, total: None, lambda: False, lambda: None),
        data_fingerprint="",
        best=None,
        inputs={},
        evaluation_weights=EvaluationWeights(optimizer),
    )
    own = arguments(TrainingArguments, folder, **settings)
    return ObjectiveTrainer(policy, own, task, objective, None if reference is None else Reference(reference))


class InOrder(TrainingOrder):
    """The items as they come, three times over: TRL knows nothing of our shuffle."""

    def __init__(self, items: Sequence[Any], objective: Any) -> None:
        super().__init__(items, len(items), 3, 0, objective.item_name, objective.arrange)

    def _order(self, epoch: int) -> list[int]:
        return list(range(len(self._items)))


BOTH = unpaired(PairData(tuple(PAIRS), (), "")).train
# One of each prompt: TRL would give answers to their own prompts.
EXAMPLES = [BOTH[2 * index + (index % 3 == 0)] for index in range(len(PAIRS))]


def trl_dpo(
    folder: Path,
    policy: GPT2LMHeadModel,
    reference: GPT2LMHeadModel,
    pairs: Sequence[Pair] = tuple(PAIRS),
    **settings: Any,
) -> Any:
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    defaults = {
        "bf16": False,
        "gradient_checkpointing": False,
        "beta": BETA,
        "max_length": LIMITS.max_length,
        "loss_type": "sigmoid",
    }
    tokenizer = settings.pop("processing_class", byte_tokenizer())
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    return trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments(trl.DPOConfig, folder, **{**defaults, **settings}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    )


def trl_kto(folder: Path, policy: GPT2LMHeadModel, reference: GPT2LMHeadModel, **settings: Any) -> Any:
    rows = [{"prompt": item.prompt, "completion": item.completion, "label": item.desirable} for item in EXAMPLES]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    defaults = {
        "bf16": False,
        "gradient_checkpointing": False,
        "beta": BETA,
        "max_length": LIMITS.max_length,
        "per_device_train_batch_size": len(EXAMPLES),
    }
    return trl.KTOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments(trl.KTOConfig, folder, **{**defaults, **settings}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    )


def trl_orpo(folder: Path, policy: GPT2LMHeadModel) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in PAIRS]
    settings = {"bf16": False, "gradient_checkpointing": False, "beta": BETA, "max_length": LIMITS.max_length}
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    return ORPOTrainer(
        model=policy,
        args=arguments(ORPOConfig, folder, **settings, remove_unused_columns=False),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    )


def trl_sft(folder: Path, policy: GPT2LMHeadModel, **settings: Any) -> Any:
    rows = [{"prompt": pair.prompt, "completion": pair.chosen} for pair in PAIRS]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    defaults = {
        "bf16": False,
        "gradient_checkpointing": False,
        "completion_only_loss": True,
        "max_length": LIMITS.max_length,
    }
    return trl.SFTTrainer(
        model=policy,
        args=arguments(trl.SFTConfig, folder, **{**defaults, **settings}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    )


def our_tokens(pairs: Sequence[Pair], limits: SequenceLimits = LIMITS) -> list[tuple[list[int], list[int], list[int]]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in tokenize(pairs, byte_tokenizer(), limits)]


def trl_tokens(peer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in peer.train_dataset]


def whole_batch(trainer: Any) -> dict[str, Any]:
    """Returns the batch of one optimizer step as the trainer's own loader makes it."""
    return next(iter(trainer.get_train_dataloader()))


def loss_and_gradients(
    trainer: Any, batch: dict[str, Any], units: float | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = trainer.model.train()
    model.zero_grad()
    if isinstance(trainer, ObjectiveTrainer):
        trainer.objective.prepare([batch])
    count = None if units is None else torch.tensor(units)
    loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
    loss.backward()
    return loss.detach(), {name: item.grad.clone() for name, item in model.named_parameters()}


def assert_equal(mine: Mapping[str, torch.Tensor], its: Mapping[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Asserts that each tensor is the same but for `tolerance` of its own largest element."""
    assert mine.keys() == its.keys()
    for name, expected in its.items():
        largest = expected.abs().max()
        assert largest > 0, name
        assert (mine[name] - expected).abs().max() <= tolerance * largest, name


def trl_loss_and_margin(folder: Path, pairs: Sequence[Pair] = tuple(PAIRS), **settings: Any) -> tuple[float, float]:
    """Returns TRL's loss and mean reward margin for the two models of these tests."""
    peer = trl_dpo(folder, tiny_model(1), tiny_model(2), pairs, **settings)
    loss, _ = loss_and_gradients(peer, whole_batch(peer), None)
    return float(loss), peer._metrics["train"]["rewards/margins"][0]


VARIANTS = {
    "sigmoid": DPO(BETA),
    "hinge": Hinge(BETA),
    "ipo": IPO(BETA),
    "robust": Robust(BETA, label_smoothing=SMOOTHING),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_over_pairs_have_the_values_the_gradients_and_the_metrics_of_trl(tmp_path: Path, name: str) -> None:
    policy, reference = tiny_model(1), tiny_model(2)
    smoothing = {"label_smoothing": SMOOTHING} if name == "robust" else {}
    peer = trl_dpo(tmp_path, copy.deepcopy(policy), copy.deepcopy(reference), loss_type=name, **smoothing)
    own = our_trainer(tmp_path, policy, VARIANTS[name], reference)
    assert our_tokens(PAIRS) == trl_tokens(peer)

    its_loss, its_gradients = loss_and_gradients(peer, whole_batch(peer), None)
    loss, gradients = loss_and_gradients(own, whole_batch(own), len(PAIRS))
    torch.testing.assert_close(loss, its_loss, rtol=1e-5, atol=0)
    assert len(gradients) == 28
    assert_equal(gradients, its_gradients)

    metrics = own.progress.metrics.take(lambda values: values)
    for name in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ):
        (expected,) = peer._metrics["train"][name]
        assert metrics[name] == pytest.approx(expected, rel=1e-5), name
    assert 0 < metrics["rewards/accuracies"] < 1


def test_kto_has_the_loss_the_gradients_and_the_metrics_of_trl(tmp_path: Path) -> None:
    """One batch is the whole step here, so TRL rotates the answers in the same circle."""
    policy, reference = tiny_model(1), tiny_model(2)
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.3}
    peer = trl_kto(tmp_path, copy.deepcopy(policy), copy.deepcopy(reference), **weights)
    own = our_trainer(tmp_path, policy, KTO(BETA, **weights), reference, per_device_train_batch_size=len(EXAMPLES))
    items = [own.task.order[place] for place in range(len(EXAMPLES))]
    assert [(item.prompt, item.other) for item in items] == [
        (row["prompt_ids"], row["KL_completion_ids"]) for row in peer.train_dataset
    ]

    its_loss, its_gradients = loss_and_gradients(peer, whole_batch(peer), None)
    loss, gradients = loss_and_gradients(own, whole_batch(own), len(EXAMPLES))
    torch.testing.assert_close(loss, its_loss, rtol=1e-5, atol=0)
    assert len(gradients) == 28
    assert_equal(gradients, its_gradients)

    metrics = own.objective.finish(own.progress.metrics.take(lambda values: values))
    sides = [f"{name}/{side}" for name in ("rewards", "logps") for side in ("chosen", "rejected")]
    for name in (*sides, "rewards/margins"):
        (expected,) = peer._metrics["train"][name]
        assert metrics[name] == pytest.approx(expected, rel=1e-5), name
    assert metrics["kto/kl"] > 1
    # TRL calls the reference point kl; here that is the divergence on the data, as for all other losses.
    assert metrics["kto/kl"] == pytest.approx(peer._metrics["train"]["kl"][0], rel=1e-5, abs=1e-6)


def test_orpo_has_the_loss_and_the_gradients_of_trl_but_for_its_likelihood_term(tmp_path: Path) -> None:
    """TRL's term is the mean over all tokens of prompts and chosen answers; ours, the paper's, one over answers."""
    policy = tiny_model(1)
    peer = trl_orpo(tmp_path, copy.deepcopy(policy))
    its_loss, its_gradients = loss_and_gradients(peer, whole_batch(peer), None)
    own = our_trainer(tmp_path, policy, ORPO(BETA, sft_term=False), None)
    batch = whole_batch(own)
    loss, gradients = loss_and_gradients(own, batch, len(PAIRS))

    policy.zero_grad()
    ids = batch["input_ids"][: len(PAIRS)]
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, chosen, _) in enumerate(our_tokens(PAIRS)):
        end = len(prompt) + len(chosen)
        labels[row, :end] = ids[row, :end]
    likelihood = policy(input_ids=ids, labels=labels).loss
    likelihood.backward()
    torch.testing.assert_close(loss + likelihood.detach(), its_loss, rtol=1e-5, atol=0)
    terms = {name: gradients[name] + item.grad for name, item in policy.named_parameters() if item.grad is not None}
    assert_equal(terms, its_gradients)

    whole = our_trainer(tmp_path, policy, ORPO(BETA), None)
    with_paper_term, _ = loss_and_gradients(whole, batch, len(PAIRS))
    metrics = whole.progress.metrics.take(lambda values: values)
    assert float(with_paper_term) > float(loss)
    assert float(with_paper_term) != pytest.approx(float(its_loss), rel=1e-2)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"):
        assert metrics[name] == pytest.approx(peer._stored_metrics["train"][name][0], rel=1e-5), name


def test_sft_has_the_loss_and_the_gradients_of_trl_with_the_prompt_masked(tmp_path: Path) -> None:
    policy = tiny_model(1)
    peer = trl_sft(tmp_path, copy.deepcopy(policy))
    own = our_trainer(tmp_path, policy, SFT(), None)
    pairs = tokenize(PAIRS, byte_tokenizer(), LIMITS)
    assert [row["input_ids"] for row in peer.train_dataset] == [pair.prompt + pair.chosen for pair in pairs]
    answers = sum(len(pair.chosen) for pair in pairs)

    its_loss, its_gradients = loss_and_gradients(peer, whole_batch(peer), None)
    loss, gradients = loss_and_gradients(own, whole_batch(own), answers)
    torch.testing.assert_close(loss, its_loss, rtol=1e-5, atol=0)
    assert_equal(gradients, its_gradients)


@pytest.mark.parametrize("method", ["dpo", "sft"])
@pytest.mark.parametrize(("accumulation", "max_grad_norm"), [(1, 0.5), (2, 0.0)], ids=["clipped", "accumulated"])
def test_three_steps_of_training_give_the_weights_of_trl(
    tmp_path: Path, method: str, accumulation: int, max_grad_norm: float
) -> None:
    """Through both whole loops: order, clipping, accumulation over micro-batches of unequal token counts, update.

    What accumulates is not clipped: clipping would hide a wrong scale.
    """
    policy, reference = tiny_model(1), tiny_model(2)
    its_policy = copy.deepcopy(policy)
    cut = {
        "per_device_train_batch_size": len(PAIRS) // accumulation,
        "gradient_accumulation_steps": accumulation,
        "max_grad_norm": max_grad_norm,
    }
    if method == "dpo":
        peer = trl_dpo(tmp_path, its_policy, copy.deepcopy(reference), **cut)
        own = our_trainer(tmp_path, policy, DPO(BETA), reference, **cut)
    else:
        peer = trl_sft(tmp_path, its_policy, **cut)
        own = our_trainer(tmp_path, policy, SFT(), None, **cut)
    start = {name: item.detach().clone() for name, item in policy.named_parameters()}
    peer.train()
    own.train()
    # Differences of the weights, not the weights themselves: those hardly move, and would agree in any case.
    moved = {name: item.detach() - start[name] for name, item in policy.named_parameters()}
    its_moves = {name: item.detach() - start[name] for name, item in its_policy.named_parameters()}
    assert_equal(moved, its_moves, tolerance=1e-3)
    its_losses = [row["loss"] for row in peer.state.log_history if "loss" in row]
    losses = [row["loss"] for row in own.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert losses == pytest.approx(its_losses, rel=1e-4)


def test_difference_label_smoothing_is_conservative_dpo_where_trl_ignores_it(tmp_path: Path) -> None:
    """-log sigmoid(-x) = -log sigmoid(x) + x, so each smoothed mean is the plain one and a multiple of the margin."""
    plain, margin = trl_loss_and_margin(tmp_path)
    smoothed, _ = trl_loss_and_margin(tmp_path, label_smoothing=SMOOTHING)
    robust, _ = trl_loss_and_margin(tmp_path, label_smoothing=SMOOTHING, loss_type="robust")
    own = our_trainer(tmp_path, tiny_model(1), DPO(BETA, label_smoothing=SMOOTHING), tiny_model(2))
    loss, _ = loss_and_gradients(own, whole_batch(own), len(PAIRS))
    assert abs(margin) > 0.01
    assert smoothed == plain
    # Mitchell 2023, eq. 3.
    assert float(loss) == pytest.approx(plain + SMOOTHING * margin, rel=1e-5)
    # TRL's other use of the number: robust DPO (Chowdhury et al. 2024, arXiv 2403.00409, eq. 12), with the other sign.
    assert robust == pytest.approx(plain - SMOOTHING / (1 - 2 * SMOOTHING) * margin, rel=1e-5)


def test_difference_reference_free_exists_and_is_a_uniform_reference(tmp_path: Path) -> None:
    """TRL has dropped the option; answers of equal length cannot tell a missing reference from a uniform one."""
    assert not hasattr(trl.DPOConfig, "reference_free")
    pairs = [Pair("Count: ", "1 2 3", "3 1 2"), Pair("Say it: ", "yes", "no!")]
    uniform = tiny_model(2)
    for item in uniform.parameters():
        item.data.zero_()
    peer = trl_dpo(tmp_path, tiny_model(1), uniform, pairs)
    expected, _ = loss_and_gradients(peer, whole_batch(peer), None)
    own = our_trainer(tmp_path, tiny_model(1), DPO(BETA, reference_free=True), None)
    batch = Collator()(tokenize(pairs, byte_tokenizer(), LIMITS))
    loss, _ = loss_and_gradients(own, batch, len(pairs))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_difference_what_is_too_long_loses_its_prompt_first(tmp_path: Path) -> None:
    """As in the DPO reference; TRL cuts each sequence at its end, so the two answers lose different parts of it."""
    long = [Pair("p" * 50, "c" * 40, "r" * 10)]
    peer = trl_dpo(tmp_path, tiny_model(1), tiny_model(2), long)
    batch = whole_batch(peer)
    its_chosen, its_rejected = batch["completion_mask"].sum(1).tolist()
    assert (its_chosen, its_rejected) == (LIMITS.max_length - 50, 11)
    ((prompt, chosen, rejected),) = our_tokens(long)
    assert (len(prompt), len(chosen), len(rejected)) == (LIMITS.max_prompt_length, 40, 11)


def test_difference_prompt_and_answer_are_tokenized_apart(tmp_path: Path) -> None:
    """TRL joins the texts first; where a token spans the border it takes the end of the prompt into the answer."""
    words = {"a": 0, "b": 1, "c": 2, "ab": 3}
    merging = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=words, merges=[("a", "b")])))
    merging.add_special_tokens({"eos_token": END_OF_TEXT, "pad_token": "<|pad|>"})
    pairs, eos = [Pair("ca", "b", "c")], merging.eos_token_id
    peer = trl_dpo(tmp_path, tiny_model(1), tiny_model(2), pairs, processing_class=merging)
    assert trl_tokens(peer) == [([2], [3, eos], [0, 2, eos])]
    assert tokenize(pairs, merging, LIMITS) == [TokenizedPair([2, 0], [1, eos], [2, eos])]


def test_difference_an_end_of_sequence_within_a_text_is_refused(tmp_path: Path) -> None:
    """TRL takes one at the end of an answer for its own, and any other as it is."""
    pairs = [Pair("A", "b" + END_OF_TEXT, "c")]
    peer = trl_dpo(tmp_path, tiny_model(1), tiny_model(2), pairs)
    assert trl_tokens(peer) == [([65], [98, 256], [99, 256])]
    with pytest.raises(DataError, match="must not contain the end-of-sequence token"):
        tokenize(pairs, byte_tokenizer(), LIMITS)
