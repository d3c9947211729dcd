"""A loss for Hugging Face's ``Trainer``. After huggingface/transformers, ``src/transformers/trainer.py`` (5.23)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _ops
from .. import _validation as check
from ..losses._common import LossModule
from ..targets import CSRTargets

__all__ = ["hf_compute_loss"]


def hf_compute_loss(
    loss: Callable[..., Tensor], *, logits: str = "logits", gradient_accumulation_steps: int = 1
) -> Callable[..., Tensor]:
    """The ``compute_loss_func`` of ``transformers.Trainer`` for a loss of this package, right under accumulation.

    The Trainer adds up the gradients of the batches of a step and, given a ``compute_loss_func``, does not divide:
    it hands over ``num_items_in_batch``, the number of labels (dense ones other than -100) in all batches
    of the step, on all devices. With ``reduction="mean"`` or ``"batchmean"`` a batch's loss is weighted by
    its share of them, folded in before the gradient is rounded: k batches give what one batch of k times the
    size would, unequal ones too. (A loss whose groups cross rows is the weighted mean over the batches.)
    ``reduction="sum"`` is left alone.

    Labels that are ``CSRTargets`` the Trainer cannot count, and then it passes None. Give it
    ``gradient_accumulation_steps`` as here, and each batch of training weighs as much. Set
    ``prediction_loss_only=True`` with them, for it cannot join them either, and
    ``remove_unused_columns=False`` where the collator makes them.

    Args:
        loss: a loss module, or any callable of logits and targets that gives a mean.
        logits: where a model's output has the logits, if it has names; of a tuple the first is taken.
        gradient_accumulation_steps: the Trainer's, for where ``num_items_in_batch`` is None. Default 1.

    Returns:
        ``compute_loss_func(outputs, labels, num_items_in_batch=None)``.

    Raises:
        TypeError: ``loss`` cannot be called.
        ValueError: its reduction is ``"none"``, or an argument is out of range. On a call: the outputs
            have no such logits.

    Example:
        >>> compute_loss = hf_compute_loss(ZLPRLoss())  # Trainer(..., compute_loss_func=compute_loss)
        >>> outputs, labels = {"logits": torch.tensor([[2.0, -1.0, -3.0]])}, torch.tensor([[1.0, 0.0, 0.0]])
        >>> compute_loss(outputs, labels, num_items_in_batch=torch.tensor(6))  # half of a step of two rows
        tensor(0.2380)
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a loss module, got {type(loss).__name__}")
    if getattr(loss, "reduction", None) == "none":
        raise ValueError("loss: expected a reduction other than 'none', for the Trainer needs a scalar")
    steps = check.check_number("gradient_accumulation_steps", gradient_accumulation_steps, 1)

    def compute_loss(
        outputs: Any, labels: Tensor | CSRTargets, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        scores = _logits_of(outputs, logits)
        if isinstance(labels, CSRTargets):
            labels = labels.to(scores.device, non_blocking=True)
        if getattr(loss, "reduction", None) == "sum":
            return loss(scores, labels)
        if num_items_in_batch is None:
            # Under no_grad, which is evaluation, nothing is added up.
            value = loss(scores, labels)
            return value / steps if steps > 1 and torch.is_grad_enabled() else value
        items = _as_number(num_items_in_batch, scores)
        if isinstance(loss, LossModule):
            return loss._share(scores, labels, items)
        return loss(scores, labels) * (scores.numel() / items)

    return compute_loss


def _logits_of(outputs: Any, name: str) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"outputs: expected a tensor named {name!r}, or a tuple that begins with one, got {outputs!r}")
    return found


def _as_number(items: Tensor | int, logits: Tensor) -> Tensor | float:
    """A 0-d tensor or a number, at least 1. (Under DataParallel it comes once for each GPU.)"""
    if not isinstance(items, Tensor):
        return max(float(items), 1.0)
    one = items.reshape(-1)[0].to(logits.device, _ops.compute_dtype(logits), non_blocking=True)
    return one.clamp(min=1)
