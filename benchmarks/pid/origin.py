"""Where on its way a student's error is made: see docs/pid.md.

From the state that a student has at a time, the teacher's own ODE is solved to the
data: what is wrong then was wrong at that time; what the student errs beyond it is made
later. The students are those of `students.py`.
"""

import dataclasses

import jax
import numpy as np

import pidax as px

from .. import bench
from .problems import Vectors
from .students import RECIPES, Distilled

COUNT = 1024
ELSEWHERE = 0.5  # RMS per component, half the least distance of two modes


@dataclasses.dataclass(frozen=True)
class Origin:
    """The error of one recipe's student, time by time; a method of the suite."""

    recipe: str

    def configuration_on(self, problem: Vectors):
        student = Distilled(self.recipe).configuration_on(problem)
        return {"student": student, "count": COUNT, "elsewhere": ELSEWHERE}

    def __call__(self, problem: Vectors, seed, quick) -> bench.Outcome:
        student, _ = Distilled(self.recipe).trained(problem, seed)
        z, xs = problem.solved[0][:COUNT], problem.solved[1][:COUNT]
        run = jax.jit(jax.vmap(student, in_axes=(0, None)))
        rows = []
        for i, t in enumerate(problem.grid):
            here = run(z, t)
            last = i == len(problem.grid) - 1
            end = here if last else onwards(problem, here, i)
            wrong = px.metrics.sample_errors(end, xs[:, -1], per_component=True)
            rows.append(
                {
                    "time": float(t),
                    "rms_here": rms(here, xs[:, i]),
                    "rms_at_end": rms(end, xs[:, -1]),
                    "share_elsewhere": float((np.asarray(wrong) > ELSEWHERE).mean()),
                }
            )
        return bench.Outcome({"times": rows})


def onwards(problem: Vectors, states, i):
    """The states at the end, by the ODE from the i-th time."""
    path = px.solve_batch(
        problem.flow, states, times=problem.grid[i:], rtol=problem.tolerance
    )
    return path.xs[:, -1]


def rms(x, y):
    return float(px.metrics.rms_error(x, y, per_component=True))


for _recipe in RECIPES:
    bench.method(
        "pid",
        f"origin: {_recipe}",
        label=f"origin of the error, {RECIPES[_recipe]}",
        on=("mixture",),
        quick=_recipe == "ours",
        group="origin",
    )(Origin(_recipe))
