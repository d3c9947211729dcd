"""Tests of the reader of machine code, on two small kernels written by hand."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.machine_code import budgets, gates, report
from tests.machine_code.build import Resources, parse_log
from tests.machine_code.figures import Kernel, title_of
from tests.machine_code.graph import Block, UnreadableError, blocks_of, innermost_loop
from tests.machine_code.kernels import KERNELS
from tests.machine_code.paths import Demand, cheapest
from tests.machine_code.sass import Function, parse, parse_instruction

ROOT = Path(__file__).parents[1]
SAMPLE = (ROOT / "tests" / "machine_code" / "sample.sass").read_text()
ROWS = (ROOT / "tests" / "machine_code" / "rows.sass").read_text()
STATISTICS = Demand(lanes=4, arithmetic="MUFU.EX2", stores=False)
ROW = Demand(lanes=4, arithmetic="MUFU.EX2", stores=True, an_element=(1.0, 1.0), barriers=2, chunks=2, others=True)
EXPONENTIAL = "        /*00e0*/                   MUFU.EX2 R4, R4 ;\n"
NOTHING = "        /*0000*/                   NOP ;\n"
GRADIENT = replace(STATISTICS, stores=True)


def function_of(text: str = SAMPLE) -> Function:
    (function,) = parse(text)
    return function


def blocks(text: str = SAMPLE) -> dict[int, Block]:
    """Blocks by the address of their first instruction."""
    return {b.instructions[0].address: b for b in blocks_of(function_of(text))}


def followers(text: str = SAMPLE) -> dict[int, set[int]]:
    """Addresses that may follow each block, by the address it begins at."""
    starts = list(blocks(text))
    return {address: {starts[n] for n in block.next} for address, block in blocks(text).items()}


def instructions(demand: Demand, text: str = SAMPLE) -> int | None:
    path = cheapest(blocks_of(function_of(text)), demand)
    return len(path.instructions) if path else None


# ---- instructions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, guard, opcode, width, targets",
    [
        ("        /*0e00*/                   LDG.E.128 R24, desc[UR8][R24.64] ;", "", "LDG.E.128", 16, ()),
        ("        /*0e00*/              @!P2 STG.E.U16 desc[UR8][R30.64], R5 ;", "!P2", "STG.E.U16", 2, ()),
        ("        /*0e00*/                   LD.E.U8 R5, desc[UR8][R30.64] ;", "", "LD.E.U8", 1, ()),
        ("        /*0e00*/              @UP2 LDGSTS.E.BYPASS.128 [R5], desc[UR8][R2.64] ;", "UP2", None, 16, ()),
        ("        /*0e00*/                   LDG.E.ENL2.256 R8, R4, desc[UR8][R2.64] ;", "", None, 32, ()),
        ("        /*0e00*/               @P1 BRA P0, `(.L_x_7) ;", "P1", "BRA", 4, (".L_x_7",)),
        ('        /*0e00*/ BRX R2 -0x10 (*"BRANCH_TARGETS .L_x_1,.L_x_2"*);', "", "BRX", 4, (".L_x_1", ".L_x_2")),
    ],
)
def test_instruction(line: str, guard: str, opcode: str | None, width: int, targets: tuple[str, ...]) -> None:
    i = parse_instruction(line)
    assert i is not None
    assert (i.address, i.guard, i.width, i.targets) == (0xE00, guard, width, targets)
    assert opcode in (None, i.opcode)


def test_every_instruction_of_the_sample_is_read() -> None:
    assert [i.address for i in function_of().instructions] == list(range(0, 0x240, 0x10))


# ---- graph -----------------------------------------------------------------------------------------


def test_branches_waits_and_ends() -> None:
    after = followers()
    assert after[0x0] == {0x10}
    assert after[0x10] == {0x30}  # threads may leave, or go on
    assert after[0x30] == {0x50, 0x70}
    assert after[0x50] == {0x90}
    assert after[0x90] == {0xA0}  # BSYNC goes where BSSY said
    assert after[0xE0] == {0x1B0}  # taken by all
    assert after[0x1B0] == {0x1C0, 0x1D0}  # BRA.U under a predicate
    assert after[0x1D0] == {0x10}  # a call comes back
    assert after[0x210] == set()


def test_a_wait_goes_where_its_barrier_says() -> None:
    text = SAMPLE.replace("BSSY B0, `(.L_x_3)", "BSSY B0, `(.L_x_6)")
    assert followers(text)[0x90] == {0x1B0}


def test_a_call_of_a_label_does_not_come_back() -> None:
    text = SAMPLE.replace("BRA `(.L_x_2)", "CALL.REL.NOINC `(.L_x_2)")
    assert text != SAMPLE
    assert followers(text) == followers()


def test_a_jump_without_targets_is_an_error() -> None:
    with pytest.raises(UnreadableError, match="0x200 names no target"):
        blocks(SAMPLE.replace("BRA `(.L_x_0)", "BRX R2 -0x200"))


# ---- paths: the numbers are counted by hand ---------------------------------------------------------


@pytest.mark.parametrize(
    "demand, expected",
    [
        (STATISTICS, 8 + 5 + 1 + 4),
        (GRADIENT, 8 + 5 + 2 + 4),
        (replace(STATISTICS, target_width=4), 8 + 3 + 5 + 1 + 4),
        (replace(GRADIENT, target_width=4), 8 + 3 + 5 + 2 + 4),
        (replace(STATISTICS, target_width=4, avoid=frozenset({0xE0})), 8 + 3 + 8 + 1 + 4),
        (replace(STATISTICS, target_width=8), None),
        (replace(STATISTICS, arithmetic="MUFU.LG2"), None),
        (replace(STATISTICS, an_element=(2.0,)), None),  # a trip has half of them
    ],
)
def test_cheapest_path(demand: Demand, expected: int | None) -> None:
    assert instructions(demand) == expected


def test_figures_of_a_path() -> None:
    path = cheapest(blocks_of(function_of()), GRADIENT)
    assert path is not None
    assert (path.elements, path.issued, path.special) == (4, 19 / 4, 1.0)


def test_narrow_accesses_are_no_path() -> None:
    assert instructions(GRADIENT, SAMPLE.replace("STG.E.128", "STG.E.64")) is None
    assert instructions(replace(GRADIENT, others=True), SAMPLE.replace("LDG.E.128", "LDG.E.64")) is None


@pytest.mark.parametrize(
    "old, new",
    [
        ("LDG.E.128", "LDG.E.64"),  # no 16-byte load
        ("VIADD R0, R0, 0x100", "BAR.SYNC.DEFER_BLOCKING 0x0"),  # a loop over rows
        ("BRA `(.L_x_0)", "BRA `(.L_x_8)"),  # no loop
    ],
)
def test_no_such_loop(old: str, new: str) -> None:
    assert instructions(STATISTICS) is not None
    assert instructions(STATISTICS, SAMPLE.replace(old, new)) is None


def test_a_loop_that_always_stores_has_no_statistics() -> None:
    text = SAMPLE.replace("BRA.U !UP0, `(.L_x_7)", "NOP")
    assert instructions(STATISTICS, text) is None
    assert instructions(GRADIENT, text) == 19


def test_few_instructions_not_few_blocks() -> None:
    # Two paths reach the chunk's exponentials: one long block, or .L_x_4, which is split in two.
    text = SAMPLE.replace("LD.E R8, desc[UR4][R10.64]", "NOP")
    split = text.replace(EXPONENTIAL, EXPONENTIAL + ".L_y:\n")
    assert instructions(STATISTICS, split) == 18
    # With .L_x_4 made more expensive, the path through .L_x_5 alone is the cheapest.
    assert instructions(STATISTICS, text.replace(EXPONENTIAL, EXPONENTIAL + NOTHING * 9)) == 8 + 3 + 8 + 1 + 4


def test_the_cheapest_of_two_loops() -> None:
    start, end = SAMPLE.index(".L_x_0:"), SAMPLE.index("        .weak")
    again = SAMPLE[start:end].replace(".L_x_", ".L_y_").replace("MOV R20", "NOP ;\n        /*0000*/ MOV R20")
    entry = "        /*0000*/              @!P6 BRA `(.L_y_0) ;\n"
    assert instructions(STATISTICS, SAMPLE[:start] + entry + SAMPLE[start:end] + again + SAMPLE[end:]) == 18
    assert instructions(STATISTICS, SAMPLE[:start] + entry + again + SAMPLE[start:]) == 18


def test_other_loads_are_allowed_where_listed() -> None:
    load = "        /*0000*/                   LDG.E.64 R30, desc[UR4][R40.64] ;\n"
    text = SAMPLE.replace(".L_x_7:\n", ".L_x_7:\n" + load)
    assert instructions(STATISTICS, text) is None
    assert instructions(replace(STATISTICS, others=True), text) == 19


def test_a_loop_unrolled_twice() -> None:
    start, end = SAMPLE.index("        /*0030"), SAMPLE.index("        /*01f0")
    again = SAMPLE[start:end]
    for k in range(1, 8):
        again = again.replace(f".L_x_{k})", f".L_y_{k})").replace(f".L_x_{k}:", f".L_y_{k}:")
    twice = SAMPLE[:end] + again + SAMPLE[end:]
    assert instructions(STATISTICS, twice) is None
    path = cheapest(blocks_of(function_of(twice)), replace(STATISTICS, chunks=2))
    assert path is not None
    assert (path.elements, len(path.instructions)) == (8, 2 * 14 + 4)


def test_innermost_loop() -> None:
    code = blocks_of(function_of(ROWS))
    starts = {b.instructions[0].address: b for b in code}
    at = {address: code.index(block) for address, block in starts.items()}
    assert innermost_loop(code, at[0x0]) == set()
    assert innermost_loop(code, at[0x10]) == set(at.values()) - {at[0x0], at[0x280]}
    assert innermost_loop(code, at[0x290]) == {at[0x290]}


# ---- a loop over rows, whose numbers are counted by hand --------------------------------------------


def test_a_row() -> None:
    path = cheapest(blocks_of(function_of(ROWS)), ROW)
    assert path is not None
    # The loads, two chunks of sums, two barriers and an instruction behind each, two chunks of gradient, the end.
    assert (path.elements, len(path.instructions)) == (8, 3 + 2 * (2 + 5) + 4 + 2 * (2 + 6) + 2)
    assert path.special == 2.0


@pytest.mark.parametrize(
    "demand",
    [
        replace(ROW, barriers=4),
        replace(ROW, barriers=0),
        replace(ROW, chunks=1),
        replace(ROW, an_element=(2.0, 1.0)),
        replace(ROW, stores=False),
        replace(ROW, target_width=4),
    ],
)
def test_no_such_row(demand: Demand) -> None:
    assert cheapest(blocks_of(function_of(ROWS)), demand) is None


def test_a_body_serves_one_chunk() -> None:
    # The body for positives of the first chunk has two exponentials an element, and the second chunk can be left out,
    # which is cheaper here than both of its bodies.
    body = "MUFU.EX2 R8, R8 ;\n"
    longer = ROWS.replace(body, body + NOTHING * 9)
    path = cheapest(blocks_of(function_of(longer)), ROW)
    assert path is not None
    assert len(path.instructions) == 39 + 2 * 9


def test_a_body_that_a_path_must_avoid() -> None:
    path = cheapest(blocks_of(function_of(ROWS)), replace(ROW, avoid=frozenset({0x60})))
    assert path is not None
    assert path.special == 2.5


# ---- figures and budgets ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "demangled, expected",
    [
        (
            "void mlloss::cuda::team_rows<mlloss::portable::Zlpr, __nv_bfloat16, (mlloss::cuda::FastPath)1>(int)",
            "team_rows<Zlpr, kSparse>",
        ),
        ("void mlloss::cuda::backward<mlloss::Dice, float, true>(mlloss::C)", "backward<Dice, true>"),
        ("void mlloss::cuda::scale<float>(float*, long, mlloss::cuda::ComputeOf<float>::Type const*)", "scale"),
        ("mlloss::cuda::plain(int)", "plain"),
    ],
)
def test_names(demangled: str, expected: str) -> None:
    assert title_of(demangled) == expected


def test_resources_from_ptxas() -> None:
    log = """ptxas info    : Compiling entry function '_Z1f' for 'sm_90'
ptxas info    : Function properties for _Z1f
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 208 bytes smem
ptxas info    : Function properties for _Z1g
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""
    assert parse_log(log) == {"_Z1f": Resources(128, 208, 16, 20), "_Z1g": Resources(32, 0, 0, 0)}


def kernel_of(text: str = SAMPLE, resources: Resources | None = None) -> Kernel:
    code = blocks_of(function_of(text))
    local = sum(i.local for i in function_of(text).instructions)
    drops_nan = sum(i.drops_nan for i in function_of(text).instructions)
    paths = {"value, csr": cheapest(code, STATISTICS), "gradient, csr": cheapest(code, GRADIENT)}
    return Kernel("element_wise<Bce>", "bfloat16 sm_90", resources or Resources(32), 36, local, drops_nan, paths)


def test_faults() -> None:
    assert budgets.faults_of(kernel_of()) == []
    assert "stack frame of 16" in budgets.faults_of(kernel_of(resources=Resources(32, 0, 16, 0)))[0]
    assert "spills registers" in budgets.faults_of(kernel_of(resources=Resources(32, 0, 0, 8)))[0]
    assert "2049 bytes of static shared" in budgets.faults_of(kernel_of(resources=Resources(32, 2_049)))[0]
    assert "1 accesses to local" in budgets.faults_of(kernel_of(SAMPLE.replace("FSEL R4, -R4", "STL [R1], R4")))[0]
    for opcode, operands, faults in (("FMNMX", "PT", 1), ("FMNMX", "!PT", 0), ("FMNMX.NAN", "PT", 0)):
        text = re.sub(r"FSEL R4, -R4[^;]*;", f"{opcode} R4, R4, 88, {operands} ;", SAMPLE)
        assert len(budgets.faults_of(kernel_of(text))) == faults
    assert "no path 'gradient, csr'" in budgets.faults_of(kernel_of(SAMPLE.replace("STG.E.128", "STS.128")))[0]


def test_excesses() -> None:
    entry = budgets.entry_of(kernel_of())
    assert entry.paths == {"value, csr": (4.5, 1.0), "gradient, csr": (4.75, 1.0)}
    assert budgets.excesses_of(entry, entry) == []
    assert "has no budget" in budgets.excesses_of(entry, None)[0]
    assert "40 registers" in budgets.excesses_of(replace(entry, registers=40), entry)[0]
    for worse, what in (((5.0, 1.0), "5.00 instr"), ((4.75, 1.25), "1.25 special")):
        (excess,) = budgets.excesses_of(replace(entry, paths={"gradient, csr": worse}), entry)
        assert what in excess


def test_kernels_and_list_must_agree() -> None:
    listed = [replace(kernel_of(), title=pattern.replace("*", "Zlpr")) for pattern in KERNELS]
    listed = [replace(k, unit=f"{dtype} sm_90") for k in listed for dtype in ("bfloat16", "float", "double")]
    assert budgets.listing_faults(listed) == []
    assert "scale is listed" in budgets.listing_faults([k for k in listed if k.title != "scale"])[0]
    assert "new<Zlpr> is not listed" in budgets.listing_faults([*listed, replace(kernel_of(), title="new<Zlpr>")])[0]
    entry = budgets.entry_of(kernel_of())
    table = budgets.Budgets(units={"bfloat16 sm_90": {"element_wise<Bce>": entry, "element_wise<Gone>": entry}})
    assert ["element_wise<Gone>" in fault for fault in budgets.vanished([kernel_of()], table)] == [True]


def test_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    def units(instructions: float, special: float = 2.0, unit: str = "half sm_90") -> gates.Units:
        return {unit: {"team_rows<Dice, kBools>": budgets.Entry(80, 0, 0, {"row, bool": (instructions, special)})}}

    monkeypatch.setattr(gates, "EXCEPTIONS", {})
    assert gates.problems(units(21.0)) == []
    assert gates.problems(units(22.0, unit="bfloat16 sm_80")) == []  # a tenth more
    assert gates.problems(units(99.0, unit="float sm_90")) == []
    assert gates.problems(units(22.0)) == [
        "half sm_90: Dice, bool: 22.0 instructions, 2.0 special functions; its gate is 21"
    ]
    assert len(gates.problems(units(21.0, 3.5))) == 1
    monkeypatch.setattr(gates, "EXCEPTIONS", {("half sm_90", "Dice", "bool"): "a reason"})
    assert gates.problems(units(22.0)) == []
    assert "must not list" in gates.problems(units(21.0))[0]
    assert gates.problems(units(99.0, unit="float sm_90")) == []


def test_the_cost_of_a_loss_is_that_of_all_its_kernels() -> None:
    parts = {
        "row_statistics<Dice>": budgets.Entry(80, 0, 0, {"statistics, csr": (5.0, 1.0)}),
        "backward<Dice, false>": budgets.Entry(90, 0, 0, {"gradient, csr": (7.0, 2.0)}),
        "row_statistics<Zlpr>": budgets.Entry(80, 0, 0, {"statistics, csr": (5.0, 1.0)}),
    }
    assert gates.costs(parts, "split", "csr") == {"Dice": gates.Cost(12.0, 3.0, 90)}


def test_static_shared_memory_of_every_kernel_is_what_the_planner_allows_for() -> None:
    entries = [entry for kernels in budgets.load().units.values() for entry in kernels.values()]
    assert 0 < max(entry.shared for entry in entries) <= budgets.most_static_shared()


def test_the_page_and_the_table_follow_from_the_budgets() -> None:
    assert (ROOT / "docs" / "machine_code.md").read_text() == report.render(budgets.load())
    assert budgets.FILE.read_text() == budgets.dump(budgets.load())


def test_what_is_measured_again_replaces_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "FILE", tmp_path / "budgets.tsv")
    table = budgets.Budgets("13.0", "old", dict.fromkeys(("bfloat16 sm_80", "bfloat16 sm_90"), "old"))
    table.units = {unit: {"scale": budgets.entry_of(kernel_of())} for unit in table.measured_on}
    budgets.save(table, [kernel_of()], "new")
    saved = budgets.load()
    assert saved.units["bfloat16 sm_90"] == {"element_wise<Bce>": budgets.entry_of(kernel_of())}
    assert saved.units["bfloat16 sm_80"] == table.units["bfloat16 sm_80"]
    assert (saved.is_older("bfloat16 sm_80"), saved.is_older("bfloat16 sm_90")) == (True, False)
    assert "bfloat16 sm_80, older | bfloat16 sm_90 |" in report.render(saved)
