"""The verb `prepare`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt_opt.cli.arguments import FILE, ROOT, at_least, complete_file

if TYPE_CHECKING:
    from gpt_opt.config.shards import Meta


class _Count(click.ParamType[int]):
    """A number of tokens, also written as 1e8."""

    name = "n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the integer."""
        try:
            number = float(str(value).replace("_", "").replace(",", ""))
        except ValueError:
            self.fail(f"must be a number, as 1e8 or 5000, but is {value!r}", param, ctx)
        if number != number or number < 1 or number != int(min(number, 1e18)):
            self.fail(f"must be an integer of at least 1, as 1e8 or 5000, but is {value!r}", param, ctx)
        return int(number)


@click.command()
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE|hf:NAME",
    help="Texts: .txt, .jsonl, a folder, a data set.",
    shell_complete=complete_file,
)
@click.argument("more", nargs=-1, metavar="[FILE...]", help="More files.", shell_complete=complete_file)
@click.option("--tokenizer", required=True, metavar="NAME", help="bytes (the project's own), gpt2, a hub id, a folder.")
@click.option("--out", type=FILE, required=True, metavar="FOLDER", help="Where the shards go.")
@click.option("--shard-tokens", type=_Count(), default="1e8", metavar="N", help="Tokens of a shard (default: 1e8).")
@click.option("--tokens", type=_Count(), metavar="N", help="Stop after so many tokens (default: all).")
@click.option("--val-tokens", type=_Count(), metavar="N", help="Tokens held out (default: a shard, or a tenth of all).")
@click.option("--subset", metavar="NAME", help="Configuration of the data set.")
@click.option("--split", default="train", metavar="NAME", help="Split of the data set (default: train).")
@click.option("--text-column", default="text", metavar="NAME", help="Column or key of the texts (default: text).")
@click.option("--stream", is_flag=True, help="Read the data set as it is needed, not all of it first.")
@click.option("--processes", type=int, callback=at_least(1), metavar="N", help="Processes (default: one a core).")
def prepare(
    inputs: tuple[str, ...],
    more: tuple[str, ...],
    tokenizer: str,
    out: Path,
    shard_tokens: int,
    tokens: int | None,
    val_tokens: int | None,
    subset: str | None,
    split: str,
    text_column: str,
    stream: bool,
    processes: int | None,
) -> None:
    """Tokenizes text to token shards for loss=lm.

    Killed and started again, it goes on where it was, and writes the same bytes. A text file is one document, and so is
    every line of a .jsonl file and every row of a data set.
    """
    from gpt_opt.cli.views.prepare import progress
    from gpt_opt.training.data.prepare_shards import Request, prepare_shards

    request = Request(
        (*inputs, *more), tokenizer, out, shard_tokens, tokens, val_tokens, subset, split, text_column, stream
    )
    with progress(sys.stderr) as tell:
        made = prepare_shards(request, processes or len(os.sched_getaffinity(0)), tell)
    print(
        f"{out}: {made.train_tokens:,} training and {made.val_tokens:,} validation tokens of {made.documents:,} "
        f"documents, tokenizer {made.tokenizer} ({made.vocab_size:,} tokens)"
    )
    print(f"train on it:\n{training_line(made, out)}")


def training_line(made: Meta, out: Path) -> str:
    """Returns the command that trains on prepared shards: with the option that has that folder, where there is one."""
    import yaml

    options = (file for file in sorted((ROOT / "hydra_conf" / "data").glob("*.yaml")) if file.stem != "shards")
    known = {yaml.safe_load(file.read_text())["dataset"].get("path"): file.stem for file in options}
    folder = str(out)
    words = [f"training={known[folder]}"] if folder in known else ["training=shards", f"data.dataset.path={folder}"]
    words.append("model=gpt-tiny" if made.tokenizer == "bytes" else "model=gpt-small")
    if made.tokenizer not in ("bytes", "gpt2"):  # those of the two models
        words += [f"model.tokenizer_name_or_path={made.tokenizer}", f"model.config.vocab_size={made.vocab_size}"]
    return shlex.join(["python", "run_hydra.py", *words])
