"""The ids of runs as they were first given, of every option of hydra_conf: `golden_ids.json`, and what a change means.

`python -m tests.records.golden_ids` adds the ids of options that are new; it never changes one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt_opt.config.schema import register
from gpt_opt.records.io import write_text
from gpt_opt.records.run_id import TRAINING, run_id
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR
from tests.helpers.configs import by_hydra

register()
register_resolvers()

FILE = Path(__file__).with_name("golden_ids.json")
ADDED = ("exp", "logging")
"""Groups without an option by default."""

NOT_OPTIONS = ("hydra", "deepspeed/part")
DEFAULT = "config"
MANDATORY = {
    "model=hf": ["model.name_or_path=me/model"],
    "model=blank": ["model.name=mine", "model.name_or_path=me/model"],
    "data=jsonl": ["data.dataset.path=/golden/pairs.jsonl"],
    "data=hf": ["data.dataset.path=me/prefs"],
    "data=mixture": ["+data@data.dataset.parts.a=pydoc", "+data.dataset.weights={a: 1}"],
    "paths=local_run_dir": ["exp_name=x"],
    "data=shards": ["data.dataset.path=/golden/shards"],
    "training=shards": ["data.dataset.path=/golden/shards"],
    "exp=long_context_32768": ["data.dataset.path=me/prefs"],
}
WITHOUT_BETA = ("loss=sft", "loss=lm", "exp=hh_sft", "exp/long_context=")


def names() -> list[str]:
    """Returns every option, `loss=dpo`, and DEFAULT for none."""
    found = (file.relative_to(CONFIG_DIR).with_suffix("") for file in CONFIG_DIR.rglob("*.yaml"))
    options = [item for item in found if item.parts[1:] and not str(item).startswith(NOT_OPTIONS)]
    return [DEFAULT, *sorted(f"{item.parent}={item.name}" for item in options)]


def composed(name: str) -> dict[str, Any]:
    """Returns the resolved config of an option."""
    sign = "+" if name.startswith(ADDED) else ""
    overrides = [] if name == DEFAULT else [sign + name]
    if not name.startswith(WITHOUT_BETA) and (name == "training=default" or not name.startswith("training=")):
        overrides.append("loss.beta=0.1")
    return by_hydra([*overrides, *MANDATORY.get(name, [])])


def keys(node: Any, above: str = "") -> set[str]:
    """Returns the dotted keys of what identifies a run."""
    if isinstance(node, dict) and node:
        return {key for name, value in node.items() for key in keys(value, f"{above}{name}.")}
    return {above[:-1]}


def read() -> dict[str, Any]:
    """Returns the ids by option and the keys they were made of: all of DEFAULT, and how the options differ from it."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def what_moved(name: str, config: dict[str, Any]) -> str:
    """Returns why an option has another id than it had, and what to do about it; empty where it has the same."""
    known = read()
    if name not in known["ids"]:
        return f"{name} is a new option: python -m tests.records.golden_ids writes down its id"
    if run_id(config) == known["ids"][name]:
        return ""
    before = {*known["keys"], *known["more"].get(name, ())} - {*known["fewer"].get(name, ())}
    now = keys(TRAINING.part(config))
    head = (
        f"{name}: the id must stay {known['ids'][name]}, but is {run_id(config)}: every such run would be trained again"
    )
    parts = [head]
    for key in sorted(now - before):
        parts.append(
            f"{key} is a new key: add it to ABSENT_MEANS in gpt_opt/records/run_id.py with the value that means 'as "
            "before this key', and make that its default; if it cannot change a result, add it to NOT_IDENTITY instead"
        )
    for key in sorted(before - now):
        parts.append(f"{key} is gone, or at a value of ABSENT_MEANS: restore the key with the value it had")
    if len(parts) == 1:
        parts.append("no key came or went, so a value is another: restore the default, or the name in _target_")
    return "\n  ".join(parts)


def main() -> None:
    """Adds what is not there."""
    known = read() if FILE.exists() else {"ids": {}, "keys": sorted(keys(TRAINING.part(composed(DEFAULT))))}
    known.setdefault("more", {})
    known.setdefault("fewer", {})
    base = {*known["keys"]}
    for name in names():
        if name in known["ids"]:
            continue
        config = composed(name)
        own = keys(TRAINING.part(config))
        known["ids"][name] = run_id(config)
        for title, differ in (("more", own - base), ("fewer", base - own)):
            if differ:
                known[title][name] = sorted(differ)
        print(name, known["ids"][name])
    write_text(FILE, json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
