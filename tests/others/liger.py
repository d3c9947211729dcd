"""Liger-Kernel's cross-entropy by Triton's interpreter, in a process of its own: Triton chooses it when imported.

``python -m tests.others.liger settings.pt results.pt``: the first file has a list of (logits, classes,
label_smoothing, reduction, weight), the second gets a list of (value, gradient).
"""

from __future__ import annotations

import os
import sys
import warnings


def main(settings: str, results: str) -> None:
    """Evaluate the settings and save the results."""
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    warnings.simplefilter("ignore")
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    done = []
    for logits, classes, smoothing, reduction, weight in torch.load(settings):
        leaf = logits.clone().requires_grad_()
        # The function writes the gradient over its input.
        value = LigerCrossEntropyFunction.apply(
            leaf.clone(), classes, weight, -100, 0.0, smoothing, reduction, None, False
        )[0]
        (gradient,) = torch.autograd.grad(value, leaf)
        done.append((value.detach(), gradient))
    torch.save(done, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
