"""``python -m tests.signatures``: complete the lists of the common arguments in ``mlloss_cuda/losses``.

Signatures are explicit, for type checkers and ``help``, so each loss repeats the table in ``_arguments.py`` in its
signature and where it passes the arguments on. ``make lint FIX=1`` runs this module, which adds to these lists what
the table has, and removes what it has no more. A test compares the files with what would be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from mlloss_cuda.losses import _arguments
from mlloss_cuda.losses._arguments import CommonArgument

__all__ = ["SOURCES", "completed"]

SOURCES: Final = tuple(sorted(Path(_arguments.__file__).parent.glob("*.py")))


class _Form(NamedTuple):
    """One way in which a list writes an argument on a line of its own."""

    pattern: str  # the lines of this form, as a regular expression
    line: str  # a new line
    of_modules: bool = False  # whether the list leaves out the arguments that modules do not store


_FORMS: Final = (
    _Form(r"{name}: .+ = .+,", "{name}: {annotation} = {default},"),
    _Form(r"{name}={name},", "{name}={name},"),
    _Form(r'"{name}": {name},', '"{name}": {name},'),
    _Form(r"{name}: [^=,\n]+", "{name}: {annotation}", of_modules=True),
)


def _complete(form: _Form, arguments: Mapping[str, CommonArgument], found: re.Match[str]) -> str:
    indent, lines = found["indent"], found[0].splitlines(keepends=True)
    result = []
    for name, argument in arguments.items():
        default = repr(argument.default).replace("'", '"')
        new = form.line.format(name=name, annotation=argument.annotation, default=default)
        pattern = indent + form.pattern.format(name=name)
        # A line that is there stays, because a loss may have a default of its own.
        result += [line for line in lines if re.fullmatch(pattern, line.rstrip("\n"))] or [f"{indent}{new}\n"]
    return "".join(result)


def completed(text: str, arguments: Mapping[str, CommonArgument] = _arguments.COMMON_ARGUMENTS) -> str:
    """Return the text of a file with each of its lists from the table's first to its last argument completed."""
    for form in _FORMS:
        own = {name: argument for name, argument in arguments.items() if argument.of_modules or not form.of_modules}
        first, *_, last = (form.pattern.format(name=name) for name in own)
        block = rf"^(?P<indent> +){first}\n(?:(?P=indent).+\n)*?(?P=indent){last}\n"
        text = re.sub(block, partial(_complete, form, own), text, flags=re.MULTILINE)
    return text


def main() -> None:
    """Write every file whose lists are not complete, and print its name."""
    for path in SOURCES:
        text = path.read_text()
        if (new := completed(text)) != text:
            path.write_text(new)
            print(f"completed {path.name}")


if __name__ == "__main__":
    main()
