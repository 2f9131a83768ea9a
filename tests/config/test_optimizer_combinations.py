"""What an optimizer cannot do together with other keys is said before anything is trained."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.optimizer_traits import TRAITS
from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from tests.conftest import CONFIG_DIR

register()
register_resolvers()

TRAINING, OPTIMIZER = "training.training_params", "optimizer.optimizer_params"
NO_CLIPPING = f"{TRAINING}.max_grad_norm=0"
MUP = "+model.config.enable_mup_with_base_n_embd=64"


@cache
def problems(*overrides: str) -> tuple[str, ...]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config: dict[str, Any] = plain_config(compose("config", overrides=["loss.beta=0.1", *overrides]))
    return tuple(str(problem) for problem in constraint_problems(config))


CLIPPING = ("momo", "momo-star", "momo-adam", "momo-adam-star", "muon-momo", "muonmax-momo")


@pytest.mark.parametrize("name", CLIPPING)
def test_a_model_of_the_loss_takes_no_clipping(name: str) -> None:
    found = problems(f"optimizer={name}")
    assert any(f"{TRAINING}.max_grad_norm: must be 0 with optimizer {name}, but is 1.0" in item for item in found)
    assert not any("max_grad_norm" in item for item in problems(f"optimizer={name}", NO_CLIPPING))


WITHOUT_RATES = (*CLIPPING, "muon", "scion", "sgd", "sgd-m", "sgd-nesterov", "sign-gd-nonlmo")
WITH_RATES = ("adamw", "adam", "nadam", "nadamw", "rmsprop", "sign-gd", "dap-ns-nadam", "dap-ns-nadam-accel")


@pytest.mark.parametrize("name", WITHOUT_RATES)
def test_mup_needs_a_rate_for_each_group(name: str) -> None:
    found = problems(f"optimizer={name}", MUP)
    assert any(f"must be null with optimizer {name}, but is 64: muP sets a learning rate" in item for item in found)


@pytest.mark.parametrize("name", WITH_RATES)
def test_mup_goes_with_updates_of_adams_size(name: str) -> None:
    assert not any("muP" in item for item in problems(f"optimizer={name}", MUP))


WRONG = [
    (
        ["optimizer=muon", f"{OPTIMIZER}.muon_lr=0.02", f"{OPTIMIZER}.muon_lr_ratio=2"],
        "muon_lr: must be null where muon_lr_ratio is given, but they are 0.02 and 2.0",
    ),
    (["optimizer=scion", f"{OPTIMIZER}.muon_lr=0.02", f"{OPTIMIZER}.lr=0"], "muon_lr: needs lr above 0"),
    (["optimizer=dap-ns-nadam", "fsdp=full_shard"], "fsdp: must be none with optimizer dap-ns-nadam"),
    (["optimizer=dap-ns-nadam", "deepspeed=zero2"], "deepspeed: must be none with optimizer dap-ns-nadam"),
    (["optimizer=muon", "fsdp=full_shard"], "fsdp: must be none with optimizer muon"),
    (["optimizer=momo", NO_CLIPPING, "deepspeed=zero1"], "deepspeed: must be none with optimizer momo"),
    (["optimizer=dap-ns-nadam", f"{TRAINING}.compile=true"], "compile: must be false with optimizer dap-ns-nadam"),
    (["optimizer=dap-ns-nadam", "lora=lora", "lora.use_dora=true"], "lora.use_dora: must be false with optimizer dap"),
    (["optimizer=dap-ns-nadam", f"{OPTIMIZER}.accelerated='1e-3'"], "true, false or a number above 0, but is '1e-3'"),
    (["optimizer=dap-ns-nadam", f"{OPTIMIZER}.accelerated=0"], "true, false or a number above 0, but is 0"),
    (["optimizer=dap-ns-nadam", f"{OPTIMIZER}.xtx_subsample=0"], "above 0 and at most 1, but is 0.0"),
    (["optimizer=muon-momo", NO_CLIPPING], "fstar: must be given for data pydoc: a lower bound of its loss, nats"),
    (
        ["optimizer=muonmax-momo", NO_CLIPPING, f"{OPTIMIZER}.fstar=0", f"{OPTIMIZER}.momentum=0.9"],
        "momentum: must equal betas[0] with fstar, but they are 0.9 and 0.95",
    ),
    ([f"{OPTIMIZER}.decay_fraction=0.2"], "decay_fraction: must be null with the schedule warm-up-cosine, but is 0.2"),
    (
        [f"{OPTIMIZER}.lr_schedule=wsd", f"{OPTIMIZER}.decay_fraction=0.95"],
        "0 < decay_fraction <= 1 - warm_up_fraction = 0.9 must hold, but it is 0.95",
    ),
    (
        [f"{OPTIMIZER}.lr_schedule=sqrt", f"{TRAINING}.warmup_steps=3"],
        "warmup_steps: must be null with the schedule sqrt, which has no first phase, but is 3",
    ),
    ([f"{OPTIMIZER}.lr_schedule=exponential_0_0.5"], "exponential_S_G (S >= 1 steps, 0 < G <= 1"),
    ([f"{OPTIMIZER}.lr_schedule=exponential_60_1.5"], "exponential_S_G (S >= 1 steps, 0 < G <= 1"),
]


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_a_wrong_combination_is_named(overrides: list[str], says: str) -> None:
    assert any(says in item for item in problems(*overrides)), problems(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=dap-ns-nadam", "lora=lora"],
        ["optimizer=sign-gd", "lora=lora"],
        ["optimizer=muon-momo", NO_CLIPPING, "data.dataset.name=fineweb10B"],
        ["optimizer=muon-momo", NO_CLIPPING, f"{OPTIMIZER}.fstar=0", f"{OPTIMIZER}.momentum=0.9"],
        [f"{OPTIMIZER}.lr_schedule=wsd", f"{OPTIMIZER}.decay_fraction=0.9"],
        [f"{OPTIMIZER}.lr_schedule=linear"],
        [f"{OPTIMIZER}.lr_schedule=exponential_60_0.5"],
        ["optimizer=dap-ns-nadam", f"{OPTIMIZER}.accelerated=1e-3"],
    ],
)
def test_a_right_combination_passes(overrides: list[str]) -> None:
    assert problems(*overrides) == ()


def test_the_traits_are_those_of_things_that_exist() -> None:
    from gpt_opt.training.instantiate import call_target

    for target in [name for name in TRAITS if find_spec(name.partition(".")[0]) is not None]:
        assert callable(call_target({"_target_": target, "_partial_": True}).func)
