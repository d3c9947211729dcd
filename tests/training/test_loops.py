"""Losses and targets inside the training loops of other packages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mlloss_cuda import (
    BCEWithLogitsLoss,
    CSRTargets,
    DiceLoss,
    LinearLoss,
    ZLPRLoss,
    hf_compute_loss,
)
from mlloss_cuda.data import csr_collate

from ..test_examples import EXAMPLES, assert_learns, run_example
from .loops import (
    BATCH,
    FEATURES,
    LABELS,
    Module,
    Problem,
    by_accelerate,
    by_lightning,
    by_trainer,
    dense_rows,
    plain,
    run_lightning,
    sparse_rows,
    trainer,
)
from .packages import accelerate, lightning, transformers


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Reset Accelerate, which keeps its first settings for the whole process and rejects others."""
    accelerate.state.AcceleratorState._reset_state(True)


pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of these packages

COLLATORS = {"dense": dense_rows, "csr": sparse_rows}


def samples(generator: torch.Generator, count: int = 14, unknown: float = 0.0) -> list[dict[str, Any]]:
    """Return four batches of samples, the last with half of the rows. Accumulating 3 leaves a step of one batch."""
    x = torch.randn((count, FEATURES), generator=generator)
    y = torch.rand((count, LABELS), generator=generator) < 0.2
    hidden = torch.rand((count, LABELS), generator=generator) < unknown
    rows = []
    for i in range(count):
        known = [label for label in range(LABELS) if y[i, label] and not hidden[i, label]]
        rows.append({"x": x[i], "labels": known + [~label for label in range(LABELS) if hidden[i, label]]})
    return rows


@pytest.mark.parametrize("accumulation", (1, 3))
@pytest.mark.parametrize("labels", COLLATORS)
def test_every_loop_trains_alike(generator: torch.Generator, tmp_path: Path, labels: str, accumulation: int) -> None:
    """The same data, seed and schedule give the same weights, also if the last step has fewer batches."""
    problem = Problem(samples(generator), COLLATORS[labels], ZLPRLoss(), accumulation)
    expected = dict(plain(problem).state_dict())
    for loop in (trainer, by_accelerate, by_lightning):
        found = loop(problem, tmp_path)
        for name, value in expected.items():
            torch.testing.assert_close(found.state_dict()[name], value, msg=f"{loop.__name__}, {name}")


# ---- Trainer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", (ZLPRLoss(ignore_index=-100), DiceLoss(ignore_index=-100)), ids=repr)
def test_trainer_logs_the_loss_of_the_batch(generator: torch.Generator, tmp_path: Path, loss: Any) -> None:
    """With half of the labels unknown, the logged, trained and evaluated losses are the same."""
    problem = Problem(samples(generator, BATCH, unknown=0.5), dense_rows, loss, 1)
    own = by_trainer(problem, tmp_path)
    batch = dense_rows(problem.samples)
    model = problem.model()
    value = loss(model(batch["x"])["logits"], batch["labels"])
    value.backward()
    assert own.evaluate()["eval_loss"] == pytest.approx(value.item(), rel=1e-5)
    before = own.model.linear.weight.detach().clone()
    own.train()
    logged = [entry["loss"] for entry in own.state.log_history if "loss" in entry]
    assert logged == [pytest.approx(value.item(), rel=1e-3)]
    step = before - own.model.linear.weight
    torch.testing.assert_close(step, 0.5 * model.linear.weight.grad, rtol=1e-4, atol=1e-6)  # type: ignore[operator]


def test_trainer_counts_sparse_labels(generator: torch.Generator, tmp_path: Path) -> None:
    """The first step has two batches; the last has one, whose full loss it uses."""
    problem = Problem(samples(generator, 3 * BATCH), sparse_rows, BCEWithLogitsLoss(), 2)
    own = by_trainer(problem, tmp_path)
    own.train()
    batch = sparse_rows(problem.samples[-BATCH:])
    last = own.state.log_history[1]["loss"]
    # Before the last step, the model is that of training on the first two batches.
    first = plain(problem._replace(samples=problem.samples[: 2 * BATCH]))
    wanted = BCEWithLogitsLoss()(first(batch["x"])["logits"], batch["labels"])
    assert last == pytest.approx(wanted.item(), rel=1e-3)


def test_trainer_resumes(generator: torch.Generator, tmp_path: Path) -> None:
    """Training that resumes from a checkpoint, with clipping, gives the same weights."""
    problem = Problem(samples(generator), sparse_rows, ZLPRLoss(), 1)
    options = {"max_grad_norm": 0.5, "num_train_epochs": 2}
    whole = by_trainer(problem, tmp_path / "whole", save_strategy="epoch", **options)
    whole.train()
    steps = len(problem.loader())
    other = by_trainer(problem, tmp_path / "other", **options)
    other.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps}"))
    assert torch.equal(other.model.linear.weight, whole.model.linear.weight)


def test_trainer_trains_a_transformer(generator: torch.Generator, tmp_path: Path) -> None:
    """A compiled model in bfloat16 trains on dicts of token ids and CSR labels."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=30, num_labels=LABELS, **sizes)
    rows = [{"input_ids": torch.arange(6) + i, "labels": [i, i + 1]} for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        bf16=True,
        torch_compile=True,
        torch_compile_backend="aot_eager",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    own = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        data_collator=partial(csr_collate, num_labels=LABELS),
        train_dataset=rows,
        compute_loss_func=hf_compute_loss(ZLPRLoss()),
    )
    own.train()
    losses = [entry["loss"] for entry in own.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(2.0 < loss < 5.0 for loss in losses)  # ZLPR of 20 labels and two positives, untrained


# ---- Lightning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ("bf16-true", "bf16-mixed"))
def test_lightning_converts_a_batch(generator: torch.Generator, tmp_path: Path, precision: str) -> None:
    """Lightning converts the features and leaves the targets as they are; it also finds the batch size."""
    rows = samples(generator)
    module = Module(Problem(rows, sparse_rows, ZLPRLoss(), 1))
    run_lightning(module, DataLoader(rows, BATCH, collate_fn=sparse_rows), tmp_path, precision=precision)  # type: ignore[arg-type]
    assert all(isinstance(labels, CSRTargets) for labels in module.seen)
    weight = module.model.linear.weight
    assert weight.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    assert bool(weight.isfinite().all())


def test_fabric_takes_sparse_targets(generator: torch.Generator) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss())
    model, optimizer = fabric.setup(head, torch.optim.SGD(head.parameters(), 0.1))
    loader = fabric.setup_dataloaders(DataLoader(samples(generator), BATCH, collate_fn=sparse_rows))  # type: ignore[arg-type]
    for batch in loader:
        loss = model(batch["x"], batch["labels"])
        fabric.backward(loss)
        optimizer.step()
    assert bool(loss.isfinite())


# ---- Accelerate, and torch's DataLoader ----------------------------------------------------------


def test_accelerate_clips_and_casts(generator: torch.Generator) -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = nn.Linear(FEATURES, LABELS)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(samples(generator), BATCH, collate_fn=sparse_rows, num_workers=1)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        loss = ZLPRLoss()(model(batch["x"]), batch["labels"])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1e-3)
        norm = torch.linalg.vector_norm(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
        assert norm.item() <= 1.001e-3
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name,count,below", (("hf_trainer.py", 2, 5.2), ("lightning_module.py", 1, 4.8)))
def test_examples(name: str, count: int, below: float) -> None:
    """The transformer's loss falls from 6.0 to 4.6 and less, that of the bag of words from 6.2 to 4.2."""
    assert_learns(run_example(EXAMPLES / name), count, below)
