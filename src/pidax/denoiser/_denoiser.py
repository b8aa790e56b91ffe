r"""The denoiser $D(x, \sigma, \alpha) = E[x_0 \mid \alpha x_0 + \sigma\epsilon = x]$.

A diffusion model is a denoiser. A posterior mean does not depend on the unit of the
observation, so $D(cx, c\sigma, c\alpha) = D(x, \sigma, \alpha)$, and one denoiser works
with every noise process. It is finite without signal ($\alpha = 0$), where it is the
mean of the data. Score, noise prediction and velocity are linear functions of it.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._checks import not_negative
from ..process import AbstractProcess
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)


def as_arrays(
    x: SampleLike, sigma: ScalarLike, alpha: ScalarLike, shape: Shape | None = None
) -> tuple[Sample, Scalar, Scalar]:
    """A sample of this shape and its level, `alpha >= 0`, as arrays of one dtype."""
    x = jnp.asarray(x)
    if shape is not None and x.shape != shape:
        batch = x.shape[1:] == shape
        raise ValueError(
            f"x must be one sample of the shape {shape}, got {x.shape}. "
            + ("Use jax.vmap for a batch." if batch else "Reshape it.")
        )
    signal: Scalar = not_negative(jnp.asarray(alpha, x.dtype))
    return x, jnp.asarray(sigma, x.dtype), signal


class AbstractDenoiser(eqx.Module):
    """E[x0 | x] at any noise level, for one sample.

    A subclass implements `__call__`, the properties `shape` and `interval` (a
    `ProbabilityFlow` refuses noise levels outside it), and `evaluations`.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""

    @property
    @abc.abstractmethod
    def interval(self) -> tuple[float, float]:
        """The noise-to-signal ratios `sigma / alpha` at which the denoiser may be
        called.
        """

    @abc.abstractmethod
    def evaluations(self, condition: Condition = None) -> int:
        """The number of network evaluations of one call with this condition."""

    @abc.abstractmethod
    def __call__(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Sample:
        r"""$E[x_0 \mid \alpha x_0 + \sigma\epsilon = x]$ for one sample `x`.

        `condition` is a class label, a one-hot or any pytree; `augment` are a
        network's augmentation labels; `key=None` means inference (no dropout).
        """

    @typed
    def score(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Sample:
        r"""$\nabla_x \log p(x) = (\alpha D - x) / \sigma^2$ (Tweedie's formula)."""
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        return (alpha * self(x, sigma, alpha, condition) - x) / sigma**2

    @typed
    def noise(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Sample:
        r"""The predicted noise $\hat\epsilon = (x - \alpha D) / \sigma$."""
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        return (x - alpha * self(x, sigma, alpha, condition)) / sigma

    @typed
    def velocity(
        self,
        x: SampleLike,
        t: ScalarLike,
        process: AbstractProcess,
        condition: Condition = None,
    ) -> Sample:
        r"""$dx/dt = \dot\alpha D + \dot\sigma \hat\epsilon$ along `process`.

        For `RectifiedFlow` this is the flow-matching velocity $\hat\epsilon - D$.
        """
        t = jnp.asarray(t, jnp.asarray(x).dtype)
        x, sigma, alpha = as_arrays(x, *process.level(t), self.shape)
        alpha_rate, sigma_rate = process.rates(t)
        x0 = self(x, sigma, alpha, condition)
        return alpha_rate * x0 + sigma_rate * (x - alpha * x0) / sigma


class AbstractExactDenoiser(AbstractDenoiser):
    """A denoiser whose data distribution is known, with density and samples."""

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, float("inf"))

    def evaluations(self, condition: Condition = None) -> int:
        return 1

    @abc.abstractmethod
    def log_density(
        self,
        x: SampleLike,
        sigma: ScalarLike = 0.0,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Scalar:
        r"""The exact log-density of $\alpha x_0 + \sigma\epsilon$ at `x`."""

    @abc.abstractmethod
    def sample(self, *, key: Key, condition: Condition = None) -> Sample:
        """One clean sample $x_0$ of the data distribution."""
