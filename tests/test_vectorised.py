"""Tests of the check that loops are vectorised, on samples. `python -m tests.vectorised` checks the kernels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.vectorised import __main__ as check
from tests.vectorised import assembly
from tests.vectorised.assembly import Instances, instances_of
from tests.vectorised.source import Loop, blank, mark, marked_copy

ROOT = Path(__file__).parents[1]
SAMPLE = """// A comment with a brace { and a loop: for (;;)
namespace sample {
float opaque(float);

struct Scaled {
  float factor;
  void scale(const float* x, int size, float* out) const {
    with([&](int begin) __attribute__((always_inline)) {
      if (size > begin)
#pragma omp simd
        for (int j = begin; j < size; ++j) out[j] = factor * (x[j] + 1.0f);
    });
  }
  template <class F>
  static __attribute__((noinline)) void with(F f) {
    for (int k = 0; k < 2; ++k) f(k);
  }
};

void twice(const float* x, int size, float* out) {
#pragma omp simd
  for (int j = 0; j < size; ++j) {
    out[j] = x[j] * x[j];
  }
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < size; ++j) sum += opaque(x[j]);  // a call cannot be vectorised
  out[0] = sum;
}

void use(const Scaled& scaled, const float* x, int size, float* out) { scaled.scale(x, size, out); }
}  // namespace sample
"""
SCALE, FIRST, SECOND = Loop("sample.h", "scale"), Loop("sample.h", "twice"), Loop("sample.h", "twice", 2)


def test_loops_are_named_by_their_functions() -> None:
    assert mark("sample.h", SAMPLE)[1] == [SCALE, FIRST, SECOND]
    assert str(SECOND) == "sample.h: twice, loop 2"


def test_names_do_not_depend_on_lines_and_comments() -> None:
    assert mark("sample.h", blank("\n\n" + SAMPLE))[1] == mark("sample.h", SAMPLE)[1]


def test_a_pragma_without_a_loop_is_an_error() -> None:
    with pytest.raises(ValueError, match="no loop follows"):
        mark("sample.h", "void f(int x) {\n#pragma omp simd\n  ++x;\n}\n")


def test_every_pragma_of_the_kernels_is_found(tmp_path: Path) -> None:
    loops = marked_copy(ROOT, tmp_path)
    files = [*(ROOT / "csrc" / "cpu").iterdir()]
    assert len(loops) == sum(blank(f.read_text()).count("#pragma omp simd") for f in files) > 0
    assert len(set(loops)) == len(loops)
    assert "?" not in {loop.function for loop in loops}


@pytest.mark.parametrize("isa", ["baseline", "x86_64_v3", "x86_64_v4"])
def test_a_loop_that_cannot_be_vectorised_is_found(isa: str, tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    reason = check.why_not(compiler)
    if compiler is None or reason:
        pytest.skip(str(reason))
    text, loops = mark("sample.h", SAMPLE)
    unit = tmp_path / "unit.cpp"
    unit.write_text(text)
    flags = check.flags_of(isa, (ROOT / "CMakeLists.txt").read_text())
    found = instances_of(check.assembly_of(compiler, unit, flags, isa), isa)
    assert found[str(SCALE)].vectorised > 0
    assert not found[str(SCALE)].scalar
    assert found[str(FIRST)].vectorised > 0
    assert found[str(SECOND)].vectorised == 0
    (problem,) = check.problems_of(loops, found, isa)
    assert "sample.h: twice, loop 2 is not vectorised in" in problem
    assert problem.endswith("first in sample::twice")


def test_packed_arithmetic_after_the_loop_or_in_narrow_registers_does_not_count() -> None:
    loop = """f:
    {before}
    # simd begin x.h: f
    test %rax, %rax
    je .L1
.L2:
    {inside}
    jne .L2
    {leave}
.L1:
    # simd end
    vmulps %zmm0, %zmm1, %zmm2
    ret
"""

    def vectorised(inside: str, before: str = "", leave: str = "") -> bool:
        found = instances_of(loop.format(before=before, inside=inside, leave=leave), "x86_64_v4")["x.h: f"]
        assert found.vectorised + len(found.scalar) == 1
        return found.vectorised == 1

    assert vectorised("vfmadd231ps %zmm0, %zmm1, %zmm2")
    assert not vectorised("vfmadd231ss %xmm0, %xmm1, %xmm2")
    assert not vectorised("vfmadd231ps %ymm0, %ymm1, %ymm2")
    assert not vectorised("vmovups %zmm0, (%rax)")
    assert not vectorised("vaddss %xmm0, %xmm1, %xmm2", before="vaddps %zmm0, %zmm1, %zmm2")
    assert not vectorised("vaddss %xmm0, %xmm1, %xmm2", leave="ret")
    assert instances_of("f:\n    # simd begin x.h: f\n    test %rax, %rax\n    # simd end\n", "x86_64_v4") == {}


def test_what_is_reported() -> None:
    loops = [SCALE, FIRST]
    found = {str(SCALE): Instances(3), str(FIRST): Instances(1, ["f<1>"])}
    (problem,) = check.problems_of(loops, found, "baseline")
    assert problem == "baseline: sample.h: twice is not vectorised in 1 of 2 instances, first in f<1>"
    assert check.problems_of(loops, found, "baseline", [check.KnownScalar(str(FIRST), "f<1>", "")]) == []
    other = check.KnownScalar(str(FIRST), "f<2>", "")
    assert ["EXCEPTIONS" in p for p in check.problems_of(loops, found, "baseline", [other])] == [False, True]
    assert "is not in the kernels" in check.problems_of([SECOND], found, "baseline")[0]


def test_kernels_for_double_are_left_out() -> None:
    symbols = ["_Z3sumIdEdPKT_i", "_Z3sumIfEdPKT_i", "_Z5plainPKd"]
    assert assembly.demangled(symbols) == ["double sum<double>", "double sum<float>", "plain"]
    text = "".join(
        f"{s}:\n    # simd begin a\n.L1:\n    mulss %xmm0, %xmm0\n    jne .L1\n    # simd end\n" for s in symbols
    )
    assert instances_of(text, "baseline")["a"].scalar == ["double sum<float>", "plain"]


def test_the_kernels_flags_are_those_of_the_build() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert "-fopenmp-simd" in check.flags_of("baseline", cmake)
    assert "-fno-tree-pre" in check.flags_of("baseline", cmake)
    assert "-march=x86-64-v4" in check.flags_of("x86_64_v4", cmake)
    with pytest.raises(ValueError, match="no flags for"):
        check.flags_of("x86_64_v5", cmake)


def test_a_unit_holds_the_losses_that_are_asked_for() -> None:
    registry = (ROOT / "csrc" / "losses" / "registry.h").read_text()
    assert "X(zlpr, Zlpr) X(dice, Dice)\n" in check.unit_text(registry, ["zlpr", "dice"])
    assert check.unit_text(registry, ["all"]).count("X(") > len(check.LOSSES)


def test_other_compilers_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.platform, "machine", lambda: "aarch64")
    assert "this is aarch64" in str(check.why_not("c++"))
    monkeypatch.setattr(check.platform, "machine", lambda: "x86_64")
    assert check.why_not(None) == "no C++ compiler was found"
