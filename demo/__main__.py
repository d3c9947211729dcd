"""`make demo`: predict the names that a function's body uses from its docstring, with four losses.

Run from the repository root: `python -m demo`. See `--help`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import keep_memory
from demo import corpus
from demo.options import LABEL_FLOOR, ROOT, Options, parse_arguments

if TYPE_CHECKING:  # torch is imported late: the corpus workers import this module without it
    import torch

    from demo.measure import Compiled, Measurement
    from demo.model import Data, History, NameModel

CACHE = ROOT / ".demo_cache"
# Shares of the time: for torch.compile, for timing each loss, and for the steps after training.
COMPILING, TIMING, ENDING = 0.35, 0.03, 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if importlib.util.find_spec("mlloss_cuda") is None:
        return _fail("mlloss_cuda is not installed here: run `make build` first")
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun started this process
            from demo import sharded

            sharded.run(options, lambda packages: _load(packages, options))
        else:
            run(options)
    except (corpus.CorpusError, UsageError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    return 0


class UsageError(Exception):
    """A flag that this machine cannot satisfy."""


def _fail(message: str) -> int:
    print(f"demo: error: {message}", file=sys.stderr)
    return 2


def run(options: Options) -> None:
    start = time.perf_counter()

    def left() -> float:
        return 60 * options.minutes - (time.perf_counter() - start)

    print("Which names does a function's body use, given its docstring?")
    print("A row is a documented function, its labels are the identifiers in its body.\n")

    # The corpus is read before torch is imported, which the parsing processes do not need.
    packages = corpus.find_packages(options.packages)
    print("corpus    " + ", ".join(f"{package.name} {package.version}" for package in packages))
    functions, split, origin = _load(packages, options)
    _print_corpus(functions, split, origin)

    from demo import measure, model

    kept = keep_memory()
    device = _device(options.device)
    data = model.prepare(functions, split, device)
    _print_versions(device)

    logits_mb = 4 * model.BATCH * data.num_labels / 1e6
    print(
        f"\nLoss + gradient, {model.BATCH} rows x {data.num_labels:,} labels, float32 "
        f"(the logits are {logits_mb:.1f} MB)"
    )
    rows, logits = _measured_batch(data, options.seed)
    compiled = measure.Compiled(reason="left out by --no-compile or --smoke")
    if options.compile:
        compiled = measure.compile_formulas(logits, data.targets[rows], COMPILING * 60 * options.minutes)
    measurements = {}
    for name, make_loss in model.LOSSES.items():
        measurements[name] = measure.measure(
            name,
            make_loss(),
            logits,
            data.targets[rows],
            compiled=compiled.functions.get(name),
            rounds=3 if options.smoke else 21,
            seconds=TIMING * 60 * options.minutes,
        )
        shown = ", ".join(f"{each} {_ms(measurements[name].ms[each])} ms" for each in measure.IMPLEMENTATIONS)
        print(f"  {name:<6} {shown}", flush=True)
    _print_measuring_notes(measurements, compiled, data, device, kept)

    print(
        f"\nTraining, {options.epochs} epochs or as much of them as time allows, batches of {model.BATCH}; "
        "the losses take their steps in turn"
    )
    trainers = {name: model.Trainer(make_loss(), data, options.seed) for name, make_loss in model.LOSSES.items()}
    bar = corpus.ProgressBar("  training, %", 100)
    model.train_in_turn(
        list(trainers.values()),
        epochs=options.epochs,
        seconds=max(left() - ENDING * 60 * options.minutes, 1.0),
        seed=options.seed,
        report=lambda progress: bar.update(int(100 * progress)),
    )
    histories = {name: trainer.history for name, trainer in trainers.items()}
    history = next(iter(histories.values()))
    print(f"  {history.epochs:.1f} epochs of each{', then time was over' if history.cut_short else ''}")
    for name, history in histories.items():
        _print_training(name, history)
    network = trainers["ZLPR"].model
    _print_head(network, data, options)

    popular = model.precision(None, data, data.held_out)
    _print_table(measurements, histories, popular, compiled.reason)
    _draw(histories, popular, split, device, options.output)
    _print_predictions(network, data, functions, split, options.seed)
    _print_gains(measurements)
    print(f"done in {time.perf_counter() - start:.0f} s")


def _load(packages: Sequence[corpus.Package], options: Options) -> tuple[corpus.Corpus, corpus.Split, str]:
    functions, origin = corpus.load(packages, CACHE, max_files=120 if options.smoke else None)
    split = corpus.split(functions, options.labels, 100 if options.smoke else LABEL_FLOOR, options.seed)
    if not len(split.train) or not len(split.held_out):
        raise corpus.CorpusError(
            f"{len(functions)} functions in {len(functions.files)} files are too few to train on "
            "some files and to hold others out: add packages"
        )
    return functions, split, origin


# --- steps ----------------------------------------------------------------------------------------


def _device(wanted: str) -> torch.device:
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(f'--device: "{wanted}" is not a device; try auto, cpu or cuda') from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f'--device: "{wanted}" is not supported; try auto, cpu or cuda')
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f'--device: "{wanted}" needs a CUDA GPU, and torch sees none')
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f'--device: "{wanted}", but there are {torch.cuda.device_count()}')
    return device


def _measured_batch(data: Data, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of training rows, and logits for it."""
    import torch

    from demo import model

    generator = torch.Generator().manual_seed(seed)
    rows = data.train[torch.randperm(len(data.train), generator=generator)[: model.BATCH]]
    logits = torch.randn(len(rows), data.num_labels, generator=generator) - 3
    return rows, logits.to(data.train.device).requires_grad_()


def _draw(
    histories: dict[str, History],
    popular: dict[int, float],
    split: corpus.Split,
    device: torch.device,
    path: Path,
) -> None:
    from demo import plot

    subtitle = (
        f"{len(split.train):,} functions to learn from, {len(split.held_out):,} from other files "
        f"held out, {len(split.labels):,} labels; mlloss_cuda on {device.type.upper()}"
    )
    try:
        plot.draw(histories, popular, subtitle, path)
    except ImportError as error:
        print(f"\nno plot: {error}")
    except OSError as error:
        print(f"\nno plot: {path} cannot be written ({error.strerror})")
    else:
        print(f"\nplot: {os.path.relpath(path)}")


# --- output -----------------------------------------------------------------------------


def _print_corpus(functions: corpus.Corpus, split: corpus.Split, origin: str) -> None:
    labels = split.targets.crow[-1] / max(len(split.targets), 1)
    print(
        f"rows      {len(functions):,} functions from {len(functions.files):,} files "
        f"({functions.unparsable} did not parse); {origin}"
    )
    print(
        f"split     {len(split.train):,} to learn from, {len(split.held_out):,} held out, "
        "by file: a function's near-copies stay on one side"
    )
    print(f"labels    {len(split.labels):,} names of {len(functions.vocabulary):,}, {labels:.1f} a row")


def _print_versions(device: torch.device) -> None:
    import torch

    import mlloss_cuda

    version = getattr(mlloss_cuda, "__version__", "?")
    print(f"versions  mlloss_cuda {version}, torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"device    {device} ({where}); {_backend(device)}")


def _backend(device: torch.device) -> str:
    import mlloss_cuda

    # In the order of preference; the reference runs on every device.
    candidates = ("cuda", "triton") if device.type == "cuda" else ("cpu",)
    usable = [name for name in candidates if mlloss_cuda.backends()[name].usable]
    return f"backend: {(usable or ['reference (plain PyTorch: see python -m mlloss_cuda info)'])[0]}"


def _print_measuring_notes(
    measurements: dict[str, Measurement], compiled: Compiled, data: Data, device: torch.device, kept: bool
) -> None:
    worst = max(m.error["fused"] for m in measurements.values())
    print(f"  gradients checked against float64: worst relative error {worst:.0e}")
    if compiled.reason:
        print(f"  no figures of torch.compile: {compiled.reason}")
    else:
        print(f"  torch.compile compiled for {compiled.seconds:.0f} s, not counted")
    dense_mb = 4 * 128 * data.num_labels / 1e6
    print(
        "  eager and compile need dense targets, here made beforehand: "
        f"{dense_mb:.1f} MB of float32 a batch, that neither times nor peaks include"
    )
    if device.type == "cpu" and kept:
        print("  malloc keeps freed memory for all implementations: fresh pages cost more than the losses")


def _print_training(name: str, history: History) -> None:
    curve = "  ".join(f"{point[5]:4.1f}" for point in history.curve)
    print(f"  {name:<6} {history.step_ms:5.1f} ms a step  precision at 5, %: {curve}", flush=True)


def _print_head(network: NameModel, data: Data, options: Options) -> None:
    """Print the cost of the last layer with its loss as one module, and as two."""
    from demo import measure, model

    rows = data.train[: model.BATCH]
    features = network.features(*data.words.take(rows))
    found = measure.measure_head(network.head, features, data.targets[rows], 3 if options.smoke else 11)
    shown = {name: f"{_mb(found.peak_mb[name]).strip()} MB, {_ms(found.ms[name])} ms" for name in found.ms}
    print(f"\nThe last layer and ZLPR, forward + backward of {len(rows)} rows, their gradients included")
    print(f"  LinearLoss: {shown['LinearLoss']}; nn.Linear, then the fused loss: {shown['apart']}")
    print(f"  {network.head.plan(len(rows))}")


def _ms(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def _print_table(
    measurements: dict[str, Measurement],
    histories: dict[str, History],
    popular: dict[int, float],
    not_compiled: str,
) -> None:
    print(
        "\n"
        "          loss + gradient, ms        peak memory, MB           precision at, %\n"
        "          fused   eager  compile     fused   eager  compile      1     3     5"
    )
    for name, history in histories.items():
        m = measurements[name]
        line = f"  {name:<6}"
        for values, digits in ((m.ms, _ms), (m.peak_mb, _mb)):
            line += "".join(f"{digits(values[who]):>8}" for who in ("fused", "eager"))
            line += f"{digits(values['compile']):>9}  "
        line += " " + "".join(f"{history.final[k]:6.1f}" for k in (1, 3, 5))
        print(line)
    print(f"  always the most frequent names{'':29}" + "".join(f"{popular[k]:6.1f}" for k in popular))
    if not_compiled:
        print(f"  n/a: torch.compile, {not_compiled}")
    if any(None in (m.peak_mb["fused"], m.peak_mb["eager"]) for m in measurements.values()):
        print("  n/a: peak memory, which this system does not report")
    epochs = next(iter(histories.values())).epochs
    print(f"  precision after {epochs:.1f} epochs of each loss, on the same batches")


def _print_gains(measurements: dict[str, Measurement]) -> None:
    """Print how much less time and memory the fused losses take in this run."""
    print("\nThe fused losses, loss and gradient, beside plain PyTorch")
    for name, m in measurements.items():
        gains = [
            f"{_times(m.ms[who], m.ms['fused'])} as fast as {words}"
            for who, words in (("eager", "eager PyTorch"), ("compile", "torch.compile"))
            if m.ms[who] is not None
        ]
        if m.peak_mb["eager"] and m.peak_mb["fused"]:
            gains.append(f"{_times(m.peak_mb['eager'], m.peak_mb['fused'])} less memory than eager")
        print(f"  {name:<6} {', '.join(gains)}")


def _times(theirs: float | None, ours: float | None) -> str:
    assert theirs is not None
    assert ours is not None
    return f"{theirs / ours:.1f} times"


def _mb(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _print_predictions(
    network: NameModel, data: Data, functions: corpus.Corpus, split: corpus.Split, seed: int
) -> None:
    import torch

    from demo import model

    wordy = [
        int(row) for row in split.held_out if len(functions.summaries[row]) >= 40 and len(split.targets.row(row)) >= 8
    ]
    if not wordy:
        return
    picked = random.Random(seed).sample(wordy, min(5, len(wordy)))
    rows = torch.tensor(picked, device=data.train.device)
    best = model.top(network, data, rows, 8)
    right = model.hits(best, data, rows)
    print("\nFive held-out functions at random, and ZLPR's 8 best names (those it uses in brackets)")
    for row, labels, hit in zip(picked, best.tolist(), right.tolist(), strict=True):
        file = functions.files[functions.file_of_row[row]]
        print(f"\n  {functions.functions[row]}  in {file}")
        summary = functions.summaries[row]
        print(f'    "{summary if len(summary) <= 90 else summary[:87] + "..."}"')
        names = (
            f"[{split.labels[label]}]" if used else split.labels[label] for label, used in zip(labels, hit, strict=True)
        )
        print("    -> " + " ".join(names))


if __name__ == "__main__":
    raise SystemExit(main())
