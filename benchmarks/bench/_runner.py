"""Run what is missing, row by row; each is written as it comes."""

import contextlib
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _registry, _rows, _store
from ._configuration import digest
from ._registry import Method, Problem
from ._rows import Row, Rows


def row_of(
    problem: Problem, method: Method, seed: int, *, quick: bool
) -> tuple[str, Any]:
    """The hash and the configuration of a row, which need not be run for it."""
    made = problem.made(quick=quick)
    configuration = {
        "problem": problem.configuration(quick=quick),
        "method": method.configuration(made),
        "seed": seed,
    }
    return digest(configuration), configuration


def run(
    suites: list[str],
    problem: str = "",
    method: str = "",
    seed: int | None = None,
    *,
    quick: bool = False,
    again: bool = False,
    folder: Path | None = None,
) -> tuple[Rows, list[str]]:
    """Rows that were made now, and the names of those that failed.

    A row whose suite, problem, method, seed and hash are in the results is not made
    `again`. Quick rows are small, are always made, and are written to a folder that is
    removed in the end.
    """
    made, failed = [], []
    with _place(quick, folder) as folder:
        for name in suites:
            suite = _registry.suite(name)
            old = {row.key: row.hash for row in _rows.read(name, folder)}
            for entry, how in _registry.pairs(suite, problem, method, quick=quick):
                for one in _seeds(entry, how, quick) if seed is None else (seed,):
                    key = name, entry.name, how.name, one
                    title = f"{name}: {entry.name} x {how.name}, seed {one}"
                    try:
                        made += _one(entry, how, one, old.get(key), title, quick=quick,
                                     again=again, folder=folder)  # fmt: skip
                    except Exception:
                        traceback.print_exc()
                        failed.append(title)
    return Rows(made), failed


def _seeds(problem: Problem, method: Method, quick: bool) -> list[int]:
    both = [s for s in method.seeds if problem.seeds is None or s in problem.seeds]
    return both[: 1 if quick else None]


def _one(
    problem: Problem,
    method: Method,
    seed: int,
    old: str | None,
    title: str,
    *,
    quick: bool,
    again: bool,
    folder: Path | None,
) -> list[Row]:
    """The row, unless it is there."""
    name, configuration = row_of(problem, method, seed, quick=quick)
    if old == name and not (again or quick):
        print(f"{title}: there already", flush=True)
        return []
    start = time.perf_counter()
    outcome = method.run(problem.made(quick=quick), seed, quick)
    spent = time.perf_counter() - start
    words = f"run --suite {method.suite} --problem {problem.name}"
    words += f" --method '{method.name}' --seed {seed}"
    row = Row(
        suite=method.suite,
        problem=problem.name,
        method=method.name,
        seed=seed,
        hash=name,
        configuration=configuration,
        metrics=outcome.metrics,
        cost={"seconds": spent, **outcome.cost},
        provenance={
            "command": f"python -m benchmarks {words}",
            **_rows.provenance(),
            "dtype": outcome.dtype,
        },
        processor=_rows.processor(),
    )
    _rows.write(row, folder)
    print(f"{title}: {spent:.1f} s; {_brief(outcome.metrics)}", flush=True)
    return [row]


def _brief(metrics: dict[str, Any]) -> str:
    """The first numbers of an outcome, in one line."""
    numbers = [
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if isinstance(value, int | float)
    ]
    return ", ".join(numbers[:6]) or ", ".join(metrics)


@contextlib.contextmanager
def _place(quick: bool, folder: Path | None) -> Iterator[Path | None]:
    """Where rows go; quick ones and their artefacts go to a passing folder."""
    if not quick:
        yield folder
        return
    with tempfile.TemporaryDirectory() as passing, _store.store_at(Path(passing)):
        yield Path(passing) / "results" if folder is None else folder


def standing(name: str) -> list[str]:
    """For each problem of a suite: its methods, and how many rows are as of today."""
    suite = _registry.suite(name)
    rows = _rows.read(name)
    lines = []
    for problem in suite.problems.values():
        methods = [m for m in suite.methods.values() if m.takes(problem)]
        mine = rows.where(problem=problem.name)
        lines.append(
            f"{problem.name}: {len(methods)} methods, {len(mine)} rows"
            + (f" ({problem.label})" if problem.label != problem.name else "")
        )
    return lines


def stale(name: str) -> list[str]:
    """Rows in the results whose configuration is not the one of today."""
    suite, found = _registry.suite(name), []
    for row in _rows.read(name):
        problem, method = suite.problems.get(row.problem), suite.methods.get(row.method)
        if problem is None or method is None:
            found.append(f"{row.problem} x {row.method}: no longer registered")
        elif row_of(problem, method, row.seed, quick=False)[0] != row.hash:
            found.append(f"{row.problem} x {row.method}, seed {row.seed}")
    return found
