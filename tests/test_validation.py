"""Bad input raises a TypeError or ValueError that names the argument, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    CSRTargets,
    DiceLoss,
    JaccardLoss,
    MarginBCELoss,
    SigmoidFocalLoss,
    TverskyLoss,
    ZLPRLoss,
    _dispatch,
    asymmetric_loss,
    bce_with_logits_loss,
    dice_loss,
    jaccard_loss,
    margin_bce_loss,
    sigmoid_focal_loss,
    tversky_loss,
    unit_grad_output,
    zlpr_loss,
)

from .cases import Case

X, Y = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
CSR = CSRTargets.from_lists([[0], [1, 2]], 3)

BAD_COMMON: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "logits", {"logits": [1.0]}),
    (TypeError, "logits", {"logits": torch.zeros(2, 3, dtype=torch.int64)}),
    (TypeError, "logits", {"logits": torch.zeros(2, 3, dtype=torch.complex64)}),
    (TypeError, "logits", {"logits": torch.zeros(2, 3).to_sparse()}),
    (ValueError, "logits", {"logits": torch.tensor(1.0)}),
    (TypeError, "targets", {"targets": [[1, 0, 0]]}),
    (TypeError, "targets", {"targets": None}),
    (TypeError, "targets", {"targets": torch.zeros(2, 3, dtype=torch.complex64)}),
    (TypeError, "targets", {"targets": torch.zeros(2, 3).to_sparse()}),
    (ValueError, "targets", {"targets": torch.zeros(2, 4)}),
    (ValueError, "targets", {"targets": torch.zeros(3)}),
    (ValueError, "targets", {"targets": torch.zeros(2, 3, device="meta")}),
    (ValueError, "targets", {"targets": CSRTargets.from_lists([[0], [1]], 4)}),
    (ValueError, "targets", {"targets": CSRTargets.from_lists([[0]], 3)}),
    (TypeError, "weight", {"weight": 2.0}),
    (TypeError, "weight", {"weight": [1.0, 1.0, 1.0]}),
    (TypeError, "weight", {"weight": torch.zeros(3, dtype=torch.complex64)}),
    (ValueError, "weight", {"weight": torch.ones(2)}),
    (ValueError, "weight", {"weight": torch.ones(2, 3)}),
    (ValueError, "weight", {"weight": torch.tensor([1.0, -1.0, 1.0])}),
    (ValueError, "weight", {"weight": torch.tensor([1.0, math.nan, 1.0])}),
    (ValueError, "weight", {"weight": torch.tensor([1.0, math.inf, 1.0])}),
    (ValueError, "weight", {"weight": torch.ones(3, device="meta")}),
    (ValueError, "sample_weight", {"sample_weight": torch.ones(3)}),
    (ValueError, "sample_weight", {"sample_weight": torch.tensor([1.0, -0.5])}),
    (TypeError, "label_smoothing", {"label_smoothing": "a"}),
    (ValueError, "label_smoothing", {"label_smoothing": 1.0}),
    (ValueError, "label_smoothing", {"label_smoothing": -0.1}),
    (ValueError, "label_smoothing", {"label_smoothing": math.nan}),
    (TypeError, "ignore_index", {"ignore_index": 1.5}),
    (TypeError, "ignore_index", {"ignore_index": True}),
    (ValueError, "ignore_index", {"ignore_index": 1}),
    (ValueError, "ignore_index", {"ignore_index": 2**63}),
    (ValueError, "ignore_index", {"ignore_index": 2**63 - 1}),
    (TypeError, "ignore_index", {"ignore_index": math.inf}),
    (TypeError, "logit_scale", {"logit_scale": None}),
    (ValueError, "logit_scale", {"logit_scale": math.inf}),
    (ValueError, "logit_scale", {"logit_scale": torch.ones(3)}),
    (ValueError, "logit_bias", {"logit_bias": torch.ones(2)}),
    (TypeError, "logit_bias", {"logit_bias": 1.0}),
    (ValueError, "normalizer", {"normalizer": 2.0}),
    (ValueError, "normalizer", {"normalizer": -1.0, "reduction": "sum"}),
    (ValueError, "normalizer", {"normalizer": torch.ones(2), "reduction": "sum"}),
    (ValueError, "normalizer", {"normalizer": torch.tensor(-1.0), "reduction": "sum"}),
    (ValueError, "normalizer", {"normalizer": torch.tensor(math.nan), "reduction": "sum"}),
    (ValueError, "normalizer", {"normalizer": 10**400, "reduction": "sum"}),
    (ValueError, "logit_scale", {"logit_scale": -(10**400)}),
    (ValueError, "logit_scale", {"logit_scale": torch.tensor(math.nan)}),
    (ValueError, "logit_bias", {"logit_bias": torch.full((3,), math.inf)}),
    (ValueError, "weight", {"weight": torch.full((3,), 1e39, dtype=torch.float64)}),
    (ValueError, "reduction", {"reduction": "average"}),
    (TypeError, "reduction", {"reduction": None}),
    (TypeError, "inplace_backward", {"inplace_backward": 1}),
]


@pytest.mark.parametrize(("error", "argument", "bad"), BAD_COMMON, ids=lambda value: str(value)[:60])
def test_common_arguments(case: Case, error: type[Exception], argument: str, bad: dict[str, Any]) -> None:
    arguments = {"logits": X, "targets": Y, **bad}
    with pytest.raises(error, match=rf"^{argument}\b"):
        case(**arguments)


# Each value equals the default, or the number in the call before it, but has a type that is refused.
EQUAL: list[tuple[str, Any, Any]] = [
    ("label_smoothing", 0.0, False),
    ("logit_scale", 1.0, True),
    ("inplace_backward", False, 0),
]


@pytest.mark.parametrize(("argument", "good", "bad"), EQUAL)
def test_equal_numbers_of_another_type(case: Case, argument: str, good: Any, bad: Any) -> None:
    """A call whose numbers were checked before does not let through equal values of a wrong type."""
    case(X, Y, **{argument: good})
    with pytest.raises(TypeError, match=rf"^{argument}\b"):
        case(X, Y, **{argument: bad})


EQUAL_OWN: list[tuple[Callable[..., Any], str, Any, Any]] = [
    (dice_loss, "smooth", 1.0, True),
    (dice_loss, "squared", True, 1),
    (sigmoid_focal_loss, "gamma", 0.0, False),
    (asymmetric_loss, "clip", 0.0, False),
    (tversky_loss, "alpha", 1.0, True),
    (jaccard_loss, "smooth", 0.0, False),
    (dice_loss, "smooth", 1.0, [1.0]),
    (dice_loss, "smooth", 1.0, torch.tensor(1.0)),
]


@pytest.mark.parametrize(("loss", "argument", "good", "bad"), EQUAL_OWN)
def test_equal_arguments_of_a_loss_of_another_type(
    loss: Callable[..., Any], argument: str, good: Any, bad: Any
) -> None:
    """A loss that keeps its checked arguments refuses equal ones of a wrong type, and those that have no hash."""
    loss(X, Y, **{argument: good})
    with pytest.raises(TypeError, match=rf"^{argument}\b"):
        loss(X, Y, **{argument: bad})


def test_numbers_that_change_at_every_step() -> None:
    """Checked numbers are kept for later calls, but no more than a fixed count."""
    for step in range(600):
        zlpr_loss(X, Y, label_smoothing=step / 1000)
    assert len(_dispatch._known_options) <= _dispatch._MOST_KNOWN
    assert zlpr_loss(X, Y, label_smoothing=0.5) != zlpr_loss(X, Y, label_smoothing=0.25)


def test_known_numbers_follow_the_backend() -> None:
    """A call that was checked on one backend runs on another one inside use_backend."""
    logits = torch.randn(2, 3)
    expected = zlpr_loss(logits, Y)
    with mlloss_cuda.use_backend("reference"):
        assert zlpr_loss(logits.requires_grad_(), Y).grad_fn.name() != "_EagerLossBackward"
    torch.testing.assert_close(zlpr_loss(logits, Y).detach(), expected)


# Losses have no gradient in these arguments. The error message says what to pass instead.
CONSTANTS: list[tuple[str, dict[str, Any]]] = [
    ("targets", {"targets": torch.zeros(2, 3, requires_grad=True)}),
    (
        "targets",
        {"targets": CSRTargets(CSR.crow_indices, CSR.col_indices, 3, torch.ones(3, requires_grad=True))},
    ),
    ("targets", {"targets": torch.eye(2, 3).to_sparse_csr().requires_grad_()}),
    ("weight", {"weight": torch.ones(3, requires_grad=True)}),
    ("sample_weight", {"sample_weight": torch.ones(2, requires_grad=True)}),
    ("normalizer", {"normalizer": torch.tensor(2.0, requires_grad=True), "reduction": "sum"}),
]


@pytest.mark.parametrize(("argument", "given"), CONSTANTS, ids=lambda value: str(value)[:40])
def test_constants_that_require_a_gradient_raise(case: Case, argument: str, given: dict[str, Any]) -> None:
    arguments = {"logits": X, "targets": Y, **given}
    source = "values" if isinstance(given.get(argument), CSRTargets) else argument
    with pytest.raises(ValueError, match=rf"^{argument}\b.* {source}\.detach\(\)"):
        case(**arguments)
    with torch.no_grad():
        case(**arguments)


def test_no_gradient_in_pos_weight() -> None:
    with pytest.raises(ValueError, match=r"^pos_weight\b.* pos_weight\.detach\(\)"):
        bce_with_logits_loss(X, Y, pos_weight=torch.ones(3, requires_grad=True))


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ValueError, "gamma", lambda f: f(gamma=-0.1)),
        (ValueError, "gamma", lambda f: f(gamma=math.nan)),
        (TypeError, "gamma", lambda f: f(gamma="2")),
        (ValueError, "alpha", lambda f: f(alpha=1.5)),
        (ValueError, "alpha", lambda f: f(alpha=-0.5)),
        (ValueError, "alpha", lambda f: f(alpha=math.nan)),
        (TypeError, "alpha", lambda f: f(alpha=True)),
    ],
)
@pytest.mark.parametrize("module", (False, True))
def test_focal_parameters(error: type[Exception], argument: str, call: Any, module: bool) -> None:
    with pytest.raises(error, match=rf"^{argument}\b"):
        call(SigmoidFocalLoss if module else lambda **own: sigmoid_focal_loss(X, Y, **own))


@pytest.mark.parametrize(
    ("error", "argument", "own"),
    [
        (ValueError, "smooth", {"smooth": -1.0}),
        (ValueError, "smooth", {"smooth": math.inf}),
        (TypeError, "squared", {"squared": 1}),
        (ValueError, "average", {"average": "weighted"}),
        (TypeError, "average", {"average": None}),
    ],
)
@pytest.mark.parametrize("module", (False, True))
def test_dice_parameters(error: type[Exception], argument: str, own: dict[str, Any], module: bool) -> None:
    with pytest.raises(error, match=rf"^{argument}\b"):
        DiceLoss(**own) if module else dice_loss(X, Y, **own)


OWN: list[tuple[Any, Any, type[Exception], dict[str, Any]]] = [
    (bce_with_logits_loss, BCEWithLogitsLoss, ValueError, {"pos_weight": -1.0}),
    (bce_with_logits_loss, BCEWithLogitsLoss, ValueError, {"pos_weight": math.inf}),
    (bce_with_logits_loss, BCEWithLogitsLoss, ValueError, {"pos_weight": torch.ones(1, 3)}),
    (bce_with_logits_loss, BCEWithLogitsLoss, TypeError, {"pos_weight": [1.0, 1.0, 1.0]}),
    (bce_with_logits_loss, None, ValueError, {"pos_weight": torch.ones(2)}),
    (bce_with_logits_loss, None, ValueError, {"pos_weight": torch.tensor([1.0, -1.0, 1.0])}),
    (bce_with_logits_loss, None, ValueError, {"pos_weight": torch.ones(3, device="meta")}),
    (sigmoid_focal_loss, SigmoidFocalLoss, TypeError, {"rescale": 1}),
    (margin_bce_loss, MarginBCELoss, ValueError, {"margin": 0.5}),
    (margin_bce_loss, MarginBCELoss, ValueError, {"margin": 1.0}),
    (margin_bce_loss, MarginBCELoss, TypeError, {"margin": None}),
    (asymmetric_loss, AsymmetricLoss, ValueError, {"gamma_neg": -1.0}),
    (asymmetric_loss, AsymmetricLoss, ValueError, {"gamma_pos": math.nan}),
    (asymmetric_loss, AsymmetricLoss, ValueError, {"clip": 1.0}),
    (asymmetric_loss, AsymmetricLoss, ValueError, {"clip": -0.1}),
    (asymmetric_loss, AsymmetricLoss, TypeError, {"detach_focal_weight": 1}),
    (dice_loss, DiceLoss, TypeError, {"log": 1}),
    (dice_loss, DiceLoss, ValueError, {"self_adjusting_alpha": -0.1}),
    (tversky_loss, TverskyLoss, ValueError, {"alpha": -0.1}),
    (tversky_loss, TverskyLoss, ValueError, {"beta": math.inf}),
    (tversky_loss, TverskyLoss, ValueError, {"gamma": -1.0}),
    (tversky_loss, TverskyLoss, ValueError, {"smooth": -1.0}),
    (tversky_loss, TverskyLoss, ValueError, {"average": "weighted"}),
    (jaccard_loss, JaccardLoss, ValueError, {"smooth": -1.0}),
    (jaccard_loss, JaccardLoss, TypeError, {"average": None}),
]


def _name(value: Any) -> str:
    """Return a test id that is the same in every process: the text of a function contains its address."""
    return getattr(value, "__name__", None) or str(value)[:40]


@pytest.mark.parametrize(("function", "module", "error", "own"), OWN, ids=_name)
def test_own_parameters(function: Any, module: Any, error: type[Exception], own: dict[str, Any]) -> None:
    (argument,) = own
    with pytest.raises(error, match=rf"^{argument}\b"):
        function(X, Y, **own)
    if module is not None:
        with pytest.raises(error, match=rf"^{argument}\b"):
            module(**own)


def test_rescale_needs_a_reduction() -> None:
    for call in (SigmoidFocalLoss, lambda **own: sigmoid_focal_loss(X, Y, **own)):
        with pytest.raises(ValueError, match="^rescale"):
            call(rescale=True, reduction="none")


@pytest.mark.parametrize(
    "threshold",
    (torch.zeros(2), torch.zeros(3, 1), torch.zeros(2, 3), torch.zeros(0), torch.tensor(math.nan), math.nan, math.inf),
)
def test_zlpr_threshold(threshold: Any) -> None:
    with pytest.raises(ValueError, match="^threshold"):
        zlpr_loss(X, Y, threshold=threshold)
    with pytest.raises(TypeError, match="^threshold"):
        ZLPRLoss(threshold="0")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "bad"),
    (
        (ValueError, {"reduction": "x"}),
        (ValueError, {"label_smoothing": 2.0}),
        (ValueError, {"ignore_index": 0}),
        (TypeError, {"weight": [1.0, 2.0]}),
        (ValueError, {"weight": torch.ones(3, requires_grad=True)}),
        (TypeError, {"logit_scale": "1"}),
        (ValueError, {"normalizer": 2.0}),
        (ValueError, {"normalizer": -1.0, "reduction": "sum"}),
    ),
    ids=str,
)
def test_modules_check_at_construction(case: Case, error: type[Exception], bad: dict[str, Any]) -> None:
    with pytest.raises(error, match=f"^{next(iter(bad))}"):
        case.module(**case.own, **bad)


def test_modules_name_an_unexpected_argument(case: Case) -> None:
    with pytest.raises(TypeError, match=f"^{case.module.__name__}: unexpected argument 'weigth'"):
        case.module(**case.own, weigth=None)


def test_a_normalizer_beyond_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^normalizer: expected a number in the range of torch\.float32, got 1e\+39"):
        zlpr_loss(X, Y, reduction="sum", normalizer=1e39)
    assert zlpr_loss(X.double(), Y, reduction="sum", normalizer=1e39) > 0


def test_messages_are_short() -> None:
    with pytest.raises(TypeError, match=r"^targets: expected a dense tensor.*\.\.\. \(list\)$") as error:
        zlpr_loss(X, [[0] * 10_000] * 32)  # type: ignore[arg-type]
    assert len(str(error.value)) < 400


def test_use_backend_in_two_threads() -> None:
    """Blocks that end in another order than they began leave no backend forced."""
    first, second = mlloss_cuda.use_backend("reference"), mlloss_cuda.use_backend("reference")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert mlloss_cuda._backends._forced == "reference"
    second.__exit__(None, None, None)
    assert mlloss_cuda._backends._forced is None


I64 = torch.int64


@pytest.mark.parametrize(
    ("error", "argument", "crow", "columns", "labels", "values"),
    [
        (TypeError, "crow_indices", [0, 1], torch.tensor([0]), 3, None),
        (TypeError, "crow_indices", torch.tensor([0.0, 1.0]), torch.tensor([0]), 3, None),
        (ValueError, "crow_indices", torch.zeros(0, dtype=I64), torch.tensor([0]), 3, None),
        (ValueError, "crow_indices", torch.tensor([[0, 1]]), torch.tensor([0]), 3, None),
        (ValueError, "crow_indices", torch.tensor([1, 1]), torch.tensor([0]), 3, None),
        (ValueError, "crow_indices", torch.tensor([0, 2, 1]), torch.tensor([0, 1]), 3, None),
        (ValueError, "crow_indices", torch.tensor([0, 2]), torch.tensor([0]), 3, None),
        (TypeError, "col_indices", torch.tensor([0, 1]), torch.tensor([0], dtype=torch.int32), 3, None),
        (TypeError, "col_indices", torch.tensor([0, 1]), torch.tensor([0.0]), 3, None),
        (ValueError, "col_indices", torch.tensor([0, 1]), torch.tensor([3]), 3, None),
        (ValueError, "col_indices", torch.tensor([0, 1]), torch.tensor([-1]), 3, None),
        (ValueError, "col_indices", torch.tensor([0, 2]), torch.tensor([1, 0]), 3, None),
        (ValueError, "col_indices", torch.tensor([0, 2]), torch.tensor([1, 1]), 3, None),
        (TypeError, "num_labels", torch.tensor([0, 1]), torch.tensor([0]), 3.0, None),
        (ValueError, "num_labels", torch.tensor([0, 0]), torch.tensor([], dtype=I64), -1, None),
        (TypeError, "values", torch.tensor([0, 1]), torch.tensor([0]), 3, torch.tensor([1])),
        (ValueError, "values", torch.tensor([0, 1]), torch.tensor([0]), 3, torch.tensor([1.0, 1.0])),
    ],
)
def test_csr(error: type[Exception], argument: str, crow: Any, columns: Any, labels: Any, values: Any) -> None:
    with pytest.raises(error, match=f"^{argument}"):
        CSRTargets(crow, columns, labels, values)


def test_unsorted_sparse_csr_is_refused() -> None:
    crow, columns = torch.tensor([0, 2, 2]), torch.tensor([2, 0])
    targets = torch.sparse_csr_tensor(crow, columns, torch.ones(2), (2, 3), check_invariants=False)
    with pytest.raises(ValueError, match="^col_indices"):
        zlpr_loss(X, targets)


@pytest.mark.parametrize("name", ("gpu", "", None, "CUDA"))
def test_unknown_backend(name: Any) -> None:
    with pytest.raises(ValueError, match="^name: expected one of"), mlloss_cuda.use_backend(name):
        pass


def test_unusable_backend_gives_the_reason() -> None:
    for name, status in mlloss_cuda.backends().items():
        assert status.usable == (not status.reason)
        if not status.usable:
            with pytest.raises(ValueError, match="is not usable: "), mlloss_cuda.use_backend(name):
                pass


def test_other_devices_get_the_reference_and_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlloss_cuda._backends, "_warned", set())
    x = torch.zeros(2, 3, device="meta")
    with pytest.warns(UserWarning, match="no fused kernels for 'meta'"):
        assert zlpr_loss(x, x).device.type == "meta"
    zlpr_loss(x, x)


@pytest.mark.parametrize(
    ("error", "loss"), ((TypeError, 1.0), (ValueError, torch.zeros(1)), (ValueError, torch.zeros(2, 3))), ids=str
)
def test_unit_grad_output(error: type[Exception], loss: Any) -> None:
    with pytest.raises(error, match="^loss: expected a"):
        unit_grad_output(loss)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_logits_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])
    with pytest.raises(TypeError, match="logits: expected a dense tensor, got a nested one"):
        zlpr_loss(nested, torch.zeros(3, 3))
