"""``python -I tests/wheel/smoke.py`` checks that the installed package works with torch and nothing else.

It is run isolated (``-I``), so that neither this folder nor the current one is on the path. ``--editable`` means that
an editable install is under test.
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
    """The installed package was imported, and not a source tree."""
    package = Path(m.__file__).resolve().parent
    assert not package.is_relative_to(Path(__file__).resolve().parents[2] / "mlloss_cuda")
    assert importlib.metadata.version("mlloss-cuda") == m.__version__
    if editable:
        assert (package.parent / "setup.py").exists(), f"{package} is not in a source tree"
        return
    assert package.is_relative_to(Path(sys.prefix).resolve()), f"{package} is not in this environment"
    files = importlib.metadata.files("mlloss-cuda") or []
    assert package / "_backends.py" in {Path(file.locate()).resolve() for file in files}, "not in the wheel's list"


def check_libraries() -> None:
    """Every library that was built loads; the CUDA library registers its ops even without a GPU."""
    backends = m.backends()
    assert backends["cpu"].usable, backends["cpu"].reason
    built = bool(_extension.build_information()["cuda"])
    assert built == _extension.library_path("_cuda").exists(), "the CUDA library and the build disagree"
    if built:
        assert not _extension.cuda_missing, _extension.cuda_missing
        assert torch._C._dispatch_has_kernel_for_dispatch_key("mlloss_cuda::loss_forward", "CUDA")


def check_info() -> None:
    """The command line reports versions and backends."""
    command = [sys.executable, "-I", "-m", "mlloss_cuda", "info", "--shape", "512x131072"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in (m.__version__, torch.__version__, "built with", "cpu        usable", "H100"):
        assert word in output, f"{word!r} is not in:\n{output}"
    print(output)


def step(loss: torch.nn.Module, logits: torch.Tensor, targets: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss and its gradient."""
    x = logits.clone().requires_grad_()
    value = loss(x, targets)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def check_losses() -> None:
    """Forward and backward agree with the reference in float64, for dense and CSR targets."""
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
    """A training step reduces the loss of its batch."""
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
    """Run all checks; a failure raises."""
    warnings.simplefilter("error")  # a fallback to the reference warns
    check_where("--editable" in sys.argv[1:])
    check_libraries()
    check_info()
    check_losses()
    check_training()
    print(f"mlloss_cuda {m.__version__} with torch {torch.__version__}: the installed package works")


if __name__ == "__main__":
    main()
