r"""No inverse crime: truths and data of a grid twice as fine.

The truths have the same objects as in `problems_steady`, drawn and solved on twice as
many cells an axis. Sensors see means over the cells that make one coarse cell, and the
material of most of them; the target is the fine one (of an initial field its means).
The bank is of the coarse grid and solver, and its likelihood knows nothing of the
difference. Beside the row `bank` of the same draws it shows what an answer with the
solver of the data hides.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pidax import metrics

from .. import bench
from .problems_steady import (
    SEEDS,
    TRUTHS,
    Channels,
    Reweighted,
    heads_and_flow,
    summary,
)


def coarse(field, axes):
    """Means over pairs of neighbours along the last axes."""
    for axis in range(-axes, 0):
        even, odd = (np.arange(i, field.shape[axis], 2) for i in (0, 1))
        field = (np.take(field, even, axis) + np.take(field, odd, axis)) / 2
    return field


def finer(problem, count, seed):
    """What sensors see of truths on the fine grid, and the targets: one row each."""
    fine = dataclasses.replace(problem, size=2 * problem.size)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), count)
        given = jax.jit(jax.vmap(fine.given))(keys)
        if isinstance(problem, Channels):
            rows = [channels_seen(problem, np.asarray(a)) for a in given]
        else:
            solved = jax.jit(jax.vmap(lambda u: fine.equation.solve(u).solution[-1]))
            last = coarse(np.asarray(solved(given)), 1)
            places = np.arange(problem.sensors) * problem.size // problem.sensors
            rows = np.concatenate(
                [last[:, places], coarse(np.asarray(given), 1)], axis=1
            )
    return np.asarray(rows, np.float32)


def channels_seen(problem, a):
    heads, flow = heads_and_flow(a)
    at, inside = np.ix_(problem.wells, problem.wells), a > 10
    material = coarse(inside.astype(float), 2)[at] >= 0.5
    crossing = bool(metrics.connects(jnp.asarray(inside)))
    seen = material.ravel(), coarse(heads, 2)[at].ravel()
    return np.concatenate([*seen, [np.log(flow), crossing]])


@dataclasses.dataclass(frozen=True)
class Finer(Reweighted):
    """The bank of the coarse grid for truths of the fine one: a method."""

    def configuration_on(self, problem):
        return super().configuration_on(problem) | {"truths": "twice as fine"}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        rows, note = self.rows(problem, self.count_on(problem), seed, quick)
        truth, _ = bench.kept("bank", finer, problem, problem.truths, TRUTHS)
        said = problem.measured(truth, np.random.default_rng(TRUTHS))
        every = zip(truth, said, strict=True)
        scores = [self.answer(problem, rows, *one) for one in every]
        found = summary(scores) | {"draws": len(rows)}
        return bench.Outcome(found, {"bank_seconds": note["seconds"]})


WAYS = {
    "bank, finer truths": Finer("bank"),
    "prior, finer truths": Finer("training", weigh=False),
}


def _register():
    for name, way in WAYS.items():
        bench.method("generators", name, on=("steady",), seeds=SEEDS)(way)


_register()
