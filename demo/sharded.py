"""The demo on several processes, each with a slice of the labels: `torchrun --nproc-per-node 2 -m demo`.

Only ZLPR is trained, as the demo trains it on one process, and it should reach the same precision.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from demo import corpus

if TYPE_CHECKING:
    from demo.options import Options


def run(options: Options, load: Callable[[Any], tuple[corpus.Corpus, corpus.Split, str]]) -> None:
    """Train on all ranks of the group that torchrun has made; the first rank prints."""
    import torch
    from torch import distributed

    from demo import model

    start = time.perf_counter()
    cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    group = distributed.group.WORLD
    assert group is not None
    rank = group.rank()

    def say(text: str) -> None:
        if rank == 0:
            print(text, flush=True)

    packages = corpus.find_packages(options.packages)
    if rank:  # the first rank writes the cache that the others read
        distributed.barrier()
    functions, split, origin = load(packages)
    if not rank:
        distributed.barrier()
    say(f"{len(functions):,} functions, {len(split.labels):,} labels; {origin}")
    data = model.prepare(functions, split, device)
    network, history = model.train(
        model.LOSSES["ZLPR"](),
        data,
        epochs=options.epochs,
        seconds=60 * options.minutes,
        seed=options.seed,
        group=group,
    )
    sizes = " and ".join(f"{size:,}" for size in network.head.shards.sizes)  # type: ignore[union-attr]
    say(f"{group.size()} ranks ({distributed.get_backend(group)}) with {sizes} labels, batches of {model.BATCH}")
    say("  precision at 5, %: " + "  ".join(f"{point[5]:4.1f}" for point in history.curve))
    final = ", ".join(f"{value:.1f}" for value in history.final.values())
    say(
        f"  ZLPR after {history.epochs:.1f} epochs: precision at 1, 3, 5: {final} %; {history.step_ms:.1f} ms a step, "
        f"{history.curve_seconds[-1]:.1f} s"
    )
    say(f"done in {time.perf_counter() - start:.0f} s")
    distributed.destroy_process_group()
