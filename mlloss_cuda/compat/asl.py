"""The asymmetric losses of Alibaba-MIIL/ASL, ``src/loss_functions/losses.py`` (2021-08-06), fused."""

from __future__ import annotations

from torch import Tensor

from ..losses import asymmetric_loss
from ..targets import CSRTargets
from ._soft import SoftTargets

__all__ = ["AsymmetricLoss", "AsymmetricLossOptimized"]

# The original's definition for targets between 0 and 1.
INTERPOLATES = "which interpolates the powers"


class AsymmetricLoss(SoftTargets):
    """ASL with the powers detached by default, summed over all elements.

    For 0/1 targets it has the original's definition, without ``eps``: the original clamps logarithms at ``log eps``,
    so that positives below a logit of about -18 (at 1e-8) have no gradient; here they keep it. Elsewhere the
    two agree within rounding. A target between 0 and 1 gives the expected loss, while the original
    interpolates the powers; such targets give a warning, on the CPU, once.

    Args:
        gamma_neg, gamma_pos: >= 0. Defaults 4 and 1.
        clip: in [0, 1), or None for 0. Default 0.05.
        eps: accepted without effect, because no logarithm here needs it.
        disable_torch_grad_focal_loss: treat the powers as constants in the gradient. Default True, as in
            the original ``AsymmetricLoss``; ``AsymmetricLossOptimized`` has False. Disabled gradients stay
            disabled (the original enables them).

    Example:
        >>> from mlloss_cuda.compat.asl import AsymmetricLoss
        >>> AsymmetricLoss()(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.0157)
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = True,
    ) -> None:
        super().__init__()
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.disable_torch_grad_focal_loss = disable_torch_grad_focal_loss
        self.eps = eps

    def forward(self, x: Tensor, y: Tensor | CSRTargets) -> Tensor:
        """Return the sum of the loss over all elements of logits ``x`` and 0/1 targets ``y`` of one shape."""
        self._warn_of_soft_targets(y, INTERPOLATES)
        return asymmetric_loss(
            x,
            y,
            gamma_neg=self.gamma_neg,
            gamma_pos=self.gamma_pos,
            clip=0.0 if self.clip is None else max(self.clip, 0.0),
            detach_focal_weight=self.disable_torch_grad_focal_loss,
            reduction="sum",
        )


class AsymmetricLossOptimized(AsymmetricLoss):
    """:class:`AsymmetricLoss` with the powers differentiated by default.

    Example:
        >>> from mlloss_cuda.compat.asl import AsymmetricLossOptimized
        >>> AsymmetricLossOptimized().disable_torch_grad_focal_loss
        False
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
    ) -> None:
        super().__init__(gamma_neg, gamma_pos, clip, eps, disable_torch_grad_focal_loss)
