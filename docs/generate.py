"""Writes docs/configuration.md from the YAML files of hydra_conf/ and their comments: `python docs/generate.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """# Configuration

Every key, its default, its meaning and its unit, made from the comments of `hydra_conf/` by `python docs/generate.py`.
`python run_hydra.py loss.beta=0.1 --cfg job` prints the config of one run, and `dry_run=true` builds everything and
prints parameters, steps, tokens, memory and the run directory.

- `group=option` (`loss=sft`) takes an option of a group, `key=value` (`loss.beta=0.1`) sets one key. `???` has no
  default.
- For names of other libraries ours are suggested (`lora_r=16`: write `lora=lora lora.r=16`), and a mistake in a YAML
  file with its file and line.
- `+key=value` adds nothing that the schema lacks; settings of your own are `user.width=3`, read as `${user.width}`.
- A file of your own in `hydra_conf/<group>/` is an option of that group.
"""
ABOVE = {
    "exp": "Whole experiments, as `+exp=NAME`: what the command line says beats them. [Sweeps](sweeps.md) has more.",
    "exp/long_context": "Written `+exp=long_context/stage1`. [Post-training](post_training.md) has more.",
}
SKIPPED = ("hydra", "deepspeed/part")


def comment_after(line: str, column: int) -> str:
    """Returns the comment of a line that starts behind a column, without its sign, as a table can hold it."""
    return line[column:].partition("#")[2].strip().replace("|", "\\|")


def rows(node: yaml.MappingNode, lines: list[str], above: str) -> Iterator[tuple[str, str, str]]:
    """Yields key, default and meaning of each key of a mapping, and of inner mappings where they have a comment."""
    for key, value in node.value:
        name, line = above + key.value, lines[value.end_mark.line - (value.end_mark.column == 0)]
        if key.value in ("defaults", "hydra"):
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if said := comment_after(lines[key.start_mark.line], key.end_mark.column):
                yield name, "", said
            yield from rows(value, lines, f"{name}.")
        else:
            text = lines[value.start_mark.line][value.start_mark.column : value.end_mark.column]
            yield name, text, comment_after(line, value.end_mark.column)


def described(file: Path, above: str) -> tuple[str, str]:
    """Returns the top comment of a file, and a table of its keys, which is empty where it has none."""
    lines = file.read_text().splitlines()
    top = [line[1:].strip() for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    text = " ".join(line for line in top if not line.startswith("@package"))
    node = yaml.compose("\n".join(lines))
    above = "" if "@package _global_" in top else above
    found = [*rows(node, lines, above)] if isinstance(node, yaml.MappingNode) else []
    cells = [f"| `{key}` | {f'`{value}`' if value else ''} | {said} |" for key, value, said in found]
    return text, "\n".join(["\n\n| key | default | meaning |\n|---|---|---|", *cells]) if cells else ""


def page(folder: Path = ROOT / "hydra_conf") -> str:
    """Returns the whole page."""
    text, keys = described(folder / "config.yaml", "")
    parts = [HEAD, f"## Keys of no group: `config.yaml`\n\n{text}{keys}\n"]
    for group in sorted({str(file.parent.relative_to(folder)) for file in folder.rglob("*.yaml")} - {"."}):
        if group.startswith(SKIPPED):
            continue
        parts.append(f"## `{group}`\n" + (f"\n{ABOVE[group]}\n" if group in ABOVE else ""))
        for file in sorted((folder / group).glob("*.yaml")):
            text, keys = described(file, f"{group}.")
            parts.append(
                f"### `{group}={file.stem}`\n\n{text}{'' if group.startswith('exp') else keys}".rstrip() + "\n"
            )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
