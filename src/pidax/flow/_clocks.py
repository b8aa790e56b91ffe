r"""Clocks: the coordinates in which the probability-flow ODE is integrated.

The ODE is one; a solver's error depends on the variables it sees. A clock names the
independent variable $\tau$ and, with it, a chart $(\alpha(\tau), \sigma(\tau))$ of the
noised sample $u = \alpha x_0 + \sigma\epsilon$ that the solver steps.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..process import AbstractProcess
from ..types import Elementwise, ElementwiseLike


class AbstractClock(eqx.Module):
    """An independent variable for the ODE, and the state that goes with it."""

    @abc.abstractmethod
    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        """What the clock shows at process time `t`; increasing in `t`."""

    @abc.abstractmethod
    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        """The process time when the clock shows `tau`."""

    @abc.abstractmethod
    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        """`(sigma, alpha)` of the state that the solver steps, at `tau`."""


def magnification(
    clock: AbstractClock, process: AbstractProcess, t: Elementwise
) -> Elementwise:
    """`u / x`, the size of the clock's state beside the process's, at time `t`."""
    sigma, alpha = clock.level(process, clock.reading(process, t))
    return jnp.hypot(alpha * process.sigma_data, sigma) / process.scale(t)


class AngleClock(AbstractClock):
    r"""The default: $\varphi = \operatorname{atan2}(\sigma, \alpha\sigma_{data})$ and
    $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$.

    The same for every process. The state is of order one from noise to data and
    stands still where the data look Gaussian, so a solver takes few, even steps:
    $\sin\varphi\, dy/d\varphi = y\cos\varphi - D/\sigma_{data}$.
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

    For `EDM`, Euler steps on this clock are DDIM and Heun steps are EDM's sampler.
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
    """`(x, log t)`: time spent evenly over the orders of magnitude of `t`."""

    def reading(self, process: AbstractProcess, t: ElementwiseLike) -> Elementwise:
        return jnp.log(jnp.asarray(t))

    def time(self, process: AbstractProcess, tau: ElementwiseLike) -> Elementwise:
        return jnp.exp(jnp.asarray(tau))

    def level(
        self, process: AbstractProcess, tau: ElementwiseLike
    ) -> tuple[Elementwise, Elementwise]:
        return process.level(jnp.exp(jnp.asarray(tau)))
