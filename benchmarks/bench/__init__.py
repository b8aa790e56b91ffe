"""The core of the bench: what a suite registers, how a row is run, kept and shown.

- `problem`, `method`: put a problem or a method on the list of a suite.
- `Outcome`: what a method answers: metrics and cost.
- `describe`, `digest`: a configuration in plain values, and its hash.
- `kept`: an artefact (a trained network, a chart, fields) under the hash of its recipe.
- `table`, `figure`: a function of rows that makes the text between two marks of a page,
  or a file in docs/figures.
"""

from ._configuration import describe, digest
from ._registry import SUITES, Method, Outcome, Problem, method, pairs, problem, suite
from ._rows import Row, Rows, processor, provenance, read, write
from ._runner import run, stale, standing
from ._store import kept, store_at
from ._tables import (
    check,
    figure,
    grid,
    markdown,
    render,
    short,
    table,
    with_range,
)
from ._timing import paired_ratio, seconds

__all__ = [
    "SUITES",
    "Method",
    "Outcome",
    "Problem",
    "Row",
    "Rows",
    "check",
    "describe",
    "digest",
    "figure",
    "grid",
    "kept",
    "markdown",
    "method",
    "paired_ratio",
    "pairs",
    "problem",
    "processor",
    "provenance",
    "read",
    "render",
    "run",
    "seconds",
    "short",
    "stale",
    "standing",
    "store_at",
    "suite",
    "table",
    "with_range",
    "write",
]
