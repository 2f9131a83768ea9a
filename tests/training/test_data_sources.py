"""Published data sets in their own layouts, data of one's own, mixtures; all offline, on files of the same shape."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from gpt_opt.config.checks.data import data_problems
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data import Example, Pair
from gpt_opt.training.data.chat import Chat
from gpt_opt.training.data.collect import MAX_PROBLEMS, Dropped, require
from gpt_opt.training.data.mixture import build_mixture
from gpt_opt.training.data.records import PAIRS, UNPAIRED
from gpt_opt.training.data.sources import published as sources
from gpt_opt.training.data.sources.html import plain_text
from gpt_opt.training.objectives.sft import UNWANTED, sft_examples
from gpt_opt.training.objectives.unpaired import unpaired

COMMON: dict[str, Any] = {"subset": None, "split": "train", "max_samples": None, "validation_split": 0.25}
COLUMNS = {f"{name}_column": name for name in ("prompt", "chosen", "rejected", "completion", "label")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def hf(path: Path | str, **changes: Any) -> Any:
    return sources.build_hf(path=str(path), **{**COMMON, **COLUMNS, **changes})


def everything(data: Any) -> set[Any]:
    return {*data.train, *data.validation}


def say(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"content": content, "role": role} for role, content in messages]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# -- hh ---------------------------------------------------------------------------------------------------------------


def dialogue(number: int, answer: str) -> str:
    return f"\n\nHuman: hi {number}\n\nAssistant: hello\n\nHuman: bye?\n\nAssistant:{answer}"


def test_hh_splits_at_the_last_turn_of_the_assistant(vectors: dict[str, Any]) -> None:
    case = vectors["hh_split"]
    (pair,) = sources.hh_pair(case["inputs"])
    assert pair == Pair(**case["expected"])


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ("\n\nHuman: ho\n\nAssistant: no", sources.OTHER_PROMPT),
        (dialogue(0, " no\n\nHuman: why?\n\nAssistant: so"), sources.OTHER_PROMPT),
        (dialogue(0, " yes"), sources.EQUAL),
        (dialogue(0, " "), sources.BLANK),
    ],
)
def test_hh_leaves_out_what_is_no_pair(rejected: str, reason: str) -> None:
    assert list(sources.hh_pair({"chosen": dialogue(0, " yes"), "rejected": rejected})) == [Dropped(reason)]


def test_hh_as_a_clone_of_the_hub(tmp_path: Path) -> None:
    """The repository holds gzipped lines by folder and split."""
    for folder in ("helpful-base", "harmless-base"):
        for split, count in (("train", 6), ("test", 3)):
            found = [
                {"chosen": dialogue(n, f" {folder} {split}"), "rejected": dialogue(n, " no")}
                for n in range(10 * (split == "test"), 10 * (split == "test") + count)
            ]
            write_lines(tmp_path / "hh" / folder / f"{split}.jsonl.gz", [*found, found[0]])
    settings = {**COMMON, "path": str(tmp_path / "hh"), "validation_split": "test"}
    data = sources.build_hh(**settings)
    assert (len(data.train), len(data.validation)) == (12, 6)
    assert data.dropped == {"duplicate": 4}
    one = sources.build_hh(**{**settings, "subset": "helpful-base"})
    assert {pair.chosen for pair in one.train} == {" helpful-base train"}
    assert {pair.chosen for pair in one.validation} == {" helpful-base test"}


def test_prompts_of_the_training_split_are_not_evaluated_on(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(5)]
    folder = tmp_path / "set"
    write_lines(folder / "train.jsonl", pairs[:4])
    write_lines(folder / "test.jsonl", pairs[3:])
    data = hf(folder, validation_split="test")
    assert [pair.prompt for pair in data.validation] == ["4"]
    assert data.dropped == {"validation row with a prompt of the training split": 1}


# -- shp --------------------------------------------------------------------------------------------------------------


def comment(**changes: Any) -> dict[str, Any]:
    row = {
        "post_id": "x",
        "domain": "askculinary_train",
        "upvote_ratio": 0.9,
        "history": "q",
        "c_root_id_A": "a",
        "c_root_id_B": "b",
        "created_at_utc_A": 1,
        "created_at_utc_B": 2,
        "score_A": 10,
        "score_B": 5,
        "human_ref_A": "a1",
        "human_ref_B": "b1",
        "labels": 1,
        "seconds_difference": 1.0,
        "score_ratio": 2.0,
    }
    return {**row, **changes}


def test_shp_matches_the_vector(vectors: dict[str, Any]) -> None:
    case = vectors["shp_filter"]
    expected = case["expected"]
    found = []
    for row in case["inputs"]["rows"]:
        converted = comment(**{**row, "human_ref_A": row["A"], "human_ref_B": row["B"]})
        found += [item for item in sources.shp_pair(converted, 2.0) if isinstance(item, Pair)]
    answers = expected["responses"]
    assert found == [Pair(expected["prompt"], answers[a], answers[b]) for a, b in expected["pairs"]]


@pytest.mark.parametrize(
    ("scores", "kept"), [((10, 5), 1), ((9, 5), 0), ((1, 0), 1), ((0, 0), 0), ((3, -2), 1), ((0, -5), 0), ((5, 5), 0)]
)
def test_shp_scores_of_zero_divide_nothing(scores: tuple[int, int], kept: int) -> None:
    found = list(sources.shp_pair(comment(score_A=scores[0], score_B=scores[1]), 2.0))
    assert sum(isinstance(item, Pair) for item in found) == kept
    assert len(found) == 1


def test_shp_as_a_saved_folder(tmp_path: Path) -> None:
    found = [comment(history=f"q{n}", score_B=5 + n % 2) for n in range(40)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(found)}).save_to_disk(str(tmp_path / "shp"))
    data = sources.build_shp(**COMMON, path=str(tmp_path / "shp"), min_score_ratio=2.0)
    assert len(everything(data)) == 20
    assert data.dropped == {"scores with a ratio below 2": 20}
    with pytest.raises(DataError, match=r"split 'dev'.*Should be one of \['train'\]"):
        sources.build_shp(**{**COMMON, "split": "dev"}, path=str(tmp_path / "shp"), min_score_ratio=2.0)


# -- stack exchange ---------------------------------------------------------------------------------------------------


def test_se_matches_the_vector_without_its_ties(vectors: dict[str, Any]) -> None:
    """The reference keeps ties; they say nothing, so they are left out here."""
    case = vectors["se_pairs"]
    scores = case["inputs"]["pm_scores"]
    expected = [tuple(pair) for pair in case["expected"]["pairs"] if scores[pair[0]] != scores[pair[1]]]
    assert sources.se_order(scores) == expected


def test_se_as_parquet(tmp_path: Path) -> None:
    def answer(text: str, score: int) -> dict[str, Any]:
        profile = {"answer_id": 1, "author": "x", "author_id": 1, "author_profile": "u"}
        return {**profile, "pm_score": score, "selected": False, "text": text}

    questions = [
        {
            "qid": n,
            "question": f"<p>Why <em>{n}</em>?</p>",
            "answers": [answer("<p>so</p>", 3), answer("<p>because</p>", 1), answer("<p>oh</p>", 3)],
            "date": "2023/01/01",
            "metadata": ["https://example.org"],
        }
        for n in range(20)
    ]
    datasets.Dataset.from_list(questions).to_parquet(str(tmp_path / "se.parquet"))
    data = sources.build_se(**COMMON, path=str(tmp_path / "se.parquet"))
    assert len(everything(data)) == 40
    assert data.dropped == {sources.TIE: 20}
    assert Pair("\n\nHuman: Why 3?\n\nAssistant:", " oh", " because") in everything(data)


def test_html_becomes_text_and_loses_no_word() -> None:
    html = "<p>Use <code>a &lt; b</code>,\nas in <a href='x'>this</a>:</p>\n"
    html += "<pre><code>if a:\n    b\n</code></pre><ul><li>x</li></ul>"
    assert plain_text(html) == "Use <code>a < b</code>, as in this:\n\n<code>if a:\n    b\n</code>\n\nx"


# -- ultrafeedback ----------------------------------------------------------------------------------------------------


def feedback(number: int, chosen: str, rejected: str, scores: tuple[float, float] = (8.0, 6.0)) -> dict[str, Any]:
    ask = ("user", f"what is {number}?")
    return {
        "prompt": ask[1],
        "prompt_id": str(number),
        "chosen": say(ask, ("assistant", chosen)),
        "rejected": say(ask, ("assistant", rejected)),
        "messages": say(ask, ("assistant", chosen)),
        "score_chosen": scores[0],
        "score_rejected": scores[1],
    }


@pytest.mark.parametrize("with_prompt", [True, False])
def test_ultrafeedback_in_both_layouts(tmp_path: Path, with_prompt: bool) -> None:
    kept = [feedback(n, "one", "two") for n in range(20)]
    other = [feedback(20, "a", "b", (5.0, 5.0)), feedback(21, "a", ""), feedback(22, "a", "a")]
    names = ["chosen", "rejected", "score_chosen", "score_rejected"]
    columns = names if not with_prompt else list(kept[0])
    table = [{name: row[name] for name in columns} for row in (*kept, *other)]
    splits = {
        "train_prefs": datasets.Dataset.from_list(table),
        "test_prefs": datasets.Dataset.from_list([{name: feedback(30, "x", "y")[name] for name in columns}]),
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "uf"))
    settings = {**COMMON, "split": "train_prefs", "validation_split": "test_prefs"}
    data = sources.build_ultrafeedback(path=str(tmp_path / "uf"), **settings)
    assert (len(data.train), len(data.validation)) == (20, 1)
    assert data.dropped == {"chosen completion with no higher score": 1, sources.BLANK: 1, sources.EQUAL: 1}
    first = data.train[0]
    assert first == Pair("\n\nHuman: what is 0?\n\nAssistant:", " one", " two")
    assert isinstance(first.prompt, Chat)
    assert first.prompt.messages == (("user", "what is 0?"),)


# -- anything ---------------------------------------------------------------------------------------------------------


def test_hf_finds_out_what_the_columns_are(tmp_path: Path) -> None:
    ask, system = ("user", "hi"), ("system", "be kind")
    layouts: list[tuple[dict[str, Any], Any]] = [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, Pair("p", "c", "r")),
        (
            {"prompt": say(system, ask), "chosen": say(("assistant", "c")), "rejected": say(("assistant", "r"))},
            Pair(Chat([system, ask]), " c", " r"),
        ),
        (
            {"chosen": say(ask, ("assistant", "c")), "rejected": say(ask, ("assistant", "r"))},
            Pair(Chat([ask]), " c", " r"),
        ),
        (
            {"prompt": "hi", "chosen": say(("assistant", "c")), "rejected": say(("assistant", "r"))},
            Pair(Chat([ask]), " c", " r"),
        ),
        ({"prompt": "p", "completion": "c", "label": False}, Example("p", "c", False)),
        (
            {"prompt": say(ask), "completion": say(("assistant", "c")), "label": True},
            Example(Chat([ask]), " c", True),
        ),
    ]
    for number, (row, expected) in enumerate(layouts):
        file = write_lines(tmp_path / f"{number}.jsonl", [row])
        with pytest.raises(DataError, match=r"gives (1 and 0|0 and 1)"):
            hf(file)
        (found,) = sources.record_of(row, sources.Columns())
        assert found == expected
        assert isinstance(found.prompt, Chat) == isinstance(expected.prompt, Chat)


def test_a_table_of_judged_answers_is_unpaired_data(tmp_path: Path) -> None:
    judged = [{"question": f"{n}", "completion": "c", "label": str(n % 2 == 0)} for n in range(40)]
    with (tmp_path / "kto.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(judged[0]))
        writer.writeheader()
        writer.writerows(judged)
    data = hf(tmp_path / "kto.csv", prompt_column="question")
    assert everything(data) == {Example(f"{n}", "c", n % 2 == 0) for n in range(40)}
    assert hf(tmp_path / "kto.csv", prompt_column="question").fingerprint == data.fingerprint


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, suffix: str) -> None:
    """Also where a text looks like a number, nothing, or a date, and where it has lines of its own."""
    texts = ["12", "NA", "2024-01-01", 'two\n"lines",', "ü\U0001f600"]
    found = [{"prompt": f"{n} {texts[n % 5]}", "chosen": texts[n % 5], "rejected": "null"} for n in range(40)]
    file = tmp_path / f"prefs{suffix}"
    if suffix == ".jsonl":
        write_lines(file, found)
    elif suffix == ".json":
        file.write_text(json.dumps(found))
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(found)
    else:
        datasets.Dataset.from_list(found).to_parquet(str(file))
    assert everything(hf(file)) == {Pair(**row) for row in found}


def test_bad_rows_are_named_by_their_places_and_no_more_than_some(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    wrong = [
        good,
        {"prompt": "p", "answer": "t"},
        {"chosen": say(("user", "x")), "rejected": say(("user", "y"))},
        {"chosen": say(("user", "x"), ("assistant", "a")), "rejected": say(("user", "y"), ("assistant", "b"))},
        {"prompt": "p", "chosen": [{"role": "bot", "content": "x"}], "rejected": []},
        {"prompt": "p", "completion": "c", "label": "maybe"},
    ]
    with pytest.raises(DataError) as caught:
        hf(write_lines(tmp_path / "x.jsonl", wrong))
    text = str(caught.value)
    for line, says in [
        (
            2,
            "needs the columns 'chosen' and 'rejected', 'completion' (with 'label' for an unpaired preference), ",
        ),
        (3, "'chosen' no message before the response"),
        (4, "must continue the same dialogue"),
        (5, "'chosen' must be a list of messages {role, content} with roles system, user, assistant"),
        (6, "'label' must be true or false, but is \"maybe\""),
    ]:
        assert says in next(row for row in text.splitlines() if f"x.jsonl:{line}:" in row)
    table = datasets.Dataset.from_list([{**good, "chosen": ""}] * (MAX_PROBLEMS + 7))
    table.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError) as many:
        hf(tmp_path / "saved")
    (problem,) = many.value.problems
    assert problem.where == f"{tmp_path / 'saved'}['train'][0] and {MAX_PROBLEMS + 6} more"
    assert problem.message.startswith("'chosen' is empty")
    with pytest.raises(DataError) as many:
        require(Problem(letter, f"{letter} is bad") for letter in map(chr, range(0x4E00, 0x4E00 + MAX_PROBLEMS + 7)))
    assert len(many.value.problems) == MAX_PROBLEMS + 1
    assert "7 more mistakes are in other rows" in str(many.value)


def test_a_bad_line_of_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected\np,c\n")
    with pytest.raises(DataError, match=r"x\.csv:2: must have the 3 cells"):
        hf(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
        hf(tmp_path / "x.parquet")


def test_a_name_of_the_hub_offline_is_one_clear_error() -> None:
    with pytest.raises(DataError) as caught:
        hf("no-such/data")
    text = str(caught.value)
    assert text.startswith("1 problem:")
    for part in ("'no-such/data' with split 'train'", "hf-cache", "switched off by HF_HUB_OFFLINE", "share that cache"):
        assert part in text


def test_a_data_set_with_a_loading_script_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("import datasets\n")
    with pytest.raises(DataError, match="Dataset scripts are no longer supported"):
        hf(folder)


def test_max_samples_is_of_each_split(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 100)):
        found = [{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(first, first + 10)]
        write_lines(tmp_path / "set" / f"{split}.jsonl", found)
    data = hf(tmp_path / "set", validation_split="test", max_samples=4)
    assert [pair.prompt for pair in (*data.train, *data.validation)] == ["0", "1", "2", "3", "100", "101", "102", "103"]


# -- mixtures ---------------------------------------------------------------------------------------------------------


def parts(folder: Path, **sizes: int) -> dict[str, Any]:
    made = {}
    for name, size in sizes.items():
        found = [{"prompt": f"{name} {n}", "chosen": "a", "rejected": "b"} for n in range(size)]
        target = "gpt_opt.training.data.build_hf"
        path = str(write_lines(folder / f"{name}.jsonl", found))
        made[name] = {"dataset": {"name": "hf", "_target_": target, "path": path, **COMMON, **COLUMNS}}
    return made


def test_a_mixture_has_the_shares_and_nothing_twice(tmp_path: Path) -> None:
    made = parts(tmp_path, x=400, y=100)
    data = build_mixture(made, {"x": 1, "y": 1}, seed=0)
    names = Counter(pair.prompt[0] for pair in data.train)
    assert names["x"] == names["y"] > 60
    assert len(everything(data)) == len(data.train) + len(data.validation)
    assert sum(data.dropped.values()) == 500 - len(everything(data))
    assert set(data.dropped) == {"x: beyond its weight"} or len(data.dropped) == 2
    assert build_mixture(made, {"x": 2, "y": 2}, seed=0) == data
    other = build_mixture(made, {"x": 1, "y": 1}, seed=1)
    assert other.fingerprint != data.fingerprint
    assert Counter(pair.prompt[0] for pair in other.train) == names


def test_a_whole_text_is_no_part_of_a_mixture(tmp_path: Path) -> None:
    """As one row it would leave out all but one of the other part."""
    made = parts(tmp_path, x=40, y=1)
    made["y"]["dataset"]["path"] = str(tmp_path / "book.txt")
    (tmp_path / "book.txt").write_text("a line\n" * 100)
    with pytest.raises(DataError, match=r"parts\.y: must be rows, which the weights count, but is the whole"):
        build_mixture(made, {"x": 1, "y": 1}, seed=0)


def test_a_mixture_of_all_there_is_leaves_nothing_out(tmp_path: Path) -> None:
    made = parts(tmp_path, x=300, y=100)
    each = {name: hf(part["dataset"]["path"]) for name, part in made.items()}
    weights = {name: float(len(data.train)) for name, data in each.items()}
    data = build_mixture(made, weights, seed=0)
    assert set(data.train) == {pair for part in each.values() for pair in part.train}


def test_pairs_and_single_answers_mix_for_the_losses_that_take_both(tmp_path: Path) -> None:
    made = parts(tmp_path, x=50, y=50)
    judged = [{"prompt": f"z{n}", "completion": "c", "label": n % 2 == 0} for n in range(50)]
    write_lines(Path(made["y"]["dataset"]["path"]), judged)
    data = build_mixture(made, {"x": 1, "y": 1}, seed=0)
    assert {record.kind for record in everything(data)} == {PAIRS, UNPAIRED}
    learned = sft_examples(data)
    assert {example.desirable for example in learned.train} == {True}
    assert learned.dropped[UNWANTED] == sum(isinstance(r, Example) and not r.desirable for r in everything(data))
    assert len(unpaired(data).train) == sum(1 + isinstance(record, Pair) for record in data.train)


# -- constraints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "/no/such"}, "path: must be a file, a folder or a name on the hub"),
        ({"path": "no.csv"}, "path: must be a file"),
        ({"path": __file__}, "must be JSON lines, a JSON list, CSV (.csv), parquet or plain text (.txt)"),
        ({"path": "./absent"}, "or a name on the hub"),
        ({"path": "a/b/c"}, "or a name on the hub"),
        ({"path": "FILE", "split": "test"}, "split: must be train with a file, but is 'test'"),
        ({"path": "FILE", "subset": "a"}, "subset: must be null with a file, but is 'a'"),
        ({"path": "FILE", "validation_split": "test"}, "validation_split: must be a fraction"),
        ({"validation_split": 1.5}, "validation_split: 0 < validation_split < 1 must hold (or it names a split)"),
        ({"validation_split": None}, "but it is None"),
        ({"min_score_ratio": 0.5}, "min_score_ratio: must be a finite number of at least 1"),
    ],
)
def test_contradictions_are_found_before_a_run(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = write_lines(tmp_path / "x.jsonl", [{}])
    dataset = {"path": "a/b", **COMMON, **changes}
    dataset["path"] = str(file) if dataset["path"] == "FILE" else dataset["path"]
    (problem,) = data_problems({"data": {"dataset": dataset}})
    assert says in str(problem)
    nested = {"parts": {"p": {"dataset": dataset}}, "weights": {"p": 1.0}}
    (inner,) = data_problems({"data": {"dataset": nested}})
    assert inner.where.startswith("data.dataset.parts.p.dataset.")


def test_weights_name_the_parts() -> None:
    part = {"dataset": {"path": "a/b", **COMMON}}
    for weights, count in (({}, 1), ({"b": 1.0}, 1), ({"a": 0.0}, 1), ({"a": 1.0}, 0)):
        config = {"data": {"dataset": {"parts": {"a": part}, "weights": weights}}}
        assert len(list(data_problems(config))) == count


def test_the_kinds_of_data_are_what_the_names_say(tmp_path: Path) -> None:
    data = hf(parts(tmp_path, x=50)["x"]["dataset"]["path"])
    assert {record.kind for record in everything(data)} == {PAIRS}
