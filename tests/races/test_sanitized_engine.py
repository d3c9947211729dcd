"""The sanitized build of the kernels (make check PART=part-sanitized) reports a read past the end of a tensor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Calls the op without any check in Python, with weights for a given number of the 40 labels.
CALL = """
import sys, torch
from mlloss_cuda import BackendStatus, _backends, _ops
from mlloss_cuda._call import Options, TensorArguments, shared_arguments
_backends.add_engine("emulated", _backends.Engine(lambda: BackendStatus(True, ""), ("cpu",), "mlloss_cuda_emulated"))
torch.ops.load_library(sys.argv[1])
logits, targets, weight = torch.zeros(2, 40), torch.zeros(2, 40, dtype=torch.bool), torch.ones(int(sys.argv[2]))
options = Options("zlpr", (), _ops.GROUPINGS.index("samples"), _ops.REDUCTIONS.index("mean"), all_labels=40)
shared = shared_arguments(TensorArguments(targets, weight=weight), options)
torch.ops.mlloss_cuda_emulated.loss_forward(False, True, logits, *shared)
"""


def library(name: str) -> str:
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("weights", "found"), ((40, False), (39, True)))
def test_one_missing_weight_is_read_past_the_end(request: pytest.FixtureRequest, weights: int, found: bool) -> None:
    engine: Path = request.config.getoption("--races") / "emulated_sanitized.so"
    preloaded = f"{library('libasan.so')} {library('libstdc++.so')}"
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(engine), str(weights)],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": preloaded},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode != 0) == found, done.stderr
    assert ("ERROR: AddressSanitizer: heap-buffer-overflow" in done.stderr) == found
