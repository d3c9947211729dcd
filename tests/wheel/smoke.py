"""``python -I tests/wheel/smoke.py``: the package that is installed works, where torch is and nothing else.

It is run isolated (``-I``), so that neither this folder nor the one it is called from is on the path. ``--editable``
says that an editable install is under test.
"""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
import warnings
from pathlib import Path

import torch

import mlloss_cuda as m
from mlloss_cuda import _extension

ROWS, LABELS = 16, 5_003


def check_where(editable: bool) -> None:
    """The package under test is the one that is installed, and no source tree can have been imported in its place."""
    package = Path(m.__file__).resolve().parent
    assert not package.is_relative_to(Path(__file__).resolve().parents[2] / "mlloss_cuda")
    assert importlib.metadata.version("mlloss-cuda") == m.__version__
    if editable:
        assert (package.parent / "setup.py").exists(), f"{package} is not a source tree's"
        return
    assert package.is_relative_to(Path(sys.prefix).resolve()), f"{package} is not of this environment"
    files = importlib.metadata.files("mlloss-cuda") or []
    assert package / "_backends.py" in {Path(file.locate()).resolve() for file in files}, "not as the wheel lists it"


def check_libraries() -> None:
    """All that was built loads; CUDA's library too, which registers its ops without a GPU."""
    backends = m.backends()
    assert backends["cpu"].usable, backends["cpu"].reason
    built = bool(_extension.build_information()["cuda"])
    assert built == _extension.library_path("_cuda").exists(), "the CUDA library and the build disagree"
    if built:
        assert not _extension.cuda_missing, _extension.cuda_missing
        assert torch._C._dispatch_has_kernel_for_dispatch_key("mlloss_cuda::loss_forward", "CUDA")


def check_info() -> None:
    """The command line says what is there."""
    command = [sys.executable, "-I", "-m", "mlloss_cuda", "info", "--shape", "512x131072"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in (m.__version__, torch.__version__, "built with", "cpu        usable", "sm_90"):
        assert word in told, f"{word!r} is not in:\n{told}"
    print(told)


def step(loss: torch.nn.Module, logits: torch.Tensor, targets: object) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss and its gradient."""
    x = logits.clone().requires_grad_()
    value = loss(x, targets)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def check_losses() -> None:
    """Forward and backward against the reference in float64, dense and CSR."""
    logits = torch.randn(ROWS, LABELS)
    dense = torch.rand(ROWS, LABELS) < 0.003
    columns = [row.nonzero().flatten().tolist() for row in dense]
    losses = (m.ZLPRLoss(), m.SigmoidFocalLoss(), m.DiceLoss(), m.ZLPRLoss() + 0.5 * m.DiceLoss())
    for loss in losses:
        with m.use_backend("reference"):
            value, gradient = step(loss, logits.double(), dense)
        largest = float(gradient.abs().max())
        for targets in (dense, m.CSRTargets.from_lists(columns, num_labels=LABELS)):
            got_value, got_gradient = step(loss, logits, targets)
            torch.testing.assert_close(got_value.double(), value, rtol=1e-5, atol=0)
            torch.testing.assert_close(got_gradient.double(), gradient, rtol=1e-4, atol=1e-6 * largest)
        assert math.isfinite(float(value))
        assert bool(gradient.any()), "nothing was compared"


def check_training() -> None:
    """A step of training makes the loss of its batch smaller."""
    head = m.LinearLoss(8, LABELS, m.ZLPRLoss())
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    inputs, targets = torch.randn(ROWS, 8), torch.rand(ROWS, LABELS) < 0.01
    before = head(inputs, targets)
    before.backward()
    optimizer.step()
    after = head(inputs, targets)
    assert after.item() < before.item(), (before, after)
    scores = m.metrics.precision_at_k(head.topk(inputs, 5).indices, m.CSRTargets.from_dense(targets), 5)
    assert 0 <= float(scores) <= 1


def main() -> None:
    """All of it; an exception is the failure."""
    warnings.simplefilter("error")  # a fall-back to the reference warns
    check_where("--editable" in sys.argv[1:])
    check_libraries()
    check_info()
    check_losses()
    check_training()
    print(f"mlloss_cuda {m.__version__} with torch {torch.__version__}: what is installed works")


if __name__ == "__main__":
    main()
