"""The Triton engine: every kind of tile, its functors compared with the C++ ones, its plans, its role in dispatch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mlloss_cuda
from bench.gpu import tune
from mlloss_cuda import CSRTargets, _backends, _ops, _registry
from mlloss_cuda._call import Options, TensorArguments, shared_arguments

from .cases import Case
from .conftest import Backend, planned
from .inputs import (
    Reference,
    as_layout,
    assert_within_budget,
    evaluate,
    random_logits,
    random_positives,
    random_probabilities,
)
from .new_process import run_python

# ---- tiles -----------------------------------------------------------------------------------------------


@pytest.mark.triton_engine
@pytest.mark.parametrize(
    ("dtype", "layout", "elements"),
    (
        (torch.bfloat16, "bool", 64),
        (torch.bfloat16, "csr32", 512),
        (torch.float32, "csr64", 64),
        (torch.float32, "float32", 512),
        (torch.float16, "int64", 64),
        (torch.float64, "strided", 512),
    ),
    ids=str,
)
def test_rows_of_many_tiles(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str, elements: int
) -> None:
    """Inner tiles without masks, and both ends; rows that begin on and between 16-byte boundaries."""
    shape = (2, 171) if elements == 64 else (2, 1_301)
    logits = random_logits(generator, shape, dtype, backend.device)
    dense = random_positives(generator, shape, 0.02)
    reference = Reference(served, logits, dense.to(backend.device))
    with planned(backend.strategy, elements):
        assert_within_budget(evaluate(served, logits, as_layout(dense, layout, backend.device)), reference)


@pytest.mark.triton_engine
@pytest.mark.parametrize("labels", (1, 15, 16, 17, 33, 81))
def test_ends_of_rows(served: Case, backend: Backend, generator: torch.Generator, labels: int) -> None:
    logits = random_logits(generator, (5, labels), torch.bfloat16, backend.device)
    targets = random_positives(generator, (5, labels)).to(backend.device)
    reference = Reference(served, logits, targets)
    with planned(backend.strategy, 32):
        assert_within_budget(evaluate(served, logits, targets), reference)


@pytest.mark.triton_engine
@pytest.mark.parametrize("storage", (3, 16, 40))
def test_logits_targets_and_gradient_on_different_boundaries(
    served: Case, backend: Backend, generator: torch.Generator, storage: int
) -> None:
    """Views of wider tensors: 16 elements may be aligned in one tensor and not in another."""
    wide = random_logits(generator, (4, 150 + storage), torch.float32, backend.device)
    dense = random_positives(generator, (4, 150))
    logits = wide[:, storage:]
    reference = Reference(served, logits, dense.to(backend.device))
    with planned(backend.strategy, 64):
        assert_within_budget(evaluate(served, logits, dense.to(backend.device)), reference)


@pytest.mark.triton_engine
@pytest.mark.parametrize("soft", (False, True))
def test_tiles_with_many_entries(served: Case, backend: Backend, generator: torch.Generator, soft: bool) -> None:
    """With many entries in a tile, labels are looked up one by one. Rows of one tile: empty, full, and with a few."""
    shape = (4, 300)
    dense: Tensor = random_positives(generator, shape, 0.5)
    if soft:
        dense = torch.where(dense, random_probabilities(generator, shape), 0.0)
    dense[3, 5:] = 0
    logits = random_logits(generator, shape, torch.float32, backend.device)
    arguments = {"reduction": "sum"}
    reference = Reference(served, logits, dense.to(backend.device), **arguments)
    got = evaluate(served, logits, CSRTargets.from_dense(dense).to(backend.device), **arguments)
    assert_within_budget(got, reference)


@pytest.mark.triton_engine
def test_extreme_rows_of_many_tiles(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Sums overflow without a maximum in some rows, and in some tiles of a row."""
    logits = random_logits(generator, (6, 700), torch.float32, backend.device)
    logits[1] *= 40
    logits[2, 600:] += 120
    logits[3, 5], logits[4, 650] = torch.inf, -torch.inf
    targets = random_positives(generator, (6, 700), 0.01).to(backend.device)
    targets[3, 5], targets[4, 650] = True, False
    reference = Reference(served, logits, targets)
    with planned(backend.strategy, 128):
        assert_within_budget(evaluate(served, logits, targets), reference)


# ---- functors --------------------------------------------------------------------------------------------


CANCELLING = (
    "asymmetric",
    "dice",
    "multi_positive_cross_entropy",
    "self_adjusting_dice",
)  # losses that subtract nearly equal numbers


def whole_range(generator: torch.Generator) -> Tensor:
    """Return one of every 32 neighbouring bfloat16 numbers, NaN included, and the ends of the range."""
    first = torch.arange(-(2**15), 2**15, 32, dtype=torch.int32)
    drawn = first + torch.randint(0, 32, first.shape, generator=generator)
    limits = torch.finfo(torch.float32)
    ends = torch.tensor([0.0, 1.0, limits.tiny, limits.max, torch.inf])
    return torch.cat([drawn.to(torch.int16).view(torch.bfloat16).float(), ends, -ends])


def single_element_results(
    case: Case, namespace: str, device: str, s: Tensor, y: Tensor, given: Tensor
) -> dict[str, Tensor]:
    """Return value, gradient, and the gradient from ``given`` coefficients, for groups of one element each."""
    ops = getattr(torch.ops, namespace)
    spec = case.registered
    sides, grouping = TensorArguments(targets=y[:, None].to(device)), _ops.GROUPINGS.index(spec.groupings[0])
    options = shared_arguments(sides, Options(case.spec, case.parameters, grouping, 0, all_labels=1))
    logits = s[:, None].to(device)
    value, coefficients, _ = ops.loss_forward(True, False, logits, *options)
    results = {"value": value}
    known = {"gradient": coefficients} | ({"gradient of given coefficients": given} if coefficients.numel() else {})
    for name, c in known.items():
        needs = (True, False, False, False)
        results[name] = ops.loss_backward(c.to(device), torch.ones_like(value), *needs, logits, *options)[0]
    return {name: result.flatten().cpu() for name, result in results.items()}


@pytest.mark.triton_engine
@pytest.mark.parametrize("targets", ("negative", "positive", "probabilities"))
def test_functors_agree_with_the_compiled_ones(
    served: Case, backend: Backend, generator: torch.Generator, targets: str
) -> None:
    """Results agree element by element over the whole range, up to rounding, with the same infinities and NaN."""
    if served.grouping not in ("element", "samples") or _ops.COMPOUND in served.spec:
        return  # other cases use the same functors
    s = whole_range(generator)
    if targets == "probabilities":
        y = random_probabilities(generator, (1, s.numel()))[0].float()
    else:
        y = torch.full(s.shape, targets == "positive")
    given = torch.rand((served.registered.coefficients, s.numel()), generator=generator) + 0.5
    # Terms of the size of 1 may cancel; otherwise only numbers too small for a float are lost.
    unit = 1.0 if targets == "probabilities" or served.spec in CANCELLING else 0.0
    got = single_element_results(served, backend.namespace, backend.device, s, y, given)
    expected = single_element_results(served, _ops.NAMESPACE, "cpu", s, y, given)
    for name, e in expected.items():
        g, finite, infinite = got[name], e.isfinite(), e.isinf()
        assert torch.equal(g.isnan(), e.isnan()), name
        assert torch.equal(g[infinite], e[infinite]), name
        # An exponential's argument is rounded, so its relative error grows with the argument, up to 0 or infinity.
        roundings = 8 + 2 * s.nan_to_num(0.0, 0.0, 0.0).abs().clamp(max=104)
        # C++ rounds e^-86.6 = 2.1 * tiny to 0, and coefficients here multiply it by up to 1.5.
        lost = 4 * torch.finfo(torch.float32).tiny
        budget = roundings * torch.finfo(torch.float32).eps * e.abs().clamp(min=unit) + lost
        wrong = finite & ~((g - e).abs() <= budget)
        assert not bool(wrong.any()), f"{name} at s = {s[wrong][:5].tolist()}: {g[wrong][:5]}, C++ {e[wrong][:5]}"


def test_every_loss_has_its_functor() -> None:
    """The module of a loss's name declares the registry's properties. The test does not need Triton."""
    for spec in _registry.all_losses():
        source = (Path(mlloss_cuda.__file__).parent / "_triton" / f"{spec.name}.py").read_text()
        kind = "ElementWise" if spec.element_wise else "Group"
        assert f"FUNCTOR = {kind}(" in source, spec.name
        assert ("softmax_over_labels=True" in source) == spec.softmax_over_labels, spec.name
        assert ("second_logits=True" in source) == spec.second_logits, spec.name
        if not spec.element_wise:
            assert f"coefficients=tl.constexpr({spec.coefficients})" in source, spec.name


# ---- plans -----------------------------------------------------------------------------------------------


@pytest.mark.triton_engine
@pytest.mark.parametrize("family", ("cuda", "cuda90", "hip", "rdna", "xpu"))
def test_plans_cover_their_shapes(backend: Backend, family: str) -> None:
    from mlloss_cuda._triton.plan import GROUP, Shape, plan_down_rows, plan_rows, plan_units
    from mlloss_cuda._triton.tuning import DeviceFacts

    facts = DeviceFacts(family, 132, 50 << 20)
    with planned("automatic", None):
        for rows in (0, 1, 2, 7, 64, 4096):
            for labels in (0, 1, 15, 80, 4096, 131_073, 2_812_281):
                for itemsize in (2, 4, 8):
                    shape = Shape(rows, labels, itemsize, labels % GROUP == 0)
                    for plan in (plan_units(shape, facts), plan_rows(shape, facts), plan_rows(shape, facts, True)):
                        assert plan.tiles * plan.columns >= (labels + 15 if labels % GROUP else labels)
                        assert plan.rows & (plan.rows - 1) == plan.columns & (plan.columns - 1) == 0
                        assert plan.run * plan.splits >= plan.tiles or plan.tiles == plan.run
                        assert 1 <= plan.warps <= 16
                    down = plan_down_rows(shape, facts)
                    assert down.splits * down.run >= rows
                    assert down.programs * down.columns >= labels * down.splits


@pytest.mark.triton_engine
def test_few_long_rows_are_split(backend: Backend) -> None:
    from mlloss_cuda._triton.plan import Shape, plan_rows
    from mlloss_cuda._triton.tuning import DeviceFacts

    facts = DeviceFacts("cuda", 132, 50 << 20)
    with planned("automatic", None):
        assert plan_rows(Shape(2, 2_812_281, 2, False), facts).strategy == "split"
        assert plan_rows(Shape(512, 131_073, 2, False), facts).strategy == "streaming"


@pytest.mark.triton_engine
def test_tuning_dry_run(backend: Backend, tmp_path: Path) -> None:
    """The program that measures tile sizes runs on a tiny shape: no size fails, and the table's size is included."""
    if backend.device != "cpu":
        return  # on a GPU the program itself can be run
    tune.main(["--dry-run", "--json", str(tmp_path / "times.json")])
    rows = json.loads((tmp_path / "times.json").read_text())
    assert not [row["failure"] for row in rows if "failure" in row]
    assert {row["work"] for row in rows if row["size"] is None} == {"rows", "units"}


# ---- dispatch --------------------------------------------------------------------------------------------


@pytest.fixture
def gpu_without_libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, _backends.BackendStatus]:
    """A machine with a GPU on which neither engine is usable, unless a test changes the returned statuses."""
    found = {name: _backends.BackendStatus(False, f"no {name} here; install it") for name in ("cuda", "triton")}
    for name in found:
        engine = _backends._engines[name]
        status = lambda name=name: found[name]  # noqa: E731
        monkeypatch.setitem(_backends._engines, name, engine._replace(status=status, devices=("cuda",)))
    monkeypatch.setattr(_backends, "_usable_cache", {})
    monkeypatch.setattr(_backends, "_chosen", {})
    monkeypatch.setattr(_backends, "_warned", set())
    return found


def test_triton_serves_where_the_cuda_library_does_not(gpu_without_libraries: dict[str, Any]) -> None:
    usable = _backends.BackendStatus(True, "")
    gpu_without_libraries["triton"] = usable
    assert _backends.choose("cuda") == "triton"
    _backends._usable_cache.clear()
    _backends._chosen.clear()
    gpu_without_libraries["cuda"] = usable
    assert _backends.choose("cuda") == "cuda"


def test_one_warning_names_the_remedies(gpu_without_libraries: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="no cuda here; install it; triton: no triton here; install it"):
        assert _backends.choose("cuda") == "reference"
    assert _backends.choose("cuda") == "reference"  # no second warning, which would be an error


def test_status_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status says why Triton cannot be used, and what would help."""
    if torch.cuda.is_available():
        return
    assert "no GPU" in _backends._triton_status().reason
    monkeypatch.setattr(_backends, "_gpu_keys", lambda: ["CUDA"])
    monkeypatch.setattr(_backends.importlib, "import_module", _without_triton)
    assert "3.5.1 is too old; install 3.6" in _backends._triton_status().reason
    monkeypatch.setattr(_backends.importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in _backends._triton_status().reason
    with pytest.raises(ValueError, match="pip install triton"), mlloss_cuda.use_backend("triton"):
        pass


def _without_triton(name: str) -> Any:
    assert name == "triton"
    return type("triton", (), {"__version__": "3.5.1"})


def test_importing_the_package_imports_no_triton() -> None:
    """Triton takes half a second to import, and is optional."""
    code = "import sys, mlloss_cuda; sys.exit('triton' in sys.modules)"
    assert run_python("-c", code).returncode == 0
