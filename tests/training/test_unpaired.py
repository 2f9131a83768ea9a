"""Unpaired preferences: out of pairs, under the prompts of others, in batches."""

from __future__ import annotations

import torch

from gpt_opt.training.data.order import TrainingOrder
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.data.records import Example, Pair, PairData, TokenizedExample
from gpt_opt.training.data.tokenize import SequenceLimits
from gpt_opt.training.losses import IGNORED, KTO
from gpt_opt.training.objectives import UnpairedObjective
from gpt_opt.training.objectives.sft import OTHER_COMPLETION, sft_examples
from gpt_opt.training.objectives.unpaired import MismatchedCollator, mismatch, mismatched, unpaired

LIMITS = SequenceLimits(max_length=12, max_prompt_length=6, truncation_side="right")


def examples(count: int) -> list[TokenizedExample]:
    return [TokenizedExample([index], [100 + index, 99], index % 2 == 0) for index in range(count)]


def mismatching_order(own: list[TokenizedExample], batch_size: int, steps: int, seed: int) -> TrainingOrder:
    return UnpairedObjective(KTO(0.1), LIMITS).order(Items(own, [], {}, ""), batch_size, steps, seed)


def test_a_pair_gives_a_desirable_and_an_undesirable_example() -> None:
    data = unpaired(PairData((Pair("p", "good", "bad"),), (Pair("q", "x", "y"),), "name", {"ties": 3}))
    assert data.train == (Example("p", "good", True), Example("p", "bad", False))
    assert data.validation == (Example("q", "x", True), Example("q", "y", False))
    assert (data.fingerprint, data.dropped) == ("name", {"ties": 3})


def test_fine_tuning_takes_one_answer_to_each_prompt() -> None:
    ranked = [Pair("se", "best", "good"), Pair("se", "best", "bad"), Pair("se", "good", "bad")]
    repeated = [Pair("hh", "first", "x"), Pair("hh", "last", "y")]
    circle = [Pair("odd", "a", "b"), Pair("odd", "b", "a")]
    train, validation = (*ranked[:1], *repeated, *ranked[1:], *circle), (Pair("v", "x", "y"), Pair("v", "z", "x"))
    data = sft_examples(PairData(train, validation, "name", {"duplicate": 3}))
    assert data.train == (Example("se", "best", True), Example("hh", "last", True), Example("odd", "b", True))
    assert data.validation == (Example("v", "z", True),)
    assert (data.fingerprint, data.dropped) == ("name", {"duplicate": 3, OTHER_COMPLETION: 5})
    assert sft_examples(PairData((Pair("p", "a", "b"),), (), "")).dropped == {}


def test_answers_move_on_by_one_in_the_batch_of_a_step_whatever_the_epoch() -> None:
    plain = TrainingOrder(examples(10), 4, 6, 3, "examples")
    order = mismatching_order(examples(10), 4, 6, 3)
    assert len(order) == len(plain) == 24
    for first in range(0, 24, 4):
        batch = [order[place] for place in range(first, first + 4)]
        own = [plain[place] for place in range(first, first + 4)]
        assert [item.example for item in batch] == own
        assert [item.prompt for item in batch] == [item.prompt for item in own]
        assert [item.other for item in batch] == [item.completion for item in (own[-1], *own[:-1])]


def test_a_mismatched_answer_is_cut_like_any_other() -> None:
    long_prompt = TokenizedExample(list(range(9)), [1], True)
    found = mismatch(long_prompt, TokenizedExample([0], list(range(20, 28)), True), LIMITS)
    assert (found.prompt, found.other) == (list(range(6)), list(range(20, 26)))
    assert found.example is long_prompt
    fits = mismatch(long_prompt, TokenizedExample([0], [20, 21, 22], True), LIMITS)
    assert (fits.prompt, fits.other) == (long_prompt.prompt, [20, 21, 22])


def test_a_whole_split_is_rotated_at_once() -> None:
    found = mismatched(examples(3), LIMITS)
    assert [(item.example.prompt, item.other) for item in found] == [
        ([0], [102, 99]),
        ([1], [100, 99]),
        ([2], [101, 99]),
    ]


def test_no_answer_goes_to_its_own_prompt_and_each_goes_once() -> None:
    """Pairs, rows sorted by prompt, prompts anywhere; one that a long answer has cut is still the same prompt."""
    long = list(range(50, 59))
    for prompts in (
        [[1], [1], [2], [2], [3], [3]],
        [[1], [1], [1], [2], [3], [3], [4]],
        [[1], [2], [1], [3], [1], [4]],
        [[1], [2], [3], [4], [1]],
        [long, long[:6], [2], [3]],
    ):
        own = [TokenizedExample(prompt, [100 + index], True) for index, prompt in enumerate(prompts)]
        found = mismatched(own, LIMITS)
        assert [item.example for item in found] == own
        assert sorted(item.other for item in found) == [item.completion for item in own]
        owner = {example.completion[0]: example.prompt[:6] for example in own}
        assert all(owner[item.other[0]] != item.example.prompt[:6] for item in found)


def test_a_batch_of_a_step_keeps_pairs_apart_too() -> None:
    own = [TokenizedExample([index // 2], [100 + index], True) for index in range(4)]
    order = mismatching_order(own, 4, 3, 0)
    assert all((order[place].other[0] - 100) // 2 != order[place].prompt[0] for place in range(12))


def test_with_one_prompt_alone_the_answers_of_it_are_taken() -> None:
    own = [TokenizedExample([1], [100 + index], True) for index in range(3)]
    found = mismatched(own, LIMITS)
    assert [item.other for item in found] == [[101], [102], [100]]
    assert [item.other for item in mismatched(own[:1], LIMITS)] == [[100]]
    assert mismatched([], LIMITS) == []


def test_a_batch_holds_own_answers_then_those_of_others() -> None:
    batch = MismatchedCollator()(mismatched(examples(3), LIMITS))
    ids, labels, desirable = batch["input_ids"], batch["labels"], batch["desirable"]
    assert isinstance(ids, torch.Tensor)
    assert isinstance(labels, torch.Tensor)
    assert isinstance(desirable, torch.Tensor)
    own = [[0, 100, 99], [1, 101, 99], [2, 102, 99]]
    assert ids.tolist() == [*own, [0, 102, 99], [1, 100, 99], [2, 101, 99]]
    assert labels[:, :2].tolist() == ids[:, 1:].tolist()
    assert (labels[:, 2] == IGNORED).all()
    assert desirable.tolist() == [True, False, True]
