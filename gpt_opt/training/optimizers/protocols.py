"""What an optimizer may ask of the training beyond `step`: to be told of evaluations, losses and micro-batches.

An optimizer that `optimizer.optimizer_params._target_` names asks by having the methods; nothing else is to be set.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasModes(Protocol):
    """An optimizer whose weights to train differ from those to evaluate, such as Schedule-Free (arXiv 2405.15682).

    `eval` is called before every evaluation (generations included) and before every checkpoint, `train` after it and
    before every step. Each must do nothing where the mode holds already, and the mode must be part of `state_dict`: a
    checkpoint has the weights of `eval`. `train` need not find the same bits again: whoever calls puts them back.
    """

    def train(self) -> None:
        """Puts the weights to train in place."""

    def eval(self) -> None:
        """Puts the weights to evaluate in place."""


@runtime_checkable
class UsesLoss(Protocol):
    """An optimizer whose step depends on the loss, such as one with Polyak's step size.

    `observe_loss` is called once for every optimizer step, after the last forward and before `step`; where float16
    overflows, also for a step that is then skipped.
    """

    def observe_loss(self, loss: Tensor) -> None:
        """Takes note of the loss that the coming step has the gradient of.

        Args:
            loss: A scalar without gradient, in nats, float32 or wider, on the device of the training: the mean over all
                micro-batches and processes, which every process gets.
        """


@runtime_checkable
class SeesMicroBatches(Protocol):
    """An optimizer that gathers what passes through the model, and asks which part of the batch that is."""

    def begin_micro_batch(self, number: int, count: int) -> None:
        """Takes note of the micro-batch whose forward and backward come next.

        Args:
            number: Of it within the optimizer step, from 0.
            count: Micro-batches of the optimizer step, on this process.
        """
