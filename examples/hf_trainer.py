"""Hugging Face's Trainer with dense and CSR labels, unknown labels, gradient accumulation and evaluation.

    python examples/hf_trainer.py

One line is ours: ``compute_loss_func=hf_compute_loss(loss)``. The transformer is a tiny one from a config, and nothing
is downloaded. Needs ``pip install "mlloss-cuda[data,training]"``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from corpus import LABELS, WORDS, documents, padded
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

from mlloss_cuda import CSRTargets, ZLPRLoss, hf_compute_loss
from mlloss_cuda.data import csr_collate
from mlloss_cuda.metrics import precision_at_k

UNKNOWN = -1  # not -100, which the Trainer would not count: each row has the same weight, however many labels are known


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return samples like those of a tokenised data set; labels are lists of numbers."""
    words, labels = documents(count, seed)
    ids = [torch.tensor(padded(own)) for own in words]
    return [{"input_ids": x, "attention_mask": x.ne(0).long(), "labels": y} for x, y in zip(ids, labels, strict=True)]


def collate_dense(samples: list[dict[str, Any]], known: float = 1.0) -> dict[str, Any]:
    """Collate labels ``[B, L]`` of 0 and 1; a share of them is unknown."""
    batch = csr_collate(samples, num_labels=LABELS)
    dense = batch["labels"].to_dense().float()
    # The Trainer seeds torch's generator with the run's seed.
    return {**batch, "labels": dense.masked_fill(torch.rand(dense.shape) >= known, UNKNOWN)}


def metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute metrics of the whole evaluation set, whose dense labels the Trainer has concatenated."""
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    best = logits.topk(5, dim=1).indices
    return {f"precision_at_{k}": precision_at_k(best, CSRTargets.from_dense(labels), k).item() for k in (1, 5)}


def model() -> BertForSequenceClassification:
    """One layer of width 64, without dropout; so small a model learns faster from larger initial weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS + 2, num_labels=LABELS, **sizes, **plain))


def run(collate: Callable[..., Any], evaluated: Callable[..., Any], sparse: bool, folder: str) -> tuple[float, float]:
    """Train with one collator and evaluate with another; return the loss before and after."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,  # 125 batches leave an incomplete last group in every epoch
        num_train_epochs=8,
        learning_rate=3e-3,
        warmup_steps=30,
        prediction_loss_only=sparse,  # the Trainer concatenates only dense labels for compute_metrics
        logging_steps=126,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model(),
        arguments,
        data_collator=collate,
        train_dataset=rows(1000, seed=1),
        eval_dataset=rows(200, seed=2),
        compute_loss_func=hf_compute_loss(ZLPRLoss(ignore_index=UNKNOWN)),
        compute_metrics=None if sparse else metrics,
    )
    trainer.data_collator = evaluated
    before = trainer.evaluate()["eval_loss"]
    trainer.data_collator = collate
    trainer.train()
    trainer.data_collator = evaluated
    found = trainer.evaluate()
    print({name: round(value, 4) for name, value in found.items() if "loss" in name or "precision" in name})
    return before, found["eval_loss"]


def main() -> None:
    csr = partial(csr_collate, num_labels=LABELS)
    with tempfile.TemporaryDirectory() as folder:
        dense = run(partial(collate_dense, known=0.7), collate_dense, False, folder)
        sparse = run(csr, csr, True, folder)
    print(f"loss of the test rows, dense labels, 30% unknown: {dense[0]:.3f} untrained, {dense[1]:.3f} trained")
    print(f"loss of the test rows, CSR labels: {sparse[0]:.3f} untrained, {sparse[1]:.3f} trained")


if __name__ == "__main__":
    main()
