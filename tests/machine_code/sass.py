"""A parser of nvdisasm's text (`nvdisasm -c`, which names branch targets by labels)."""

import re
from dataclasses import dataclass, field
from functools import cached_property

_SECTION = re.compile(r"^\.text\.(\S+):")
_LABEL = re.compile(r"^([.$\w]+):\s*$")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\(([^)]+)\)")
_TABLE = re.compile(r'BRANCH_TARGETS ([^"]+)"')

_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_LOADS = ("LDG", "LD")
_STORES = ("STG", "ST")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction; `targets` are the labels it names."""

    address: int
    guard: str  # the predicate it runs under, or ""
    opcode: str  # with its suffixes: LDG.E.128
    operands: str
    targets: tuple[str, ...] = ()

    @cached_property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def width(self) -> int:
        """The bytes that a thread moves, if this is a memory access."""
        suffixes = self.opcode.split(".")[1:]
        return next((_WIDTHS[s] for s in suffixes if s in _WIDTHS), 4)

    @property
    def special(self) -> bool:
        """Whether the special-function unit computes this."""
        return self.name == "MUFU"

    @property
    def loads_global(self) -> bool:
        return self.name in _LOADS

    @property
    def stores_global(self) -> bool:
        return self.name in _STORES

    @property
    def local(self) -> bool:
        return self.name in ("LDL", "STL")

    @property
    def drops_nan(self) -> bool:
        """Whether this is a minimum that returns its other operand for a NaN, which fmin compiles to.

        Such a maximum is no fault: it comes from `x > 0 ? x : 0`, which is 0 for a NaN in C++ too.
        """
        smaller = self.operands.endswith(" PT")
        return self.name in ("FMNMX", "DMNMX") and ".NAN" not in self.opcode and smaller


@dataclass
class Function:
    """A kernel's instructions in order, with the labels before them."""

    symbol: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the index of an instruction


def parse_instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    address, guard, opcode, operands = match.groups()
    table = _TABLE.search(line)
    targets = re.split(r",\s*", table[1]) if table else _TARGET.findall(operands)
    return Instruction(int(address, 16), guard or "", opcode, operands, tuple(targets))


def parse(text: str) -> list[Function]:
    """Return every function of a disassembly; subroutines belong to the kernel whose section holds them."""
    functions: list[Function] = []
    for line in text.splitlines():
        section = _SECTION.match(line)
        if section:
            functions.append(Function(section[1]))
            continue
        if not functions:
            continue
        function = functions[-1]
        label = _LABEL.match(line)
        if label:
            function.labels[label[1]] = len(function.instructions)
            continue
        instruction = parse_instruction(line)
        if instruction:
            function.instructions.append(instruction)
    return functions
