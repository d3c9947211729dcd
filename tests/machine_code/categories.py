"""What instructions are for, roughly: where a path's cost goes."""

from collections import Counter

from .paths import Path
from .sass import Instruction

_BY_NAME = {
    "arithmetic": "FADD FMUL FFMA FADD2 FMUL2 FFMA2 DADD DMUL DFMA HMUL2",
    "compare, select": "FSETP FSET FSEL FMNMX FMNMX3 FCHK ISETP DSETP SEL PLOP3 P2R R2P VOTE "
    "UISETP USEL UPLOP3 UP2UR R2UP UFSETP UFSEL VIMNMX",
    "conversion": "F2F F2FP F2I I2F I2FP PRMT FRND HADD2 UPRMT UF2F UF2FP",
    "memory": "LDG LD LDS STG ST STS LDGSTS LDGDEPBAR DEPBAR LDSM LDL STL SYNCS UBLKCP",
    "control": "BRA BRX BSSY BSYNC BREAK WARPSYNC CALL RET EXIT NOP YIELD BRXU NANOSLEEP",
    "constants": "LDC ULDC LDCU S2R S2UR",
    "moves": "MOV UMOV CS2R R2UR CS2UR MOV32I",
    "special": "MUFU",
}
_CATEGORY = {name: category for category, names in _BY_NAME.items() for name in names.split()}
INTEGER = "integer, address"
CATEGORIES = (*_BY_NAME, INTEGER)


def category(i: Instruction) -> str:
    # The multiplier also moves registers, and widens bfloat16 by a shift of 16.
    if i.opcode.startswith("IMAD.MOV") or (i.name == "HFMA2" and "-RZ, RZ" in i.operands):
        return "moves"
    if i.opcode.startswith(("IMAD.U32", "IMAD.SHL")) and "0x10000" in i.operands:
        return "conversion"
    return _CATEGORY.get(i.name, INTEGER)


def breakdown(path: Path) -> dict[str, float]:
    """Instructions an element by category."""
    counts = Counter(map(category, path.instructions))
    return {name: counts[name] / path.elements for name in CATEGORIES if counts[name]}
