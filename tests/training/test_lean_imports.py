"""Runs import no package that they do not use; once it is imported, transformers knows what is of it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import run_hydra
import gpt_opt.training.warm
from transformers import trainer, trainer_utils
from transformers.loss import loss_for_object_detection as loss

unused = {"peft", "datasets", "pandas", "pyarrow", "scipy", "deepspeed", "trl", "optuna", "wandb", "mlflow"}
assert not unused & set(sys.modules), unused & set(sys.modules)
assert not isinstance([], trainer.datasets.Dataset)
assert not trainer_utils._is_peft_model([])

import numpy
import datasets
import peft
from transformers import GPT2Config, GPT2LMHeadModel

assert isinstance(datasets.Dataset.from_dict({"a": [1]}), trainer.datasets.Dataset)
assert trainer.datasets.__version__ == datasets.__version__
model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
adapted = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=["c_attn"], fan_in_fan_out=True))
assert trainer_utils._is_peft_model(adapted)
assert isinstance(adapted, trainer.PeftModel)
assert not isinstance(model, trainer.PeftModel)
assert [list(side) for side in loss.linear_sum_assignment(numpy.array([[2, 1], [1, 2]]))] == [[0, 1], [1, 0]]
"""


def test_packages_that_a_run_does_not_use_are_not_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
