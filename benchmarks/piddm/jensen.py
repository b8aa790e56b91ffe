"""Jensen's gap of the residual against the noise, as examples/jensen_gap.py has it.

Sizes relative to the source, root mean square over points and draws, and what each law
of samples is worth.
"""

import dataclasses
import importlib.util
from pathlib import Path

import jax

from .. import bench

EXAMPLE = Path(__file__).parents[2] / "examples/jensen_gap.py"
COLUMNS = ("circle", "Poisson", "Darcy, smooth", "Darcy, 12 or 3", "4000 samples",
           "worth of 4000")  # fmt: skip


def example():
    spec = importlib.util.spec_from_file_location("jensen_gap", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass(frozen=True)
class Example:
    """The example's file, known by its text."""

    text: str


@bench.problem("piddm", label="Jensen's gap", kind="jensen", quick=False)
def jensen(quick):
    return Example(EXAMPLE.read_text())


@bench.method("piddm", "jensen: gap", label="the gap", on=("jensen",), group="jensen")
def gap(problem, seed, quick):
    """By the noise level."""
    found = example()
    with jax.enable_x64(True):
        on, _ = found.circle(jax.random.key(0))
        zero = found.poisson(jax.random.key(1))
        sizes, effective, off = found.darcy(jax.random.key(2))
        jumps = found.two_materials(jax.random.key(3))
    known = lambda value: None if value != value else float(value)
    rows = []
    for i, noise in enumerate(found.LEVELS):
        sets = zip(found.SETS, sizes[1:, i], effective[1:, i], strict=True)
        row = {"noise": float(noise), "circle": known(on[i]), "Poisson": known(zero[i])}
        row |= {"Darcy, smooth": known(sizes[0, i]), "worth": known(effective[0, i])}
        row |= {"Darcy, 12 or 3": known(jumps[i])}
        for count, size, worth in sets:
            row[f"{count} samples"] = known(size)
            row[f"worth of {count}"] = known(worth)
        rows.append(row)
    metrics = {"off": float(off), "draws": found.DRAWS, "rows": rows}
    metrics["points"] = list(found.GRID.shape)
    return bench.Outcome(metrics, dtype="float64")
