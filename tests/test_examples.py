"""The examples that need no other package, run as a user runs them. tests/training runs the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
# Over 100 labels, an untrained model's loss is above the first number and a trained model's below the second.
UNTRAINED, TRAINED = 4.5, 3.5


def run_example(*command: str | Path, launcher: tuple[str, ...] = ()) -> str:
    """Return the output of ``python examples/...``, run with one thread because processes share the machine's cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = str(EXAMPLES.parent)
    arguments = [sys.executable, *launcher, *map(str, command)]
    done = subprocess.run(
        arguments, cwd=EXAMPLES.parent, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_learns(printed: str, count: int = 1, trained_below: float = TRAINED) -> None:
    found = re.findall(r"loss of the test rows.*: ([\d.]+) untrained, ([\d.]+) ", printed)
    assert len(found) == count, printed
    for untrained, trained in found:
        assert float(untrained) > UNTRAINED, printed
        assert float(trained) < trained_below, printed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 120


def test_train_xmc(tmp_path: Path) -> None:
    """One run, and two runs of which the second resumes the first, give the same model to the bit."""
    script = EXAMPLES / "train_xmc.py"
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    assert_learns(run_example(script, "--checkpoint", whole))
    run_example(script, "--checkpoint", parts, "--epochs", "2")
    assert_learns(run_example(script, "--checkpoint", parts))
    one, other = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert one["epochs"] == other["epochs"]
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


def test_fsdp2(tmp_path: Path) -> None:
    """Two processes give the same training as one, with sharded labels and FSDP2."""
    script = EXAMPLES / "fsdp2.py"
    assert_learns(run_example(script, "--losses", tmp_path / "one.pt"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert_learns(run_example(script, "--losses", tmp_path / "two.pt", launcher=torchrun))
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
