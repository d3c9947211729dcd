"""From logits to decisions: probabilities that minimise the expected loss, predictions, and fitted thresholds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    CSRTargets,
    DecoupledSoftmaxLoss,
    DiceLoss,
    JaccardLoss,
    LSEPLoss,
    MarginBCELoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    SymmetricKLLoss,
    TverskyLoss,
    ZLPRLoss,
    _counts,
    fit_thresholds,
)
from mlloss_cuda.losses._module import LossModule

from .cases import all_cases

# Losses with probabilities and predictions, with predictions only, and with neither.
BOTH = (BCEWithLogitsLoss, SigmoidFocalLoss, AsymmetricLoss, SquaredHingeLoss, ZLPRLoss)
RULE = (MarginBCELoss, DiceLoss, TverskyLoss, JaccardLoss)
NEITHER = (LSEPLoss, MultiPositiveCrossEntropyLoss, DecoupledSoftmaxLoss)

# Losses whose optimum for a label of a given positive rate is found by minimising.
ESTIMATES = [
    BCEWithLogitsLoss(),
    BCEWithLogitsLoss(pos_weight=3.0),
    SigmoidFocalLoss(),
    SigmoidFocalLoss(alpha=None),
    SigmoidFocalLoss(alpha=0.8, gamma=5.0),
    SigmoidFocalLoss(alpha=None, gamma=0.5),
    SigmoidFocalLoss(alpha=0.3, gamma=0.0),
    AsymmetricLoss(),
    AsymmetricLoss(clip=0.0),
    AsymmetricLoss(gamma_pos=0.0, gamma_neg=2.5, clip=0.2),
    AsymmetricLoss(gamma_pos=2.0, gamma_neg=1.0, clip=0.1),
    SquaredHingeLoss(),
]
SCORES = torch.linspace(-12, 12, 24_001, dtype=torch.float64)


def hard_losses(loss: LossModule, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of a positive and of a negative."""
    loss = copy.deepcopy(loss)
    loss.reduction = "none"
    return loss(scores[:, None], torch.ones(len(scores), 1)), loss(scores[:, None], torch.zeros(len(scores), 1))


class TestProbabilities:
    def test_every_loss_declares_a_rule(self) -> None:
        """Every loss has each rule, or raises an error that names the loss."""
        assert {*BOTH, *RULE, *NEITHER} <= {case.module for case in all_cases()}
        for case in all_cases():
            loss = case.module(**case.own)
            for rule in (loss.predict, loss.probabilities):
                try:
                    shape = rule(torch.zeros(2, 3)).shape
                except NotImplementedError as error:
                    shape = (2, 3) if str(error).startswith(case.module.__name__) else None
                assert shape == (2, 3), rule

    @pytest.mark.parametrize("loss", ESTIMATES, ids=repr)
    def test_least_expected_loss(self, loss: LossModule, generator: torch.Generator) -> None:
        positive, negative = hard_losses(loss, SCORES)
        # Without a power for positives, a clip bounds the probabilities: above the bound, infinite logits cost least.
        most = min(0.95, loss.probabilities(SCORES[-1:]).item() - 0.01)
        for rate in (0.02 + (most - 0.02) * torch.rand(8, generator=generator, dtype=torch.float64)).tolist():
            best = SCORES[(rate * positive + (1 - rate) * negative).argmin()]
            assert loss.probabilities(best[None]).item() == pytest.approx(rate, abs=1.5e-3)

    def test_zero_of_the_detached_gradient(self, generator: torch.Generator) -> None:
        loss = AsymmetricLoss(detach_focal_weight=True)
        scores = (torch.rand(20, generator=generator, dtype=torch.float64) * 6 - 2.5).requires_grad_()
        positive, negative = hard_losses(loss, scores)
        rate = loss.probabilities(scores.detach())[:, None]
        expected = rate * positive + (1 - rate) * negative
        (slope,) = torch.autograd.grad(expected.sum(), scores, retain_graph=True)
        (parts,) = torch.autograd.grad(positive.sum(), scores)
        assert (slope.abs() <= 1e-12 * parts.abs()).all()

    @pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
    def test_focal_as_published(self, gamma: float, generator: torch.Generator) -> None:
        """Charoenphakdee et al., equation 9: h(v) / (h(v) + h(1 - v))."""
        s = 4 * torch.randn(50, generator=generator, dtype=torch.float64)
        v = s.sigmoid()

        def h(v: Tensor) -> Tensor:
            return v / ((1 - v) ** gamma - gamma * (1 - v) ** (gamma - 1) * v * v.log())

        expected = h(v) / (h(v) + h(1 - v))
        got = SigmoidFocalLoss(alpha=None, gamma=gamma).probabilities(s)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)

    def test_soft_zlpr(self, generator: torch.Generator) -> None:
        """With its probabilities as targets the gradient is 0, also with weights, scale, bias and threshold."""
        x = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
        loss = ZLPRLoss(
            threshold=torch.randn(7, generator=generator),
            weight=torch.rand(7, generator=generator) + 0.1,
            logit_scale=1.5,
            logit_bias=torch.randn(7, generator=generator),
        )
        (gradient,) = torch.autograd.grad(loss(x, loss.probabilities(x).detach()), x)
        assert gradient.abs().max() < 1e-12

    def test_scale_bias_and_threshold(self, generator: torch.Generator) -> None:
        x = torch.randn(2, 3, 4, generator=generator)
        bias, scale = torch.randn(4, generator=generator), nn.Parameter(torch.tensor(0.7))
        s = 0.7 * x + bias
        for loss in (SigmoidFocalLoss, BCEWithLogitsLoss, SquaredHingeLoss):
            got = loss(logit_scale=scale, logit_bias=bias).probabilities(x)
            torch.testing.assert_close(got, loss().probabilities(s))
        rows = torch.randn(2, 3, 1, generator=generator)
        for threshold in (0.3, torch.tensor(0.3), rows, rows[0, 0] + bias):
            got = ZLPRLoss(threshold=threshold, logit_scale=scale, logit_bias=bias).probabilities(x)
            torch.testing.assert_close(got, (2 * (s - threshold)).sigmoid())

    @pytest.mark.parametrize("loss", [*ESTIMATES, ZLPRLoss()], ids=repr)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_dtype_and_infinite_logits(self, loss: LossModule, dtype: torch.dtype) -> None:
        x = torch.tensor([-torch.inf, -1e4, -90.0, 0.0, 90.0, 1e4, torch.inf, torch.nan], dtype=dtype)
        p = loss.probabilities(x)
        assert p.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert p[0] == 0
        assert p[-1].isnan()
        assert p[:-1].diff().min() >= 0
        # Without a power for positives, a clip bounds the probability.
        assert p[6] == 1 or (isinstance(loss, AsymmetricLoss) and loss.gamma_pos == 0)
        assert loss.predict(x).tolist() == (p > 0.5).tolist()

    def test_differentiable(self, generator: torch.Generator) -> None:
        x = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
        for loss in (SigmoidFocalLoss(), AsymmetricLoss(clip=0.01), BCEWithLogitsLoss(pos_weight=3.0)):
            assert torch.autograd.gradcheck(loss.probabilities, (x,))

    def test_weight_of_zero(self) -> None:
        loss = BCEWithLogitsLoss(pos_weight=torch.tensor([0.0, 1.0]))
        p = loss.probabilities(torch.zeros(2))
        assert p[0].isnan()
        assert p[1] == 0.5
        with pytest.raises(NotImplementedError, match=r"SigmoidFocalLoss.*alpha=1"):
            SigmoidFocalLoss(alpha=1.0).probabilities(torch.zeros(2))

    @pytest.mark.parametrize("module", [*RULE, *NEITHER, SymmetricKLLoss])
    def test_without_probabilities(self, module: type[LossModule]) -> None:
        with pytest.raises(NotImplementedError, match=rf"{module.__name__}.*fit_thresholds"):
            module().probabilities(torch.zeros(3))


class TestPredict:
    @pytest.mark.parametrize("module", [*BOTH, *RULE])
    def test_more_likely_than_not(self, module: type[LossModule], generator: torch.Generator) -> None:
        loss = module()
        x = 3 * torch.randn(4, 9, generator=generator)
        predicted = loss.predict(x)
        assert predicted.dtype == torch.bool
        wanted = loss.probabilities(x) > 0.5 if module in BOTH else x > 0
        assert predicted.tolist() == wanted.tolist()
        assert predicted.any()
        assert not predicted.all()

    @pytest.mark.parametrize(
        "loss", [*(module() for module in NEITHER), SymmetricKLLoss(), DiceLoss(self_adjusting_alpha=1.0)], ids=repr
    )
    def test_without_a_rule(self, loss: LossModule) -> None:
        with pytest.raises(NotImplementedError, match=rf"{type(loss).__name__}.*fit_thresholds"):
            loss.predict(torch.zeros(3))

    def test_thresholds_of_labels_that_never_occur(self) -> None:
        loss = ZLPRLoss(threshold=torch.tensor([torch.inf, 0.5, -torch.inf]))
        assert loss.predict(torch.tensor([[9.0, 1.0, -9.0]])).tolist() == [[False, True, True]]

    def test_bad_input(self) -> None:
        with pytest.raises(TypeError, match="logits: expected"):
            ZLPRLoss().predict(torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="logit_bias: expected shape"):
            BCEWithLogitsLoss(logit_bias=torch.zeros(2)).probabilities(torch.zeros(3))


def measured(predicted: Tensor, y: Tensor, metric: str, beta: float, average: str) -> Tensor:
    """Return the metric by its definition, for each label or as one value. Targets of -1 are unknown."""
    dim = {"macro": 0, "samples": 1, "micro": (0, 1)}[average]
    known = y >= 0
    both, predicted, positive, known = (
        t.double().sum(dim) for t in (predicted & (y > 0), predicted & known, y > 0, known)
    )
    if metric == "accuracy":
        value = (known - positive - predicted + 2 * both) / known.clamp(min=1)
    else:
        value = (1 + beta**2) * both / (beta**2 * positive + predicted).clamp(min=1e-9)
    return value if average == "macro" else value.mean()


class TestFitThresholds:
    @pytest.mark.parametrize("average", ["macro", "micro", "samples"])
    @pytest.mark.parametrize("metric", ["f1", "fbeta", "accuracy"])
    @pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
    def test_best_of_all(
        self, average: str, metric: str, chunk: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No threshold is better, with ties, with unknown labels, and in each dtype."""
        monkeypatch.setattr(_counts, "CHUNK", chunk)
        beta = 1.0 if metric == "f1" else 2.0
        dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
        for dtype, tied, unknown in itertools.product(dtypes, [False, True], [False, True]):
            rows, labels = torch.randint(1, 8, (2,), generator=generator).tolist()
            x = 2 * torch.randn(rows, labels, generator=generator)
            x = (x.round() if tied else x).to(dtype)
            y = torch.randint(-1 if unknown else 0, 3, (rows, labels), generator=generator).clamp(max=1)
            y = y * (torch.rand(rows, labels, generator=generator) < 0.6)
            t = fit_thresholds(x, y, metric, average, beta=beta, ignore_index=-1 if unknown else None)
            assert t.shape == ((labels,) if average == "macro" else ())
            assert t.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            got = measured(x > t, y, metric, beta, average)
            cuts = [*x.double().flatten(), torch.tensor(-torch.inf), torch.tensor(torch.inf)]
            best = torch.stack([measured(x.double() > cut, y, metric, beta, average) for cut in cuts]).amax(0)
            torch.testing.assert_close(got, best, rtol=1e-12, atol=1e-12)
            sparse = fit_thresholds(x, CSRTargets.from_dense(y), metric, average, beta=beta)
            assert torch.equal(t, sparse)

    def test_middle_of_the_gap(self) -> None:
        x, y = torch.tensor([[3.0], [1.0], [-2.0]]), torch.tensor([[1], [0], [0]])
        assert fit_thresholds(x, y).tolist() == [2.0]
        assert fit_thresholds(x, y, average="micro").item() == 2.0
        assert fit_thresholds(x, y, average="samples").item() == 2.0
        all_positive = fit_thresholds(x, torch.ones_like(y))
        assert -2.001 < all_positive.item() < -2.0

    def test_neighbouring_numbers(self) -> None:
        """Two logits with no number between them are separated, in the dtype of the comparison."""
        for dtype in (torch.bfloat16, torch.float32):
            high = torch.tensor(1.5, dtype=dtype)
            low = torch.nextafter(high, torch.zeros_like(high))
            for average in ("macro", "micro", "samples"):
                x = torch.stack([high, low])[:, None]
                t = fit_thresholds(x, torch.tensor([[1], [0]]), average=average)
                assert (x > t).tolist() == [[True], [False]]

    def test_nothing_positive(self, generator: torch.Generator) -> None:
        x, y = torch.randn(4, 2, generator=generator), torch.tensor([[0, 1], [0, 0], [0, 0], [0, 1]])
        thresholds = fit_thresholds(x, y)
        assert thresholds[0] == torch.inf
        assert thresholds[1].isfinite()
        for average, metric in itertools.product(("macro", "micro", "samples"), ("f1", "accuracy")):
            assert (fit_thresholds(x, torch.zeros_like(y), metric, average) == torch.inf).all()
            assert (fit_thresholds(torch.zeros(0, 2), y[:0], metric, average) == torch.inf).all()

    def test_other_forms(self, generator: torch.Generator) -> None:
        """Targets above 1/2 are positive; strided logits of more dimensions and torch's sparse tensors are taken."""
        x, p = torch.randn(4, 6, 3, generator=generator), torch.rand(3, 6, 4, generator=generator)
        wanted = fit_thresholds(x.permute(2, 1, 0).reshape(-1, 4).contiguous(), (p > 0.5).reshape(-1, 4))
        assert torch.equal(fit_thresholds(x.permute(2, 1, 0), p), wanted)
        sparse = p.reshape(-1, 4).where(p.reshape(-1, 4) > 0.4, torch.tensor(0.0)).to_sparse_csr()
        assert torch.equal(fit_thresholds(x.permute(2, 1, 0), sparse), wanted)

    @pytest.mark.parametrize("average", ["macro", "micro", "samples"])
    def test_memory(self, average: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sparse targets never become dense, and the logits are not copied as a whole."""
        monkeypatch.setattr(_counts, "CHUNK", 500)
        x = torch.randn(40, 200, generator=generator)
        targets = CSRTargets.from_dense(torch.rand(40, 200, generator=generator) < 0.01)
        with Largest(x) as largest:
            fit_thresholds(x, targets, average=average)
        assert 0 < largest.elements <= 1000

    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            ({"logits": torch.tensor([[1.0, torch.nan]])}, ValueError, "logits: expected no NaN"),
            ({"logits": torch.tensor([[1.0, torch.inf]])}, ValueError, "logits: expected no NaN and no [+]inf"),
            ({"targets": torch.tensor([[1, -1]])}, ValueError, "targets: expected 0, 1 or probabilities"),
            ({"targets": torch.tensor([1, 0])}, ValueError, "targets: expected the logits' shape"),
            ({"metric": "map"}, ValueError, "metric: expected one of"),
            ({"average": "weighted"}, ValueError, "average: expected one of"),
            ({"beta": 0.0}, ValueError, "beta: expected"),
            ({"beta": "1"}, TypeError, "beta: expected a number"),
            ({"ignore_index": 1}, ValueError, "ignore_index"),
        ],
    )
    @pytest.mark.parametrize("average", ["macro", "micro"])
    def test_bad_input(self, average: str, change: dict[str, Any], error: type[Exception], match: str) -> None:
        arguments = {"logits": torch.zeros(1, 2), "targets": torch.tensor([[1, 0]]), "average": average, **change}
        with pytest.raises(error, match=match):
            fit_thresholds(**arguments)


class Largest(TorchDispatchMode):
    """The largest number of elements of a new tensor that is not a view of ``known``."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known, self.elements = known.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() != self.known:
                self.elements = max(self.elements, made.numel())
        return result
