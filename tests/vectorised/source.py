"""The loops marked `#pragma omp simd`: their names, and copies of their source with markers around them."""

import re
from dataclasses import dataclass
from pathlib import Path

PRAGMA = re.compile(r"^[ \t]*#pragma omp simd\b.*$", re.MULTILINE)
BEGIN, END = "simd begin", "simd end"

_BLANKED = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_PAIRS = {"(": ")", "{": "}", "[": "]"}
_NOT_FUNCTIONS = ("for", "if", "while", "switch", "catch", "constexpr", "decltype", "sizeof", "alignas")


@dataclass(frozen=True)
class Loop:
    """A loop, named by its file, its function and its place among the function's loops; never by its line."""

    file: str
    function: str
    place: int = 1

    def __str__(self) -> str:
        return f"{self.file}: {self.function}" + (f", loop {self.place}" if self.place > 1 else "")


def blank(text: str) -> str:
    """Return the text with comments and strings blanked; positions stay."""
    return _BLANKED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _after_pair(text: str, start: int) -> int:
    """Return the position after the bracket that closes the one at `start`."""
    depth = 0
    for k in range(start, len(text)):
        depth += (text[k] in _PAIRS) - (text[k] in _PAIRS.values())
        if depth == 0:
            return k + 1
    raise ValueError("a bracket is not closed")


def end_of_statement(text: str, start: int) -> int:
    """Return the position after the `for` statement that begins at or after `start`, in blanked text."""
    match = re.compile(r"\s*for\s*\(").match(text, start)
    if not match:
        raise ValueError(f"no loop follows `#pragma omp simd`: {text[start : start + 60].strip()!r}")
    k = _after_pair(text, match.end() - 1)
    while text[k].isspace():
        k += 1
    if text[k] == "{":
        return _after_pair(text, k)
    while text[k] != ";":
        k = _after_pair(text, k) if text[k] in _PAIRS else k + 1
    return k + 1


def _name_in(header: str) -> str | None:
    """Return the function that a text before an opening brace defines; None for a loop, a lambda, a class."""
    while header := re.sub(r"(\s|\bconst|\bnoexcept|\boverride)+$", "", header):
        if not header.endswith(")"):
            return None
        depth, k = 0, len(header)
        while k and (depth or k == len(header)):
            k -= 1
            depth += (header[k] == ")") - (header[k] == "(")
        match = re.search(r"(\w+)\s*$", header[:k])
        if not match or match[1] in _NOT_FUNCTIONS:
            return None
        if match[1] != "__attribute__":
            return match[1]
        header = header[: match.start()]
    return None


def function_at(text: str, position: int) -> str:
    """Return the name of the function around a position, in blanked text."""
    headers: list[str] = []
    start = 0
    for k in range(position):
        if text[k] == "{":
            headers.append(text[start:k])
        elif text[k] == "}":
            headers.pop()
        # A parenthesis that is open holds semicolons of a `for`.
        if text[k] in "{}" or (text[k] == ";" and text.count("(", start, k) == text.count(")", start, k)):
            start = k + 1
    return next((name for header in reversed(headers) if (name := _name_in(header))), "?")


def mark(file: str, text: str) -> tuple[str, list[Loop]]:
    """Return the text with assembly comments before and after each marked loop, and the loops in order."""
    code = blank(text)
    loops: list[Loop] = []
    out, done = "", 0
    for match in PRAGMA.finditer(code):
        function = function_at(code, match.start())
        loop = Loop(file, function, 1 + sum(known.function == function for known in loops))
        end = end_of_statement(code, match.end())
        out += text[done : match.start()]
        out += f'{{ __asm__ volatile("# {BEGIN} {loop}");\n{text[match.start() : end]}\n__asm__ volatile("# {END}"); }}'
        done = end
        loops.append(loop)
    return out + text[done:], loops


def marked_copy(source: Path, target: Path) -> list[Loop]:
    """Copy csrc/ with markers in csrc/cpu, and return the loops."""
    loops: list[Loop] = []
    for path in sorted((source / "csrc").rglob("*")):
        inside = path.relative_to(source)
        if path.suffix not in (".h", ".cpp") or "cuda" in inside.parts:
            continue
        text = path.read_text()
        if inside.parts[1] == "cpu":
            text, found = mark(path.name, text)
            loops += found
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        (target / inside).write_text(text)
    return loops
