r"""Noise processes of Gaussian diffusions: $x_t = \alpha(t)\, x_0 + \sigma(t)\, \epsilon$.

A process has three functions (alpha, sigma, and the time at which a noise level is
reached), a time interval, and the scale of the data. All Gaussian diffusions have the
same ODE in different coordinates. The angle is a time that they have in common:

$$ \varphi = \operatorname{atan2}(\sigma,\ \alpha\,\sigma_{data}) \in (0, \pi/2],
\qquad y = x / \sqrt{(\alpha\,\sigma_{data})^2 + \sigma^2}. $$

Five processes are implemented:

| class | $\alpha(t)$ | $\sigma(t)$ | $t$ | source |
|---|---|---|---|---|
| `EDM` | $1$ | $t$ | $[\sigma_{min}, \sigma_{max}]$ | Karras et al. 2022 |
| `VE` | $1$ | $\sqrt t$ | $[\sigma_{min}^2, \sigma_{max}^2]$ | Song et al. 2021, in Karras et al.'s Table 1 |
| `VP` | $e^{-b(t)/2}$ | $\sqrt{1 - \alpha^2}$ | $[t_{min}, 1]$ | Ho et al. 2020; Song et al. 2021 |
| `SubVP` | $e^{-b(t)/2}$ | $1 - \alpha^2$ | $[t_{min}, 1]$ | Song et al. 2021 |
| `RectifiedFlow` | $1 - t$ | $t$ | $[t_{min}, 1]$ | Lipman et al. 2023; Liu et al. 2023 |

with $b(t) = \beta_{min} t + \tfrac12 (\beta_{max} - \beta_{min}) t^2$.
"""  # noqa: E501

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array

from .._checks import (
    as_float,
    check_interval,
    is_traced,
    not_negative,
    require_positive,
)
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
number = functools.partial(eqx.field, converter=as_float)
_Init = TypeVar("_Init", bound=Callable[..., None])


def _by_noise_levels(init: _Init) -> _Init:
    """Names `sigma_min` and `sigma_max` to those who pass `t_min` or `t_max`."""

    @functools.wraps(init)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        times = [name for name in ("t_min", "t_max") if name in kwargs]
        if times:
            name = type(self).__name__
            square = " (t is sigma squared)" if name == "VE" else " (t is sigma)"
            raise ValueError(
                f"{name} is made by its noise levels, sigma_min and sigma_max, got "
                f"{' and '.join(times)}. Pass "
                f"{' and '.join(t.replace('t_', 'sigma_') for t in times)}{square}."
            )
        init(self, *args, **kwargs)

    return cast(_Init, made)


def _shown(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else eqx.tree_pformat(value)


class AbstractProcess(eqx.Module):
    r"""A Gaussian noise process $x_t = \alpha(t) x_0 + \sigma(t)\epsilon$.

    To write your own, subclass it with the fields `t_min`, `t_max` and `sigma_data`
    (the root mean square of one component of the data) and the methods `alpha`, `sigma`
    and `time`. All other methods follow from these. `sigma / alpha` must increase with
    `t`.
    """

    t_min: AbstractVar[float]
    t_max: AbstractVar[float]
    sigma_data: AbstractVar[float]

    def __repr__(self) -> str:
        said = [f"{name}={_shown(x)}" for name, x in self._arguments().items()]
        return f"{type(self).__name__}({', '.join(said)})"

    def _arguments(self) -> dict[str, Any]:
        """What it was made with, by name; by default its fields."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields}

    @abc.abstractmethod
    def alpha(self, t: ElementwiseLike) -> Elementwise:
        """The factor of the clean sample at time `t`."""

    @abc.abstractmethod
    def sigma(self, t: ElementwiseLike) -> Elementwise:
        """The standard deviation of the noise at time `t`."""

    @abc.abstractmethod
    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        """The time at which the noise-to-signal ratio is `sigma / alpha`.

        The result depends on the ratio only, so both arguments may come from another
        process.
        """

    def level(self, t: ElementwiseLike) -> tuple[Elementwise, Elementwise]:
        r"""The noise level $(\sigma, \alpha)$ at time `t`, with $\alpha \ge 0$.

        A cosine at $\pi/2$ may round to a number below zero. Here it is zero, and keeps
        its derivative.
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
        sigma, alpha = self.level(t)
        return jnp.hypot(alpha * self.sigma_data, sigma)

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

    def ratio_ends(self, dtype: Any = float) -> tuple[Scalar, Scalar]:
        r"""`ratio_interval` as arrays, both finite: at most $160\,\sigma_{data}$
        without signal.

        160 is the ratio of EDM's $\sigma_{max} = 80$ to its $\sigma_{data} = 0.5$.
        """
        first, last = (jnp.asarray(t, dtype) for t in (self.t_min, self.t_max))
        sigma, alpha = self.level(first)
        low = sigma / alpha
        sigma, alpha = self.level(last)
        signal = alpha > jnp.finfo(alpha.dtype).eps
        cap = jnp.maximum(RATIO_CAP * self.sigma_data, 2 * low)  # above t_min
        return low, jnp.where(signal, sigma / jnp.where(signal, alpha, 1.0), cap)

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

        Takes one sample. For a batch use `jax.vmap` with one key for each sample.
        """
        x0 = jnp.asarray(x0)
        eps = jax.random.normal(key, x0.shape, x0.dtype)
        sigma, alpha = self.level(jnp.asarray(t, x0.dtype))
        return alpha * x0 + sigma * eps, eps

    @typed
    def prior(self, key: Key, shape: Shape = ()) -> Array:
        r"""A draw $z \sim N(0, \sigma(T)^2 I)$ of the shape `shape`, which may include
        a batch axis.
        """
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
        """The same noised sample in the process `other`: returns `(x', t')`.

        The noise-to-signal ratio does not change. The time may lie outside the interval
        of `other` if that process stops earlier.
        """
        x = jnp.asarray(x)
        t = jnp.asarray(t, x.dtype)
        t_new = other.time(*self.level(t)).astype(x.dtype)
        sigma, alpha = other.level(t_new)
        new = jnp.hypot(alpha * self.sigma_data, sigma)
        return x * (new / self.scale(t)).astype(x.dtype), t_new


class EDM(AbstractProcess):
    r"""Noise is added to unscaled data, and the time is the noise level: $\alpha = 1$,
    $\sigma = t$.

    Karras et al. 2022, "Elucidating the design space of diffusion-based generative
    models". The defaults are for images scaled to [-1, 1].

    **Arguments:**

    - `sigma_min`, `sigma_max`: the least and the largest noise level.
    - `sigma_data`: the root mean square of one component of the data.
    """

    t_min: float = number()
    t_max: float = number()
    sigma_data: float = number()

    @_by_noise_levels
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
    ):
        self.t_min = sigma_min
        self.t_max = sigma_max
        self.sigma_data = sigma_data

    def __check_init__(self):
        require_positive(sigma_data=self.sigma_data)
        levels = self.t_min, self.t_max
        check_interval("sigma_min, sigma_max", levels, positive=True)

    def _arguments(self) -> dict[str, Any]:
        return {
            "sigma_min": self.t_min,
            "sigma_max": self.t_max,
            "sigma_data": self.sigma_data,
        }

    def alpha(self, t: ElementwiseLike) -> Elementwise:
        return jnp.ones_like(as_inexact(t))

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return as_inexact(t)

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        return as_inexact(sigma) / alpha


class VE(AbstractProcess):
    r"""Variance exploding: $x_t = x_0 + W_t$ with Brownian motion $W$.

    Uses $\sigma = \sqrt t$ (Karras et al. 2022, Table 1), so $t = 0$ is clean data.
    Song et al. 2021 run the same process in the logarithm of sigma, between the same
    levels.

    **Arguments:**

    - `sigma_min`, `sigma_max`: the least and the largest noise level.
    - `sigma_data`: the root mean square of one component of the data.
    """

    t_min: float = number()
    t_max: float = number()
    sigma_data: float = number()

    @_by_noise_levels
    def __init__(
        self,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        sigma_data: float = 0.5,
    ):
        check_interval("sigma_min, sigma_max", (sigma_min, sigma_max), positive=True)
        self.t_min = sigma_min**2
        self.t_max = sigma_max**2
        self.sigma_data = sigma_data

    def __check_init__(self):
        require_positive(sigma_data=self.sigma_data)
        check_interval("t_min, t_max", (self.t_min, self.t_max), positive=True)

    def _arguments(self) -> dict[str, Any]:
        return {
            "sigma_min": self.t_min**0.5,
            "sigma_max": self.t_max**0.5,
            "sigma_data": self.sigma_data,
        }

    def alpha(self, t: ElementwiseLike) -> Elementwise:
        return jnp.ones_like(as_inexact(t))

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return jnp.sqrt(as_inexact(t))

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        return (as_inexact(sigma) / alpha) ** 2


class AbstractLinearBeta(AbstractProcess):
    r"""Processes with $\alpha = e^{-b(t)/2}$ and $\beta = b'$ linear in time."""

    beta_min: AbstractVar[float]
    beta_max: AbstractVar[float]

    def __check_init__(self):
        require_positive(sigma_data=self.sigma_data)
        check_interval("beta_min, beta_max", (self.beta_min, self.beta_max), least=0)
        check_interval("t_min, t_max", (self.t_min, self.t_max), positive=True, most=1)

    def beta_integral(self, t: ElementwiseLike) -> Elementwise:
        r"""$b = \int_0^t \beta = \beta_{min} t + (\beta_{max}-\beta_{min}) t^2/2$."""
        t = as_inexact(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: ElementwiseLike) -> Elementwise:
        return jnp.exp(-0.5 * self.beta_integral(t))

    def _time_of_beta_integral(self, b: Elementwise) -> Elementwise:
        # The positive root of slope t^2 / 2 + beta_min t = b, written so that nothing
        # cancels and b = inf (no signal) gives t = inf.
        start, slope = self.beta_min / b, (self.beta_max - self.beta_min) / b
        return 2 / (start + jnp.sqrt(start**2 + 2 * slope))


class VP(AbstractLinearBeta):
    r"""Variance preserving: $\alpha^2 + \sigma^2 = 1$ (DDPM in continuous time).

    Ho et al. 2020; Song et al. 2021, with a linear $\beta$ from 0.1 to 20.

    **Arguments:**

    - `t_min`, `t_max`: the interval of times, within $[0, 1]$.
    - `sigma_data`: the root mean square of one component of the data.
    - `beta_min`, `beta_max`: $\beta$ at the times 0 and 1.
    """

    t_min: float = number()
    t_max: float = number()
    sigma_data: float = number()
    beta_min: float = number()
    beta_max: float = number()

    def __init__(
        self,
        t_min: float = 1e-3,
        t_max: float = 1.0,
        sigma_data: float = 0.5,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
    ):
        self.t_min, self.t_max, self.sigma_data = t_min, t_max, sigma_data
        self.beta_min, self.beta_max = beta_min, beta_max

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return jnp.sqrt(-jnp.expm1(-self.beta_integral(t)))

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        # (sigma/alpha)^2 = exp(b) - 1
        return self._time_of_beta_integral(jnp.log1p((as_inexact(sigma) / alpha) ** 2))


class SubVP(AbstractLinearBeta):
    r"""Sub-variance preserving: $\sigma = 1 - \alpha^2$ (Song et al. 2021).

    **Arguments:**

    - `t_min`, `t_max`: the interval of times, within $[0, 1]$.
    - `sigma_data`: the root mean square of one component of the data.
    - `beta_min`, `beta_max`: $\beta$ at the times 0 and 1.
    """

    t_min: float = number()
    t_max: float = number()
    sigma_data: float = number()
    beta_min: float = number()
    beta_max: float = number()

    def __init__(
        self,
        t_min: float = 1e-3,
        t_max: float = 1.0,
        sigma_data: float = 0.5,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
    ):
        self.t_min, self.t_max, self.sigma_data = t_min, t_max, sigma_data
        self.beta_min, self.beta_max = beta_min, beta_max

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return -jnp.expm1(-self.beta_integral(t))

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        # sigma/alpha = 1/a - a = 2 sinh(b/2) for alpha a = exp(-b/2)
        ratio = as_inexact(sigma) / alpha
        return self._time_of_beta_integral(2 * jnp.arcsinh(0.5 * ratio))


class RectifiedFlow(AbstractProcess):
    r"""Linear interpolation $x_t = (1 - t) x_0 + t\,\epsilon$ (flow matching).

    Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023, "Flow
    straight and fast". At $t = 1$ there is no signal: $\alpha = 0$.

    **Arguments:**

    - `t_min`, `t_max`: the interval of times, within $[0, 1]$.
    - `sigma_data`: the root mean square of one component of the data.
    """

    t_min: float = number()
    t_max: float = number()
    sigma_data: float = number()

    def __init__(
        self, t_min: float = 1e-3, t_max: float = 1.0, sigma_data: float = 0.5
    ):
        self.t_min, self.t_max, self.sigma_data = t_min, t_max, sigma_data

    def __check_init__(self):
        require_positive(sigma_data=self.sigma_data)
        check_interval("t_min, t_max", (self.t_min, self.t_max), positive=True, most=1)

    def alpha(self, t: ElementwiseLike) -> Elementwise:
        return 1 - as_inexact(t)

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return as_inexact(t)

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        sigma = as_inexact(sigma)
        return sigma / (sigma + alpha)


def as_inexact(t: ElementwiseLike) -> Array:
    """`t` as a floating-point array; integers of Python and NumPy may be passed as
    times.
    """
    if isinstance(t, int):
        t = float(t)
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)
