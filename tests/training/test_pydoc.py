"""The embedded preference data: enough of it, within its limits, deterministic, and nothing leaks."""

from __future__ import annotations

import ast
import hashlib
import inspect
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_opt.errors import DataError
from gpt_opt.training.data.records import Pair, PairData, fingerprint_pairs
from gpt_opt.training.data.sources import pydoc


@pytest.fixture(scope="module")
def data() -> PairData:
    return pydoc.build_pydoc()


def test_there_is_enough(data: PairData) -> None:
    assert len(data.train) >= 2000
    assert 250 <= len(data.validation) <= 400


def test_texts_keep_to_their_limits(data: PairData) -> None:
    for pair in (*data.train, *data.validation):
        assert 16 <= len(pair.prompt.encode()) <= 96
        assert 16 <= len(pair.chosen.encode()) <= 64
        assert (pair.prompt + pair.chosen).isascii()
        assert (pair.prompt + pair.chosen).isprintable()
        assert not pair.prompt.endswith(" ")
        assert pair.chosen.startswith(" ")


def test_other_limits_are_kept() -> None:
    pairs = pydoc.build_pydoc(prompt_bytes=40, response_bytes=120).train
    assert max(len(pair.prompt) for pair in pairs) <= 40
    assert 64 < max(len(pair.chosen) for pair in pairs) <= 120


def test_chosen_is_the_true_continuation(data: PairData) -> None:
    for documents, pairs in (
        (pydoc.documents("train"), data.train),
        (pydoc.documents("validation"), data.validation),
    ):
        text = "\n" + "\n".join(documents)
        assert all("\n" + pair.prompt + pair.chosen in text for pair in pairs)


def test_rejected_is_the_same_bytes_in_another_order(data: PairData) -> None:
    for pair in (*data.train, *data.validation):
        assert pair.rejected != pair.chosen
        assert sorted(pair.rejected) == sorted(pair.chosen)


def test_damage_exchanges_two_words_and_shuffles_a_third() -> None:
    old = ["the", "first", "word", "and", "second", "thing", "here"]
    new = (pydoc._damaged(" ".join(old)) or "").split()
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert len(changed) == 3
    moved = [i for i in changed if new[i] in old]
    assert {new[i] for i in moved} == {old[i] for i in moved}
    (shuffled,) = set(changed) - set(moved)
    assert sorted(new[shuffled]) == sorted(old[shuffled])


@pytest.mark.parametrize("text", [" 12 + 34 == 46", " aaa bbb ccc", " one two", " word word word"])
def test_what_cannot_be_damaged_makes_no_pair(text: str) -> None:
    assert pydoc._damaged(text) is None


def test_no_validation_text_is_in_the_training_texts(data: PairData) -> None:
    train = "\n".join(pydoc.documents("train"))
    for pair in data.validation:
        assert pair.prompt + pair.chosen not in train
    seen = {text for pair in data.train for text in (pair.prompt, pair.chosen, pair.rejected)}
    assert seen.isdisjoint(text for pair in data.validation for text in (pair.prompt, pair.chosen, pair.rejected))


def test_no_validation_document_nearly_repeats_a_training_document() -> None:
    def runs(split: pydoc.Split) -> set[tuple[str, ...]]:
        lines = (line.split(" ") for text in pydoc.documents(split) for line in text.split("\n"))
        size = pydoc.SHINGLE_WORDS
        return {tuple(words[i : i + size]) for words in lines for i in range(len(words) - size + 1)}

    assert runs("validation")
    assert runs("train").isdisjoint(runs("validation"))


def test_no_pair_comes_twice(data: PairData) -> None:
    for pairs in (data.train, data.validation):
        assert len({pair.prompt for pair in pairs}) == len({pair.chosen for pair in pairs}) == len(pairs)


def test_one_module_under_two_names_is_on_one_side() -> None:
    modules = ("collections", "json", "email", "asyncio", "decimal", "datetime", "io", "os", "re", "abc")
    for name in modules:
        places = (f"{name}.py", f"_{name}.py", f"_py{name}.py", f"{name}/__init__.py", f"{name}/deep/er.py")
        assert len({pydoc._split_of(Path(place)) for place in places}) == 1
    assert {pydoc._split_of(Path(f"{name}.py")) for name in modules} == {"train", "validation"}


def test_a_pair_is_made_from_its_own_paragraph_alone(data: PairData) -> None:
    few = pydoc._pairs(pydoc.documents("train")[1::7], 96, 64)
    assert len(few) > 500
    rejected = {pair.prompt + pair.chosen: pair.rejected for pair in data.train}
    # A pair may give way to another with the same prompt, but one that is there is always the same, in the same order.
    common = [pair for pair in few if pair.prompt + pair.chosen in rejected]
    assert len(common) > 0.95 * len(few)
    assert all(rejected[pair.prompt + pair.chosen] == pair.rejected for pair in common)
    assert [pair for pair in data.train if pair in set(common)] == common


def test_another_process_builds_the_same(data: PairData) -> None:
    code = "from gpt_opt.training.data.sources.pydoc import build_pydoc; print(build_pydoc().fingerprint)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert result.stdout.strip() == data.fingerprint


def test_the_recipe_is_pinned() -> None:
    paragraph = "Return a list of the lines in the string, breaking at line boundaries, without the line breaks."
    assert pydoc._pair(paragraph, 96, 64) == Pair(
        prompt="Return a list of the lines in the string, breaking at",
        chosen=" line boundaries, without the line breaks.",
        rejected=" the rieadnobsu, without line line breaks.",
    )


def test_scan_finds_what_the_parser_finds() -> None:
    for name in ("textwrap.py", "argparse.py", "json/decoder.py", "heapq.py"):
        source = (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        parsed = {ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)}
        scanned = set(pydoc._docstrings(source))
        assert len(scanned) > 5
        assert scanned <= parsed


def test_only_docstrings_are_read() -> None:
    source = inspect.cleandoc('''
        # a licence

        """Module."""
        NAME = """not one"""
        def f(
            x: int,
        ) -> int:
            r"""Function."""
            """Neither."""
        class C:
            """Class
                indented.
            """
            def g(self):
                """Has a backslash \\\\ in it."""
                """Ünicode."""
    ''')
    assert list(pydoc._docstrings(source)) == ["Module.", "Function.", "Class\nindented."]


def test_too_small_limits_are_reported_together() -> None:
    with pytest.raises(DataError) as error:
        pydoc.build_pydoc(prompt_bytes=0, response_bytes=-1)
    assert "prompt_bytes" in str(error.value)
    assert "response_bytes" in str(error.value)


@pytest.mark.parametrize("folder", [".", "missing.zip"])
def test_a_python_without_source_is_reported(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / folder))
    with pytest.raises(DataError, match="source"):
        pydoc._corpus.__wrapped__()


def test_fingerprint_depends_on_every_text_and_every_border() -> None:
    a, b = Pair("p", "c", "r"), Pair("q", "d", "s")
    variants = [
        ([a, b], []), ([b, a], []), ([a], [b]), ([], [a, b]), ([a], []),
        ([replace(a, prompt="pc", chosen=""), b], []), ([replace(a, rejected="r\n"), b], []),
    ]  # fmt: skip
    prints = {fingerprint_pairs(train, validation) for train, validation in variants}
    assert len(prints) == len(variants)
    lines = b'["train", "p", "c", "r"]\n["validation", "q", "d", "s"]\n'
    assert fingerprint_pairs([a], [b]) == hashlib.sha256(lines).hexdigest()
