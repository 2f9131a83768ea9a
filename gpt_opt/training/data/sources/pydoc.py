"""Preference pairs from the docstrings of the standard library: real text that is wherever Python is.

The prompt is the beginning of a paragraph, the chosen completion its true continuation, the rejected one the same
continuation with two words exchanged and the letters of a third shuffled. Both completions have the same bytes in
another order, so that neither length nor vocabulary gives the label away.

Nothing is imported from the library and nothing is drawn at random: what happens to a text is decided by a hash of that
text alone. A text belongs to a split by the name of its top-level module, so another Python version moves no
document from one split to the other.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.records import Example, ExampleData, Pair, PairData, fingerprint_records

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

VALIDATION_PAIRS, VALIDATION_DOCUMENTS = 320, 100
VALIDATION_SHARE = 0.1
"""Fraction of the top-level modules whose texts are for validation only."""
SHINGLE_WORDS = 6
"""A validation paragraph that shares this many words in a row with a training text is a near-duplicate."""
MIN_BYTES = 32
"""Neither side of a pair may be asked to be shorter: three words to damage would hardly fit."""

# Tests, tables, and the parts that distributions put in separate packages: not on every machine, or not text.
_PACKAGED_APART = {"distutils", "ensurepip", "idlelib", "lib2to3", "test", "tests", "tkinter", "turtledemo", "venv"}
_NOT_TEXT = {"__phello__", "__pycache__", "dist-packages", "encodings", "pydoc_data", "site-packages"}
_SKIPPED = _PACKAGED_APART | _NOT_TEXT
_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
_FILE_HEADER = re.compile(r"(?:\s*#[^\n]*\n)*\s*[rR]?")
_WORD = re.compile(r"[A-Za-z]{3,}")


def build_pydoc(prompt_bytes: int = 96, response_bytes: int = 64, max_samples: int | None = None) -> PairData:
    """Builds the embedded preference data: over 2,000 training pairs and up to `VALIDATION_PAIRS` validation pairs.

    Args:
        prompt_bytes: Most bytes of a prompt.
        response_bytes: Most bytes of a completion.
        max_samples: Use only the first so many training pairs; None uses all.

    Returns:
        Pairs of ASCII text, each split ordered by a hash of its texts, which is as good as shuffled.

    Raises:
        DataError: A limit is below `MIN_BYTES`, or this Python comes without the source of its library.
    """
    limits = {"prompt_bytes": prompt_bytes, "response_bytes": response_bytes}
    problems = [
        Problem(name, f"must be at least {MIN_BYTES} bytes, but got {value}", f"leave out {name}, or raise it")
        for name, value in limits.items()
        if value < MIN_BYTES
    ]
    if problems:
        raise DataError(problems)
    train = _pairs(documents("train"), prompt_bytes, response_bytes)
    seen = {text for pair in train for text in (pair.prompt, pair.chosen)}
    held_out = _pairs(documents("validation"), prompt_bytes, response_bytes)
    validation = tuple(p for p in held_out if p.prompt not in seen and p.chosen not in seen)[:VALIDATION_PAIRS]
    train = train[:max_samples]
    return PairData(train, validation, fingerprint_records(train, validation))


def build_pydoc_documents(max_samples: int | None = None) -> ExampleData:
    """Builds the embedded documents, docstrings that are learned whole, and up to `VALIDATION_DOCUMENTS` to measure on.

    Args:
        max_samples: Use only the first so many training documents; None uses all.

    Raises:
        DataError: This Python comes without the source of its library.
    """
    train, validation = (tuple(Example("", text, None) for text in documents(split)) for split in SPLITS)
    train, validation = train[:max_samples], validation[:VALIDATION_DOCUMENTS]
    return ExampleData(train, validation, fingerprint_records(train, validation))


def library_sha256() -> str:
    """Returns what tells whether the texts have changed: names, sizes and times of the library's source files."""
    root, digest = Path(sysconfig.get_path("stdlib")), hashlib.sha256()
    for path in _sources(root) if root.is_dir() else ():
        facts = path.stat()
        digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def documents(split: Split) -> list[str]:
    """Lists the texts that the pairs of a split are made of, for pretraining on the training ones.

    Args:
        split: "train" or "validation". No validation text shares `SHINGLE_WORDS` words in a row with a training text.

    Returns:
        ASCII texts in the order of their files: a docstring each, a paragraph a line, line wraps undone.

    Raises:
        DataError: This Python comes without the source of its library.
    """
    return ["\n".join(document) for document in _corpus()[split]]


@cache
def _corpus() -> dict[Split, tuple[tuple[str, ...], ...]]:
    """Reads the library once: the documents of each split, as tuples of paragraphs, no paragraph twice."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[Split, list[list[str]]] = {"train": [], "validation": []}
    seen: set[str] = set()
    for path in _sources(root) if root.is_dir() else ():
        texts = _docstrings(path.read_text(encoding="utf-8", errors="replace"))
        found[_split_of(path.relative_to(root))] += [list(_new_paragraphs(text, seen)) for text in texts]
    if not any(found.values()):
        fix = "install the package with the library's .py files, or train on your own pairs with data=jsonl"
        raise DataError([Problem("data=pydoc", f"no docstring found: {root} must hold the library's source", fix)])
    known = {shingle for document in found["train"] for text in document for shingle in _shingles(text)}
    held_out = [[text for text in document if known.isdisjoint(_shingles(text))] for document in found["validation"]]
    return {"train": _filled(found["train"]), "validation": _filled(held_out)}


def _filled(found: Iterable[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(document) for document in found if document)


def _sources(folder: Path) -> Iterator[Path]:
    """Walks the source files in the order of their names, without entering what is skipped (site-packages is large)."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name in _SKIPPED:
            continue
        if path.is_dir():
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _split_of(path: Path) -> Split:
    """Decides by the top-level name, under which `_pydecimal.py` and `decimal.py`, or `re.py` and `re/`, are one."""
    name = re.sub(r"^_(py)?", "", path.parts[0].removesuffix(".py"))
    return "validation" if _rank("split", name) < VALIDATION_SHARE else "train"


def _docstrings(source: str) -> Iterator[str]:
    """Scans for docstrings, many times faster than a parse; one with escapes or beyond ASCII is passed over."""
    header = _FILE_HEADER.match(source)
    body = header.end() if header else 0
    for match in _TRIPLE_QUOTED.finditer(source):
        text, start = match[1], match.start()
        # No header of a class or function is so far from its docstring that 200 characters do not reach its colon.
        opens_block = source[max(0, start - 200) : start].rstrip("rR").rstrip().endswith(":")
        if (opens_block or start == body) and text.isascii() and "\\" not in text:
            yield inspect.cleandoc(text)


def _new_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """Yields the paragraphs of prose, each on one line, that are not in `seen`, and adds them to it."""
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(block.split())
        if paragraph.isprintable() and ">>>" not in paragraph and _WORD.search(paragraph) and paragraph not in seen:
            seen.add(paragraph)
            yield paragraph


def _shingles(text: str) -> set[str]:
    words = text.split(" ")
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def _pairs(texts: Iterable[str], prompt_bytes: int, response_bytes: int) -> tuple[Pair, ...]:
    """Makes the pairs of all paragraphs; of pairs with one prompt or one completion, the first by hash stays."""
    paragraphs = (line for text in texts for line in text.split("\n"))
    made = [pair for line in paragraphs if (pair := _pair(line, prompt_bytes, response_bytes)) is not None]
    made.sort(key=lambda pair: _rank("order", pair.prompt + pair.chosen))
    unique: list[Pair] = []
    seen: set[str] = set()
    for pair in made:
        if seen.isdisjoint((pair.prompt, pair.chosen)):
            seen |= {pair.prompt, pair.chosen}
            unique.append(pair)
    return tuple(unique)


def _pair(paragraph: str, prompt_bytes: int, response_bytes: int) -> Pair | None:
    """Cuts one pair from the beginning of a paragraph, at spaces; None where that is too short or too plain."""
    # A short paragraph is split in the same proportion as a long one, so that it still has both parts.
    fraction = prompt_bytes / (prompt_bytes + response_bytes)
    border = paragraph.rfind(" ", 0, min(prompt_bytes, int(fraction * len(paragraph))) + 1)
    rest = paragraph[max(border, 0) :]
    chosen = rest if len(rest) <= response_bytes else rest[: max(rest.rfind(" ", 0, response_bytes + 1), 0)]
    if border < MIN_BYTES // 2 or len(chosen) < MIN_BYTES // 2:
        return None
    rejected = _damaged(chosen)
    return None if rejected is None else Pair(paragraph[:border], chosen, rejected)


def _damaged(text: str) -> str | None:
    """Exchanges two words and shuffles the letters of a third; None where the text has no three such words."""
    words = sorted(_WORD.finditer(text), key=lambda match: _rank("word", text, match.start()))
    shuffled = next((match for match in words if len(set(match[0])) > 1), None)
    if shuffled is None:
        return None
    others = [match for match in words if match is not shuffled]
    partner = next((match for match in others[1:] if match[0] != others[0][0]), None)
    if partner is None:
        return None
    first, second = others[0], partner
    new = {first.start(): second[0], second.start(): first[0], shuffled.start(): _shuffled_letters(shuffled[0])}
    return _WORD.sub(lambda match: new.get(match.start(), match[0]), text)


def _shuffled_letters(word: str) -> str:
    """Orders the letters by their hashes, or turns the word by one letter where that is the word itself."""
    order = sorted(range(len(word)), key=lambda i: _rank("letter", word, i))
    shuffled = "".join(word[i] for i in order)
    return shuffled if shuffled != word else word[1:] + word[:1]


def _rank(*key: str | int) -> float:
    """Maps a key to a number in [0, 1), evenly and the same on every machine."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
