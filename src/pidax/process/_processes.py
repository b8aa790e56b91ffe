r"""The five processes people use, each a chart of the one ODE.

| class | $\alpha(t)$ | $\sigma(t)$ | $t$ | source |
|---|---|---|---|---|
| `EDM` | $1$ | $t$ | $[\sigma_{min}, \sigma_{max}]$ | Karras et al. 2022 |
| `VE` | $1$ | $\sqrt t$ | $[\sigma_{min}^2, \sigma_{max}^2]$ | Song et al. 2021, in Karras et al.'s Table 1 |
| `VP` | $e^{-b(t)/2}$ | $\sqrt{1 - \alpha^2}$ | $[t_{min}, 1]$ | Ho et al. 2020; Song et al. 2021 |
| `SubVP` | $e^{-b(t)/2}$ | $1 - \alpha^2$ | $[t_{min}, 1]$ | Song et al. 2021 |
| `RectifiedFlow` | $1 - t$ | $t$ | $[t_{min}, 1]$ | Lipman et al. 2023; Liu et al. 2023 |

with $b(t) = \beta_{min} t + \tfrac12 (\beta_{max} - \beta_{min}) t^2$.
"""  # noqa: E501

import jax.numpy as jnp
from equinox import AbstractVar

from .._checks import check_interval, require_positive
from ..types import Elementwise, ElementwiseLike
from ._base import AbstractProcess, as_inexact


class EDM(AbstractProcess):
    """Noise added to unscaled data, with the noise level itself as time.

    Karras et al. 2022, "Elucidating the design space of diffusion-based generative
    models"; the constants are theirs for images scaled to [-1, 1].
    """

    t_min: float
    t_max: float
    sigma_data: float

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

    def alpha(self, t: ElementwiseLike) -> Elementwise:
        return jnp.ones_like(as_inexact(t))

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return as_inexact(t)

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        return as_inexact(sigma) / alpha


class VE(AbstractProcess):
    r"""Variance exploding: $x_t = x_0 + W_t$, Brownian motion in its own time.

    The parametrisation $\sigma = \sqrt t$ of Karras et al. 2022, Table 1, for which
    $t = 0$ is clean data; Song et al. 2021 run the same process in the logarithm of
    sigma, between the same levels.
    """

    t_min: float
    t_max: float
    sigma_data: float

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

    Ho et al. 2020; Song et al. 2021, with their linear $\beta$ from 0.1 to 20.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    sigma_data: float = 0.5
    beta_min: float = 0.1
    beta_max: float = 20.0

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return jnp.sqrt(-jnp.expm1(-self.beta_integral(t)))

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        # (sigma/alpha)^2 = exp(b) - 1
        return self._time_of_beta_integral(jnp.log1p((as_inexact(sigma) / alpha) ** 2))


class SubVP(AbstractLinearBeta):
    r"""Sub-variance preserving: $\sigma = 1 - \alpha^2$ (Song et al. 2021)."""

    t_min: float = 1e-3
    t_max: float = 1.0
    sigma_data: float = 0.5
    beta_min: float = 0.1
    beta_max: float = 20.0

    def sigma(self, t: ElementwiseLike) -> Elementwise:
        return -jnp.expm1(-self.beta_integral(t))

    def time(self, sigma: ElementwiseLike, alpha: ElementwiseLike = 1.0) -> Elementwise:
        # sigma/alpha = 1/a - a = 2 sinh(b/2) for the alpha a = exp(-b/2) of this chart
        ratio = as_inexact(sigma) / alpha
        return self._time_of_beta_integral(2 * jnp.arcsinh(0.5 * ratio))


class RectifiedFlow(AbstractProcess):
    r"""Linear interpolation $x_t = (1 - t) x_0 + t\,\epsilon$ (flow matching).

    Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023,
    "Flow straight and fast". At $t = 1$ the signal is gone: $\alpha = 0$.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    sigma_data: float = 0.5

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
