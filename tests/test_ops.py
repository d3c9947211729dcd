"""The ops: their contract with PyTorch, and that each pass runs one of them and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mlloss_cuda
from mlloss_cuda import BCEWithLogitsLoss, CSRTargets, LinearLoss, _ops, unit_grad_output
from mlloss_cuda._call import SHARED_NAMES, Options, TensorArguments, shared_arguments, shared_schema

from .cases import Case
from .conftest import Backend
from .inputs import as_layout, random_logits, random_positives


class Recorder(TorchDispatchMode):
    """A record of every op that runs, and the sizes of the tensors that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]
        self.calls.append((str(func), made))
        return result

    def large(self, numel: int) -> list[str]:
        # A detached alias has the size but not the memory.
        return [name for name, made in self.calls if max(made, default=0) >= numel and "detach" not in name]


SHAPE = (6, 4500)


@pytest.mark.parametrize("layout", ("bool", "float32", "csr64", "csr32"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_a_pass_is_one_op_and_one_gradient(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str
) -> None:
    x = random_logits(generator, SHAPE, dtype, backend.device).requires_grad_()
    y = as_layout(random_positives(generator, SHAPE, 0.01), layout, backend.device)
    with Recorder() as recorder:
        served(x, y).backward()
    ours = [name for name, _ in recorder.calls if name.startswith(backend.namespace)]
    recompute = dtype == torch.float16
    names = ("loss_forward", "loss_backward" if recompute else "scale_gradient_")
    assert ours == [f"{backend.namespace}.{name}.default" for name in names]
    assert recorder.large(x.numel()) == [f"{backend.namespace}.loss_{'backward' if recompute else 'forward'}.default"]
    assert x.grad is not None


@pytest.mark.parametrize("kept", (False, True))
def test_unit_grad_output_of_a_head_runs_no_op(backend: Backend, kept: bool) -> None:
    """The gradients that the head's forward formed are the results, or their copies if the graph is kept."""
    head = LinearLoss(8, 300, BCEWithLogitsLoss(), device=backend.device)
    x, y = torch.randn(4, 8, device=backend.device), torch.rand(4, 300, device=backend.device) < 0.1
    expected = torch.autograd.grad(head(x, y), [head.weight, head.bias], torch.tensor(3.0, device=backend.device))
    loss = head(x, y)
    with Recorder() as recorder:
        got = torch.autograd.grad(loss, [head.weight, head.bias], unit_grad_output(loss), retain_graph=kept)
    names = [name for name, _ in recorder.calls]
    assert not [name for name in names if backend.namespace in name or "mul" in name]
    assert names.count("aten.clone.default") == 2 * kept
    for own, scaled in zip(got, expected, strict=True):
        torch.testing.assert_close(3 * own, scaled)


@pytest.mark.parametrize("kept", (False, True))
def test_unit_grad_output_runs_no_op(served: Case, backend: Backend, generator: torch.Generator, kept: bool) -> None:
    """Nothing is filled or multiplied; if the graph is kept, the gradient is copied."""
    x = random_logits(generator, SHAPE, torch.float32, backend.device).requires_grad_()
    y = random_positives(generator, SHAPE, 0.01).to(backend.device)
    (expected,) = torch.autograd.grad(served(x, y), x)
    loss = served(x, y)
    unit = unit_grad_output(loss)
    with Recorder() as recorder:
        (got,) = torch.autograd.grad(loss, x, unit_grad_output(loss), retain_graph=kept)
    assert not [name for name, _ in recorder.calls if backend.namespace in name or "ones" in name or "fill" in name]
    assert [name for name, _ in recorder.calls if "clone" in name] == ["aten.clone.default"] * kept
    assert torch.equal(got, expected)
    # A changed tensor is an ordinary grad_output, and the next call returns 1 again.
    loss = served(x, y)
    unit *= 2
    (twice,) = torch.autograd.grad(loss, x, unit, retain_graph=True)
    assert torch.equal(twice, 2 * expected)
    assert unit_grad_output(loss) is not unit
    assert float(unit_grad_output(loss)) == 1


def test_in_place_makes_no_large_tensor(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x = random_logits(generator, SHAPE, torch.float32, backend.device).requires_grad_()
    y = CSRTargets.from_dense(random_positives(generator, SHAPE, 0.01)).to(backend.device)
    made = x * 1
    with Recorder() as recorder:
        value = served(made, y, inplace_backward=True)
        torch.autograd.grad(value, made)
    assert recorder.large(x.numel()) == []


def test_no_grad_makes_no_gradient(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x = random_logits(generator, SHAPE, torch.float32, backend.device).requires_grad_()
    y = random_positives(generator, SHAPE).to(backend.device)
    with torch.no_grad(), Recorder() as recorder:
        served(x, y)
    assert recorder.large(x.numel()) == []


def arguments_of(case: Case, reduction: int, device: str, generator: torch.Generator, sparse: bool) -> tuple[Any, ...]:
    """Return the shared arguments of the ops, as ``_dispatch`` makes them."""
    rows, labels = 3, 40
    y = random_positives(generator, (rows, labels))
    csr = CSRTargets.from_dense(y).to(device)
    sides = TensorArguments(
        targets=None if sparse else y.to(device),
        crow_indices=csr.crow_indices if sparse else None,
        col_indices=csr.col_indices if sparse else None,
        weight=torch.rand(labels, generator=generator).to(device),
        sample_weight=torch.rand(rows, generator=generator).to(device),
        logit_scale=torch.tensor(0.9, device=device),
        row_offset=torch.rand(rows, generator=generator).to(device),
        label_parameter=torch.rand(labels, generator=generator).to(device) if case.registered.label_parameter else None,
    )
    grouping = _ops.GROUPINGS.index(case.grouping)
    options = Options(case.spec, case.parameters, grouping, reduction, offset=0.25, all_labels=labels)
    return shared_arguments(sides, options)


@pytest.mark.parametrize("sparse", (False, True))
@pytest.mark.parametrize("reduction", (0, 2))
def test_opcheck(served: Case, backend: Backend, generator: torch.Generator, reduction: int, sparse: bool) -> None:
    x = random_logits(generator, (3, 40), torch.float32, backend.device)
    shared = arguments_of(served, reduction, backend.device, generator, sparse)
    ops = getattr(torch.ops, backend.namespace)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for keep, form in ((False, True), (True, False), (False, False)):
        torch.library.opcheck(ops.loss_forward.default, (keep, form, x, *shared), test_utils=tests[:2])
    torch.library.opcheck(ops.loss_forward_.default, (True, x.clone(), *shared), test_utils=tests[:2])
    value, coefficients, _ = ops.loss_forward(True, False, x, *shared)
    grad_output = torch.ones_like(value)
    for needs in ((True, True, True, True), (True, False, False, False), (False, False, True, False)):
        torch.library.opcheck(
            ops.loss_backward.default, (coefficients, grad_output, *needs, x, *shared), test_utils=tests[:2]
        )
    torch.library.opcheck(
        ops.loss_backward_.default,
        (coefficients, grad_output, True, True, True, x.clone(), *shared),
        test_utils=tests[:2],
    )
    scale = torch.tensor(2.0, device=backend.device)
    torch.library.opcheck(ops.scale_gradient.default, (x, scale), test_utils=tests)
    torch.library.opcheck(ops.scale_gradient_.default, (x.clone(), scale), test_utils=tests[:2])


def test_fakes_agree_with_the_functors(case: Case, generator: torch.Generator) -> None:
    """The number of coefficients in the registry is that of the compiled functor."""
    spec = case.registered
    shared = arguments_of(case, 0, "cpu", generator, False)
    _, coefficients, _ = torch.ops.mlloss_cuda.loss_forward(True, False, torch.randn(3, 40), *shared)
    assert coefficients.shape[0] == spec.coefficients
    assert spec.element_wise == (coefficients.numel() == 0)


def test_sparse_targets_never_become_dense(served: Case, backend: Backend) -> None:
    """The gradient is the only tensor of the logits' size; no mask is made."""
    labels = 3_000_000
    targets = CSRTargets.from_lists([[5, 2_999_999], [17]], labels).to(backend.device)
    x = torch.zeros(2, labels, device=backend.device, requires_grad=True)
    with Recorder() as recorder:
        served(x, targets).backward()
    assert [name for name, made in recorder.calls if max(made, default=0) >= labels and "detach" not in name] == [
        f"{backend.namespace}.loss_forward.default"
    ]


def test_kernels_stay_inside_unchecked_indices(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """No values of crow_indices and col_indices cause a crash or an access outside the buffers."""
    x = random_logits(generator, (4, 50), torch.float32, backend.device)
    for crow, columns in (
        ([0, 100, -7, 3, 9], [1, 2, 3, 60, -5]),
        ([0, 5, 5, 5, 5], [49, 3, 3, 1000, -1]),
        ([3, 2, 1, 0, -1], [0, 1, 2, 3, 4]),
    ):
        for dtype in (torch.int32, torch.int64):
            targets = CSRTargets(
                torch.tensor(crow, dtype=dtype, device=backend.device),
                torch.tensor(columns, dtype=dtype, device=backend.device),
                50,
                validate=False,
            )
            assert served(x, targets).shape == ()


def test_entries_past_the_last_row_are_not_read(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x = random_logits(generator, (5, 300), torch.float32, backend.device)
    targets = CSRTargets.from_dense(random_positives(generator, (5, 300))).to(backend.device)
    padded = targets.pad_to(targets.col_indices.shape[0] + 100)
    assert torch.equal(served(x, padded), served(x, targets))


def test_module_equals_function(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x = random_logits(generator, (5, 300), torch.float32, backend.device)
    y = random_positives(generator, (5, 300)).to(backend.device)
    weight = torch.rand(300, generator=generator).to(backend.device)
    sample_weight = torch.rand(5, generator=generator).to(backend.device)
    module = served.module(**served.own, weight=weight, reduction="sum", normalizer=3.0)
    expected = served(x, y, weight=weight, reduction="sum", normalizer=3.0, sample_weight=sample_weight)
    assert torch.equal(module(x, y, sample_weight=sample_weight), expected)
    assert "weight" in module.state_dict()
    without = served.module(**served.own)
    without.weight = weight
    assert "weight" in without.state_dict()
    assert served.module.__name__ in repr(module)


def test_learnable_arguments_are_parameters() -> None:
    scale, threshold = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.zeros(7))
    module = mlloss_cuda.ZLPRLoss(threshold=threshold, logit_scale=scale)
    assert dict(module.named_parameters()).keys() == {"threshold", "logit_scale"}
    module(torch.randn(2, 7), torch.ones(2, 7)).backward()
    assert threshold.grad is not None
    assert scale.grad is not None


def test_ops_take_fewer_arguments_if_tensors_are_missing() -> None:
    """An ordinary call passes the targets and the options only; one tensor more makes all of them explicit."""
    targets, options = torch.zeros(2, 7), Options("zlpr", (), 1, 2, all_labels=7)
    ordinary = shared_arguments(TensorArguments(targets), options)
    assert len(ordinary) == len(SHARED_NAMES) - len(TensorArguments._fields) + 1
    for name in TensorArguments._fields[1:]:
        other = torch.ones(7)
        everything = shared_arguments(TensorArguments(targets, **{name: other}), options)
        assert len(everything) == len(SHARED_NAMES)
        assert everything[SHARED_NAMES.index(name)] is other
        assert everything[: len(ordinary)] == ordinary


def test_shared_arguments_are_the_same_in_cpp() -> None:
    """The list in csrc/ops.h, with those of csrc/core/params.h in it, has the names, order and types of Python's."""
    sources = Path(__file__).parents[1] / "csrc"
    ops, params = ((sources / name).read_text().replace("\\\n", " ") for name in ("ops.h", "core/params.h"))

    def macro(source: str, name: str) -> str:
        found = re.search(rf"#define {name}\(.*?\) (.*)", source)
        assert found, name
        return found[1]

    lists = macro(ops, "MLLOSS_CALL")
    lists = lists.replace("MLLOSS_NUMBERS(X)", macro(params, "MLLOSS_NUMBERS"))
    tensors = macro(params, "MLLOSS_TENSORS").replace("X(type,", "X(OptionalTensor,")
    lists = lists.replace("MLLOSS_TENSORS(X, OptionalTensor)", tensors)
    listed = re.findall(r"X\(([^()]+), (\w+)\)", lists)
    types = {
        "OptionalTensor": "Tensor?",
        "std::string": "str",
        "std::vector<double>": "float[]",
        "int64_t": "int",
        "double": "float",
        "std::optional<int64_t>": "int?",
    }
    written = ", ".join(f"{types[kind]} {name}" for kind, name in listed)
    assert written == shared_schema().replace("SymInt", "int").replace("=None", "")
