"""The linear Gaussian problem: the exact teacher, and the exact posterior.

Sixteen points of a field with an exponential covariance. Three points and the mean are
observed, with noise or exactly. Every method has one setting, the default of the
package, and a hundred levels; the same keys.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax import inference
from pidax.constraint import Affine
from pidax.inference import (
    DAPS,
    DPS,
    ECI,
    PCFM,
    PCN,
    SMC,
    CoCoGen,
    DFlow,
    DiffusionPDE,
    EnsembleGuidance,
    FlowChef,
    PiGDM,
    ProFlow,
    REDDiff,
    SolvedFlow,
    Twisted,
)

from .. import bench

SEEDS = (0, 1, 2)
POINTS, SEEN = 16, (2, 7, 12)
SIZE, LENGTH = 0.5, 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class LinearGaussian:
    """The standard deviation of the measurements; 0 is exact."""

    noise: float
    samples: int = 4096

    @functools.cached_property
    def law(self):
        """The data: an exponential covariance."""
        apart = np.abs(np.subtract.outer(np.arange(POINTS), np.arange(POINTS)))
        cov = SIZE**2 * np.exp(-apart / LENGTH)
        mean = 0.3 * np.sin(2 * np.pi * np.arange(POINTS) / POINTS)
        return px.Gaussian(jnp.asarray(mean[:, None], float), jnp.asarray(cov, float))

    @functools.cached_property
    def flow(self):
        """The exact teacher."""
        return px.ProbabilityFlow(self.law, px.EDM(sigma_data=SIZE))

    @functools.cached_property
    def rows(self):
        """Three points, and the mean."""
        rows = np.zeros((len(SEEN) + 1, POINTS, 1))
        rows[range(len(SEEN)), SEEN, 0] = 1
        rows[-1] = 1 / POINTS
        return rows

    @functools.cached_property
    def values(self):
        """Measured on one draw of the data, whose noise is left out where it is 0."""
        truth = np.asarray(self.law.sample(key=jax.random.key(7)), np.float64)
        off = np.random.default_rng(7).normal(size=len(self.rows))
        return np.tensordot(self.rows, truth, 2) + self.noise * off

    @functools.cached_property
    def observations(self):
        """What every method is asked to satisfy."""
        rows, values = jnp.asarray(self.rows, float), jnp.asarray(self.values, float)
        return Affine(rows, values, noise=self.noise)

    @functools.cached_property
    def exact(self):
        """Mean and covariance of the posterior, in float64."""
        rows = self.rows.reshape(len(self.rows), -1)
        apart = np.abs(np.subtract.outer(np.arange(POINTS), np.arange(POINTS)))
        cov = SIZE**2 * np.exp(-apart / LENGTH)
        mean = 0.3 * np.sin(2 * np.pi * np.arange(POINTS) / POINTS)
        inner = rows @ cov @ rows.T + self.noise**2 * np.eye(len(rows))
        gain = np.linalg.solve(inner, rows @ cov).T
        return mean + gain @ (self.values - rows @ mean), cov - gain @ rows @ cov

    def judge(self, fields) -> dict[str, float]:
        """Mean, spread and misfit of samples beside the exact posterior."""
        x = np.asarray(fields, np.float64)[..., 0]
        mean, cov = self.exact
        free = np.setdiff1d(np.arange(POINTS), SEEN)
        std = np.sqrt(np.diag(cov)[free])
        told = np.einsum("kij,nij->nk", self.rows, x[..., None])
        own, seen = np.cov(x.T), np.tensordot(self.rows, mean[:, None], 2)
        rows = self.rows.reshape(len(self.rows), -1)
        spread = np.sqrt(np.diag(rows @ cov @ rows.T).clip(0)) if self.noise else 1.0
        ratio = told.std(axis=0) / spread if self.noise else np.zeros(len(rows))
        return {
            "mean_error": float(
                np.sqrt(np.mean(((x.mean(0) - mean)[free] / std) ** 2))
            ),
            "std_ratio": float(np.mean(np.sqrt(np.diag(own)[free]) / std)),
            "seen_error": float(np.sqrt(np.mean((told.mean(0) - seen) ** 2))) / SIZE,
            "seen_ratio": float(np.mean(ratio)),
            "misfit": float(np.sqrt(np.mean((told - self.values) ** 2))) / SIZE,
            "w2": wasserstein(x.mean(0), own, mean, cov) / np.sqrt(np.trace(cov)),
            "trace": float(np.trace(cov)),
        }


def wasserstein(mean, cov, other, wanted) -> float:
    """The 2-Wasserstein distance of two Gaussian laws (Bures)."""
    values, vectors = np.linalg.eigh(wanted)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov @ root).clip(0)).sum()
    square = ((mean - other) ** 2).sum() + np.trace(cov) + np.trace(wanted) - 2 * cross
    return float(np.sqrt(max(square, 0.0)))


SOFT, HARD = "noisy", "exact"
METHODS = {
    "DPS": (DPS(), (SOFT, HARD)),
    "PiGDM": (PiGDM(), (SOFT, HARD)),
    "PiGDM, tweedie": (PiGDM(covariance="tweedie"), (SOFT, HARD)),
    "FlowChef": (FlowChef(), (SOFT, HARD)),
    "DiffusionPDE": (DiffusionPDE(), (SOFT, HARD)),
    "DAPS": (DAPS(steps=100), (SOFT,)),
    "DAPS, 1 inner": (DAPS(steps=100, inner=1), (SOFT,)),
    "RED-diff": (REDDiff(), (SOFT, HARD)),
    "CoCoGen": (CoCoGen(), (SOFT, HARD)),
    "ProFlow": (ProFlow(), (SOFT, HARD)),
    "ECI": (ECI(), (HARD,)),
    "ECI, first noise": (ECI(noise="first"), (HARD,)),
    "ECI, mixing 5, resampled": (ECI(mixing=5, resample=5, noise="first"), (HARD,)),
    "PCFM": (PCFM(), (HARD,)),
    "PCFM, first noise": (PCFM(noise="first"), (HARD,)),
    "D-Flow": (DFlow(), (SOFT, HARD)),
    "Ensemble guidance": (EnsembleGuidance(), (SOFT,)),
    "Twisted": (Twisted(), (SOFT,)),
    "Twisted, no gradient": (Twisted(gradient=False), (SOFT,)),
    "SMC on the solved flow": (SMC(), (SOFT,)),
    "PCN on the solved flow": (PCN(chains=64, warmup=300, thin=10), (SOFT,)),
}
FEWER = {"D-Flow": 512}
STUDENTS = ("SMC on the solved flow", "PCN on the solved flow")


@dataclasses.dataclass(frozen=True)
class Guided:
    """Samples by a method beside the exact posterior."""

    name: str

    def configuration_on(self, problem):
        return {"method": repr(METHODS[self.name][0]), "samples": self.count(problem)}

    def count(self, problem) -> int:
        return FEWER.get(self.name) or problem.samples

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        prior = problem.flow
        if self.name in STUDENTS:
            prior = SolvedFlow(problem.flow, 9)
        found = px.infer(
            prior,
            problem.observations,
            key=jax.random.key(seed),
            method=METHODS[self.name][0],
            samples=64 if quick else self.count(problem),
            progress=False,
        )
        metrics = problem.judge(found.fields) | {
            "effective": None if np.isnan(found.bulk_ess) else found.bulk_ess,
            "trusted": bool(found.trusted),
            "failed": found.failed,
            "samples": len(found.fields),
        }
        return bench.Outcome(metrics, found.cost.as_dict())


@bench.method("constrained", "exact samples", on=(SOFT, HARD), seeds=SEEDS)
def exact(problem, seed, quick):
    """Draws of the posterior: what chance alone makes of the scores."""
    mean, cov = problem.exact
    rng = np.random.default_rng(seed)
    count = 64 if quick else problem.samples
    x = rng.multivariate_normal(mean, cov, size=count)
    return bench.Outcome(problem.judge(x[..., None]))


@bench.method("constrained", "the prior", on=(SOFT, HARD), seeds=SEEDS)
def plain(problem, seed, quick):
    """Samples of the teacher that know of no observation."""
    found = px.infer(
        problem.flow, key=jax.random.key(seed), method=inference.PiGDM(),
        samples=64 if quick else problem.samples, progress=False,
    )  # fmt: skip
    return bench.Outcome(problem.judge(found.fields), found.cost.as_dict())


def _register():
    for noise, kind in ((0.1, SOFT), (0.0, HARD)):
        name = f"linear Gaussian, {'noise 0.1' if noise else 'exact values'}"
        bench.problem("constrained", name, kind=kind)(
            lambda quick, noise=noise: LinearGaussian(noise)
        )
    for name, (_, on) in METHODS.items():
        quick = name in ("DPS", "ECI", "Twisted")
        bench.method("constrained", name, on=on, seeds=SEEDS, quick=quick)(Guided(name))


_register()
