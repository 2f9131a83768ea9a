"""Writes run directories as finished trainings leave them, for the benchmark of loading."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import yaml

LINES = 200
"""Lines of each metrics.jsonl: 180 of the training, 20 of evaluations."""

_TRAINING = {
    **{"batch_size": 16, "micro_batch_size": None, "eval_batch_size": None, "gradient_accumulation_steps": None},
    **{"max_length": 192, "max_prompt_length": 96, "truncation": "keep_start", "add_bos": True, "context_length": None},
    **{"max_steps": 1800, "num_epochs": None, "n_examples": None, "warmup_steps": None, "max_grad_norm": 1.0},
    **{"ema_decay": None, "mixed_precision": "no", "gradient_checkpointing": False, "compile": False, "log_every": 10},
    **{"eval_every": 90, "save_every": 900, "save_total_limit": 1},
}
_MODEL = {
    **{"model_type": "gpt2", "vocab_size": 258, "n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4},
    **{"activation_function": "gelu_pytorch_tanh", "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 257},
    **{"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
}
_FINETUNING = {
    **{"resume_from_checkpoint": None, "load_best_model_at_end": False, "metric_for_best_model": None},
    **{"greater_is_better": None, "early_stopping_patience": None},
}
_WANDB: dict[str, Any] = {"project": None, "entity": None, "group": None, "mode": None, "tags": []}

_PAIR = ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "kl")


def config(index: int) -> dict[str, Any]:
    """Returns the resolved config of one run, about 80 keys: loss, beta, learning rate, decay and seed vary."""
    loss = {"name": ("dpo", "ipo")[index % 2], "beta": (0.05, 0.1, 0.3, 1)[index // 2 % 4], "label_smoothing": 0.0}
    optimizer = {"name": "adamw", "_target_": "torch.optim.AdamW", "lr": (1e-4, 3e-4, 1e-3)[index // 8 % 3]}
    schedule = {"lr_schedule": "warm-up-cosine", "warm_up_fraction": 0.1, "betas": [0.9, 0.999], "eps": 1e-08}
    decay = {"weight_decay": (0, 0.01)[index // 24 % 2], "cautious_weight_decay": False}
    return {
        "model": {"name": "tiny-gpt2", "_target_": "gpt_opt.training.models.from_config", "config": _MODEL},
        "data": {"dataset": {"name": "pydoc", "_target_": "gpt_opt.training.data.build_pydoc", "max_samples": None}},
        "loss": {**loss, "reference_free": False, "use_ref_model": True, "ref_model_id": None},
        "optimizer": {"optimizer_params": {**optimizer, **schedule, **decay}},
        "training": {"training_params": _TRAINING, "finetuning": _FINETUNING},
        "lora": {},
        "logging": {"logging_params": {"log_level": "info", "report_to": [], "logging_dir": None, "wandb": _WANDB}},
        "gpu": {"device_ids": None, "use_ddp": False},
        "paths": {"output_dir": "outputs", "run_name": None},
        **{"collator": None, "aligner": None, "callbacks": [], "seed": index // 48, "exp_name": None},
    }


def _lines(draw: random.Random) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for number in range(1, LINES - LINES // 10 + 1):
        step, moment = 10 * number, 1_760_000_000 + number + draw.random()
        speed = {"grad_norm": draw.random(), "learning_rate": draw.random() / 1000, "tokens_per_second": 4685.7}
        rows.append({"step": step, "time": round(moment, 3), **{name: draw.random() for name in _PAIR}, **speed})
        if number % 9 == 0:
            values = {f"eval/{name}": draw.random() for name in _PAIR}
            rows.append({"step": step, "time": round(moment + 0.5, 3), **values, "eval/seconds": 8.1})
    return rows


def write_run(outputs: Path, index: int) -> Path:
    """Writes one finished run; a second call writes other metrics."""
    root = outputs / "tiny-gpt2" / "pydoc" / "adamw" / f"beta={index % 7},seed={index}-{index:012x}"
    for folder in (root / ".hydra", root / "claims", root / "checkpoints" / "checkpoint-1800"):
        folder.mkdir(parents=True, exist_ok=True)
    draw, whole = random.Random(os.urandom(8)), config(index)
    times = {"started": "2026-11-29T21:09:14.784+00:00", "updated": "2026-11-29T21:11:24.279+00:00"}
    state = {"run_id": f"{index:012x}", "state": "COMPLETED", "attempt": 1, "host": "node1", "pid": 9639, "slurm": None}
    state |= {"gpus": [], **times, "step": 1800, "total_steps": 1800, "error": None}
    rows = _lines(draw)
    final = {name: value for row in rows for name, value in row.items() if name not in ("step", "time")}
    summary = {"run_id": state["run_id"], "attempt": 1, "step": 1800, "metrics": final, "time_s": 116.286}
    summary |= {"tokens": 5_801_400, "peak_memory_mb": 820.6, "device": "cpu"}
    (root / ".hydra" / "config.yaml").write_text(yaml.dump(whole, Dumper=yaml.CSafeDumper, sort_keys=False))
    (root / "config.json").write_text(json.dumps(whole, indent=2))
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "summary.json").write_text(json.dumps(summary, indent=2))
    (root / "state.json").write_text(json.dumps(state, indent=2))
    return root
