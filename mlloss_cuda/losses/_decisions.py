"""Probabilities and predicted labels, for loss modules."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .._dispatch import transformed

__all__ = ["Decisions"]


class Decisions(nn.Module):
    """The base class for a loss module's decisions, by the rule that the loss's class declares.

    A class defines ``_log_odds``, or ``_probability`` and ``_predicted``. If it defines none of them, ``_undecided``
    gives the reason.
    """

    logit_scale: Any

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label for which the expected loss is minimal at these logits.

        ``logit_scale``, ``logit_bias`` and a threshold are applied. The effect of ``pos_weight`` and ``alpha`` is
        removed; that of ``label_smoothing`` is not. The documentation of the class has the formula.

        Args:
            logits: ``[..., L]``, as in the loss.

        Returns:
            ``[..., L]``, float32 (float64 for float64), differentiable.

        Raises:
            NotImplementedError: the loss estimates no probabilities; the message gives the reason and an alternative.

        Example:
            >>> SigmoidFocalLoss(alpha=None).probabilities(torch.tensor([-2.0, 0.0, 2.0]))
            tensor([0.0045, 0.5000, 0.9955])
        """
        return self._probability(self._scores(logits))

    def predict(self, logits: Tensor) -> Tensor:
        """Return the labels that the loss's own rule selects; if it has probabilities, those above 1/2.

        :func:`mlloss_cuda.fit_thresholds` finds better thresholds for a metric.

        Args:
            logits: ``[..., L]``, as in the loss.

        Returns:
            bool ``[..., L]``; a NaN is not predicted.

        Raises:
            NotImplementedError: the loss ranks labels and has no threshold of its own.

        Example:
            >>> ZLPRLoss(threshold=0.5).predict(torch.tensor([0.2, 0.7]))
            tensor([False,  True])
        """
        return self._predicted(self._scores(logits))

    _undecided: ClassVar[str] = "its class gives no formula"

    def _log_odds(self, s: Tensor) -> Tensor:
        raise self._no_probabilities(self._undecided)

    def _probability(self, s: Tensor) -> Tensor:
        return self._log_odds(s).sigmoid()

    def _predicted(self, s: Tensor) -> Tensor:
        return self._log_odds(s) > 0

    def _no_probabilities(self, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} estimates no probabilities: {why}. mlloss_cuda.fit_thresholds finds thresholds "
            "on held-out data; BCEWithLogitsLoss estimates probabilities."
        )

    def _no_threshold(self, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} has no threshold of its own: {why}. Take the labels with the highest logits, or "
            "use thresholds from mlloss_cuda.fit_thresholds on held-out data."
        )

    def _scores(self, logits: Tensor) -> Tensor:
        return transformed(
            logits,
            threshold=getattr(self, "threshold", 0.0),
            logit_scale=self.logit_scale,
            logit_bias=getattr(self, "logit_bias", None),
        )
