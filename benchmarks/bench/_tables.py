"""Tables and figures from rows: their registry, their renderer, and their numbers.

`@table("mark", suites)` registers a function of `{suite: rows}` whose text stands
between the marks of a page (`_marks`); `@figure("name.svg", suites)` one that returns a
Matplotlib figure for docs/figures.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import _marks, _registry, _rows
from ._rows import Rows


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A function of the rows of some suites."""

    suites: tuple[str, ...]
    draw: Callable[..., Any]

    def __call__(self) -> Any:
        return self.draw(*(_rows.read(name) for name in self.suites))


TABLES: dict[str, _Drawn] = {}
FIGURES: dict[str, _Drawn] = {}


def table(mark: str, *suites: str) -> Callable[[Any], Any]:
    """The function makes the text between the marks, from the rows of each suite."""

    def register(draw: Any) -> Any:
        TABLES[mark] = _Drawn(suites, draw)
        return draw

    return register


def figure(file: str, *suites: str) -> Callable[[Any], Any]:
    """The function makes docs/figures/`file`, from the rows of each suite."""

    def register(draw: Any) -> Any:
        FIGURES[file] = _Drawn(suites, draw)
        return draw

    return register


def texts() -> dict[str, str]:
    """Every table's text, by its mark."""
    for name in _registry.NAMES:
        _registry.suite(name)
    importlib.import_module(f"{_registry.PACKAGE}.gpu_tables")
    return {mark: drawn() for mark, drawn in TABLES.items()}


def check() -> list[str]:
    """What the pages hold that rows do not say, mark by mark."""
    return _marks.stale(texts())


def render(*, figures: bool) -> None:
    """Write every table between its marks, and the figures."""
    _marks.write(texts())
    for file, drawn in FIGURES.items() if figures else ():
        target = _marks.DOCS / "figures" / file
        target.parent.mkdir(exist_ok=True)
        drawn().savefig(target, metadata={"Date": None})
        print(f"wrote {target}")


# --- the pieces of a table -----------------------------------------------------------


def markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    rows = [head, *lines]
    texts = ["|" + "".join(f" {c} |" if c != "" else " |" for c in r) for r in rows]
    return "\n".join([texts[0], "|---" * len(head) + "|", *texts[1:]])


def short(value: float | None) -> str:
    """Three digits; small numbers by their power of ten."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def with_range(values: Sequence[float], show: Callable[[Any], str] = short) -> str:
    """The mean over seeds, and their range where they differ."""
    if not values:
        return "-"
    least, most, mean = show(min(values)), show(max(values)), show(np.mean(values))
    return mean if least == most else f"{mean} ({least} to {most})"


def grid(rows: Rows, metric: str = "") -> str:
    """Methods down, problems across: a metric's mean and range over seeds.

    By default the first metric that is a number.
    """
    if not rows:
        return "No rows."
    metric = metric or _first_number(rows)
    problems = list(dict(rows.by("problem")))
    lines = []
    for method, some in rows.by("method"):
        cells = [some.where(problem=p).values(metric) for p in problems]
        lines.append([method, *(with_range(c) if c else "" for c in cells)])
    return markdown([metric, *problems], lines)


def _first_number(rows: Rows) -> str:
    for row in rows:
        for name, value in row.metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                return name
    return "seconds"
