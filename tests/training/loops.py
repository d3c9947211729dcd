"""A problem that is trained by four loops: plain PyTorch, Trainer, Accelerate, Lightning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mlloss_cuda import CSRTargets, hf_compute_loss
from mlloss_cuda.data import csr_collate

from .packages import accelerate, lightning, transformers

FEATURES, LABELS, BATCH, RATE = 8, 20, 4, 0.5


class Problem(NamedTuple):
    """Rows, and the settings of their training."""

    samples: list[dict[str, Any]]  # "x" and "labels"
    collate: Callable[[list[Any]], Any]
    loss: Any
    accumulation: int

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, BATCH, collate_fn=self.collate)  # type: ignore[arg-type]

    def model(self) -> Model:
        torch.manual_seed(3)
        return Model()


class Model(nn.Module):
    """A model as Trainer calls it: with keyword arguments, and returning a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, LABELS)

    def forward(self, x: Tensor, labels: Any = None) -> dict[str, Tensor]:
        return {"logits": self.linear(x)}


def sparse_rows(batch: list[Any]) -> Any:
    """Collate a batch whose labels are ``CSRTargets``."""
    return csr_collate(batch, num_labels=LABELS)


def dense_rows(batch: list[Any]) -> Any:
    """Collate a batch whose labels are dense, with -100 for unknown ones (``~label`` in a sample)."""
    own = csr_collate([{**each, "labels": [y for y in each["labels"] if y >= 0]} for each in batch], num_labels=LABELS)
    dense = own["labels"].to_dense().float()
    for row, each in enumerate(batch):
        dense[row, [~y for y in each["labels"] if y < 0]] = -100
    return {**own, "labels": dense}


def groups(problem: Problem) -> Iterator[list[Any]]:
    """Yield the batches of each step; the last step may have fewer."""
    batches = list(problem.loader())
    for start in range(0, len(batches), problem.accumulation):
        yield batches[start : start + problem.accumulation]


def plain(problem: Problem) -> nn.Module:
    """Train with plain PyTorch; the loss of a step is the mean over its rows."""
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for batches in groups(problem):
        rows = sum(len(batch["x"]) for batch in batches)
        for batch in batches:
            loss = problem.loss(model(batch["x"])["logits"], batch["labels"])
            (loss * len(batch["x"]) / rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def by_trainer(problem: Problem, folder: Path, **arguments: Any) -> Any:
    """Return a ``Trainer`` for the problem, without running it."""
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    options: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": len(problem.samples),
        "gradient_accumulation_steps": problem.accumulation,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "prediction_loss_only": True,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(str(folder), **{**options, **arguments}),
        data_collator=problem.collate,
        train_dataset=problem.samples,
        eval_dataset=problem.samples,
        compute_loss_func=hf_compute_loss(problem.loss),
        optimizers=(optimizer, constant),
    )


def trainer(problem: Problem, folder: Path) -> nn.Module:
    own = by_trainer(problem, folder)
    own.train()
    return own.model


def by_accelerate(problem: Problem, folder: Path) -> nn.Module:
    """Train with Accelerate, which divides by the batches of a full step: the loop rescales each batch's loss."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=problem.accumulation)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, problem.loader())
    sizes = [[len(batch["x"]) for batch in batches] for batches in groups(problem)]
    shares = iter([problem.accumulation * size / sum(group) for group in sizes for size in group])
    for batch in loader:
        with accelerator.accumulate(model):
            loss = problem.loss(model(batch["x"])["logits"], batch["labels"]) * next(shares)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    return model


class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
    """The model under Lightning, which also divides by the batches of a full step."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.model, self._problem = problem.model(), problem
        sizes = [[len(batch["x"]) for batch in batches] for batches in groups(problem)]
        self._shares = [problem.accumulation * size / sum(group) for group in sizes for size in group]
        self.seen: list[CSRTargets | Tensor] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.seen.append(batch["labels"])
        loss = self._problem.loss(self.model(batch["x"])["logits"], batch["labels"])
        self.log("loss", loss)  # Lightning infers the batch size here
        return loss * self._shares[index]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), RATE)


def by_lightning(problem: Problem, folder: Path, **arguments: Any) -> nn.Module:
    module = Module(problem)
    run_lightning(module, problem.loader(), folder, accumulate_grad_batches=problem.accumulation, **arguments)
    return module.model


def run_lightning(module: Any, loader: Any, folder: Path, **arguments: Any) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
        False,
    )
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "default_root_dir": str(folder), **quiet}
    lightning.Trainer(**{**options, **arguments}).fit(module, loader)
