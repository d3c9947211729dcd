"""Lightning: bf16-mixed on two devices, with CSR labels from a DataLoader's workers.

    python examples/lightning_module.py

Lightning needs no plugin: it moves ``CSRTargets`` by their own ``to``, and does not change them when it converts a
batch. The two devices are processes on the CPU, or GPUs where there are two, each with its own rows. Needs
``pip install "mlloss-cuda[data,training]"``.
"""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any

import lightning
import torch
from corpus import LABELS, WORDS, documents, padded
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mlloss_cuda import CSRTargets, LinearLoss, ZLPRLoss
from mlloss_cuda.data import csr_collate
from mlloss_cuda.metrics import precision_at_k

Batch = tuple[Tensor, CSRTargets]


class Classifier(lightning.LightningModule):
    """A bag of words and the head. The head has no ``fused_update``, which would step by one process's rows alone."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS + 2, width, padding_idx=0)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = LinearLoss(width, LABELS, ZLPRLoss())

    def features(self, ids: Tensor) -> Tensor:
        return self.hidden(self.bag(ids))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        ids, targets = batch
        return self.head(self.features(ids), targets)

    def validation_step(self, batch: Batch, index: int) -> None:
        ids, targets = batch
        features = self.features(ids)
        best = self.head.topk(features, 5).indices
        found = {"loss": self.head(features, targets), "precision_at_5": precision_at_k(best, targets, 5).float()}
        self.log_dict(found, batch_size=len(targets), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def loader(count: int, seed: int, shuffle: bool) -> DataLoader[Any]:
    """Load pairs of ids and labels; a worker collates them, into pinned memory if there is a GPU."""
    words, labels = documents(count, seed)
    samples = [(torch.tensor(padded(own)), y) for own, y in zip(words, labels, strict=True)]
    collate = partial(csr_collate, num_labels=LABELS)
    return DataLoader(
        samples,  # type: ignore[arg-type]
        32,
        shuffle,
        collate_fn=collate,
        num_workers=1,
        persistent_workers=True,
        drop_last=shuffle,  # the batches of a training step have one size
        pin_memory=torch.cuda.device_count() > 1,
    )


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="gpu" if torch.cuda.device_count() > 1 else "cpu",
        devices=2,
        strategy="ddp",
        precision="bf16-mixed",
        max_epochs=5,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model, test = Classifier(), loader(200, seed=2, shuffle=False)
    before = trainer.validate(model, test, verbose=False)[0]
    trainer.fit(model, loader(1000, seed=1, shuffle=True))
    after = trainer.validate(model, test, verbose=False)[0]
    if trainer.is_global_zero:
        print(f"precision at 5: {before['precision_at_5']:.3f} untrained, {after['precision_at_5']:.3f} trained")
        print(f"loss of the test rows: {before['loss']:.3f} untrained, {after['loss']:.3f} trained")


if __name__ == "__main__":
    main()
