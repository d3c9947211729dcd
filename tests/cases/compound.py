"""Sums of losses that the CUDA kernels are built for. tests/test_compound.py tests other sums."""

from collections.abc import Callable

from torch import Tensor

from mlloss_cuda import BCEWithLogitsLoss, CompoundLoss, DiceLoss, SigmoidFocalLoss, ZLPRLoss, compound_loss

from . import Case, bce, compound_of, dice, sigmoid_focal, zlpr

Definition = Callable[[Tensor, Tensor], Tensor]
ZLPR = (1.0, ZLPRLoss(), zlpr.definition(0.0))
FOCAL = (0.5, SigmoidFocalLoss(gamma=1.5), sigmoid_focal.definition(0.25, 1.5))
DICE = (2.0, DiceLoss(squared=True), dice.definition(1.0, 2))
BCE = (0.25, BCEWithLogitsLoss(pos_weight=3.0), bce.definition(3.0))


def case(*terms: tuple[float, object, Definition]) -> Case:
    def definition(s: Tensor, y: Tensor) -> Tensor:
        return sum(coefficient * of_row(s, y).sum() for coefficient, _, of_row in terms)

    own = {"terms": [(coefficient, loss) for coefficient, loss, _ in terms]}
    whole = compound_of(own["terms"])
    return Case(whole.spec.name, compound_loss, CompoundLoss, own, whole.parameters, definition)


CASES = [case(ZLPR, FOCAL, DICE), case(BCE, DICE), case(FOCAL, ZLPR), case(ZLPR, DICE), case(DICE, FOCAL)]
