"""Processes that form a ``torch.distributed`` group on this machine and run a test's functions."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import distributed

__all__ = ["Ranks", "group_of"]

_groups: dict[int, distributed.ProcessGroup] = {}


def group_of(count: int) -> distributed.ProcessGroup:
    """Return the group of the first ``count`` ranks. Call it in the process of one of them."""
    return _groups[count]


def _serve(rank: int, size: int, store: str, commands: Connection) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=90)  # a rank waits this long for one whose test has failed
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=patience)
    for count in range(1, size + 1):
        _groups[count] = distributed.new_group(list(range(count)), timeout=patience)
    while (command := commands.recv()) is not None:
        function, arguments = command
        try:
            commands.send((True, function(rank, *arguments)))
        except BaseException:
            commands.send((False, traceback.format_exc()))
    os._exit(0)  # an orderly shutdown of the groups takes seconds


class Ranks:
    """A number of processes that serve tests until they are closed."""

    def __init__(self, size: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = os.path.join(self._folder.name, "store")
        self._ends, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, store, theirs), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def run(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return the results of ``function(rank, *arguments)`` on the first ``count`` ranks. Errors fail the test."""
        found = self.results(count, function, *arguments)
        wrong = [f"rank {rank}: {result}" for rank, (succeeded, result) in enumerate(found) if not succeeded]
        assert not wrong, "\n".join(wrong)
        return [result for _, result in found]

    def results(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[tuple[bool, Any]]:
        """Do the same, and return for each rank whether it succeeded, and its result, an error's text or "died"."""
        for end in self._ends[:count]:
            end.send((function, arguments))
        found = []
        for end in self._ends[:count]:
            try:
                found.append(end.recv())
            except (EOFError, ConnectionResetError):
                found.append((False, "died"))
        return found

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            with suppress(BrokenPipeError):
                end.send(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()
