r"""Clocks: the variables in which the probability-flow ODE is integrated.

The trajectory does not depend on the clock, but the error of a solver does. A clock is
a time variable $\tau$ together with $(\alpha(\tau), \sigma(\tau))$ of the noised sample
$u = \alpha x_0 + \sigma\epsilon$ that the solver steps.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..process import AbstractProcess
from ..types import Elementwise, ElementwiseLike


class AbstractClock(eqx.Module):
    r"""A time variable for the ODE, with the state that belongs to it.

    `needs_signal` is true for a clock without a reading where $\alpha = 0$.
    """

    needs_signal: ClassVar[bool] = False

    @abc.abstractmethod
    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        """Maps process time `t` to solver time `tau`; increasing in `t`."""

    @abc.abstractmethod
    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        """Maps solver time `tau` to process time."""

    @abc.abstractmethod
    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        """The noise level `(sigma, alpha)` of the solver's state at `tau`."""


def magnification(
    clock: AbstractClock, process: AbstractProcess, t: Elementwise
) -> Elementwise:
    """`u / x`, the ratio of the solver's state to the process's state at time `t`."""
    sigma, alpha = clock.level(process, clock.reading(process, t))
    return jnp.hypot(alpha * process.sigma_data, sigma) / process.scale(t)


class AngleClock(AbstractClock):
    r"""The default: $\varphi = \operatorname{atan2}(\sigma, \alpha\sigma_{data})$ and
    $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$.

    It is the same for every process. The state has size one from noise to data, and
    does not move where the data look Gaussian, so a solver takes few steps of equal
    length: $\sin\varphi\, dy/d\varphi = y\cos\varphi - D/\sigma_{data}$.
    """

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        phi = process.angle(t)
        # pi/2 rounded to float32 lies beyond pi/2, where alpha = cos(phi) < 0.
        quarter = np.asarray(np.pi / 2, phi.dtype)
        return jnp.minimum(phi, np.nextafter(quarter, np.zeros_like(quarter)))

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        return process.time_of_angle(tau)

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        return jnp.sin(tau), jnp.cos(tau) / process.sigma_data


class TimeClock(AbstractClock):
    """The process's own `(x, t)`, as most papers write the ODE.

    For `EDM`, Euler steps on this clock are DDIM, and Heun steps are EDM's sampler.
    """

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        return jnp.asarray(t)

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        return jnp.asarray(tau)

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        return process.level(tau)


class LogTimeClock(AbstractClock):
    """`(x, log t)`: equal steps for each order of magnitude of `t`."""

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        return jnp.log(jnp.asarray(t))

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        return jnp.exp(jnp.asarray(tau))

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        return process.level(jnp.exp(jnp.asarray(tau)))


class UnitSignalClock(AbstractClock):
    r"""$r = \sigma/\alpha$ and $u = x/\alpha = x_0 + r\epsilon$: $du/dr = \epsilon$.

    The slope is the denoiser's noise. Euler's method holds it over a step: this is DDIM
    for every process. Heun's method is EDM's sampler, and a Runge-Kutta method is
    $\rho$RK of DEIS (Zhang and Chen 2023). There is no reading without signal: a
    `RectifiedFlow` must start below $t = 1$.
    """

    needs_signal: ClassVar[bool] = True

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        sigma, alpha = process.level(t)
        return sigma / alpha

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        return process.time(tau)

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        r = jnp.asarray(tau)
        return r, jnp.ones_like(r)


class UnitNoiseClock(AbstractClock):
    r"""$-\rho = -\alpha/\sigma$ and $u = x/\sigma = \rho x_0 + \epsilon$:
    $du/d\rho = D$.

    The slope is the denoised sample, and Euler's method, which holds it over a step, is
    DDIM for every process. The reading has a minus sign because it increases with the
    noise. It is finite without signal, and grows like $1/\sigma$ towards the data.
    """

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        sigma, alpha = process.level(t)
        return -alpha / sigma

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        rho = -jnp.asarray(tau)
        return process.time(jnp.ones_like(rho), rho)

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        rho = -jnp.asarray(tau)
        return jnp.ones_like(rho), rho
