"""Select the combinations of a test's parameters that become tests, before pytest makes an item of each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch

# --brief keeps one in BRIEF_SHARE combinations of a test that has at least BRIEF_FROM.
BRIEF_FROM, BRIEF_SHARE = 20, 7
# Options that test a single engine, and leave out tests without an engine.
_ALONE = ("--emulated", "--interpreted", "--backend")
# Tests without a remaining combination: pytest would run them once, without parameters.
LEFT_OUT = pytest.StashKey[set[str]]()


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(
        "--brief",
        type=int,
        nargs="?",
        const=BRIEF_SHARE,
        metavar="N",
        help="for slow builds: of the largest tests' combinations one in N (7), and no test that calls a compiler",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = set()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    yield
    _select(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _test_of(item) in config.stash[LEFT_OUT]]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if _test_of(item) not in config.stash[LEFT_OUT]]


def _select(metafunc: pytest.Metafunc) -> None:
    """Leave out combinations that would only repeat (tests without a fused backend, strategies that make no difference)
    or that need a GPU that is not here."""
    # `_calls` is not part of pytest's interface, but only here is every combination known and no item made yet.
    calls = metafunc._calls
    chosen = _chosen(metafunc, calls) if calls else [_runs(metafunc, {}, {}, {}) and not _too_slow(metafunc)]
    if not any(chosen):
        metafunc.config.stash[LEFT_OUT].add(_test_of(metafunc.definition))
        chosen = [True]
    calls[:] = [call for call, is_chosen in zip(calls, chosen, strict=False) if is_chosen]


def _chosen(metafunc: pytest.Metafunc, calls: list[Any]) -> list[bool]:
    names = _independent(calls)
    places = [{name: call.indices[name] for name in names} for call in calls]
    sizes = {name: 1 + max(place[name] for place in places) for name in names}
    chosen = [_runs(metafunc, call.params, place, sizes) for call, place in zip(calls, places, strict=True)]
    share = metafunc.config.getoption("--brief")
    if not share:
        return chosen
    if _too_slow(metafunc):
        return [False] * len(calls)
    return _brief(places, chosen, share) if sum(chosen) >= BRIEF_FROM else chosen


def _brief(places: list[dict[str, int]], chosen: list[bool], share: int) -> list[bool]:
    """Keep the diagonals, and each other combination that has two values (cases aside) which have not met before."""
    brief = [runs and sum(place.values()) % share == 0 for place, runs in zip(places, chosen, strict=True)]
    met = {pair for place, kept in zip(places, brief, strict=True) if kept for pair in _pairs(place)}
    for i, place in enumerate(places):
        if chosen[i] and not met.issuperset(_pairs(place)):
            brief[i] = True
            met.update(_pairs(place))
    return brief


def _pairs(place: dict[str, int]) -> set[Any]:
    values = sorted(item for item in place.items() if item[0] != "case")
    return set(combinations_with_replacement(values, 2))


def _independent(calls: list[Any]) -> list[str]:
    """Return the names of the parameters; of parameters that are given together, the first name."""
    by_places = {tuple(call.indices[name] for call in calls): name for name in reversed(calls[0].indices)}
    return list(reversed(by_places.values()))


def _runs(metafunc: pytest.Metafunc, parameters: dict[str, Any], places: dict[str, int], sizes: dict[str, int]) -> bool:
    config, test = metafunc.config, metafunc.definition
    backend, case = parameters.get("backend"), parameters.get("case")
    gpu = test.get_closest_marker("gpu")
    if gpu is not None and not (backend and backend.device == "cuda" and _has_gpus(**gpu.kwargs)):
        return False
    if test.get_closest_marker("cuda_engine") and not (backend and backend.library):
        return False
    if test.get_closest_marker("element_wise") and backend and not backend.first:
        return False
    if test.get_closest_marker("emulated") and not config.getoption("--emulated"):
        return False
    if test.get_closest_marker("triton_engine") and not (backend and backend.name == "triton"):
        return False
    if backend is None and any(map(config.getoption, _ALONE)):
        return False
    if backend and case and not backend.serves(case, bool(test.get_closest_marker("parts"))):
        return False
    if "TestCompile" in test.nodeid and backend and backend.repeats(case):
        return False
    return not case or _for_case(test, case, places, sizes)


def _for_case(test: pytest.Item, case: Any, places: dict[str, int], sizes: dict[str, int]) -> bool:
    if "TestCompile" in test.nodeid and not case.path:
        # All losses have the same graph; only the tracing of each function differs.
        return case.first and "test_fullgraph" in test.nodeid
    own = {name: place for name, place in places.items() if name not in ("backend", "case")}
    return case.takes(own, {name: sizes[name] for name in own})


def _has_gpus(devices: int = 1, gib: int = 1) -> bool:
    return torch.cuda.device_count() >= devices and torch.cuda.mem_get_info()[1] >= gib << 30


def _too_slow(metafunc: pytest.Metafunc) -> bool:
    config, test = metafunc.config, metafunc.definition.nodeid
    compiles = "TestCompile" in test and not (config.getoption("--interpreted") and "test_fullgraph" in test)
    return bool(config.getoption("--brief")) and compiles


def _test_of(node: pytest.Item) -> str:
    return node.nodeid.partition("[")[0]
