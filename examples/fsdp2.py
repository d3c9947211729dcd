"""FSDP2 for the encoder, and the head's labels sharded over the same ranks.

    torchrun --standalone --nproc-per-node 2 examples/fsdp2.py

Each rank has a slice of the head's weights and steps it inside backward (``FusedSGD``). The head needs the same rows on
every rank, so these ranks are one group of a larger job: data parallelism would be a second dimension of its mesh. It
uses Gloo on CPUs and NCCL on GPUs. Started by ``python`` alone, it trains the same model in one process.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from corpus import LABELS, WORDS, documents, padded
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mlloss_cuda import CSRTargets, FusedSGD, LinearLoss, ZLPRLoss

ROWS, BATCH, WIDTH = 1600, 32, 64


class Encoder(nn.Module):
    """A bag of words and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS + 2, WIDTH, padding_idx=0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bag(ids)
        for block in self.blocks:
            x = x + block(x)
        return x


def make(group: distributed.ProcessGroup | None, device: torch.device) -> tuple[Encoder, LinearLoss]:
    """Make encoder and head, whose initial weights are the same on any number of ranks."""
    torch.manual_seed(0)
    encoder = Encoder().to(device)
    whole = torch.empty(LABELS, WIDTH).uniform_(-(WIDTH**-0.5), WIDTH**-0.5)
    head = LinearLoss(WIDTH, LABELS, ZLPRLoss(), fused_update=FusedSGD(5.0), process_group=group, device=device)
    with torch.no_grad():
        head.weight.copy_(whole if head.shards is None else whole[head.shards.own])
    if group is not None:
        mesh = init_device_mesh(device.type, (group.size(),))
        for block in encoder.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
    return encoder, head


def batches(seed: int, device: torch.device) -> list[tuple[Tensor, CSRTargets]]:
    """Return batches, the same on every rank."""
    words, labels = documents(ROWS, seed)
    ids = torch.tensor([padded(own) for own in words], device=device)
    targets = CSRTargets.from_lists(labels, LABELS)
    return [(ids[own], targets[own].to(device)) for own in (slice(i, i + BATCH) for i in range(0, ROWS, BATCH))]


@torch.no_grad()
def mean_loss(encoder: Encoder, head: LinearLoss, rows: list[tuple[Tensor, CSRTargets]]) -> float:
    return sum(head(encoder(ids), targets).item() for ids, targets in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--losses", type=Path, help="a file for the loss of every step")
    options = parser.parse_args()
    cuda, group = torch.cuda.is_available(), None
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if cuda else "gloo")
        group = distributed.group.WORLD
    if cuda:
        torch.cuda.set_device(device)
    encoder, head = make(group, device)
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-2)
    train, test = batches(1, device), batches(2, device)
    untrained, losses = mean_loss(encoder, head, test), []
    for _ in range(options.epochs):
        for ids, targets in train:
            loss = head(encoder(ids), targets)
            loss.backward()  # the head's slice has stepped
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    trained = mean_loss(encoder, head, test)
    if group is None or group.rank() == 0:
        if options.losses:
            torch.save(torch.stack(losses).cpu(), options.losses)
        print(f"{1 if group is None else group.size()} ranks, {head.weight.shape[0]} of {LABELS} labels on the first")
        print(f"loss of the test rows: {untrained:.3f} untrained, {trained:.3f} trained")
    if group is not None:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
