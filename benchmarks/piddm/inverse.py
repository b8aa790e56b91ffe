"""Darcy's coefficient from measured pressures: errors, and how certain the answers are.

The students are those of `methods.py`, the truths held-out fields. For several slacks:
the root mean square of the error of the mean over truths and points, beside that of the
samples' standard deviation, in standard deviations of the field. Of exact posteriors
the two are equal, but for the mean's sampling error.
"""

import dataclasses

import jax
import numpy as np

import pidax as px

from .. import bench
from .methods import STUDENTS, student
from .problems import Fields

OBSERVED = {
    "pressure at 30%": (0.3, ("solution",)),
    "both at 5%": (0.05, ("coefficient", "solution")),
}


@dataclasses.dataclass(frozen=True)
class Inverse:
    """Samples of the posterior of one student; a method of the suite."""

    student: str
    observed: str
    slack: float
    noise: float = 0.02  # of a field's standard deviation
    truths: int = 6
    samples: int = 32

    def configuration_on(self, problem: Fields):
        return {
            **vars(self),
            "student": STUDENTS[self.student],
            "observed": OBSERVED[self.observed],
        }

    def __call__(self, problem: Fields, seed, quick) -> bench.Outcome:
        model, _ = student(problem, STUDENTS[self.student], seed)
        sizes = problem.test.std(axis=(0, 1, 2))
        errors, variances, relative, converged = [], [], [], []
        for i in range(1 if quick else self.truths):
            truth = problem.test[i]
            found = self.answers(problem, model, truth, i)
            fields = np.asarray(found.fields, np.float64) / sizes
            errors.append((fields.mean(axis=0) - truth / sizes) ** 2)
            variances.append(fields.var(axis=0, ddof=1))
            relative.append(np.median(found.relative))
            converged.append(found.converged.mean())
        root = lambda squares: np.sqrt(np.mean(squares, axis=(0, 1, 2))).tolist()
        return bench.Outcome(
            {
                "relative_residual": float(np.mean(relative)),
                "error": root(errors),
                "spread": root(variances),
                "converged": float(np.mean(converged)),
            }
        )

    def answers(self, problem, model, truth, i):
        """Samples of the fields, given measurements of this truth."""
        equation, (share, names) = problem.equation, OBSERVED[self.observed]
        noise = self.noise * problem.test.std(axis=(0, 1, 2))
        single = lambda a: np.asarray(a, np.float32)
        named = jax.tree.map(single, equation.unstack(truth))
        observation = px.Observation.at_random(
            equation, named, share, names=names, key=jax.random.key(i),
            noise=dict(zip(equation.names, noise.tolist(), strict=True)),
        )  # fmt: skip
        return px.refine(
            model, observation, problem.constraint, samples=self.samples,
            slack=self.slack, key=jax.random.key(100 + i), antithetic=True,
            progress=False,
        )  # fmt: skip


def _register():
    for name in ("distillation", "PIDDM (a)"):
        for observed in OBSERVED:
            for slack in (0.01, 0.05, 0.2):
                bench.method(
                    "piddm",
                    f"inverse: {name}, {observed}, slack {slack:g}",
                    on=("darcy16",),
                    group="inverse",
                    quick=False,
                )(Inverse(name, observed, slack))


_register()
