"""The model, an embedding bag of hashed words and a linear layer to every label with its loss; and its training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, distributed, nn

import mlloss_cuda
from demo.corpus import BUCKETS, Corpus, Ragged, Split
from mlloss_cuda.losses._module import LossModule

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DIM = 64
BATCH = 128
TOP = (1, 3, 5)
# One setting for all four losses. Adam divides out the gradient's scale, in which the losses differ most.
# SparseAdam updates only the batch's few thousand words, and needs a higher rate, since most words are rare.
HEAD_RATE = 3e-3
EMBEDDING_RATE = 5e-2
ADAM_EPS = 1e-15  # ZLPR's and Dice's gradients fall below Adam's usual 1e-8 at 30,000 labels
CURVE_ROWS = 1000  # held-out rows behind each point of the plot; the table uses them all


@dataclass(frozen=True)
class WordBags:
    """Rows of hashed words with their weights, on the training device."""

    crow: Tensor
    col: Tensor
    weight: Tensor

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of EmbeddingBag: words, row offsets, word weights."""
        start = self.crow[rows]
        length = self.crow[rows + 1] - start
        offset = torch.cumsum(length, 0) - length
        position = torch.arange(int(length.sum()), device=rows.device)
        position += torch.repeat_interleave(start - offset, length)
        return self.col[position], offset, self.weight[position]


@dataclass(frozen=True)
class Data:
    words: WordBags
    targets: mlloss_cuda.CSRTargets
    train: Tensor
    held_out: Tensor
    num_labels: int
    base_rate: Tensor  # share of the training rows that have the label

    def popular(self, k: int) -> Tensor:
        return self.base_rate.topk(k).indices


def prepare(corpus: Corpus, split: Split, device: torch.device) -> Data:
    num_labels = len(split.labels)
    train = torch.from_numpy(split.train).to(device)
    count = np.bincount(split.targets.take(split.train).col, minlength=num_labels)
    return Data(
        words=_weigh_words(corpus.words, split.train, device),
        targets=mlloss_cuda.CSRTargets(
            torch.from_numpy(split.targets.crow),
            torch.from_numpy(split.targets.col.astype(np.int64)),
            num_labels,
        ).to(device),
        train=train,
        held_out=torch.from_numpy(split.held_out).to(device),
        num_labels=num_labels,
        base_rate=torch.from_numpy(count / max(len(train), 1)).float().to(device),
    )


def _weigh_words(words: Ragged, train: np.ndarray, device: torch.device) -> WordBags:
    """Weigh rare words more (idf), and give each row unit length."""
    rows_with_word = np.bincount(words.take(train).col, minlength=BUCKETS)
    idf = np.log((1 + len(train)) / (1 + rows_with_word)) + 1
    weight = idf[words.col]
    row = np.repeat(np.arange(len(words)), np.diff(words.crow))
    weight = weight / np.sqrt(np.bincount(row, weight**2, minlength=len(words)))[row]
    return WordBags(
        torch.from_numpy(words.crow).to(device),
        torch.from_numpy(words.col.astype(np.int64)).to(device),
        torch.from_numpy(weight).float().to(device),
    )


class NameModel(nn.Module):
    """Scores every label for a bag of words."""

    def __init__(self, base_rate: Tensor, loss: LossModule, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(BUCKETS, DIM, mode="sum", sparse=True)
        self.head = mlloss_cuda.LinearLoss(DIM, len(base_rate), loss, process_group=group)
        if self.head.shards is not None:  # this rank's labels
            base_rate = base_rate[self.head.shards.own]
        nn.init.normal_(self.embedding.weight, std=0.3)
        nn.init.zeros_(self.head.weight)
        # Every loss starts from the base rates. A bias of zero would open at p = 1/2 for each
        # of 30,000 labels; one bias of -log(L) for all works too, but all four learn more slowly from it.
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(base_rate, eps=1e-6))

    def features(self, words: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Compute the head's input."""
        return self.embedding(words, offsets, per_sample_weights=weights)

    def forward(self, words: tuple[Tensor, Tensor, Tensor], targets: mlloss_cuda.CSRTargets) -> Tensor:
        """Compute the loss; no logits leave the head."""
        return self.head(self.features(*words), targets)


LOSSES: dict[str, Callable[[], LossModule]] = {
    # Focal with no focus and no class balance is binary cross-entropy, exactly.
    "BCE": lambda: mlloss_cuda.SigmoidFocalLoss(alpha=None, gamma=0.0, reduction="batchmean"),
    "focal": lambda: mlloss_cuda.SigmoidFocalLoss(alpha=None, gamma=2.0, reduction="batchmean"),
    "Dice": lambda: mlloss_cuda.DiceLoss(reduction="mean"),
    "ZLPR": lambda: mlloss_cuda.ZLPRLoss(reduction="mean"),
}


@dataclass
class History:
    """The results of one training run: curves over training seconds, and the final precision."""

    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    curve_seconds: list[float] = field(default_factory=list)
    curve: list[dict[int, float]] = field(default_factory=list)
    final: dict[int, float] = field(default_factory=dict)
    epochs: float = 0.0
    cut_short: bool = False
    step_ms: float = 0.0


class Trainer:
    """A model with its optimizers and its results so far."""

    def __init__(
        self,
        loss_function: LossModule,
        data: Data,
        seed: int,
        head_rate: float = HEAD_RATE,
        head_weight: Tensor | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.data, self.group, self.head_rate = data, group, head_rate
        self.model = NameModel(data.base_rate, loss_function, group).to(data.train.device)
        if head_weight is not None:
            with torch.no_grad():
                self.model.head.weight.copy_(head_weight)
        self.embedding = torch.optim.SparseAdam(self.model.embedding.parameters(), lr=EMBEDDING_RATE, eps=ADAM_EPS)
        self.head = torch.optim.Adam(self.model.head.parameters(), lr=head_rate, eps=ADAM_EPS, fused=True)
        self.history = History()
        self.spent = 0.0
        self._losses: list[Tensor] = []

    def step(self, rows: Tensor, progress: float) -> None:
        """Take one step; both rates fall linearly to zero as ``progress`` goes from 0 to 1."""
        start = time.perf_counter()
        self.embedding.param_groups[0]["lr"] = EMBEDDING_RATE * (1 - progress)
        self.head.param_groups[0]["lr"] = self.head_rate * (1 - progress)
        loss = self.model(self.data.words.take(rows), self.data.targets[rows])
        self.embedding.zero_grad()
        self.head.zero_grad()
        loss.backward()
        self.embedding.step()
        self.head.step()
        self._losses.append(loss.detach())
        _synchronize(self.data.train.device)
        self.spent += _slowest(time.perf_counter() - start, self.group, self.data.train.device)

    def record(self, rows: Tensor) -> None:
        """Add a point to the curves: the mean loss since the last point, and the precision on ``rows``."""
        if self._losses:
            self.history.seconds.append(self.spent)
            self.history.loss.append(torch.stack(self._losses).mean().item())
            self._losses.clear()
        self.history.curve_seconds.append(self.spent)
        self.history.curve.append(precision(self.model, self.data, rows))

    def finish(self, steps: int, epochs: float, cut_short: bool) -> None:
        """Record the precision on all held-out rows, and the number of epochs."""
        self.history.final = precision(self.model, self.data, self.data.held_out)
        self.history.epochs, self.history.cut_short = epochs, cut_short
        self.history.step_ms = 1e3 * self.spent / steps


def train_in_turn(
    trainers: Sequence[Trainer],
    *,
    epochs: int,
    seconds: float,
    seed: int,
    curve_points: int = 8,
    report: Callable[[float], None] = lambda progress: None,
) -> None:
    """Train all of them for ``epochs``, or for as many as fit into ``seconds`` of steps.

    They take their steps in turn, on the same batches and at the same rates, so that a slow machine shortens all of
    them alike. Evaluation does not count as time. ``report`` is called with the progress, from 0 to 1.
    """
    data = trainers[0].data
    batch = min(BATCH, len(data.train))
    steps_per_epoch = len(data.train) // batch
    total = epochs * steps_per_epoch
    curve_rows = data.held_out[_spread(len(data.held_out), CURVE_ROWS, data.train.device)]
    step, progress, next_point = 0, 0.0, 0.0
    order = data.train
    while True:
        if progress >= next_point or progress >= 1:
            for trainer in trainers:
                trainer.record(curve_rows)
            next_point += 1 / curve_points
        if progress >= 1:
            break
        if step % steps_per_epoch == 0:
            generator = torch.Generator().manual_seed(seed * 1000 + step // steps_per_epoch)
            order = torch.randperm(len(data.train), generator=generator).to(data.train.device)
        first = step % steps_per_epoch * batch
        for trainer in trainers:
            trainer.step(data.train[order[first : first + batch]], progress)
        step += 1
        progress = max(step / total, sum(trainer.spent for trainer in trainers) / seconds)
        report(min(progress, 1.0))
    for trainer in trainers:
        trainer.finish(step, step / steps_per_epoch, step < total)


def train(
    loss_function: LossModule,
    data: Data,
    *,
    epochs: int,
    seconds: float,
    seed: int,
    curve_points: int = 8,
    head_rate: float = HEAD_RATE,
    head_weight: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> tuple[NameModel, History]:
    """Train one model for `epochs`, or for as many as fit into `seconds`; evaluation does not count as time.

    The head begins at `head_weight`, `[L, DIM]`; at zeros without it.

    With a process group, each rank has a part of the labels. All ranks hold the same embedding and see the same rows;
    the head sums the gradient of its input, so the embeddings stay equal.
    """
    trainer = Trainer(loss_function, data, seed, head_rate, head_weight, group)
    train_in_turn([trainer], epochs=epochs, seconds=seconds, seed=seed, curve_points=curve_points)
    return trainer.model, trainer.history


@torch.no_grad()
def top(model: NameModel, data: Data, rows: Tensor, k: int) -> Tensor:
    """Return the k best labels of each row, best first."""
    return torch.cat([model.head.topk(model.features(*data.words.take(part)), k).indices for part in rows.split(256)])


def hits(predicted: Tensor, data: Data, rows: Tensor) -> Tensor:
    """Return which predicted labels are right, without a dense target."""
    targets = data.targets[rows]
    length = targets.crow_indices.diff()
    row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), length)
    true = row * data.num_labels + targets.col_indices[: len(row)]
    row = torch.arange(len(rows), device=rows.device)
    return torch.isin(row[:, None] * data.num_labels + predicted, true)


def precision(model: NameModel | None, data: Data, rows: Tensor) -> dict[int, float]:
    """Compute precision at k in percent: the share of the k best labels that are right, averaged over rows.

    If there is no model, the predicted labels are the most frequent ones, the same for every row.
    """
    k_max = min(max(TOP), data.num_labels)
    if model is None:
        predicted = data.popular(k_max).expand(len(rows), -1)
    else:
        predicted = top(model, data, rows, k_max)
    right = hits(predicted, data, rows).float()
    return {k: 100 * right[:, :k].sum(1).div(k).mean().item() for k in TOP}


def _spread(length: int, count: int, device: torch.device) -> Tensor:
    count = min(length, count)
    return torch.arange(count, device=device) * length // max(count, 1)


def _slowest(seconds: float, group: ProcessGroup | None, device: torch.device) -> float:
    """Return the most seconds of all ranks, so that decisions by time are the same on all of them."""
    if group is None:
        return seconds
    slowest = torch.tensor(seconds, device=device)
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX, group)
    return slowest.item()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
