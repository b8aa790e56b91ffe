"""Problems of two dimensions, whose posteriors are known by quadrature.

- The banana, x = (e1, e2 + b (e1^2 - 1)): its second entry is observed with noise.
- A product, a u = 1, with a = exp(e1 / 2) and u = 1/a + e2 / 5: a student that nearly
  solves its equation. Nothing is observed; the law of e1 is the prior's.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax.inference import (
    HMC,
    MALA,
    PCN,
    SMC,
    Ensemble,
    LatentPrior,
    RandomisedMaximumLikelihood,
)

from .. import bench

SEEDS = (0, 1, 2)
ERROR = 0.2  # of the student of the product


@dataclasses.dataclass(frozen=True, eq=False)
class Banana:
    """Its bend, the observed value, and the noise."""

    bend: float
    value: float
    noise: float = 0.3
    samples: int = 8192

    def prior(self):
        bend = lambda e: jnp.stack([e[0], e[1] + self.bend * (e[0] ** 2 - 1)])[:, None]
        return LatentPrior(bend, (2,))

    def arguments(self) -> dict[str, Any]:
        mask = np.array([[False], [True]])
        values = np.full((2, 1), self.value, np.float32)
        return {"observations": px.Observation(mask, values, self.noise)}

    @functools.cached_property
    def exact(self):
        """The standard deviation of x1, whose mean is zero."""
        e = np.linspace(-8, 8, 3201)
        e1, e2 = np.meshgrid(e, e, indexing="ij")
        off = (e2 + self.bend * (e1**2 - 1) - self.value) / self.noise
        p = np.exp(-0.5 * (e1**2 + e2**2 + off**2))
        return {"mean": 0.0, "std": float(np.sqrt((p * e1**2).sum() / p.sum()))}


class Fields(NamedTuple):
    a: Any
    u: Any


class Product(px.pde.AbstractEquation[Fields]):
    """a u = 1 at every point."""

    grid: px.pde.Grid
    Fields: ClassVar[type[Any]] = Fields
    given: ClassVar[tuple[str, ...]] = ("a",)
    kind: ClassVar[Any] = "bilinear"

    def draw(self, *, key):
        return (jnp.exp(0.5 * jax.random.normal(key, self.grid.shape)),)

    def solve(self, a):
        return Fields(a, 1 / a)

    def residual(self, fields):
        return fields.a * fields.u - 1

    def scale(self, fields):
        return jnp.ones(())

    def log_determinant(self, fields):
        return jnp.sum(jnp.log(jnp.abs(fields.a)))


@dataclasses.dataclass(frozen=True, eq=False)
class OfProduct:
    """Three independent points; what the slack is for, and the slack; with
    `determinant` the factor of a penalised residual is taken away.
    """

    slack_on: str
    slack: float = 0.1
    determinant: bool = False
    samples: int = 4096
    exact: ClassVar[dict[str, float]] = {"mean": 0.0, "std": 1.0}

    def configuration(self):
        own = {"class": "OfProduct", "slack_on": self.slack_on, "slack": self.slack}
        own |= {"determinant": True} if self.determinant else {}
        return own | {"samples": self.samples}

    def prior(self):
        def student(e):
            a = jnp.exp(0.5 * e[:, 0])
            return jnp.stack([a, 1 / a + ERROR * e[:, 1]], axis=-1)

        return LatentPrior(student, (3, 2))

    def arguments(self) -> dict[str, Any]:
        identity = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
        residual = px.Residual(Product(px.pde.Grid((3,))), identity)
        return {
            "constraint": residual,
            "slack": self.slack,
            "slack_on": self.slack_on,
            "determinant": self.determinant,
        }


PROBLEMS = {
    "banana, b = 0.2": Banana(0.2, 2.0),
    "banana, b = 1": Banana(1.0, 0.3),
    "a u = 1, slack on the residual": OfProduct("residual"),
    "a u = 1, slack on the solution": OfProduct("solution"),
    "a u = 1, with the determinant": OfProduct("residual", determinant=True),
}
METHODS = {
    "PCN": PCN(chains=16, thin=20),
    "SMC": SMC(),
    "Ensemble": Ensemble(),
    "RandomisedMaximumLikelihood": RandomisedMaximumLikelihood(),
    "the same, weighted": RandomisedMaximumLikelihood(weigh=True),
    "the same, as chains": RandomisedMaximumLikelihood(metropolis=True),
    "MALA": MALA(chains=16, warmup=400, thin=40),
    "HMC": HMC(chains=16, warmup=200, thin=4, leaps=8),
}
WITHOUT_WEIGHTS = ("Ensemble", "RandomisedMaximumLikelihood")  # or determinants


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Moments of e1 beside the exact ones; a method."""

    name: str

    def configuration_on(self, problem):
        return {"method": repr(METHODS[self.name])}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        found = px.infer(
            problem.prior(),
            key=jax.random.key(seed),
            method=METHODS[self.name],
            samples=512 if quick else problem.samples,
            progress=False,
            **problem.arguments(),
        )
        first = found.latent.reshape(len(found.latent), -1, 2)[..., 0]
        first = first.astype(np.float64)
        even = np.full(len(first), 1 / len(first))
        weights = even if found.weights is None else found.weights
        mean = float((weights[:, None] * first).sum(axis=0).mean())
        std = np.sqrt((weights[:, None] * (first - mean) ** 2).sum(axis=0).mean())
        metrics = {
            "mean": mean,
            "std": float(std),
            "exact_mean": problem.exact["mean"],
            "exact_std": problem.exact["std"],
            "effective": None if np.isnan(found.bulk_ess) else found.bulk_ess,
            "trusted": bool(found.trusted),
            "samples": len(first),
        }
        return bench.Outcome(metrics, found.cost.as_dict())


def _register():
    for name, problem in PROBLEMS.items():
        kind = "determinant" if getattr(problem, "determinant", False) else "toy"
        bench.problem("inference", name, kind=kind)(
            lambda quick, problem=problem: problem
        )
    for name in METHODS:
        on = ("toy",) if name in WITHOUT_WEIGHTS else ("toy", "determinant")
        quick = name in ("PCN", *WITHOUT_WEIGHTS)
        bench.method("inference", name, on=on, seeds=SEEDS, quick=quick)(Inferred(name))


_register()
