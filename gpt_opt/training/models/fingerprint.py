"""What tells one model from another, by what it computes."""

from __future__ import annotations

import hashlib
import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel


def fingerprint(model: PreTrainedModel) -> str:
    """Returns the SHA-256 of what a model computes by: weights and buffers, config, attention kernel, source code."""
    named = [*model.named_parameters(), *model.named_buffers()]
    with ThreadPoolExecutor() as pool:
        tensors = list(pool.map(_tensor_sha256, (tensor for _, tensor in named)))
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # where the weights came from
    sources = {_source(type(module)) for module in model.modules()}
    codes = sorted(_source_sha256(file) for file in sources if not file.startswith(str(Path(torch.__file__).parent)))
    parts = [[name for name, _ in named], tensors, config, getattr(model.config, "_attn_implementation", None), codes]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _tensor_sha256(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(kind: type) -> str:
    """Returns the file that a class is from, or its name where it is from none, as one that was typed in."""
    try:
        return inspect.getsourcefile(kind) or kind.__qualname__
    except (TypeError, OSError):
        return kind.__qualname__


def _source_sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes() if Path(file).is_file() else file.encode()).hexdigest()
