r"""Priors as functions of a standard normal latent.

$$ x = f(\epsilon), \qquad \epsilon \sim N(0, I). $$

A one-step student is such a function. So is every law that is drawn by transforming
normal numbers: a Gaussian, a mixture of Gaussians, a lognormal or thresholded field.
The ODE of a teacher is one as well, of many evaluations (`SolvedFlow`).
An inference that works on $\epsilon$ works for all of them, and exact and learned
priors can be compared by exchanging one argument.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from .._checks import whole_number
from ..denoiser import AbstractExactDenoiser, Gaussian, GaussianMixture
from ..flow import ProbabilityFlow, solve
from ..pde import (
    AbstractEquation,
    AbstractGaussianField,
    AbstractLatentField,
    AbstractRandomField,
    Lognormal,
    Thresholded,
)
from ..process import AbstractProcess
from ..student import AbstractStudent
from ..types import Condition, Sample, Shape, WholeLike


class LatentPrior(eqx.Module):
    """The law of `function(latent)` for a standard normal latent of a shape.

        LatentPrior(lambda e: jnp.exp(factor @ e)[:, None], (12,))
        LatentPrior.of(px.pde.Lognormal(px.pde.Matern(grid)))
        LatentPrior.of(darcy)                 # of its random given field

    **Arguments:**

    - `function`: of one latent; returns one sample, `"*grid channel"`, in physical
      units if no normaliser is used.
    - `shape`: of the latent.
    """

    function: Callable[[Sample], Array]
    shape: Shape = eqx.field(static=True)

    def __check_init__(self):
        if not callable(self.function):
            raise ValueError(
                "a LatentPrior has a function of one latent, got "
                f"{type(self.function).__name__}. Pass LatentPrior(function, shape); "
                "of a law, LatentPrior.of(law)."
            )
        latent = jax.ShapeDtypeStruct(self.shape, jnp.result_type(float))
        out = jax.eval_shape(self.function, latent)
        if not isinstance(out, jax.ShapeDtypeStruct) or out.ndim == 0:
            raise ValueError(
                "the function of a LatentPrior returns one sample, an array whose last "
                f"axis is the channel, got {out}. Stack the fields: jnp.stack([a, u], "
                "axis=-1)."
            )

    @classmethod
    def of(cls, law: Any, modes: WholeLike | None = None) -> "LatentPrior":
        """The prior of a law that is known.

        `law` is a `Gaussian` or a `GaussianMixture`; a Gaussian, lognormal or
        thresholded random field, or one of objects such as `px.pde.Channels`; or an
        equation with one random given field, of which it is the law. `modes` keeps the
        largest modes of a random field.
        """
        if isinstance(law, AbstractEquation):
            law = _given_law(law)
        if isinstance(law, Gaussian):
            return cls(_OfGaussian(law), law.shape)
        if isinstance(law, GaussianMixture):
            size = 1
            for n in law.shape:
                size *= n
            return cls(_OfMixture(law), (1 + size,))
        if isinstance(law, AbstractLatentField):
            return cls(_OfObjects(law), (law.latent_size,))
        if isinstance(law, AbstractRandomField):
            function = _of_field(law, modes)
            return cls(function, function.factor.shape[-1:])
        raise ValueError(
            "expected a law that is a function of normal numbers: a Gaussian, a "
            "GaussianMixture, a random field of px.pde, or an equation with one random "
            f"given field, got {type(law).__name__}. Write the function: "
            "LatentPrior(function, shape)."
        )

    def __call__(self, latent: Sample) -> Array:
        return self.function(latent)


class SolvedFlow(eqx.Module):
    """The law of a teacher: the end of its ODE, solved from a standard normal latent.

        px.infer(SolvedFlow(flow, steps=9), observation, key=key, method=PCN())

    Every method of `infer` takes it. Those that guide a teacher take the flow itself.
    It takes `steps` equal steps of Heun's method in the flow's clock, and the last one
    to zero noise: `2 * steps + 1` evaluations. Gradients go through the solver with
    recursive checkpoints, which keep of the order of the root of `steps` states.
    """

    flow: ProbabilityFlow
    steps: int = eqx.field(static=True, default=18)

    def __check_init__(self):
        whole_number("steps", self.steps)

    @property
    def process(self) -> AbstractProcess:
        """The noise process of the flow."""
        return self.flow.process

    @property
    def shape(self) -> Shape | None:
        """The shape of a latent."""
        return self.flow.shape

    def evaluations(self, condition: Condition) -> int:
        """Of the teacher, for one latent."""
        return (2 * self.steps + 1) * self.flow.denoiser.evaluations(condition)

    def __call__(self, latent: Sample, condition: Condition = None) -> Sample:
        process = self.process
        z = process.sigma(jnp.asarray(process.t_max, latent.dtype)) * latent
        return solve(
            self.flow, z, condition=condition, steps=self.steps, denoise=True,
            solver=diffrax.Heun(), throw=False,
        ).end  # fmt: skip


Prior = AbstractStudent | LatentPrior | SolvedFlow


def evaluations_of(prior: Prior, condition: Condition) -> float:
    """Evaluations of a network for one latent."""
    if isinstance(prior, SolvedFlow):
        return float(prior.evaluations(condition))
    return 0.0 if isinstance(prior, LatentPrior) else 1.0


def is_learned(prior: Prior) -> bool:
    """Whether its samples are in a model's coordinates."""
    if isinstance(prior, SolvedFlow):
        return not isinstance(prior.flow.denoiser, AbstractExactDenoiser)
    return not isinstance(prior, LatentPrior)


def as_prior(prior: Any) -> Prior:
    """A student as it is; of a law, its function of a latent."""
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, type) or not isinstance(
        prior, Gaussian | GaussianMixture | AbstractRandomField | AbstractEquation
    ):
        name = prior.__name__ if isinstance(prior, type) else type(prior).__name__
        raise ValueError(
            "a prior is a one-step student, a LatentPrior(function, shape), a Gaussian "
            "or GaussianMixture, a random field of px.pde, or an equation whose given "
            f"field is random; got {name}. A teacher, a ProbabilityFlow, is guided, "
            "method=inference.DPS(), or passed as inference.SolvedFlow(flow, steps), "
            "which solves its ODE for each proposal; or distil it first."
        )
    return LatentPrior.of(prior)


def draw(prior: Prior, latent: Sample, condition: Condition) -> Array:
    """The sample of a latent, in the prior's own coordinates."""
    if isinstance(prior, LatentPrior):
        return prior(latent)
    if isinstance(prior, SolvedFlow):
        return prior(latent, condition)
    process = prior.process
    last = jnp.asarray(process.t_max, latent.dtype)
    return prior.sample(process.sigma(last) * latent, condition)


class _OfGaussian(eqx.Module):
    law: Gaussian

    def __call__(self, latent: Sample) -> Array:
        return self.law.mean + self.law.covariance.apply(
            jnp.sqrt, latent.astype(self.law.mean.dtype)
        )


class _OfMixture(eqx.Module):
    """The first number of the latent chooses the component, by its quantile."""

    law: GaussianMixture

    def __call__(self, latent: Float[Array, " number"]) -> Array:
        law = self.law
        latent = latent.astype(law.means.dtype)
        ends = jnp.cumsum(jnp.exp(law.log_weights))
        which = jnp.searchsorted(ends, ndtr(latent[0]) * ends[-1])
        which = jnp.minimum(which, len(ends) - 1)
        pick = lambda a: a[which]
        mean, covariance = jax.tree.map(pick, (law.means, law.covariances))
        return mean + covariance.apply(jnp.sqrt, latent[1:].reshape(law.shape))


class _OfField(eqx.Module):
    """mean + factor @ latent, and a function of it point by point."""

    mean: Float[Array, "*grid"]
    factor: Float[Array, "*grid rank"]
    outer: Callable[[Array], Array]

    def __call__(self, latent: Float[Array, " rank"]) -> Array:
        g = self.mean + self.factor @ latent.astype(self.factor.dtype)
        return self.outer(g)[..., None]


class _OfObjects(eqx.Module):
    """The field of a law that is a function of normal numbers itself."""

    law: AbstractLatentField

    def __call__(self, latent: Float[Array, " number"]) -> Array:
        return self.law.from_latent(latent)[..., None]


class _Step(eqx.Module):
    high: float
    low: float

    def __call__(self, g: Array) -> Array:
        return jnp.where(g >= 0, jnp.asarray(self.high, g.dtype), self.low)


def _identity(g: Array) -> Array:
    return g


def _of_field(law: AbstractRandomField, modes: WholeLike | None) -> _OfField:
    inner: Any = law
    outer: Any = _identity
    if isinstance(law, Lognormal):
        inner, outer = law.gaussian, jnp.exp
    elif isinstance(law, Thresholded):
        inner, outer = law.gaussian, _Step(law.high, law.low)
    if not isinstance(inner, AbstractGaussianField):
        raise ValueError(
            "expected a field that is Gaussian, Lognormal or Thresholded, got "
            f"{type(inner).__name__}. Write its function of normal numbers: "
            "LatentPrior(function, shape)."
        )
    factor = inner.factor() if modes is None else inner.factor()[..., : int(modes)]
    if factor.shape[-1] == 0:
        raise ValueError(
            f"expected a random field, got {type(inner).__name__}, which is the same "
            "in every draw. There is nothing to infer."
        )
    return _OfField(inner.mean(), factor, outer)


def _given_law(equation: AbstractEquation) -> AbstractRandomField:
    """The law of the one given field of an equation."""
    law = getattr(equation, equation.given[0], None)
    if len(equation.given) != 1 or not isinstance(law, AbstractRandomField):
        raise ValueError(
            "expected an equation with one random given field, got "
            f"{type(equation).__name__} with {', '.join(equation.given)}. Write the "
            "given fields as a function of normal numbers, LatentPrior(function, "
            "shape), and pass forward=equation."
        )
    return law
