"""README.md of an exported model: what it is and how it was trained, from the records of its run alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.records.io import read_json_or_empty
from gpt_opt.records.metrics import EVALUATION, metric_info, metric_text
from gpt_opt.records.provenance import packages_in, read_provenance
from gpt_opt.records.run_dir import RunPaths

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed")
_LEFT_OUT = ("_target_", "name")
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


def model_card(paths: RunPaths, config: Mapping[str, Any], step: int | None, *, is_result: bool, is_known: bool) -> str:
    """Returns a model card: YAML that the Hugging Face hub reads, then Markdown.

    Args:
        paths: The run.
        config: Its config.
        step: Optimizer steps before the exported checkpoint, where its name says it.
        is_result: Whether that checkpoint is the result of the run, which the final metrics are of.
        is_known: Whether transformers knows the model type by itself.
    """
    summary = read_json_or_empty(paths.summary)
    provenance = read_provenance(paths)
    model, loss, data = config["model"], config["loss"]["name"], config["data"]["dataset"]
    lines = [*_front(model, loss, data), f"# {model['name']}, {loss} on {data['name']}", ""]
    lines += [f"Trained with gpt-opt, run `{paths.root.name}`.", "", "## Use", "", *_use(is_known), ""]
    lines += ["## Training", "", *_table("setting", "value", _settings(config, step, summary)), ""]
    if is_result and isinstance(metrics := summary.get("metrics"), dict) and metrics:
        lines += ["## Evaluation", "", *_table("final metric", "value", _metrics(metrics)), ""]
    lines += ["## Made with", "", *_table("what", "", _made_with(provenance, summary)), ""]
    lines += ["Licence, intended use and limits are for its authors to say: no record of the run has them.", ""]
    return "\n".join(lines)


def _front(model: Mapping[str, Any], loss: str, data: Mapping[str, Any]) -> list[str]:
    """Returns the YAML block; names that may be of the hub are given to it as such."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- gpt-opt"]
    lines.append(f"- {json.dumps(loss)}")
    for key, name in (("base_model", model.get("name_or_path")), ("datasets", data.get("path"))):
        if isinstance(name, str) and _HUB_NAME.match(name):
            lines += [f"{key}:", f"- {json.dumps(name)}"]
    return [*lines, "---", ""]


def _use(is_known: bool) -> list[str]:
    own = [] if is_known else ["import gpt_opt.training.models  # pip install gpt-opt: the model is one of its own"]
    return [
        "```python",
        *own,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
    ]


def _table(left: str, right: str, rows: Iterator[tuple[str, Any]]) -> list[str]:
    cells = [f"| {name} | {_cell(value)} |" for name, value in rows if value not in (None, "", {}, [])]
    return [f"| {left} | {right} |", "|---|---|", *cells]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"([|<>`*_\\])", r"\\\1", " ".join(text.split()))


def _settings(config: Mapping[str, Any], step: int | None, summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields what of the config makes the training what it is, without what is off."""
    model, optimizer = config["model"], config["optimizer"]["optimizer_params"]
    yield "starts from", model.get("archive") or model.get("name_or_path") or "random weights"
    yield "goes on from", config["training"]["finetuning"].get("resume_from_checkpoint")
    for group, values in (("data", config["data"]["dataset"]), ("loss", config["loss"]), ("optimizer", optimizer)):
        yield group, values["name"]
        yield from _inner(group, values)
    yield from _inner("training", config["training"]["training_params"])
    yield from _inner("lora", config.get("lora") or {})
    yield "weights", model.get("policy_dtype")
    yield "seed", config.get("seed")
    yield "optimizer steps", step if step is not None else summary.get("step")
    yield "tokens seen by the run", summary.get("tokens")


def _inner(group: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key not in _LEFT_OUT and value is not None and value is not False:
            yield f"{group}: {key}", value


def _metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the metrics of the last evaluation, all where there was none."""
    own = {name: value for name, value in metrics.items() if name.startswith(EVALUATION)} or metrics
    for name, value in own.items():
        if isinstance(value, int | float) and name != f"{EVALUATION}seconds":
            info = metric_info(name)
            unit = f" {info.unit}" if info is not None and info.unit else ""
            yield name, (metric_text(name, value) if math.isfinite(value) else str(value)) + unit


def _made_with(provenance: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    commit = provenance.get("git_commit")
    yield "commit", f"{commit} with changes" if commit and provenance.get("git_dirty") else commit
    yield "device", summary.get("device")
    seconds = summary.get("time_s")
    yield "training time", f"{seconds:.0f} s" if isinstance(seconds, int | float) else None
    packages = packages_in(provenance)
    yield "packages", ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if name in packages)
    yield "data", summary.get("data_fingerprint") and f"fingerprint {summary['data_fingerprint']}"
