"""What must hold of the objects that a config names; pure functions of plain containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.errors import Problem


def target_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that every object says what makes it, and a model what it is called and which tokenizer it has."""
    model = config["model"]
    for key in ("name", "tokenizer_name_or_path", "_target_"):
        if not isinstance(model.get(key), str):
            yield Problem(
                f"model.{key}", f"must be a string, but is {model.get(key)!r}", "see hydra_conf/model/hf.yaml"
            )
    nodes = {f"callbacks[{index}]": node for index, node in enumerate(config["callbacks"])}
    nodes |= {key: config[key] for key in ("collator", "aligner") if config[key] is not None}
    for key, node in nodes.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            fix = f"{{_target_: {node}}}" if isinstance(node, str) else "{_target_: mine.Name}"
            yield Problem(key, f"must be a mapping with the key _target_, but is {node!r}", f"write {fix}")
