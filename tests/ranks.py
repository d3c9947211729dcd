"""Processes that make up a ``torch.distributed`` group on this machine, and run what a test tells them to."""

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
    """The first ``count`` ranks: of those, in a rank's process."""
    return _groups[count]


def _serve(rank: int, size: int, store: str, commands: Connection) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=90)  # of a rank, when another one has failed its test
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=patience)
    for count in range(1, size + 1):
        _groups[count] = distributed.new_group(list(range(count)), timeout=patience)
    while (command := commands.recv()) is not None:
        function, arguments = command
        try:
            commands.send((True, function(rank, *arguments)))
        except BaseException:
            commands.send((False, traceback.format_exc()))
    os._exit(0)  # what groups do to end in an orderly way takes seconds


class Ranks:
    """So many processes, for as long as tests want them."""

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
        """``function(rank, *arguments)`` on the first ``count`` ranks; what each returns. An error is the test's."""
        found = self.results(count, function, *arguments)
        wrong = [f"rank {rank}: {what}" for rank, (well, what) in enumerate(found) if not well]
        assert not wrong, "\n".join(wrong)
        return [what for _, what in found]

    def results(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[tuple[bool, Any]]:
        """The same, and of each whether it went well, with an error's text or "died" in the result's place."""
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
        """End them."""
        for end in self._ends:
            with suppress(BrokenPipeError):
                end.send(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()
