"""Extreme multi-label classification in plain PyTorch, from the repository's files to propensity-scored metrics.

    python examples/train_xmc.py --train train.txt --test test.txt --checkpoint run.pt
    python examples/train_xmc.py --checkpoint run.pt --epochs 8  # resumes the run, with the same bits

The last layer's weights step inside backward (``FusedAdam``): their gradient is never whole in memory, and logits come
in chunks. It trains on a generated corpus unless files are given, and needs ``pip install "mlloss-cuda[data]"``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from corpus import write_xmc
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mlloss_cuda import CSRTargets, FusedAdam, LinearLoss, ZLPRLoss, label_weights
from mlloss_cuda.data import MultiLabelData, csr_collate, read_xmc
from mlloss_cuda.metrics import PROPENSITY, precision_at_k, propensity_scored_precision_at_k

Batches = DataLoader[MultiLabelData]
KS = (1, 3, 5)


class Model(nn.Module):
    """A bag of words, one hidden layer, and the head, which holds the loss."""

    def __init__(self, words: int, labels: int, width: int = 128) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(words, width, mode="sum")
        self.hidden = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = LinearLoss(width, labels, ZLPRLoss(), fused_update=FusedAdam(2e-3, seed=0))

    def features(self, x: Tensor) -> Tensor:
        """Compute ``[B, width]`` from ``torch.sparse_csr`` rows ``[B, words]``."""
        return self.hidden(self.bag(x.col_indices(), x.crow_indices()[:-1], per_sample_weights=x.values()))

    def forward(self, x: Tensor, targets: CSRTargets) -> Tensor:
        return self.head(self.features(x), targets)


def batches(data: MultiLabelData, epoch: int | None = None) -> Batches:
    """Load batches in an order that depends on the epoch's number, so that a resumed run sees the same ones."""
    order = None if epoch is None else torch.Generator().manual_seed(epoch)
    return DataLoader(data, 64, epoch is not None, generator=order, collate_fn=csr_collate)


@torch.no_grad()
def evaluate(model: Model, test: MultiLabelData, weights: Tensor, device: torch.device) -> tuple[float, str]:
    """Return the mean loss of the test rows, and the metrics of the five best labels as text."""
    total, best = 0.0, []
    for x, targets in batches(test):
        features = model.features(x.to(device))
        total += len(targets) * model.head(features, targets.to(device)).item()
        best.append(model.head.topk(features, max(KS)).indices.cpu())
    found = torch.cat(best)
    scored = {
        "precision": precision_at_k(found, test.targets, KS),
        "propensity-scored": propensity_scored_precision_at_k(found, test.targets, weights, KS),
    }
    words = [f"{name} at {KS}: " + " ".join(f"{100 * value:.1f}" for value in at) for name, at in scored.items()]
    return total / len(test), "; ".join(words)


def train(model: Model, optimizer: torch.optim.Optimizer, data: MultiLabelData, epoch: int) -> None:
    """Train one epoch with a progress bar."""
    device, steps, start = next(model.parameters()).device, batches(data, epoch), time.perf_counter()
    for step, (x, targets) in enumerate(steps, 1):
        loss = model(x.to(device), targets.to(device))
        loss.backward()  # the head has stepped
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == len(steps):  # not in every step, since .item() waits for a GPU
            bar = "#" * (30 * step // len(steps))
            print(f"\repoch {epoch} [{bar:30}] {step}/{len(steps)} loss {loss.item():.3f}", end="", flush=True)
    print(f"  {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--train", "--test", "--checkpoint"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = read_xmc(options.train or write_xmc(Path(folder, "train.txt"), 2000, seed=1))
        test = read_xmc(options.test or write_xmc(Path(folder, "test.txt"), 500, seed=2))

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model(data.features.shape[1], data.targets.num_labels).to(device)
    others = [*model.bag.parameters(), *model.hidden.parameters()]
    optimizer = torch.optim.AdamW(others, 2e-3)
    parts = {"model": model, "optimizer": optimizer, "update": model.head.fused_update}
    weights = label_weights(data.targets, "propensity", normalize=False, **PROPENSITY["amazon"])
    untrained, _ = evaluate(model, test, weights, device)
    done = 0
    if options.checkpoint and options.checkpoint.exists():
        saved = torch.load(options.checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        done = saved["epochs"]
    for epoch in range(done, options.epochs):
        train(model, optimizer, data, epoch)
        if options.checkpoint:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "epochs": epoch + 1}, options.checkpoint)
    loss, metrics = evaluate(model, test, weights, device)
    print(metrics)
    print(f"loss of the test rows: {untrained:.3f} untrained, {loss:.3f} after {options.epochs} epochs")


if __name__ == "__main__":
    main()
