"""`gptopt prepare`: the bytes it writes, from every input, in one process or several, killed and started again."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from gpt_opt.cli.app import main
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.shards import HEADER_BYTES
from gpt_opt.errors import DataError
from gpt_opt.run.signals import handled
from gpt_opt.training.data import encode, pieces, prepare_shards
from gpt_opt.training.data.encode import Encoder, line_start
from gpt_opt.training.data.pieces import TextPiece, file_pieces, hub_pieces
from gpt_opt.training.data.prepare_shards import Request
from gpt_opt.training.data.workers import without_ctrl_c
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer
from tests.training.test_training import config

TEXTS = ["first\n\n  text", "zweiter Tëxt\nof two lines", "<|endoftext|> spelled out"]
EXPECTED = [token for text in TEXTS for token in (256, *text.encode())]


def tokens(folder: Path) -> list[int]:
    """All tokens, those of validation first."""
    files = sorted(folder.glob("*.bin"), key=lambda file: file.name.partition("_")[2])
    return [int(token) for file in files for token in np.fromfile(file, dtype="<u2", offset=HEADER_BYTES)]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def prepare(request: Request, processes: int = 1) -> list[tuple[int, int | None, int]]:
    told: list[tuple[int, int | None, int]] = []
    prepare_shards.prepare_shards(request, processes, lambda *values: told.append(values))
    return told


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in TEXTS))
    return path


def test_documents_back_to_back_each_after_the_end_of_text(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(Request((str(documents),), "bytes", out, shard_tokens=20, val_tokens=9))
    assert tokens(out) == EXPECTED
    rest = len(EXPECTED) - 9
    sizes = [9, *[20] * (rest // 20), rest % 20]
    assert [(file.name, (file.stat().st_size - HEADER_BYTES) // 2) for file in sorted(out.glob("train*"))] == [
        (f"train_{number:06d}.bin", size) for number, size in enumerate(sizes) if number
    ]
    meta = json.loads((out / "meta.json").read_text())
    assert (meta["tokenizer"], meta["vocab_size"], meta["documents"]) == ("bytes", 258, 3)
    assert (meta["train_tokens"], meta["val_tokens"]) == (rest, 9)
    assert sorted(content(out)) == [
        "meta.json",
        *(f"train_{n:06d}.bin" for n in range(1, len(sizes))),
        "val_000000.bin",
    ]


def test_text_files_of_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, text in zip(("b", "c", "a"), [*TEXTS[1:], "\ufeff" + TEXTS[0]], strict=True):
        (source / f"{name}.txt").write_text(text, encoding="utf-8")
    prepare(Request((str(source),), "bytes", tmp_path / "out"))
    assert tokens(tmp_path / "out") == EXPECTED


def test_rows_of_a_data_set(documents: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows"
    source.mkdir()
    (source / "train.jsonl").write_text("".join(json.dumps({"content": text}) + "\n" for text in TEXTS))
    for streamed in (False, True):
        out = tmp_path / f"out{streamed}"
        request = Request((f"hf:{source}",), "bytes", out, text_column="content", streamed=streamed)
        prepare(request)
        assert tokens(out) == EXPECTED
    with pytest.raises(DataError, match=r"--text-column: must be one of content, but is text"):
        prepare(Request((f"hf:{source}",), "bytes", tmp_path / "other"))


def test_a_text_in_pieces_and_blocks_has_the_tokens_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(f"{'  ' * (n % 3)}line {n}" + "\n" * (n % 4) for n in range(300))
    (tmp_path / "a.txt").write_text(text)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 700)
    monkeypatch.setattr(encode, "BLOCK_CHARACTERS", 90)
    assert len(list(file_pieces([tmp_path / "a.txt"], "text"))) > 3
    prepare(Request((str(tmp_path / "a.txt"),), "bytes", tmp_path / "out"))
    assert tokens(tmp_path / "out") == [256, *text.encode()]


def test_lines_start_where_tokens_of_gpt2_end() -> None:
    text = "ab\n\n  c\n d\ne"
    assert [line_start(text, position) for position in (0, 3, 9, 10, 12)] == [11, 11, 11, 11, 12]


def test_a_token_budget(documents: Path, tmp_path: Path) -> None:
    prepare(Request((str(documents),), "bytes", tmp_path / "out", max_tokens=30))
    assert tokens(tmp_path / "out") == EXPECTED[:30]


class Kill(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(40)))
    monkeypatch.setattr(pieces, "PIECE_BYTES", 200)
    prepare(Request((str(source),), "bytes", tmp_path / "whole", shard_tokens=100))

    def killed(done: int, total: int | None, tokens: int) -> None:
        if done == after:
            raise Kill

    request = Request((str(source),), "bytes", tmp_path / "broken", shard_tokens=100)
    with pytest.raises(Kill):
        prepare_shards.prepare_shards(request, 1, killed)
    assert not list((tmp_path / "broken").glob("*.bin"))
    told = prepare(request)
    assert told[0][0] == after
    assert content(tmp_path / "whole") == content(tmp_path / "broken")


def test_a_preparation_that_was_killed_while_it_packed(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request((str(documents),), "bytes", tmp_path / "out", shard_tokens=20)
    prepare(Request((str(documents),), "bytes", tmp_path / "whole", shard_tokens=20))
    write = prepare_shards.write_shard

    def killed(file: Path, values: np.ndarray) -> None:
        if file.name == "train_000002.bin":
            (file.parent / f".{file.name}.1.tmp").write_bytes(b"half")
            raise Kill
        write(file, values)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_shards, "write_shard", killed)
        with pytest.raises(Kill):
            prepare(request)
    prepare(request)
    assert content(tmp_path / "whole") == content(tmp_path / "out")


@pytest.mark.slow
def test_ctrl_c_ends_no_process_that_tokenizes() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    with handled([signal.SIGINT], signal.default_int_handler):
        with without_ctrl_c():
            process = subprocess.Popen([sys.executable, "-c", code])
        assert process.wait() == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(f"text {number}\n" * 50)
    for count in (1, 2):
        prepare(Request(tuple(map(str, files)), "bytes", tmp_path / str(count)), processes=count)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    (tmp_path / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"1.txt: must be UTF-8, but byte 0 is 0xff"):
        prepare(Request(tuple(map(str, files)), "bytes", tmp_path / "wrong"), processes=2)


def test_what_ends_a_preparation_does_not_wait_for_its_processes(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("text")
    os.mkfifo(tmp_path / "1.txt")  # a piece that nobody finishes
    jobs = ((TextPiece(tmp_path / f"{n > 0:d}.txt", 0, 4), tmp_path / f"{n}.tokens") for n in range(2))
    encoded = prepare_shards._encoded(Encoder(byte_tokenizer(), "bytes"), jobs, 2, None)
    assert next(encoded) == tmp_path / "0.tokens"
    late = threading.Timer(10, (tmp_path / "1.txt").write_text, ["text"])
    late.start()
    encoded.close()  # as Ctrl-C does
    assert late.is_alive()
    assert not multiprocessing.active_children()
    late.cancel()


def test_a_folder_of_another_request_is_left_alone(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(Request((str(documents),), "bytes", out))
    before = content(out)
    assert prepare(Request((str(documents),), "bytes", out)) == []
    with pytest.raises(DataError, match=r"--out: must be a new folder, .* max_tokens was None"):
        prepare(Request((str(documents),), "bytes", out, max_tokens=40))
    documents.write_text(json.dumps({"text": "another text that is long enough"}))
    with pytest.raises(DataError, match=r"--out: must be a new folder, .* sha256 was"):
        prepare(Request((str(documents),), "bytes", out))
    assert content(out) == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"must be a new or an empty folder, .* has other files"):
        prepare(Request((str(documents),), "bytes", tmp_path / "own"))


def test_a_lost_shard_is_noticed(documents: Path, tmp_path: Path) -> None:
    request = Request((str(documents),), "bytes", tmp_path / "out", shard_tokens=20)
    prepare(request)
    (tmp_path / "out" / "train_000002.bin").unlink()
    with pytest.raises(DataError, match=r"must have the 67 tokens of meta.json, but has 47"):
        prepare(request)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', r"a.jsonl:2: must have a string under 'text', but has txt"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": \n', r"a.jsonl:3: must be a JSON object, but: Expecting value"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: must have a string under 'text', but has a list"),
        ("a.txt", "abc", r"--input: must give a validation shard and one to train on, but 4 tokens are too few"),
        ("a.pdf", "abc", r"--input: must be a file .txt, .*a.pdf ends in '.pdf'"),
    ],
)
def test_what_cannot_be_prepared_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        prepare(Request((str(tmp_path / name),), "bytes", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.bin"))


def test_ids_beyond_16_bits_are_refused(documents: Path, tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(65_537)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1").save_pretrained(tmp_path / "large")
    request = Request((str(documents),), str(tmp_path / "large"), tmp_path / "out")
    with pytest.raises(DataError, match=r"--tokenizer: must have at most 65,536 tokens, .* has 65,537"):
        prepare(request)


def test_a_tokenizer_of_a_folder_is_that_of_the_name(documents: Path, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "folder")
    prepare(Request((str(documents),), str(tmp_path / "folder"), tmp_path / "out"))
    assert tokens(tmp_path / "out") == EXPECTED


def test_a_tokenizer_without_an_end_is_refused() -> None:
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(DataError, match=r"must have an end-of-text token, but it has none"):
        Encoder(endless, "it")


def gptopt(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["prepare", *arguments])
    return code, *capsys.readouterr()


def test_the_command(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--input", str(documents), "--tokenizer", "bytes"]
    code, out, err = gptopt([*common, "--out", "mine", "--tokens", "5e1", "--processes", "1"], capsys)
    assert (code, err) == (0, "tokenized 1 of 1 pieces, 67 tokens\n")
    assert "mine: 45 training and 5 validation tokens of 3 documents, tokenizer bytes (258 tokens)" in out
    line = "python run_hydra.py training=shards data.dataset.path=mine model=gpt-tiny"
    assert out.endswith(f"\n{line}\n")
    composed = config(shlex.split(line)[2:])
    assert composed["loss"]["name"] == "lm"
    (problem,) = constraint_problems(composed)
    assert "must fit a training shard: a step needs 4,097 tokens" in problem.message
    _, out, _ = gptopt([*common, "--out", "data/shakespeare", "--processes", "1"], capsys)
    assert out.endswith("\npython run_hydra.py training=shakespeare model=gpt-tiny\n")
    code, _, err = gptopt([*common, "--out", "mine", "--shard-tokens", "1.5"], capsys)
    assert code == 2
    assert "must be an integer of at least 1, as 1e8 or 5000, but is '1.5'" in err
    code, _, err = gptopt(["--tokenizer", "bytes", "--out", "x"], capsys)
    assert code == 2
    assert "--input: must be files or one hf:NAME, but is nothing" in err


def test_a_data_set_of_the_hub_that_fails_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DataError, match="hf:some/texts is not: OSError"):
        list(hub_pieces("some/texts", None, "train", "text", streamed=True, skip=0))
