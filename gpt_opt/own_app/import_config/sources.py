"""Models and data of a post-training YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.data import PUBLISHED
from gpt_opt.config.suggest import SYNONYMS
from gpt_opt.errors import Problem
from gpt_opt.own_app.import_config.reader import DATASET, FLAT_MODELS, Reader, canonical, is_default

COLUMNS = ("prompt", "chosen", "rejected", "completion", "label")

LISTED = ("name", "name_or_path", "trust_remote_code")
"""Keys of the group model that each entry of a list of models can have."""


def _models(reader: Reader) -> None:
    index = reader.model_index
    listed = reader.models if isinstance(reader.models, list) else [reader.models]
    entries = [_entry(reader, f"models[{index}]", entry) for index, entry in enumerate(listed) if entry is not None]
    if not entries:
        fix = "models: [{name: my-model, huggingface_id: HUB_ID_OR_FOLDER}]"
        reader.problems.append(Problem("models", "must list at least one model, but lists none", fix))
        return
    if index is not None and not 0 <= index < len(entries):
        problem = f"must be an index of the file's models, 0 to {len(entries) - 1}, but is {index}"
        reader.problems.append(Problem("--model-index", problem))
        return
    reader.imported.options["model"] = "hf"
    if len(entries) == 1 or index is not None:
        for key, value in entries[index or 0].items():
            reader.set(f"model.{key}", value)
        return
    if more := sorted({key for entry in entries for key in entry} - set(LISTED)):
        reader.note(f"models: {', '.join(more)} of single models are left out; --model-index N imports one model whole")
    reader.set("models", [{key: entry[key] for key in LISTED if key in entry} for entry in entries])
    reader.set("model_index", 0)
    reader.note(f"models: model_index=0 to {len(entries) - 1} chooses one, -m goes through all")


def _entry(reader: Reader, where: str, entry: Any) -> dict[str, Any]:
    """Returns one model in keys of the group model."""
    left = dict(entry) if isinstance(entry, Mapping) else {"huggingface_id": entry}
    found: dict[str, Any] = {}
    names = (*("huggingface_id", "name_or_path", "hf_id", "path", "id"), *FLAT_MODELS, "name")
    source = next((left.pop(name) for name in names if left.get(name) is not None), None)
    if not isinstance(source, str):
        reader.problems.append(Problem(where, f"must have a string huggingface_id, but is {entry!r}"))
        return {"name_or_path": ""}
    if left.get("name") is not None:
        found["name"] = str(left.pop("name"))
    found["name_or_path"] = source
    for name, value in left.items():
        key = "trust_remote_code" if name == "trust_remote_code" else SYNONYMS.get(name, f"model.{name}")[6:]
        if key == "policy_dtype" and value is not None:
            found[key] = None if value == "auto" else str(value).removeprefix("torch.")
        elif key == "attn_implementation" and isinstance(value, bool):
            found |= {key: "flash_attention_2"} if value else {}
        elif key in ("trust_remote_code", "tokenizer_name_or_path", "attn_implementation") and value is not None:
            found[key] = value
        elif value is not None and not is_default(name, value):
            reader.imported.without_equal.append(f"{where}.{name}: {value}")
    return found


def _dataset(reader: Reader) -> None:
    name = reader.take("dataset.path", "dataset.local_path", "dataset.data_path", "dataset.file", "dataset.data_files")
    other = reader.take(
        "dataset.name", "dataset.huggingface_id", "dataset.dataset_name", "dataset_name", "dataset_path"
    )
    name, other = (other, None) if name is None else (name, other)
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    if not isinstance(name, str):
        listed = next((value for path, value in reader.left.items() if canonical(path) == ("dataset",)), name)
        problem = f"must be one name on the hub, folder or file, but is {listed!r}"
        fix = "dataset: {name: HUB_ID_OR_PATH}; of several data sets hydra_conf/data/mixture.yaml makes one"
        reader.problems.append(Problem("dataset.name", problem, fix))
        return
    if other is not None:
        reader.note(f"dataset.name: {other} is not needed beside the path {name}")
    columns = {column: reader.take(f"{column}_column", f"{column}_field", f"{column}_key") for column in COLUMNS}
    other_columns = {column: value for column, value in columns.items() if value not in (None, column)}
    option = PUBLISHED.get(name) if not other_columns else None
    reader.imported.options["data"] = option or "hf"
    if option is None:
        reader.set(f"{DATASET}.path", name)
    for column, value in other_columns.items():
        reader.set(f"{DATASET}.{column}_column", value)
    if (subset := reader.take("dataset.subset", "dataset.config", "dataset.config_name")) is not None:
        reader.set(f"{DATASET}.subset", subset)
    if (split := reader.take("train_split", "dataset.split", "dataset_train_split")) is not None:
        reader.set(f"{DATASET}.split", split)
    validation = reader.take("eval_split", "test_split", "validation_split", "dataset_test_split", "val_split")
    share = reader.take("test_size", "eval_size", "val_size", "val_set_size", "validation_size", "eval_ratio")
    if (held_out := validation if validation is not None else share) is not None:
        reader.set(f"{DATASET}.validation_split", held_out)
    elif option is None:
        reader.set(f"{DATASET}.validation_split", 0.1)
        reader.note("dataset: no split to evaluate on is given, so 0.1 of the prompts are held out")


SOURCE_STEPS = (_models, _dataset)
