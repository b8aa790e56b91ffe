r"""The chart of a Gaussian diffusion: $x_t = \alpha(t)\, x_0 + \sigma(t)\, \epsilon$.

A process is three functions (alpha, sigma and the time at which a noise level is
reached), a time interval, and the scale of the data. All Gaussian diffusions are one
ODE seen through such charts; their common coordinate is the angle

$$ \varphi = \operatorname{atan2}(\sigma,\ \alpha\,\sigma_{data}) \in (0, \pi/2],
\qquad y = x / \sqrt{(\alpha\,\sigma_{data})^2 + \sigma^2}. $$
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array

from .._checks import is_traced
from ..types import (
    Elementwise,
    ElementwiseLike,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)

RATIO_CAP = 160.0  # in units of sigma_data


class AbstractProcess(eqx.Module):
    r"""A Gaussian noise process $x_t = \alpha(t) x_0 + \sigma(t)\epsilon$.

    To write your own, subclass it with the fields `t_min`, `t_max`, `sigma_data` (the
    root-mean-square of one component of the data) and the three methods `alpha`,
    `sigma` and `time`; everything else follows. `sigma / alpha` must increase with `t`.
    """

    t_min: AbstractVar[float]
    t_max: AbstractVar[float]
    sigma_data: AbstractVar[float]

    @abc.abstractmethod
    def alpha(self, t: ElementwiseLike) -> Elementwise:
        """The factor of the clean sample at time `t`."""

    @abc.abstractmethod
    def sigma(self, t: ElementwiseLike) -> Elementwise:
        """The standard deviation of the noise at time `t`."""

    @abc.abstractmethod
    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        """The time whose noise-to-signal ratio is `sigma / alpha`.

        Homogeneous in its two arguments, which may come from any other chart.
        """

    def level(self, t: ElementwiseLike) -> tuple[Elementwise, Elementwise]:
        r"""The noise level $(\sigma, \alpha)$ at time `t`, with $\alpha \ge 0$.

        A cosine at $\pi/2$ may round below zero; here it does not, and keeps its
        derivative.
        """
        t = as_inexact(t)
        return self.sigma(t), not_negative(self.alpha(t))

    def angle(self, t: ElementwiseLike) -> Elementwise:
        r"""$\varphi(t) = \operatorname{atan2}(\sigma, \alpha\sigma_{data})$."""
        sigma, alpha = self.level(t)
        return jnp.arctan2(sigma, alpha * self.sigma_data)

    def time_of_angle(self, angle: ElementwiseLike) -> Elementwise:
        """The inverse of `angle`."""
        phi = as_inexact(angle)
        return self.time(self.sigma_data * jnp.sin(phi), jnp.cos(phi))

    def scale(self, t: ElementwiseLike) -> Elementwise:
        r"""$\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$, the size of $x_t$."""
        return level_scale(*self.level(t), self.sigma_data)

    def snr(self, t: ElementwiseLike) -> Elementwise:
        r"""Signal-to-noise ratio $(\alpha\,\sigma_{data}/\sigma)^2$."""
        sigma, alpha = self.level(t)
        return (alpha * self.sigma_data / sigma) ** 2

    @property
    def ratio_interval(self) -> tuple[float, float]:
        r"""The noise-to-signal ratios $\sigma/\alpha$ at `t_min` and at `t_max`."""
        if is_traced(self):
            return 0.0, float("inf")  # not known while tracing
        with jax.ensure_compile_time_eval():
            levels = [map(float, self.level(t)) for t in (self.t_min, self.t_max)]
        low, high = (s / a if a > 0 else float("inf") for s, a in levels)
        return low, high

    def rates(self, t: ElementwiseLike) -> tuple[Elementwise, Elementwise]:
        r"""The derivatives $(\dot\alpha, \dot\sigma)$ at time `t`."""
        t = as_inexact(t)
        one = jnp.ones_like(t)
        return (
            jax.jvp(self.alpha, (t,), (one,))[1],
            jax.jvp(self.sigma, (t,), (one,))[1],
        )

    @typed
    def perturb(
        self, x0: SampleLike, t: ScalarLike, *, key: Key
    ) -> tuple[Sample, Sample]:
        r"""Draw $x_t = \alpha x_0 + \sigma\epsilon$; returns $(x_t, \epsilon)$.

        One sample; `jax.vmap` it over a batch with one key each.
        """
        x0 = jnp.asarray(x0)
        eps = jax.random.normal(key, x0.shape, x0.dtype)
        sigma, alpha = self.level(jnp.asarray(t, x0.dtype))
        return alpha * x0 + sigma * eps, eps

    @typed
    def prior(self, key: Key, shape: Shape = ()) -> Array:
        r"""A draw $z \sim N(0, \sigma(T)^2 I)$ of the given shape (batches too)."""
        z = jax.random.normal(key, shape)
        return self.sigma(jnp.asarray(self.t_max, z.dtype)) * z

    @typed
    def prior_log_density(self, z: SampleLike) -> Scalar:
        r"""$\log N(z; 0, \sigma(T)^2 I)$ of one sample."""
        z = jnp.asarray(z)
        sigma = self.sigma(jnp.asarray(self.t_max, z.dtype))
        return jax.scipy.stats.norm.logpdf(z, scale=sigma).sum()

    @typed
    def convert(
        self, x: SampleLike, t: ScalarLike, other: "AbstractProcess"
    ) -> tuple[Sample, Scalar]:
        """The same noised sample in the chart of `other`: returns `(x', t')`.

        The noise-to-signal ratio is kept, so both describe one state of one ODE. The
        time may fall outside `other`'s interval when that process stops earlier.
        """
        x = jnp.asarray(x)
        sigma, alpha = self.level(jnp.asarray(t, x.dtype))
        t_new = other.time(sigma, alpha).astype(x.dtype)
        old = level_scale(sigma, alpha, self.sigma_data)
        new = level_scale(*other.level(t_new), self.sigma_data)
        return x * (new / old).astype(x.dtype), t_new


def as_inexact(t: ElementwiseLike) -> Array:
    """`t` as a floating-point array; Python and NumPy integers are welcome as times."""
    if isinstance(t, int):
        t = float(t)
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def not_negative(alpha: Elementwise) -> Elementwise:
    """`alpha`, and zero where it rounds below, with the derivative of `alpha`."""
    return alpha + jax.lax.stop_gradient(jnp.maximum(-alpha, 0))


def ratio_ends(process: AbstractProcess, dtype: Any = float) -> tuple[Scalar, Scalar]:
    r"""The least and the largest $\sigma/\alpha$ of a process, where logarithms exist.

    The largest is `RATIO_CAP` times `sigma_data` for one that ends without signal.
    """
    first, last = (jnp.asarray(t, dtype) for t in (process.t_min, process.t_max))
    sigma, alpha = process.level(first)
    low = sigma / alpha
    sigma, alpha = process.level(last)
    signal = alpha > jnp.finfo(alpha.dtype).eps
    cap = jnp.maximum(RATIO_CAP * process.sigma_data, 2 * low)  # or above the start
    return low, jnp.where(signal, sigma / jnp.where(signal, alpha, 1.0), cap)


def level_scale(
    sigma: ElementwiseLike, alpha: ElementwiseLike, sigma_data: ElementwiseLike
) -> Elementwise:
    r"""$\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$ of a noise level in any chart."""
    return jnp.hypot(jnp.asarray(alpha) * sigma_data, jnp.asarray(sigma))
