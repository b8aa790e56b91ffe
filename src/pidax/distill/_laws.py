r"""Laws of the training time: where a loss over all noise levels looks.

An expectation over $t$ is what most objectives minimise; its law decides which noise
levels get the gradient's attention. A law gives times of any process.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import require_positive
from ..process import AbstractProcess
from ..types import Key, Scalar

# Karras et al. 2022, Table 1: ln(sigma) ~ N(-1.2, 1.2^2) where sigma_data = 0.5.
EDM_MEAN, EDM_STD = -1.2 - math.log(0.5), 1.2


class AbstractTimeLaw(eqx.Module):
    """A probability law on the times of any process."""

    @abc.abstractmethod
    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        """One time in `[t_min, t_max]` of this process."""


class LogNormal(AbstractTimeLaw):
    r"""$\ln\bigl((\sigma/\alpha)/\sigma_{data}\bigr) \sim N(mean, std^2)$: EDM's law.

    In units of `sigma_data`, so that it means the same for data of any scale and in
    every process. The defaults are those of Karras et al. 2022 for images, in the
    middle of the noise levels, where there is most to learn; levels beyond the
    process's ends are moved to them.
    """

    mean: float = EDM_MEAN
    std: float = EDM_STD

    def __check_init__(self):
        require_positive(std=self.std)

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        n = self.mean + self.std * jax.random.normal(key)
        t = process.time(process.sigma_data * jnp.exp(n))
        return jnp.clip(t, process.t_min, process.t_max)


class UniformTime(AbstractTimeLaw):
    """Uniform in the process's own time: the law of flow matching, for `RectifiedFlow`.

    For `EDM` and `VE` almost all of it would be noise; use `LogNormal` or
    `UniformAngle` there.
    """

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        return _at_fraction(process, jax.random.uniform(key))


class LogitNormal(AbstractTimeLaw):
    r"""$t = t_{min} + (t_{max} - t_{min}) / (1 + e^{-n})$ with $n \sim N(mean, std^2)$.

    The middle times of a linear flow more often than its ends. Esser et al. 2024,
    "Scaling rectified flow transformers for high-resolution image synthesis", section
    3.1, where mean 0 and standard deviation 1 did best.
    """

    mean: float = 0.0
    std: float = 1.0

    def __check_init__(self):
        require_positive(std=self.std)

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        n = self.mean + self.std * jax.random.normal(key)
        return _at_fraction(process, jax.nn.sigmoid(n))


class UniformAngle(AbstractTimeLaw):
    r"""Uniform in the angle $\varphi$: the same levels in every process.

    Even along the path that the default clock follows, so a network's error is
    attended to where a solver meets it.
    """

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        low, high = process.angle(process.t_min), process.angle(process.t_max)
        t = process.time_of_angle(low + (high - low) * jax.random.uniform(key))
        return jnp.clip(t, process.t_min, process.t_max)


def _at_fraction(process: AbstractProcess, fraction: Scalar) -> Scalar:
    return process.t_min + (process.t_max - process.t_min) * fraction
