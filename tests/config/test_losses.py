"""The keys of the losses: variants are one config under two names, and what would be ignored is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.errors import ConfigCompositionException

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.checks.losses import LOSS_TYPES, has_reference, keeps_reference
from gpt_opt.config.schema import LossType, register
from gpt_opt.records.run_id import run_id
from tests.helpers.configs import composed

register()


def config(*overrides: str) -> dict[str, Any]:
    return composed(overrides)


def test_the_names_of_the_types_are_those_that_exist() -> None:
    assert [kind.value for kind in LossType] == list(LOSS_TYPES)


@pytest.mark.parametrize("name", ["hinge", "ipo", "ipo_sum", "kto_pair", "robust"])
def test_a_variant_by_its_name_is_the_same_run_as_by_its_type(name: str) -> None:
    by_name = ["loss.label_smoothing=0.2"] if name == "robust" else []
    first = config(f"loss={name}", "loss.beta=0.1", *by_name)
    second = config(f"loss.loss_type={name}", "loss.beta=0.1", *by_name)
    assert run_id(first) == run_id(second) != run_id(config("loss.beta=0.1"))
    assert constraint_problems(first) == []


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["loss=hinge", "loss.label_smoothing=0.1"], "loss.label_smoothing: is 0.1, but loss.loss_type=hinge would"),
        (["loss.loss_type=ipo", "loss.label_smoothing=0.1"], "a loss_type that uses it: sigmoid, robust"),
        (["loss.loss_type=ipo_sum", "loss.label_smoothing=0.1"], "loss.loss_type=ipo_sum would ignore it"),
        (["loss=kto_pair", "loss.label_smoothing=0.1"], "loss.loss_type=kto_pair would ignore it"),
        (["loss=kto_pair", "loss.reference_free=true"], "loss.reference_free: is True, but loss.loss_type=kto_pair"),
        (["loss=robust", "loss.label_smoothing=0"], "must be above 0 for loss.loss_type=robust"),
        (["loss=robust", "loss.label_smoothing=0.5"], "label_smoothing < 0.5 must hold"),
        (["loss.use_ref_model=false", "loss.ref_model_id=x"], "loss.use_ref_model=false would ignore it"),
        (["loss=orpo", "loss.ref_model_id=x"], "loss.use_ref_model=false would ignore it"),
        (["loss=kto", "loss.desirable_weight=0"], "loss.desirable_weight: must be a finite number above 0, but is 0"),
        (["loss=kto", "loss.undesirable_weight=-1"], "loss.undesirable_weight: must be a finite number above 0"),
        (["loss=kto", "training.training_params.batch_size=1"], "must be at least 2 for kto"),
        (["lora=lora", "lora.lora_dropout=1"], "0 <= lora_dropout < 1 must hold, but it is 1"),
        (["lora=lora", "lora.r=0"], "lora.r: must be at least 1, but is 0"),
        (["lora=lora", "lora.bias=all", "model.policy_dtype=float16"], "float16 loses their updates"),
        (["lora=lora", "model.reference_dtype=bfloat16"], "with lora the base weights are the reference"),
    ],
)
def test_what_contradicts_itself_is_one_problem(overrides: list[str], says: str) -> None:
    (problem,) = constraint_problems(config("loss.beta=0.1", *overrides))
    assert says in str(problem)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=sft", "loss.beta=0.1"],
        ["loss=sft", "loss.reduction=mean"],
        ["loss=orpo", "loss.beta=0.1", "loss.label_smoothing=0.1"],
        ["loss=kto", "loss.beta=0.1", "loss.use_ref_model=false"],
        ["loss.beta=0.1", "loss.loss_type=orpo"],
        ["loss.beta=0.1", "loss.sft_term=true"],
    ],
)
def test_a_key_or_a_value_that_a_loss_does_not_know_does_not_compose(overrides: list[str]) -> None:
    with pytest.raises(ConfigCompositionException):
        config(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=hinge", "loss.reference_free=true", "loss.use_ref_model=false"],
        ["loss.loss_type=ipo", "loss.reference_free=true"],
        ["loss=robust", "loss.reference_free=true"],
        ["loss=orpo", "loss.use_ref_model=true", "loss.ref_model_id=x"],
        ["loss=orpo", "loss.sft_term=false"],
        ["loss=kto", "loss.desirable_weight=1.33"],
        ["lora=lora", "loss=kto", "loss.ref_model_id=x"],
        ["lora=lora", "lora.bias=all", "model.reference_dtype=bfloat16"],
    ],
)
def test_what_makes_sense_passes(overrides: list[str]) -> None:
    assert constraint_problems(config("loss.beta=0.1", *overrides)) == []


PREFERENCES = ["dpo", "robust", "hinge", "ipo", "ipo_sum", "kto_pair", "kto", "orpo"]
LORA = ["lora=lora", "lora.lora_dropout=0.1"]


@pytest.mark.parametrize("loss", PREFERENCES)
@pytest.mark.parametrize("named", [True, False])
def test_which_reference_a_preference_loss_has(loss: str, named: bool) -> None:
    """Adapters need no second model, unless biases of the base are trained, or the reference is another model."""

    def references(*overrides: str) -> tuple[bool, bool]:
        kept = [] if loss == "kto" else [f"loss.use_ref_model={str(named).lower()}"]
        found = config(f"loss={loss}", "loss.beta=0.1", *kept, *overrides)
        assert constraint_problems(found) == []
        return has_reference(found), keeps_reference(found)

    has = loss != "orpo" or named
    assert references() == (has, has)
    assert references(*LORA) == (has, False)
    assert references(*LORA, "lora.bias=all") == references(*LORA, "lora.bias=lora_only") == (has, has)
    if named and loss != "kto_pair":
        assert references(*LORA, "loss.ref_model_id=x") == (True, True)
    if loss not in ("kto", "orpo", "kto_pair"):
        assert references("loss.reference_free=true") == (named, named)
        assert references("loss.reference_free=true", *LORA, "lora.bias=all") == (named, named)
