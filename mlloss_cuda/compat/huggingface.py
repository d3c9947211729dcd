"""A loss for Hugging Face's ``Trainer``, as in huggingface/transformers, ``src/transformers/trainer.py`` (5.24)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _ops
from .. import _validation as check
from ..losses._module import LossModule
from ..targets import CSRTargets

__all__ = ["hf_compute_loss"]

_UNCOUNTED = -100  # the Trainer does not count labels with this value


def hf_compute_loss(loss: Callable[..., Tensor], *, logits: str = "logits") -> Callable[..., Tensor]:
    """Return a ``compute_loss_func`` of ``transformers.Trainer`` that is correct under gradient accumulation.

    The Trainer adds up the gradients of the batches of a step and, given a ``compute_loss_func``, does not divide:
    it passes ``num_items_in_batch``, the number of labels other than -100 in all batches of the step, on all
    devices. With ``reduction="mean"`` or ``"batchmean"`` the loss of a batch is weighted by the batch's share of that
    number, before the gradient is rounded. The weights of a step add up to 1. So a step of one batch has the loss of
    that batch, however unknown labels are marked, and k batches, of equal size or not, give the result of one batch
    with all their rows. ``reduction="sum"`` is unchanged.

    Several batches are only an approximation for groups that cross rows (``average="macro"`` or ``"micro"``), whose
    losses are averaged over the batches; for a focal loss with ``rescale``, whose factor is that of a batch; and for
    labels of -100, because a batch with more known labels has more weight. If unknown labels are marked by another
    number (``ignore_index=-1``), every row has the same weight.

    Labels may be dense or :class:`CSRTargets`, which the Trainer counts too. It cannot join ``CSRTargets`` of several
    batches for ``compute_metrics``: set ``prediction_loss_only=True`` with them.

    Args:
        loss: a loss module, or any callable of logits and targets that returns a mean.
        logits: the name of the logits in the model's output, if it has names; of a tuple, the first element is used.
            Default ``"logits"``.

    Returns:
        ``compute_loss_func(outputs, labels, num_items_in_batch=None)``. If ``num_items_in_batch`` is None, it
        returns the loss of the batch.

    Raises:
        TypeError: ``loss`` is not callable.
        ValueError: the reduction is ``"none"``, or, on a call, the outputs have no such logits.

    Example:
        >>> compute_loss = hf_compute_loss(ZLPRLoss())  # Trainer(..., compute_loss_func=compute_loss)
        >>> outputs, labels = {"logits": torch.tensor([[2.0, -1.0, -3.0]])}, torch.tensor([[1.0, 0.0, 0.0]])
        >>> compute_loss(outputs, labels, num_items_in_batch=torch.tensor(6))  # half of a step of two rows
        tensor(0.2380)
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a loss module, got {type(loss).__name__}")
    if getattr(loss, "reduction", None) == "none":
        raise ValueError("loss: expected a reduction other than 'none', because the Trainer needs a scalar")

    def compute_loss(
        outputs: Any, labels: Tensor | CSRTargets, num_items_in_batch: Tensor | float | None = None
    ) -> Tensor:
        scores = _logits_of(outputs, logits)
        if isinstance(labels, Tensor) and labels.layout == torch.sparse_csr:
            labels = CSRTargets.from_sparse(labels)
        if isinstance(labels, CSRTargets):
            labels = labels.to(scores.device, non_blocking=True)
        if getattr(loss, "reduction", None) == "sum" or num_items_in_batch is None:
            return loss(scores, labels)
        # The count is the Trainer's, so that the shares of a step add up to 1.
        counted = labels.ne(_UNCOUNTED).sum().to(scores.device, _ops.compute_dtype(scores), non_blocking=True)
        inverse_share = _as_number(num_items_in_batch, scores) / counted.clamp(min=1)
        if isinstance(loss, LossModule):
            return loss._share(scores, labels, scores.numel() * inverse_share)
        return loss(scores, labels) / inverse_share

    return compute_loss


def _logits_of(outputs: Any, name: str) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        got = check.received(outputs)
        raise ValueError(f"outputs: expected a tensor named {name!r}, or a tuple that begins with one, got {got}")
    return found


def _as_number(items: Tensor | float, logits: Tensor) -> Tensor | float:
    """Return a 0-d tensor or a number >= 1. (DataParallel passes one number for each GPU; all are equal.)"""
    if not isinstance(items, Tensor):
        return max(float(items), 1.0)
    one = items.reshape(-1)[0].to(logits.device, _ops.compute_dtype(logits), non_blocking=True)
    return one.clamp(min=1)
