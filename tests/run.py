"""``python -m tests.run TITLE TARGET ...`` runs make targets one after another, and prints a summary of all.

The next targets run even if one fails. The exit status is 1 if any failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# pytest's closing line, with or without colours and the rule around it.
_CLOSING = re.compile(r"^(?:\x1b\[[\d;]*m|[= ])*(?=\d)(.*\b(?:x?passed|x?failed|skipped|errors?)\b.*) in [\d.]+s")
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|xfailed|xpassed|errors?)\b")
# A line of pytest's short summary, which `-ra` prints for each location that skips.
_SKIPPED = re.compile(r"^(?:\x1b\[[\d;]*m)*SKIPPED(?:\x1b\[[\d;]*m)* \[(\d+)\] (?:\S+: )?(.+?)(?:\x1b\[[\d;]*m)*$")
# A part that does not run pytest prints this line itself, for example `skipped: no nvcc was found`.
_NOT_RUN = re.compile(r"^skipped: (.+)$")


@dataclass
class Part:
    """A make target: its exit status, and the counts of tests in its output."""

    target: str
    status: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # why tests were skipped

    @property
    def failed(self) -> bool:
        """Whether the target failed, be it in a test or not."""
        return self.status != 0

    @property
    def result(self) -> str:
        """The word in the summary's result column."""
        if self.failed:
            return "FAILED"
        return "skipped" if self.reasons and not self.counts else "passed"

    def read(self, line: str) -> None:
        """Add the counts of tests in a line of output."""
        line = line.rstrip()
        if closing := _CLOSING.match(line):
            for number, word in _COUNT.findall(closing[1]):
                self.counts[_KINDS.get(word, word)] += int(number)
        elif skipped := _SKIPPED.match(line):
            self.reasons[skipped[2]] += int(skipped[1])
        elif not_run := _NOT_RUN.match(line):
            self.reasons[not_run[1]] += 1


_KINDS = {"error": "failed", "errors": "failed", "xfailed": "skipped", "xpassed": "failed"}


def run(command: Sequence[str], target: str, environment: Mapping[str, str] | None = None) -> Part:
    """Run a command, print its output at once, and count its tests."""
    part, start = Part(target), time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        part.read(line)
    part.status, part.seconds = process.wait(), time.monotonic() - start
    return part


def summary(title: str, parts: Iterable[Part]) -> list[str]:
    """Return the lines of the table: one for each part, then two for all."""
    parts = list(parts)
    width = max(len(part.target) for part in parts)
    lines = [f"{title:<{width}}  result    passed  failed  skipped  seconds"]
    for part in parts:
        counts = part.counts
        numbers = [str(counts[kind]) if counts else "-" for kind in ("passed", "failed", "skipped")]
        lines.append(
            f"{part.target:<{width}}  {part.result:<8}  {numbers[0]:>6}  {numbers[1]:>6}  {numbers[2]:>7}"
            f"  {part.seconds:>7.0f}"
        )
        lines += [f"{'':<{width}}  skipped {number}: {reason}" for reason, number in part.reasons.most_common()]
    failed = [part.target for part in parts if part.failed]
    total = sum(part.seconds for part in parts)
    lines.append(
        f"{len(parts)} parts in {total:.0f} s: " + (f"FAILED: {', '.join(failed)}" if failed else "all passed")
    )
    tests: Counter[str] = sum((part.counts for part in parts), Counter())
    # A part without pytest counts as one test, so that the line below covers all parts.
    for part in parts:
        if not part.counts:
            tests[{"FAILED": "failed"}.get(part.result, part.result)] += 1
    lines.append(f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Run the targets; return 1 if one of them failed."""
    title, *targets = arguments
    make = os.environ.get("MAKE", "make")
    parts = []
    for number, target in enumerate(targets, 1):
        print(f"\n==== {title} {number}/{len(targets)}: {target} ====", flush=True)
        parts.append(run([make, "--no-print-directory", target], target))
    print("\n" + "\n".join(summary(title, parts)), flush=True)
    return int(any(part.failed for part in parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
