"""Own data, tokenisation, order and padding."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from gpt_opt.errors import DataError
from gpt_opt.training.build import build
from gpt_opt.training.data import build_hh, build_jsonl, truncated
from gpt_opt.training.data.chat import Chat
from gpt_opt.training.data.order import Collator, TrainingOrder
from gpt_opt.training.data.prepare import HOLDS_END, prepare
from gpt_opt.training.data.records import Example, ExampleData, Pair, PairData, TokenizedExample, TokenizedPair
from gpt_opt.training.data.tokenize import SequenceLimits, leading_special_tokens, tokenize, truncate
from gpt_opt.training.losses import IGNORED
from gpt_opt.training.models.byte_tokenizer import END_OF_TEXT, byte_tokenizer
from gpt_opt.training.objectives.sft import sft_examples
from gpt_opt.training.objectives.unpaired import unpaired
from tests.training.test_training import config


def load(path: Path, **changes: Any) -> PairData:
    settings: dict[str, Any] = {
        "prompt_column": "prompt",
        "chosen_column": "chosen",
        "rejected_column": "rejected",
        "max_samples": None,
        "validation_split": 0.25,
    }
    return build_jsonl(path=str(path), **{**settings, **changes})


def good_rows(count: int = 40) -> list[dict[str, Any]]:
    return [{"prompt": f"p{index} ", "chosen": " yes", "rejected": "no\n"} for index in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    lines = [
        json.dumps(good_rows(1)[0]).encode(),
        b'{"prompt": "p", "chosen": "c"}',
        b'{"prompt": "", "chosen": "c", "rejected": "r"}',
        b'{"prompt": 5, "chosen": "c", "rejected": null}',
        b'{"prompt": "p", "chosen": "same", "rejected": "same"}',
        b'{"prompt": "p", "chosen": ',
        b"",
        b'{"prompt": "\xff", "chosen": "c", "rejected": "r"}',
        b'["prompt"]',
    ]
    file = tmp_path / "prefs.jsonl"
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as caught:
        load(file)
    text = str(caught.value)
    assert text.startswith("7 problems")
    for number, says in [
        (2, "has no 'rejected' (its keys: prompt, chosen)"),
        (3, "'prompt' is empty"),
        (4, "'prompt' must be a string, but is 5; 'rejected' must be a string, but is null"),
        (5, "chosen and rejected must differ"),
        (6, "at column"),
        (8, "byte 12 is 0xff"),
        (9, "is a list"),
    ]:
        line = next(line for line in text.splitlines() if f"{file}:{number}:" in line)
        assert says in line


def test_texts_arrive_unchanged_under_other_column_names(tmp_path: Path) -> None:
    rows = [{"q": f"{index}\n", "good": "  a ", "bad": "ü\U0001f600"} for index in range(20)]
    data = load(write(tmp_path / "x.jsonl", rows), prompt_column="q", chosen_column="good", rejected_column="bad")
    found = {*data.train, *data.validation}
    assert found == {Pair(row["q"], row["good"], row["bad"]) for row in rows}


def test_the_split_is_by_prompt_and_moves_no_row_when_others_come(tmp_path: Path) -> None:
    rows = [*good_rows(200), {"prompt": "p3 ", "chosen": "other", "rejected": "x"}]
    data = load(write(tmp_path / "a.jsonl", rows))
    assert not {pair.prompt for pair in data.train} & {pair.prompt for pair in data.validation}
    assert 20 <= len(data.validation) <= 80
    fewer = load(write(tmp_path / "b.jsonl", rows[:100]))
    assert set(fewer.validation) <= set(data.validation)
    assert fewer.fingerprint != data.fingerprint


def test_duplicates_are_used_once_and_max_samples_takes_the_first_rows(tmp_path: Path) -> None:
    rows = good_rows(30)
    data = load(write(tmp_path / "a.jsonl", rows + rows))
    assert len(data.train) + len(data.validation) == 30
    few = load(write(tmp_path / "b.jsonl", rows), max_samples=20)
    assert {pair.prompt for pair in (*few.train, *few.validation)} == {f"p{index} " for index in range(20)}


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="add rows"):
        load(write(tmp_path / "a.jsonl", good_rows(1)))
    with pytest.raises(DataError, match="readable file"):
        load(tmp_path / "absent.jsonl")


def test_truncation_matches_the_vectors(vectors: dict[str, Any]) -> None:
    case = vectors["tokenize_truncate"]
    for inputs, expected in zip(case["inputs"]["cases"], case["expected"]["cases"], strict=True):
        ids = {key: [ord(letter) - 96 for letter in inputs[key]] for key in ("prompt", "chosen", "rejected")}
        side: Any = {"keep_end": "left", "keep_start": "right"}[inputs["mode"]]
        limits = SequenceLimits(inputs["max_length"], inputs["max_prompt_length"], side)
        found = TokenizedPair(*truncate((ids["prompt"], [*ids["chosen"], 0], [*ids["rejected"], 0]), limits))
        assert found.prompt == expected["prompt_input_ids"]
        assert found.prompt + found.chosen == expected["chosen_input_ids"]
        assert found.prompt + found.rejected == expected["rejected_input_ids"]


def test_answers_end_in_end_of_sequence_and_cuts_are_told(caplog: pytest.LogCaptureFixture) -> None:
    pairs = (Pair("ab", "c", "de"), Pair("a" * 20, "c" * 20, "d"), Pair("a" * 20, "c" * 9, "d"))
    data = PairData(pairs, pairs[:1], "", {"duplicate": 2})
    with caplog.at_level("INFO"):
        prepared = prepare(data, byte_tokenizer(), SequenceLimits(24, 8, truncation_side="right"))
    short, long, cut = prepared.train
    assert short == TokenizedPair([97, 98], [99, 256], [100, 101, 256])
    assert isinstance(long, TokenizedPair)
    assert (len(long.prompt), len(long.chosen), long.rejected) == (8, 16, [100, 256])
    assert (len(cut.prompt), cut.chosen[-1]) == (8, 256)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        "data: of 4 rows; 2 had their prompt truncated to 8 tokens; 1 a completion to 16 (end-of-sequence lost); "
        "left out: 2 (duplicate)"
    )
    assert prepared.report == {
        "train": {"rows": 3, "prompts_truncated": 2, "completions_truncated": 1},
        "validation": {"rows": 1, "prompts_truncated": 0, "completions_truncated": 0},
        "dropped": {"duplicate": 2},
    }


def test_a_completion_is_truncated_to_its_own_limit_before_the_others_apply(caplog: pytest.LogCaptureFixture) -> None:
    pairs = (Pair("a" * 20, "c" * 20, "de"), Pair("a" * 21, "c" * 20, "de"))
    limits = SequenceLimits(26, 8, truncation_side="right", max_completion_length=5)
    with caplog.at_level("INFO"):
        prepared = prepare(PairData(pairs[:1], pairs[1:], ""), byte_tokenizer(), limits)
    assert prepared.train == [TokenizedPair([97] * 20, [99] * 5, [100, 101, 256])]
    assert prepared.report["train"] == {"rows": 1, "prompts_truncated": 0, "completions_truncated": 1}
    assert caplog.records[-1].message == "data: of 2 rows; 2 a completion to 5 (end-of-sequence lost)"


def kept(splits: tuple[list[Any], list[Any]], limits: SequenceLimits) -> tuple[list[str], list[str], dict[str, int]]:
    """The prompts and completions that are left of each split, and what was left out."""
    kind = PairData if isinstance(splits[0][0], Pair) else ExampleData
    prepared = prepare(kind(tuple(splits[0]), tuple(splits[1]), ""), byte_tokenizer(), limits)
    assert (prepared.fingerprint == "") == (not prepared.report["dropped"])
    rows = [
        ["|".join(bytes(ids).decode() for ids in item.ids) for item in part]
        for part in (prepared.train, prepared.validation)
    ]
    assert [len(part) for part in rows] == [prepared.report[split]["rows"] for split in ("train", "validation")]
    return rows[0], rows[1], prepared.report["dropped"]


CUT = SequenceLimits(8, 4, truncation_side="right")
"""Prompts of 4 bytes and completions of 4, where both are longer than 8."""


def test_pairs_that_differ_only_beyond_the_truncation_are_left_out() -> None:
    stays = Pair("abcd", "1234567", "2234567")
    train = [
        Pair("abcd", "12345", "123467"),
        stays,
        stays,
        Pair("abcdx", "12345678", "22345678"),
        Pair("abcd", "    word", "word"),
        Pair("efgh", "1234567", "2234567"),
        Pair("efgh", "22345678", "12345678"),
    ]
    validation = [Pair("abcd", "2234567x", "1234567x"), Pair("abcd", "1234567", "3234567")]
    assert kept((train, validation), CUT) == (
        ["abcd|1234|2234", "abcd|1234|2234"],
        ["abcd|1234|3234"],
        {truncated.EQUAL: 1, truncated.EMPTY: 1, truncated.CONTRADICTORY: 2, truncated.REPEATED: 2},
    )


def test_examples_that_truncation_makes_contradict_each_other_are_left_out() -> None:
    same = [Example("abcd", "9876543", True), Example("abcd", "9876543", False)]  # as the data have it
    train = [Example("abcd", "12345", True), Example("abcd", "12346", False), *same, Example("a", " " * 9, True)]
    validation = [Example("abcd", "5555555", True), Example("abcd", "5555556", True), Example("abcd", "9876540", True)]
    assert kept((train, validation), CUT) == (
        ["abcd|9876", "abcd|9876"],
        ["abcd|5555"],
        {truncated.CONTRADICTORY: 2, truncated.EMPTY: 1, truncated.REPEATED: 2},
    )


def test_limits_that_leave_nothing_are_refused() -> None:
    pairs = (Pair("abcd", "12345", "123467"),)
    with pytest.raises(DataError) as caught:
        prepare(PairData(pairs, pairs, ""), byte_tokenizer(), CUT)
    assert str(caught.value.problems[0]) == (
        "training.training_params.max_length: must leave rows for training and for validation, but leaves 0 and 0 of 1 "
        "and 1; left out: 2 (pair with equal completions after truncation)\n"
        "      raise it (8), or lower max_prompt_length (4)"
    )
    pairs = (Pair("abcd", "1", "2"),)
    with pytest.raises(
        DataError, match=r"max_prompt_length: must be above 1, the tokens that every prompt starts with"
    ):
        prepare(PairData(pairs, pairs, ""), with_bos(), SequenceLimits(6, 1, "left", (258,)))


def test_nothing_is_said_where_nothing_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    pairs = (Pair("ab", "c", "de"),)
    with caplog.at_level("INFO"):
        prepare(PairData(pairs, pairs, ""), byte_tokenizer(), SequenceLimits(24, 8, truncation_side="right"))
    assert not caplog.records


def with_bos(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    """The byte tokenizer, with <s> (id 258) or what else the template says around a text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    special = [("<s>", 258), (END_OF_TEXT, 256)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def test_the_start_is_what_the_tokenizer_puts_before_a_text() -> None:
    assert leading_special_tokens(byte_tokenizer()) == ()
    assert leading_special_tokens(with_bos()) == (258,)
    assert leading_special_tokens(with_bos(f"<s> $A {END_OF_TEXT}")) == (258,)
    assert leading_special_tokens(with_bos(f"$A {END_OF_TEXT}")) == ()
    assert leading_special_tokens(with_bos(f"{END_OF_TEXT} $A")) == (256,)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_starts_with_it_once_however_it_is_truncated(side: Any) -> None:
    tokenizer = with_bos()
    limits = SequenceLimits(12, 4, side, leading_special_tokens(tokenizer))
    pairs = [Pair("abcdefghi", "x", "y"), Pair("abcdefghij", "x", "y"), Pair("<s>ab", "x", "y")]
    fits, longer, started = tokenize(pairs, tokenizer, limits)
    assert fits.prompt == [258, *b"abcdefghi"]
    assert longer.prompt == [258, *(b"hij" if side == "left" else b"abc")]
    assert started.prompt == [258, *b"ab"]
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (chat,) = tokenize([Pair(Chat([("user", "ab")]), " x", " y")], tokenizer, limits)
    assert chat.prompt == [258, *b"ab"]


def test_the_start_is_an_option(small: list[str], tmp_path: Path) -> None:
    with_bos().save_pretrained(tmp_path / "bos")
    made = [*small, "loss.beta=0.1", f"model.tokenizer_name_or_path={tmp_path / 'bos'}", "model.config.vocab_size=259"]
    first, without = build(config(made)), build(config([*made, "training.training_params.add_bos=false"]))
    plain = build(config([*small, "loss.beta=0.1"]))
    assert without.items.train == plain.items.train
    assert [item.ids[0] for item in first.items.train] == [[258, *item.ids[0]] for item in plain.items.train]


def test_judged_answers_are_tokenized_like_answers_of_pairs() -> None:
    counts: Counter[str] = Counter()
    examples = [Example("ab", "c", True), Example("a" * 20, "c" * 20, False)]
    short, long = tokenize(examples, byte_tokenizer(), SequenceLimits(24, 8, truncation_side="left"), counts)
    assert short == TokenizedExample([97, 98], [99, 256], True)
    assert long == TokenizedExample([97] * 8, [99] * 16, False)
    assert counts == {"prompts_truncated": 1, "completions_truncated": 1}


def test_a_text_with_the_end_of_sequence_token_is_refused() -> None:
    with pytest.raises(DataError, match=r"row with prompt 'a<.endoftext.>': must not contain the end-of-seq"):
        tokenize(
            [Pair("a", "b", "c"), Pair("a<|endoftext|>", "b", "c")], byte_tokenizer(), SequenceLimits(24, 8, "right")
        )


def test_the_place_of_a_refused_row_is_named_and_published_rows_are_left_out(tmp_path: Path) -> None:
    rows = [*good_rows(30), {"prompt": "p", "chosen": f"a{END_OF_TEXT}", "rejected": "b"}]
    own = load(write(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match=r"a\.jsonl:31: must not contain the end-of-sequence"):
        prepare(own, byte_tokenizer(), SequenceLimits(24, 8, truncation_side="right"))
    dialogues = [{side: f"\n\nHuman: {n}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for n in range(30)]
    dialogues[3]["rejected"] += END_OF_TEXT
    settings: dict[str, Any] = {"subset": None, "split": "train", "max_samples": None, "validation_split": 0.25}
    data = build_hh(str(write(tmp_path / "hh.jsonl", dialogues)), **settings)
    for given, left in ((data, 1), (unpaired(data), 1), (sft_examples(data), 0)):
        prepared = prepare(given, byte_tokenizer(), SequenceLimits(80, 40, truncation_side="right"))
        rows_left = prepared.report["train"]["rows"] + prepared.report["validation"]["rows"]
        assert rows_left == len(prepared.train) + len(prepared.validation)
        assert rows_left == len(given.train) + len(given.validation) - left
        assert prepared.report["dropped"].get(HOLDS_END, 0) == left


def test_batches_are_aligned_with_the_logits_that_predict_them() -> None:
    pairs = [TokenizedPair([1, 2, 3], [4, 5], [6]), TokenizedPair([7], [8], [9, 10])]
    batch = Collator()(pairs)
    ids, labels, keep = batch["input_ids"], batch["labels"], batch["logits_to_keep"]
    assert isinstance(ids, torch.Tensor)
    assert isinstance(labels, torch.Tensor)
    assert keep == 5
    full = labels.tolist()
    assert full[0] == [IGNORED, IGNORED, 4, 5, IGNORED]
    assert full[1] == [8, IGNORED, IGNORED, IGNORED, IGNORED]
    assert full[2] == [IGNORED, IGNORED, 6, IGNORED, IGNORED]
    assert full[3] == [9, 10, IGNORED, IGNORED, IGNORED]
    for row, prompt_answer in enumerate(([1, 2, 3, 4, 5], [7, 8], [1, 2, 3, 6], [7, 9, 10])):
        assert ids[row, : len(prompt_answer)].tolist() == prompt_answer
    # Every label is the token after its own position.
    for row in range(4):
        for position, label in enumerate(full[row]):
            if label != IGNORED:
                assert ids[row, position + 1] == label
    shorter = Collator()([TokenizedPair([1, 2, 3], [4], [5]), TokenizedPair([1, 2], [4], [5])])
    assert shorter["logits_to_keep"] == 3


def test_padding_matches_the_vector_but_for_the_shift(vectors: dict[str, Any]) -> None:
    """Ours are aligned with the logits, a place earlier; padding has any id, and no mask: nothing looks at it."""
    given, expected = vectors["pad_collate"]["inputs"], vectors["pad_collate"]["expected"]
    examples = []
    for ids, labels in zip(given["chosen_input_ids"], given["chosen_labels"], strict=True):
        border = labels.count(IGNORED)
        examples.append(TokenizedExample(ids[:border], ids[border:], True))
    batch = Collator()(examples)
    ids, labels, keep = (batch[name] for name in ("input_ids", "labels", "logits_to_keep"))
    assert isinstance(ids, torch.Tensor)
    assert isinstance(labels, torch.Tensor)
    assert isinstance(keep, int)
    for row, mask in enumerate(expected["chosen_attention_mask"]):
        assert ids[row, : sum(mask)].tolist() == expected["chosen_input_ids"][row][: sum(mask)]
        shifted = [*expected["chosen_labels"][row][1:], IGNORED]
        assert labels[row].tolist() == shifted[-keep:]
        assert set(shifted[:-keep]) <= {IGNORED}


def test_each_epoch_shows_every_pair_once_in_a_new_order() -> None:
    pairs = [TokenizedPair([index], [0], [1]) for index in range(10)]
    order = TrainingOrder(pairs, 5, 6, 3, "pairs")
    seen = [order[place].prompt[0] for place in range(len(order))]
    assert len(seen) == 30
    epochs = [seen[:10], seen[10:20], seen[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [order[place].prompt[0] for place in (25, 3, 17)] == [seen[25], seen[3], seen[17]]
    other = TrainingOrder(pairs, 5, 6, 4, "pairs")
    assert [other[place].prompt[0] for place in range(10)] != seen[:10]


def test_batches_of_similar_length_are_a_choice_and_follow_from_the_seed() -> None:
    pairs = [TokenizedPair([index], [0] * (index * 7 % 31), [1]) for index in range(31)]
    lengths = [len(pair.chosen) for pair in pairs]

    def batches(seed: int, grouped: bool) -> list[list[int]]:
        order = TrainingOrder(pairs, 5, 12, seed, "pairs")
        if grouped:
            order.group_by_length(lengths)
        assert ("training.training_params.group_by_length" in order.settings()) == grouped
        last_first = [order[place].prompt[0] for place in reversed(range(len(order)))]  # as after a resume
        seen = last_first[::-1]
        return [seen[start : start + 5] for start in range(0, len(seen), 5)]

    def spread(order: list[list[int]]) -> int:
        return sum(max(lengths[item] for item in batch) - min(lengths[item] for item in batch) for batch in order)

    grouped, plain = batches(3, True), batches(3, False)
    assert spread(grouped) * 3 < spread(plain)
    assert grouped == batches(3, True) != batches(4, True)
    for epoch in (0, 6):  # the same items of each epoch, in another order of batches
        assert sorted(chain(*grouped[epoch : epoch + 6])) == sorted(chain(*plain[epoch : epoch + 6]))
    assert [min(batch) for batch in grouped[:6]] != sorted(min(batch) for batch in grouped[:6])
    assert grouped[:6] != grouped[6:]


def test_too_few_pairs_for_one_batch_is_an_error() -> None:
    with pytest.raises(DataError, match="is 2 with 1 pairs"):
        TrainingOrder([TokenizedPair([0], [0], [1])], batch_size=2, steps=1, seed=0, item_name="pairs")
