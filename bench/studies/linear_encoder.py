"""``python -m bench.studies.linear_encoder``: memory of a training step of an encoder and a head of 2,812,281 labels.

The encoder is a BERT-base (110M parameters, random: memory does not depend on them) in float32 under autocast to
bfloat16. Its layers are recomputed in the backward, and AdamW steps it. The head is a ``LinearLoss`` in bfloat16 that
steps inside backward. The output is resident memory on a CPU, beside published figures of other methods on GPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from .. import give_memory_back

PUBLISHED = {
    "ELMO, BF16": 10.4,
    "ELMO, FP8": 6.6,
    "Renee": 39.7,
}  # GiB on a GPU, Amazon-3M, from ELMO (ICML 2025)


def _encoder(layers: int, width: int) -> tuple[object, object]:
    import torch
    from torch import Tensor, nn
    from torch.utils.checkpoint import checkpoint

    class Encoder(nn.Module):
        """Embeddings, layers, and the mean over tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(30_522, width), nn.Embedding(512, width)
            self.layers = nn.ModuleList(
                [
                    nn.TransformerEncoderLayer(width, max(1, width // 64), 4 * width, 0.1, "gelu", batch_first=True)
                    for _ in range(layers)
                ]
            )

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
            with torch.autocast("cpu", torch.bfloat16):
                for layer in self.layers:
                    x = checkpoint(layer, x, use_reentrant=False)
            return x.mean(1).to(torch.bfloat16)

    encoder = Encoder()
    return encoder, torch.optim.AdamW(encoder.parameters(), lr=1e-4, fused=True)


def _step(given: dict[str, int | str]) -> dict[str, float]:
    """Measure the peak of two steps and its parts in this process."""
    import torch

    import mlloss_cuda

    from ..memory import Meter

    rows, labels, width = int(given["rows"]), int(given["labels"]), int(given["width"])
    meter = Meter("cpu")
    torch.randn(64, 64) @ torch.randn(64, 64)  # so that the libraries have their own memory
    base = meter.in_use()
    encoder, optimizer = _encoder(int(given["layers"]), width)
    loss = mlloss_cuda.BCEWithLogitsLoss() if given["loss"] == "bce" else mlloss_cuda.ZLPRLoss()
    update = mlloss_cuda.FusedSGD(0.05)
    head = mlloss_cuda.LinearLoss(width, labels, loss, dtype=torch.bfloat16, fused_update=update)
    weights = meter.in_use() - base
    tokens = torch.randint(30_522, (rows, int(given["tokens"])))
    columns = torch.randint(labels // 64, (rows, 36)).add(torch.arange(36) * (labels // 36)).sort(1).values
    targets = mlloss_cuda.CSRTargets(torch.arange(rows + 1) * 36, columns.clamp(max=labels - 1).reshape(-1), labels)
    meter.start()
    started = time.perf_counter()
    for _ in range(2):  # AdamW has moments from the second step on
        head(encoder(tokens), targets).backward()  # type: ignore[operator]
        optimizer.step()  # type: ignore[attr-defined]
        optimizer.zero_grad()  # type: ignore[attr-defined]
    seconds = (time.perf_counter() - started) / 2
    parameters = sum(own.numel() for own in encoder.parameters())  # type: ignore[attr-defined]
    peak = meter.peak() - base
    return {"peak": peak, "weights": weights, "base": base, "parameters": parameters, "seconds": seconds}


def main(given: list[str] | None = None) -> int:
    """Print the memory of a step with each loss, and the published figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.linear_encoder", description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.child:
        give_memory_back()
        print(json.dumps(_step(json.loads(options.child))))
        return 0
    from ..memory import in_own_process

    quick = {"layers": 2, "width": 64, "labels": 2_003} if options.quick else {}
    sizes = {"layers": 12, "width": 768, "labels": 2_812_281, "rows": options.rows, "tokens": options.tokens, **quick}
    for loss in ("bce", "zlpr"):
        found = in_own_process("bench.studies.linear_encoder", {**sizes, "loss": loss})
        gib = {name: found[name] / 2**30 for name in ("peak", "weights", "base")}
        print(
            f"{loss}, {options.rows} x {options.tokens} tokens, an encoder of {found['parameters'] / 1e6:.0f}M, "
            f"a head of {sizes['labels']:,} labels: peak {gib['peak']:.2f} GiB, weights {gib['weights']:.2f} of it "
            f"(resident, on a CPU; {gib['base']:.2f} GiB of libraries not counted; {found['seconds']:.0f} s a step)",
            flush=True,
        )
    for name, published in PUBLISHED.items():
        print(f"{name}: {published} GiB, as published, on a GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
