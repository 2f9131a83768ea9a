"""What an optimizer can do with other keys, by the `_target_` that makes it: known without importing it.

`gpt_opt.config.checks` refuses what an optimizer cannot do before anything is trained. An optimizer that is not listed,
such as one of the user's own, is taken for one like those of torch.optim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_OWN = "gpt_opt.training.optimizers"


@dataclass(frozen=True)
class Traits:
    """What an optimizer can do.

    Attributes:
        group_rates: Whether groups of parameters may have learning rates of their own by the rule for Adam (Yang et al.
            2022, arXiv 2203.03466, Table 8), as muP gives them: the size of an update must not depend on that of the
            gradient, and its step size must not be one for all parameters.
        uses_loss: Whether a step depends on the loss of its batch, of which the gradient must then be the gradient.
        sharded: Whether it works on shards of parameters, as FSDP and DeepSpeed make them; one that looks at whole
            matrices, or sums over all parameters, does not.
        reads_inputs: Whether it gathers the inputs of layers in their forward passes.
    """

    group_rates: bool = True
    uses_loss: bool = False
    sharded: bool = True
    reads_inputs: bool = False


_MODEL_OF_LOSS = Traits(group_rates=False, uses_loss=True, sharded=False)
_WHOLE_MATRICES = Traits(group_rates=False, sharded=False)

TRAITS: Mapping[str, Traits] = {
    "torch.optim.SGD": Traits(group_rates=False),
    f"{_OWN}.momo.Momo": _MODEL_OF_LOSS,
    f"{_OWN}.momo.MomoAdam": _MODEL_OF_LOSS,
    f"{_OWN}.nesgd.muon": _WHOLE_MATRICES,
    f"{_OWN}.nesgd.scion": _WHOLE_MATRICES,
    f"{_OWN}.nesgd.muon_momo": _MODEL_OF_LOSS,
    f"{_OWN}.nesgd.muonmax_momo": _MODEL_OF_LOSS,
    f"{_OWN}.muon_legacy.MuonLegacy": _WHOLE_MATRICES,
    f"{_OWN}.sign_gd.SignGD": Traits(sharded=False),
    f"{_OWN}.dap.DAP": Traits(sharded=False, reads_inputs=True),
    f"{_OWN}.muon_torch.MuonTorch": _WHOLE_MATRICES,
    f"{_OWN}.packages.normuon": _WHOLE_MATRICES,
    f"{_OWN}.packages.adamuon": _WHOLE_MATRICES,
    f"{_OWN}.packages.kron": _WHOLE_MATRICES,
    "pytorch_optimizer.SOAP": Traits(sharded=False),
    "pytorch_optimizer.MARS": _WHOLE_MATRICES,
    "prodigyopt.Prodigy": _WHOLE_MATRICES,
    "schedulefree.AdamWScheduleFree": Traits(sharded=False),
}
"""Those that differ from torch's Adam."""


def traits_of(params: Mapping[str, Any]) -> Traits:
    """Returns what the optimizer of `optimizer.optimizer_params` can do."""
    traits = TRAITS.get(params["_target_"], Traits())
    # Steps along the dual norm of all parameters grow with the gradients.
    return replace(traits, group_rates=False) if params.get("lmo") is False else traits
