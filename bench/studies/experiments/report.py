"""Tables of docs/experiments.md from the results: the same results give the same bytes."""

from __future__ import annotations

import functools
import itertools
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...markdown import table as markdown
from .imbalance import CRITERIA, TITLES, best_rate
from .store import Record
from .study import chosen
from .training import LOSSES

__all__ = ["PAGE", "blocks", "rendered"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "experiments.md"
LESS_IS_BETTER = ("ranking loss",)
METRICS = (
    "subset accuracy",
    "F1 samples",
    "F1 micro",
    "F1 macro",
    "precision at 1",
    "precision at 3",
    "nDCG at 5",
    "ranking loss",
    "AP samples",
    "AP macro",
)
RULE, BY_CHANCE = "zlpr", 2.0

Values = dict[str, list[float]]  # loss: a value for each seed


def rendered(text: str, records: Sequence[Record]) -> str:
    """Return ``text`` with the tables between its markers drawn anew."""
    for name, block in blocks(records).items():
        begin, end = f"<!-- {name}: python -m bench.studies.experiments report -->\n\n", "\n\n<!-- end -->"
        marked = re.compile(f"({begin}).*?({end})", re.DOTALL)
        text, count = marked.subn(lambda match, block=block: f"{match[1]}{block}{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE.name}: expected one block of {name}, found {count}")
    return text


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """Return each table by its name."""
    losses, claimed = by_criterion(records, "all"), by_criterion(records, "subset accuracy")
    return {
        "claim": claim(claimed),
        "summary": summary(losses),
        "comparisons": comparisons(losses),
        "losses": "\n\n".join(f"{name}\n\n{table(losses, name)}" for name in sets_of(losses)) + origin(losses),
        "imbalance": imbalance(records),
        "names": names(reported(records, "names")),
    }


# ---- records ----


def reported(records: Sequence[Record], part: str) -> list[Record]:
    """Return runs on rows by which nothing was chosen."""
    return [each for each in records if each["part"] == part and not each["tuning"]]


def by_criterion(records: Sequence[Record], criterion: str) -> list[Record]:
    """Return the losses' runs at the rates that the criterion chooses."""
    return _at_best_rates(records, "losses", lambda metrics: chosen(metrics, criterion))


def _at_best_rates(
    records: Sequence[Record], part: str, best: Callable[[dict[float, dict[str, float]]], float]
) -> list[Record]:
    """Return the reported runs of each set and loss at the best of the rates that were tried."""
    tuned: dict[tuple[str, str], dict[float, dict[str, float]]] = {}
    for each in records:
        if each["part"] == part and each["tuning"]:
            tuned.setdefault((each["set"], each["loss"]), {})[each["rate"]] = each["metrics"]
    rates = {run: best(metrics) for run, metrics in tuned.items()}
    return [each for each in reported(records, part) if each["rate"] == rates[each["set"], each["loss"]]]


def sets_of(records: Sequence[Record]) -> list[str]:
    """Return the names of the sets in order."""
    return list(dict.fromkeys(each["set"] for each in records))


def values(records: Sequence[Record], name: str, metric: str) -> Values:
    """Return the values of each loss for every seed."""
    found: Values = {}
    for each in records:
        if each["set"] == name:
            found.setdefault(each["loss"], []).append(each["metrics"][metric])
    return found


def best_first(found: Values, metric: str) -> list[str]:
    """Return the losses in the order of their means."""
    means = {loss: statistics.fmean(each) for loss, each in found.items()}
    return sorted(means, key=lambda loss: means[loss] if metric in LESS_IS_BETTER else -means[loss])


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the distance of two means in standard errors of their difference (Welch)."""
    error = sum(statistics.variance(each) / len(each) for each in (first, second)) ** 0.5
    difference = statistics.fmean(first) - statistics.fmean(second)
    return difference / error if error else (0.0 if difference == 0 else float("inf") * difference)


# ---- tables ----


def percent(found: Sequence[float], strong: bool = False, digits: int = 1) -> str:
    """Return mean and standard deviation over seeds as text."""
    if len(found) < 2:
        return "-"
    mean = f"{100 * statistics.fmean(found):.{digits}f}"
    return f"{f'**{mean}**' if strong else mean} ± {100 * statistics.stdev(found):.{digits}f}"


def origin(records: Sequence[Record]) -> str:
    """Return a line of machine, versions and commits."""
    found = [each["from"] for each in records]
    parts = [", ".join(sorted({each[name] for each in found})) for name in ("cpu", "torch", "mlloss_cuda", "python")]
    commits = ", ".join(dict.fromkeys(each["commit"] for each in found))
    dates = ", ".join(sorted({each["date"] for each in found}))
    return (
        f"\n\n{parts[0]}; torch {parts[1]}, mlloss_cuda {parts[2]}, Python {parts[3]}; commit {commits}; {dates}.\n"
        "In percent, mean ± standard deviation over seeds; the best mean is bold."
    )


def table(records: Sequence[Record], name: str) -> str:
    """Return every metric of every loss on one set."""
    columns = {metric: values(records, name, metric) for metric in METRICS}
    best = {metric: best_first(found, metric)[0] for metric, found in columns.items()}
    rates = {each["loss"]: each["rate"] for each in records if each["set"] == name}

    def part(metrics: Sequence[str]) -> str:
        rows = [
            [LOSSES[loss].title, f"{rates[loss]:g}", *(percent(columns[m][loss], best[m] == loss) for m in metrics)]
            for loss in LOSSES
            if loss in rates
        ]
        return markdown(("loss", "rate", *metrics), rows)

    # The first table has metrics of decisions, the second those of rankings; a single table would be too wide.
    return f"{part(METRICS[:4])}\n\n{part(METRICS[4:])}"


def summary(records: Sequence[Record]) -> str:
    """Return the best loss and ZLPR's place for each metric and set."""
    names = sets_of(records)
    rows = []
    for metric in METRICS:
        cells = []
        for name in names:
            order = best_first(values(records, name, metric), metric)
            cells.append(f"{LOSSES[order[0]].title}; {order.index(RULE) + 1}")
        rows.append([metric, *cells])
    return markdown(("the best loss; ZLPR's place", *names), rows)


def claim(records: Sequence[Record]) -> str:
    """Return the subset accuracy of every loss on every set."""
    names = sets_of(records)
    columns = {name: values(records, name, "subset accuracy") for name in names}
    best = {name: best_first(found, "subset accuracy")[0] for name, found in columns.items()}
    rates = {(each["set"], each["loss"]): each["rate"] for each in records}

    def cell(name: str, loss: str) -> str:
        text = percent(columns[name].get(loss, []), best[name] == loss, 2)
        return f"{text} ({rates[name, loss]:g})" if (name, loss) in rates else text

    rows = [[LOSSES[loss].title, *(cell(name, loss) for name in names)] for loss in LOSSES]
    comparison = comparisons(records, ("subset accuracy",))
    return f"{markdown(('subset accuracy (rate)', *names), rows)}\n\n{comparison}{origin(records)}"


def comparisons(records: Sequence[Record], metrics: Sequence[str] = METRICS) -> str:
    """Return how often plain ZLPR is better than each other loss, over the sets."""
    names, rows = sets_of(records), []
    for metric in metrics:
        sign = -1 if metric in LESS_IS_BETTER else 1
        above = clear = below = total = 0
        for name in names:
            found = values(records, name, metric)
            for loss in found.keys() - {RULE}:
                distance = sign * apart(found[RULE], found[loss])
                total += 1
                above += distance > 0
                clear += distance > BY_CHANCE
                below += distance < -BY_CHANCE
        rows.append([metric, f"{above} of {total}", str(clear), str(below)])
    return markdown(("metric", "ZLPR's mean is better", "by over 2 standard errors", "worse by over 2"), rows)


def imbalance(records: Sequence[Record]) -> str:
    """Return a table for each set: decisions at the rate that is best for F1, the order at the rate for AUC."""
    chosen_runs = {
        name: _at_best_rates(records, "imbalance", functools.partial(best_rate, criterion=name)) for name in CRITERIA
    }
    tables = []
    for name in sets_of(chosen_runs[CRITERIA[0]]):
        first = next(each for each in records if each["set"] == name)
        columns: list[tuple[str, Values]] = []
        for criterion, runs in chosen_runs.items():
            columns.append((f"rate, by {criterion}", {}))
            wanted = [metric for metric in first["metrics"] if (metric == "AUC") == (criterion == "AUC")]
            columns += [(metric, values(runs, name, metric)) for metric in wanted]
        rates = {
            (criterion, each["loss"]): f"{each['rate']:g}"
            for criterion, runs in chosen_runs.items()
            for each in runs
            if each["set"] == name
        }
        best = {metric: best_first(found, metric)[0] for metric, found in columns if found}

        def cell(loss: str, metric: str, found: Values, best: Any = best, rates: Any = rates) -> str:
            if not found:
                return rates[metric.removeprefix("rate, by "), loss]
            return percent(found[loss], best[metric] == loss)

        rows = [[TITLES[loss], *(cell(loss, *column) for column in columns)] for loss in TITLES]
        about = f"{name}: 1 positive to {first['ratio']:g} negatives in "
        about += f"{first['rows']:,} rows to learn from; always predicting no is right in "
        head = ("loss", *(metric for metric, _ in columns))
        tables.append(f"{about}{100 * (1 - first['positive']):.1f}%.\n\n{markdown(head, rows)}")
    return "\n\n".join(tables) + origin([each for runs in chosen_runs.values() for each in runs])


def names(records: Sequence[Record]) -> str:
    """Return final precision, and the time at which the lower precision was reached."""
    first, rows = records[0], []
    by_loss: dict[str, list[Record]] = {}
    for each in records:
        by_loss.setdefault(each["loss"], []).append(each)
    for loss, runs in by_loss.items():
        cells = [percent([run["final"][k] / 100 for run in runs]) for k in ("1", "3", "5")]
        halves = [reached(run, 0.9 * min(lasts(runs, "5") for runs in by_loss.values()), "5") for run in runs]
        rows.append([loss, f"{runs[0]['rate']:g}", *cells, spread([run["seconds"] for run in runs]), spread(halves)])
    times = ("seconds", "seconds to the level")
    head = ("loss", "rate", *(f"precision at {k}" for k in (1, 3, 5)), *times)
    about = f"{first['labels']:,} labels; {first['rows']:,} functions to learn from, {first['held_out']:,} held out; "
    about += f"{first['packages']}.\n\n"
    return about + markdown(head, rows) + origin(records).rpartition("; the best")[0] + "."


def lasts(runs: Sequence[Record], k: str) -> float:
    """Return the mean of the curves' last points."""
    return statistics.fmean(run["curve"][-1][k] for run in runs)


def reached(run: Record, level: float, k: str) -> float:
    """Return the time when a curve first reaches a level, interpolated between its points."""
    points: list[tuple[float, Any]] = list(zip(run["times"], (point[k] for point in run["curve"]), strict=True))
    for (t0, v0), (t1, v1) in itertools.pairwise(points):
        if v1 >= level:
            return t0 + (t1 - t0) * (level - v0) / (v1 - v0) if v1 > v0 else t1
    return run["times"][-1]


def spread(found: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    return f"{statistics.fmean(found):.0f} ± {statistics.stdev(found):.0f}"
