"""Refinement against the exact posterior: Poisson's equation with its exact student.

The fields are Gaussian, so the posterior given measurements is known
(`Gaussian.posterior`, in float64). Forward (of the source), inverse (of the solution)
and reconstruction (of both) differ by the mask alone. Written down are the error of the
mean of the samples, beside the error that as many independent exact samples would have
on average (these are drawn in antithetic pairs), and the mean over points of the ratio
of their standard deviation to the exact one; and for one problem other anchors and
other solvers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax.inference import LBFGS, Adam, GaussNewton

from .. import bench

SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Poisson's equation, its exact student and its law; which fields are measured."""

    names: tuple[str, ...]
    size: int = 16
    modes: int = 128
    samples: int = 512

    @functools.cached_property
    def equation(self):
        grid = px.pde.Grid((self.size, self.size))
        source = px.pde.Matern(grid, alpha=2, tau=3, modes=self.modes)
        return px.pde.Poisson(grid, source)

    @functools.cached_property
    def law(self):
        """The mean of the fields and the factor of their covariance."""
        with jax.enable_x64(True):
            law = self.equation.law()
            return np.asarray(law.mean), np.asarray(law.factor)

    @functools.cached_property
    def sizes(self):
        return np.sqrt((self.law[1] ** 2).sum(axis=-1).mean(axis=(0, 1)))

    @functools.cached_property
    def student(self):
        mean, factor = (jnp.asarray(a, float) for a in self.law)
        teacher = px.Gaussian(mean, px.denoiser.Covariance.low_rank(factor))
        return px.ExactStudent(teacher, px.EDM())

    @property
    def constraint(self):
        identity = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
        return px.Residual(self.equation, identity)

    def observe(self, share, noise, seed):
        """Measurements of a truth of this seed."""
        truth, where = jax.random.split(jax.random.key(seed))
        fields = self.equation.sample(key=truth)
        sizes = dict(zip(self.equation.names, noise * self.sizes, strict=True))
        return px.Observation.at_random(
            self.equation, fields, share, names=self.names, noise=sizes, key=where
        )

    def posterior(self, observation):
        """Exact mean and standard deviation, by the coefficients of the modes."""
        mean, factor = self.law
        seen = np.flatnonzero(np.asarray(observation.mask))
        noise = np.asarray(observation.noise, np.float64).ravel()[seen]
        weight = 1 / noise if noise.any() else np.ones_like(noise)
        rows = factor.reshape(-1, self.modes)[seen] * weight[:, None]
        values = np.asarray(observation.values, np.float64) - mean
        with jax.enable_x64(True):
            prior = px.Gaussian(jnp.zeros(self.modes), 1.0)
            given = prior.posterior(
                rows, values.ravel()[seen] * weight, float(noise.any())
            )
            rest = factor @ np.asarray(given.covariance.factor((self.modes,)))
            mean = mean + factor @ np.asarray(given.mean)
        return mean, np.sqrt((rest**2).sum(axis=-1))


OBSERVED = {
    "forward": ("source",),
    "inverse": ("solution",),
    "reconstruction": ("source", "solution"),
}


def _problem(name, names):
    def make(quick):
        return Measured(names, samples=64 if quick else 512)

    bench.problem("piddm", name, label=name, kind="measured", quick="re" in name)(make)


for _name, _names in OBSERVED.items():
    _problem(_name, _names)


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What refinement makes of measurements, beside what is exact; a method."""

    share: float
    noise: float
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def configuration_on(self, problem: Measured):
        return {"share": self.share, "noise": self.noise, "options": self.options}

    def __call__(self, problem: Measured, seed, quick) -> bench.Outcome:
        observation = problem.observe(self.share, self.noise, seed)
        count = problem.samples
        refined = px.refine(
            problem.student, observation, problem.constraint,
            key=jax.random.key(100 + seed), samples=count, batch_size=count,
            antithetic=True, progress=False, **self.options,
        )  # fmt: skip
        mean, std = (a / problem.sizes for a in problem.posterior(observation))
        fields = refined.fields / problem.sizes
        norm = np.linalg.norm(mean)
        spread, some = fields.std(axis=0, ddof=1), std.mean() > 1e-2
        known = std > 1e-3 * std.max()  # prescribed and observed values have no spread
        ratio = float((spread[known] / std[known]).mean())
        metrics = {
            "mean_error": float(np.linalg.norm(fields.mean(axis=0) - mean) / norm),
            "sampling_error": float(np.linalg.norm(std) / np.sqrt(count) / norm),
            "spread_ratio": ratio if some else None,
            "ratio_of_means": float(spread.mean() / std.mean()) if some else None,
            "spread": float(spread.mean()),
            "exact_spread": float(std.mean()),
            "relative_residual": float(np.median(refined.relative)),
            "objective": float(np.median(refined.best.sum(axis=1))),
            "converged": float(refined.converged.mean()),
            "failed": int(refined.failed.sum()),
            "steps": float(refined.steps.mean()),
        }
        return bench.Outcome(metrics, refined.cost.as_dict())


WAYS: dict[str, dict[str, Any]] = {
    "Gauss-Newton": {},
    "Gauss-Newton, anchored to zero (MAP)": {"anchor": "norm"},
    "Gauss-Newton, no anchor": {"anchor": None},
    "L-BFGS, 200 steps": {"solver": LBFGS(200)},
    "L-BFGS, 1000 steps": {"solver": LBFGS(1000, rtol=1e-6, atol=1e-6)},
    "Adam, 50 steps of 0.02": {"solver": Adam(0.02, 50)},
    "Adam, 500 steps of 0.02": {"solver": Adam(0.02, 500)},
    "Gauss-Newton, once more": {"solver": GaussNewton()},
}


def _register():
    for share in (0.03, 0.1, 0.3):
        for noise in (0.0, 0.01, 0.1):
            bench.method(
                "piddm",
                f"measured at {share:.0%}, noise {noise:.0%}",
                on=("measured",),
                seeds=SEEDS,
                quick=(share, noise) == (0.1, 0.1),
                group="posterior",
            )(Posterior(share, noise))
    for name, options in WAYS.items():
        bench.method(
            "piddm",
            f"way: {name}",
            label=name,
            on=("reconstruction",),
            quick=False,
            group="ways",
        )(Posterior(0.1, 0.1, options))


_register()
