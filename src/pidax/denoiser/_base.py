r"""The denoiser $D(x, \sigma, \alpha) = E[x_0 \mid \alpha x_0 + \sigma\epsilon = x]$.

The one object a diffusion model is. It is *chart-free*: a posterior mean does not
depend on the units of its observation, so $D(cx, c\sigma, c\alpha) = D(x, \sigma,
\alpha)$, and the same denoiser serves every noise process. It is finite where the
signal is gone ($\alpha = 0$): there it is the mean of the data. The score, the noise
prediction and the velocity are views of it.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar

from .._types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)
from ..process import AbstractProcess


class AbstractDenoiser(eqx.Module):
    """E[x0 | x] at any noise level, one sample at a time.

    A subclass states three facts beside its `__call__`:

    - `shape`: the shape of one sample, or None if any will do;
    - `interval`: the noise-to-signal ratios `sigma / alpha` where it may be trusted,
      `(0, inf)` if exact; `ProbabilityFlow` refuses to go beyond;
    - `evaluations`: the network evaluations that one call costs (2 with guidance).
    """

    shape: AbstractVar[Shape | None]
    interval: AbstractVar[tuple[float, float]]
    evaluations: AbstractVar[int]

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
        return (alpha * self(x, sigma, alpha, condition) - x) / jnp.square(sigma)

    @typed
    def noise(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Sample:
        r"""The predicted noise $\hat\epsilon = (x - \alpha D) / \sigma$."""
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

        For `Flow` this is the flow-matching velocity $\hat\epsilon - D$.
        """
        sigma, alpha = process.sigma(t), process.alpha(t)
        alpha_rate, sigma_rate = process.rates(t)
        x0 = self(x, sigma, alpha, condition)
        return alpha_rate * x0 + sigma_rate * (x - alpha * x0) / sigma


class AbstractExactDenoiser(AbstractDenoiser):
    """A denoiser whose data distribution is known: an oracle for everything else."""

    @abc.abstractmethod
    def log_density(
        self,
        x: SampleLike,
        sigma: ScalarLike = 0.0,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Scalar:
        r"""Log-density of $\alpha x_0 + \sigma\epsilon$ at `x`, exactly."""

    @abc.abstractmethod
    def sample(self, *, key: Key, condition: Condition = None) -> Sample:
        """One clean sample $x_0$ of the data distribution."""
