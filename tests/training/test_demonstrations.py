"""Fine-tuning on demonstrations: which tokens are learned, and which are only context."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gpt_opt.errors import DataError
from gpt_opt.training.build import build
from gpt_opt.training.data import Example, ExampleData, Pair, PairData, build_jsonl
from gpt_opt.training.data.cache import _key
from gpt_opt.training.data.chat import Chat, Turns
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import Collator
from gpt_opt.training.data.prepare import prepare
from gpt_opt.training.data.records import TokenizedExample, token_ids
from gpt_opt.training.data.sources.columns import Columns, record_of
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize
from gpt_opt.training.losses import IGNORED, SFT, token_logps
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from gpt_opt.training.objectives.sft import SFTObjective, sft_examples
from tests.conftest import Runner
from tests.training.test_data_chat import PROMPTED, templated
from tests.training.test_training import config

LIMITS = SequenceLimits(400, 200, truncation_side="right")
MESSAGES = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B"), ("user", "W")]
TALK = Example(Chat(MESSAGES[:2]), Turns(MESSAGES[2:5]), None)
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LAST_ONLY = (  # as templates that leave out the thoughts of earlier answers
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def say(messages: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def spans(item: Any, tokenizer: PreTrainedTokenizerFast) -> tuple[str, list[tuple[str, bool]]]:
    """Returns prompt and completion as texts, the completion in pieces that are learned or not."""
    found: list[tuple[list[int], bool]] = []
    for token in item.completion:
        if not found or found[-1][1] != (token >= 0):
            found.append(([], token >= 0))
        found[-1][0].append(token)
    return tokenizer.decode(item.prompt), [(tokenizer.decode(token_ids(ids)), learned) for ids, learned in found]


E = "<|endoftext|>"


@pytest.mark.parametrize(
    ("template", "prompt", "pieces"),
    [
        (
            None,
            "\n\nSystem: S\n\nHuman: U\n\nAssistant:",
            [(" A", True), ("\n\nHuman: V\n\nAssistant:", False), (f" B{E}", True)],
        ),
        (
            PROMPTED,
            f"[system]S{E}\n[user]U{E}\n[assistant]",
            [(f"A{E}\n", True), (f"[user]V{E}\n[assistant]", False), (f"B{E}", True)],
        ),
        (
            MARKED,
            "[system]S\n[user]U\n[assistant]",
            [(f"A{E}", True), ("\n[user]V\n[assistant]", False), (f"B{E}", True)],
        ),
    ],
)
def test_all_turns_of_the_assistant_are_learned(template: str | None, prompt: str, pieces: list[Any]) -> None:
    tokenizer = templated(template) if template else byte_tokenizer()
    (item,) = tokenize([TALK], tokenizer, LIMITS)
    assert spans(item, tokenizer) == (prompt, pieces)
    batch = Collator()([item])
    labels, ids = batch["labels"], batch["input_ids"]
    assert isinstance(labels, torch.Tensor)
    assert isinstance(ids, torch.Tensor)
    learned = [token for text, is_learned in pieces if is_learned for token in tokenizer(text)["input_ids"]]
    assert labels[labels != IGNORED].tolist() == learned
    assert tokenizer.decode(ids[0].tolist()) == prompt + "".join(text for text, _ in pieces)


@pytest.mark.parametrize("template", [None, PROMPTED, MARKED])
def test_a_dialogue_may_begin_with_the_assistant(template: str | None) -> None:
    """No template renders the dialogue before it, which has no messages."""
    tokenizer = templated(template) if template else byte_tokenizer()
    (item,) = tokenize([Example(Chat(()), Turns(MESSAGES[2:5]), None)], tokenizer, LIMITS)
    prompt, pieces = spans(item, tokenizer)
    assert prompt == ("[assistant]" if template else "\n\nAssistant:")
    assert [text.strip() for text, learned in pieces if learned] == ["A" if not template else f"A{E}", f"B{E}"]


def test_the_end_is_learned_once_where_a_template_marks_the_end_of_the_line_too() -> None:
    tokenizer = templated(MARKED.replace("{% endgeneration %}", "{{ '\n' }}{% endgeneration %}"))
    (item,) = tokenize([TALK], tokenizer, LIMITS)
    assert spans(item, tokenizer)[1][-1] == (f"B{E}", True)


@pytest.mark.parametrize("template", [PROMPTED, MARKED])
def test_tokens_are_the_same_on_every_day(template: str) -> None:
    """Some templates write today's date into a dialogue: a resume tomorrow would learn from other texts."""
    tokenizer = templated("{{ strftime_now('%d %b %Y') }}" + template)
    shown, pair = tokenize([TALK], tokenizer, LIMITS) + tokenize([Pair(TALK.prompt, " a", " b")], tokenizer, LIMITS)
    assert tokenizer.decode(shown.prompt)[:11] == tokenizer.decode(pair.prompt)[:11] == "26 Jul 2024"


def test_answers_that_are_part_of_the_prompt_are_not_learned() -> None:
    row = {"prompt": say(MESSAGES[:4]), "completion": say(MESSAGES[4:5])}
    (record,) = record_of(row, Columns())
    for tokenizer in (byte_tokenizer(), templated(PROMPTED), templated(MARKED)):
        (item,) = tokenize([record], tokenizer, LIMITS)
        _, pieces = spans(item, tokenizer)
        assert [text.strip() for text, _ in pieces] == [f"B{E}"]


@pytest.mark.parametrize("template", [None, PROMPTED, MARKED, LAST_ONLY])
def test_without_masking_a_dialogue_is_a_text_that_is_learned_whole(template: str | None) -> None:
    tokenizer = templated(template) if template else byte_tokenizer()
    pair = Pair(TALK.prompt, " A", " B")
    data = SFTObjective(SFT(train_on_inputs=True), LIMITS).records(ExampleData((TALK, pair), (), ""))
    assert not any(record.source for record in data.train)
    for item, messages in zip(tokenize(data.train, tokenizer, LIMITS), (MESSAGES[:3], MESSAGES[:5]), strict=True):
        text = tokenizer.decode([*item.prompt, *item.completion])
        assert len(item.prompt) == 1
        assert all(token >= 0 for token in item.completion)
        assert text.endswith(E)
        assert [text.count(content) for _, content in messages] != [0] * len(messages)
        if template:
            rendered = tokenizer.apply_chat_template(say(messages), tokenize=False).rstrip("\n")
            assert text.removesuffix(E) == rendered.removesuffix(E)
        else:
            assert text == f"{Chat(messages[:2])}{Turns(messages[2:])}{E}"


def test_without_masking_nothing_is_truncated_and_cached_tokens_are_others() -> None:
    (record,) = SFTObjective(SFT(train_on_inputs=True), LIMITS).records(ExampleData((TALK,), (), "")).train
    assert _key([record], byte_tokenizer(), LIMITS) != _key([TALK], byte_tokenizer(), LIMITS)
    prepared = prepare(ExampleData((record,), (record,), ""), byte_tokenizer(), SequenceLimits(20, 10, "right"))
    learned = [token for item in prepared.train for token in item.completion]
    assert bytes([*prepared.train[0].prompt, *learned[:-1]]).decode() == f"{TALK.prompt}{TALK.completion}"
    assert max(len(item.prompt) + len(item.completion) for item in prepared.train) == 20
    assert prepared.report["train"]["learned_tokens"] == len(learned)


def test_rows_that_are_too_long_may_be_left_out_instead_of_truncated(caplog: pytest.LogCaptureFixture) -> None:
    limits, text = SequenceLimits(20, 10, None), Example("", "t" * 50, None)
    rows = [Example("p" * 15, "c" * end, None) for end in (4, 5)]  # end-of-sequence makes 20 and 21 tokens
    data = ExampleData((*rows, text), (rows[0],), "")
    with caplog.at_level("INFO"):
        prepared = prepare(data, byte_tokenizer(), limits)
    assert prepared.train[0] == TokenizedExample([*b"p" * 15], [*b"cccc", 256], True)
    assert sum(len(item.completion) for item in prepared.train[1:]) == 50  # a text goes on
    assert prepared.report["dropped"] == {"longer than max_length": 1}
    assert caplog.messages[0] == "data: of 4 rows; left out: 1 (longer than max_length)"
    assert prepared.fingerprint != data.fingerprint
    pairs = PairData((Pair("p" * 15, "c", "dddd"), Pair("p" * 15, "c", "d" * 5)), (Pair("p" * 14, "c", "d"),), "")
    assert [item.ids[2] for item in prepare(pairs, byte_tokenizer(), limits).train] == [[*b"dddd", 256]]
    with pytest.raises(DataError, match=r"leaves 0 and 1 of 1 and 1; left out: 1 \(longer than max_length\)"):
        prepare(ExampleData((rows[1],), (rows[0],), ""), byte_tokenizer(), limits)


ANSWERS_ALONE = (  # as that of DeepSeek-R1's distilled models
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_template_that_leaves_the_reasoning_out_is_refused() -> None:
    thought = "<think>\nas B\n</think>\n\nA"
    shown = Example(TALK.prompt, Turns([("assistant", thought)]), None, "x.jsonl:7")
    for record in (shown, Pair(TALK.prompt, f" {thought}", " B", "x.jsonl:7")):
        with pytest.raises(DataError, match=r"x.jsonl:7: the chat template leaves out part of the response '<think>"):
            tokenize([record], templated(ANSWERS_ALONE), LIMITS)
    blanks = ANSWERS_ALONE.replace("m.content.split('</think>')[-1]", "m.content.replace('\n', ' ')")
    (item,) = tokenize([shown], templated(blanks), LIMITS)
    assert "as B" in spans(item, byte_tokenizer())[1][0][0]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_reasoning_under_a_key_of_its_own_begins_the_response(key: str) -> None:
    row = {"messages": [{"role": "user", "content": "q", key: None}, {"role": "assistant", "content": "a", key: "r\n"}]}
    (record,) = record_of(row, Columns())
    assert record == Example(Chat([("user", "q")]), Turns([("assistant", "<think>\nr\n</think>\n\na")]), None)


def test_a_template_that_hides_what_is_learned_is_refused() -> None:
    with pytest.raises(
        DataError, match="renders a message of the assistant in another way when more follows"
    ) as caught:
        tokenize([TALK], templated(LAST_ONLY), LIMITS)
    assert "{% generation %}" in str(caught.value)
    single = Example(Chat(MESSAGES[:2]), Turns(MESSAGES[2:3]), None)
    (item,) = tokenize([single], templated(LAST_ONLY), LIMITS)
    assert spans(item, byte_tokenizer())[1] == [(f"<think></think>A{E}", True)]
    with pytest.raises(DataError, match="does not mark each message"):
        tokenize(
            [TALK],
            templated("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"),
            LIMITS,
        )


def test_layouts_of_demonstrations() -> None:
    chat, turns = Chat([("user", "q")]), Turns([("assistant", "a")])
    sharegpt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    layouts: list[tuple[dict[str, Any], Example]] = [
        ({"prompt": "p", "completion": "c"}, Example("p", "c", None)),
        ({"prompt": "q", "completion": say([("assistant", "a")])}, Example(chat, turns, None)),
        ({"prompt": "U", "completion": say(MESSAGES[2:5])}, Example(Chat(MESSAGES[1:2]), TALK.completion, None)),
        ({"prompt": "U", "completion": say(MESSAGES[1:3])}, Example(Chat(MESSAGES[1:2]), Turns(MESSAGES[2:3]), None)),
        ({"messages": say(MESSAGES)}, TALK),
        ({"messages": say(MESSAGES[2:3])}, Example(Chat(()), Turns(MESSAGES[2:3]), None)),
        ({"conversations": sharegpt, "id": "1"}, Example(chat, turns, None)),
        ({"instruction": "q", "input": "", "output": "a"}, Example(chat, turns, None)),
        ({"instruction": "q", "input": "i", "output": "a"}, Example(Chat([("user", "q\n\ni")]), turns, None)),
        ({"text": "t", "messages": None}, Example("", "t", None)),
        ({"prompt": "p", "completion": "c", "label": True, "messages": say(MESSAGES)}, Example("p", "c", True)),
    ]
    for row, expected in layouts:
        (found,) = record_of(row, Columns())
        assert found == expected
        assert getattr(found.prompt, "messages", None) == getattr(expected.prompt, "messages", None)
    (found,) = record_of({"talk": say(MESSAGES), "body": "t"}, Columns(messages="talk", text="body"))
    assert found == TALK
    for messages, says in ((say(MESSAGES[:2]), "must have a message of the assistant"), ([], "list of messages")):
        with pytest.raises(Exception, match=says):
            list(record_of({"messages": messages}, Columns()))


def test_a_demonstration_is_cut_at_its_end_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    long = Example(TALK.prompt, Turns([("assistant", "A" * 5), ("user", "V" * 30), ("assistant", "B")]), None)
    data = ExampleData((long, Example("ab", "c" * 60, None)), (Example("ab", "c", None),), "")
    with caplog.at_level("INFO"):
        prepared = prepare(data, byte_tokenizer(), SequenceLimits(60, 40, truncation_side="right"))
    first, second = prepared.train
    prompt, pieces = spans(first, byte_tokenizer())
    assert prompt == str(TALK.prompt)  # which leaves room for the first answer
    assert pieces == [(" AAAAA", True)]  # what follows it was cut in the middle of a question
    assert isinstance(second, TokenizedExample)
    assert (len(second.prompt), len(second.completion)) == (2, 58)
    assert prepared.report["train"] == {
        "rows": 2,
        "prompts_truncated": 0,
        "completions_truncated": 2,
        "sequences": 2,
        "learned_completions": 2,
        "learned_tokens": 64,
        "context_tokens": len(prompt) + 2,
    }
    told = [record.message for record in caplog.records]
    assert told[0] == "data: of 3 rows; 2 their end beyond 60 (end-of-sequence lost)"
    assert told[1].startswith("data: learned are 3 completions, of dialogues every turn of the assistant (by the plain")
    assert told[1].endswith(f"66 tokens in 3 sequences; {len(prompt) + 4} tokens before and between them are context")


def test_a_demonstration_is_truncated_to_the_limit_of_completions(caplog: pytest.LogCaptureFixture) -> None:
    data = ExampleData((TALK, Example("ab", "c" * 60, None)), (Example("", "t" * 30, None),), "")
    with caplog.at_level("INFO"):
        prepared = prepare(
            data, byte_tokenizer(), SequenceLimits(90, 40, truncation_side="right", max_completion_length=8)
        )
    first, second = prepared.train
    assert spans(first, byte_tokenizer())[1] == [(" A", True)]
    assert second == TokenizedExample([*b"ab"], [99] * 8, True)
    assert prepared.report["validation"]["learned_tokens"] == 30  # a text has no prompt and no completion
    assert caplog.messages[0].endswith("2 their end beyond 90, or 8 after the prompt (end-of-sequence lost)")


def test_each_token_of_a_text_is_learned_once(tmp_path: Path) -> None:
    """A file of plain text is one document: its end is held out, at the end of a line."""
    text = "".join(f"{n} and {n + 1}\r\n" for n in range(300))
    (tmp_path / "doc.txt").write_bytes(text.encode())
    settings = {"prompt_column": "prompt", "chosen_column": "chosen", "rejected_column": "rejected"}
    data = build_jsonl(str(tmp_path / "doc.txt"), **settings, max_samples=None, validation_split=0.1)
    plain = text.replace("\r\n", "\n")
    (train,), (validation,) = data.train, data.validation
    assert isinstance(train, Example)
    assert isinstance(validation, Example)
    assert train.completion + validation.completion == plain
    assert train.completion.endswith("\n")
    assert 0.08 < len(validation.completion) / len(plain) < 0.12
    prepared = prepare(data, byte_tokenizer(), SequenceLimits(64, 32, truncation_side="right"))
    sequences = [[*item.prompt, *item.completion] for item in prepared.train if isinstance(item, TokenizedExample)]
    assert {len(ids) for ids in sequences[:-1]} == {64}
    learned = [token for item in prepared.train for token in item.completion]  # type: ignore[union-attr]
    assert bytes([*sequences[0][:1], *learned[:-1]]).decode() == train.completion
    assert learned[-1] == byte_tokenizer().eos_token_id
    assert prepared.report["train"]["sequences"] == len(sequences)
    assert prepared.report["train"]["learned_tokens"] == len(train.completion)


def test_texts_start_with_what_the_tokenizer_puts_before_them_and_end_once() -> None:
    limits = SequenceLimits(64, 32, "right", (65,))
    for text in ("bc", "Abc", f"bc{E}"):
        (item,) = tokenize([Example("", text, None)], byte_tokenizer(), limits)
        assert (item.prompt, item.completion) == ([65], [*b"bc", 256])


def test_dialogues_of_one_system_message_are_divided_one_by_one(tmp_path: Path) -> None:
    """The prompt before a first message of the assistant asks nothing: it may not decide for all."""
    rows = [
        {"messages": say([("system", "S"), ("assistant", f"hi {n}"), ("user", "x"), ("assistant", "y")])}
        for n in range(40)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompt_column": "prompt", "chosen_column": "chosen", "rejected_column": "rejected"}
    data = build_jsonl(str(tmp_path / "x.jsonl"), **settings, max_samples=None, validation_split=0.25)
    assert len(data.train) + len(data.validation) == 40
    assert data.dropped == {}


def test_cached_tokens_know_the_turns() -> None:
    other = Example(TALK.prompt, str(TALK.completion), None)
    judged = Example(TALK.prompt, str(TALK.completion), True)
    assert len({_key([record], byte_tokenizer(), LIMITS) for record in (TALK, other, judged)}) == 3


ROWS = {
    "demonstrations": {"messages": say(MESSAGES)},
    "judged": {"prompt": "p", "completion": "c", "label": True},
}


@pytest.mark.parametrize(
    ("loss", "kind", "says"),
    [
        ("loss=dpo", "demonstrations", "are demonstrations (no rejected completion, no label)"),
        ("loss=kto", "demonstrations", "take loss=sft, which learns from demonstrations"),
        ("loss=orpo", "judged", "take loss=kto, which needs no pairs"),
    ],
)
def test_another_loss_says_which_loss_takes_the_rows(
    small: list[str], tmp_path: Path, loss: str, kind: str, says: str
) -> None:
    rows = [{**ROWS[kind], "n": n} for n in range(40)]
    for n, row in enumerate(rows):
        row |= {"prompt": f"p{n}"} if kind == "judged" else {"messages": say([("user", f"{n}"), *MESSAGES[2:]])}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        build(config([*small, loss, "loss.beta=0.1", f"data.dataset.path={tmp_path / 'rows.jsonl'}"]))
    (problem,) = caught.value.problems
    assert says in str(problem)
    assert "40 of 40 rows" in str(problem)
    assert "rows.jsonl:" in str(problem)


def test_sft_learns_from_wanted_answers_and_demonstrations_of_a_mixture(small: list[str], tmp_path: Path) -> None:
    shown = [{"prompt": f"d{n} ", "completion": "c"} for n in range(40)]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    made_config = config(
        [
            *(item for item in small if not item.startswith("data")),
            *("loss=sft", "data=mixture", "+data@data.dataset.parts.a=jsonl", "+data@data.dataset.parts.b=hf"),
            f"data.dataset.parts.a.dataset.path={tmp_path / 'pairs.jsonl'}",
            f"data.dataset.parts.b.dataset.path={tmp_path / 'shown.jsonl'}",
            "+data.dataset.weights={a: 1, b: 1}",
        ]
    )
    made = build(made_config)
    examples = sft_examples(build_dataset(made_config["data"]["dataset"])).train
    assert {record.is_demonstration for record in examples} == {True, False}
    assert not any(isinstance(record, Pair) for record in examples)
    assert len(made.items.train) == len(examples)
    assert made.items.report["train"]["learned_completions"] == len(examples)


def talks(file: Path, count: int = 60) -> Path:
    rows = [{"messages": say([("user", f"{n}"), ("assistant", f"{n + 1}"), *MESSAGES[3:5]])} for n in range(count)]
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return file


def test_the_loss_is_the_mean_over_the_learned_tokens(small: list[str], tmp_path: Path) -> None:
    file = talks(tmp_path / "talks.jsonl.gz")
    made = config([*small, "loss=sft", "data=hf", f"data.dataset.path={file}"])
    parts = build(made)
    items: list[Any] = list(parts.items.train[:5])
    batch: Any = Collator()(items)
    kept = {"logits_to_keep": batch["logits_to_keep"]}
    logps = token_logps(parts.policy(batch["input_ids"], **kept).logits, batch["labels"]).sum(-1)
    tokens = (batch["labels"] != IGNORED).sum(-1)
    ours = SFT()(logps, tokens) / SFT().denominator(tokens)
    labels = torch.full(batch["input_ids"].shape, IGNORED)
    for row, item in enumerate(items):
        for place, token in enumerate(item.completion, start=len(item.prompt)):
            labels[row, place] = token if token >= 0 else IGNORED
    theirs = parts.policy(batch["input_ids"], labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    examples = sft_examples(build_dataset(made["data"]["dataset"])).train[:5]
    numbers = [int(record.prompt.split()[1]) for record in examples]
    assert tokens.sum() == sum(len(f" {n + 1}") + len(" B") + 1 for n in numbers)


def test_a_run_on_demonstrations_says_what_it_learned(small: list[str], tmp_path: Path, run_hydra: Runner) -> None:
    file = talks(tmp_path / "talks.jsonl.gz")
    done = run_hydra([*small, "loss=sft", f"data.dataset.path={file}"])
    assert done.returncode == 0, done.stderr
    assert "data: learned are 120 completions, of dialogues every turn of the assistant" in done.stdout + done.stderr
    (summary,) = (tmp_path / "outputs").rglob("summary.json")
    report = json.loads(summary.read_text())["data"]
    assert report["train"]["rows"] + report["validation"]["rows"] == 60
    assert report["train"]["learned_completions"] == 2 * report["train"]["rows"]
    assert report["train"]["learned_tokens"] > 3 * report["train"]["rows"]
