r"""The variables and targets of the samplers, and the quadrature between two levels.

With $\rho = \alpha/\sigma$, $r = 1/\rho$, $\lambda = \log\rho$ and the angle $\varphi$
the ODE is one integral in each of three forms, where `u` is the state of any clock:

$$ d(u/\sigma) = D\,d\rho, \quad d(u/\alpha) = \epsilon\,dr, \quad dy = v\,d\varphi. $$

A method of order one holds the target ($D$, $\epsilon$ or $v$) over a step. One of
higher order extrapolates it as a polynomial in a variable and integrates exactly, by
Gauss's rule in $\lambda$, on panels that are shorter where the measure is large.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..flow import AbstractClock, ProbabilityFlow
from ..process import AbstractProcess
from ..types import Scalar

Target = Literal["data", "noise", "velocity", "slope"]
Variable = Literal[
    "log_snr", "angle", "noise_ratio", "signal_ratio", "time", "clock", "index"
]
# The target's own variable: its measure is uniform there.
OWN: dict[str, str] = {
    "data": "signal_ratio",
    "noise": "noise_ratio",
    "velocity": "angle",
    "slope": "clock",
}
NEEDS_SIGNAL = ("log_snr", "noise_ratio")  # infinite without one


def _panels() -> tuple[np.ndarray, np.ndarray]:
    """Gauss's rule on (0, 1), on panels that halve towards 1."""
    ends = np.array([0.0, 0.5, 0.75, 0.875, 0.9375, 1.0])
    x, w = np.polynomial.legendre.leggauss(8)
    width = np.diff(ends)[:, None]
    return (ends[:-1, None] + width * (x + 1) / 2).ravel(), (width * w / 2).ravel()


_FRACTIONS, _WEIGHTS = _panels()
FEW, FEW_WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(4))
FEW = FEW + 0.5  # exact for polynomials up to degree seven


class Level(eqx.Module):
    """A noise level: the clock's reading, and sigma and alpha of its state."""

    tau: Scalar
    sigma: Scalar
    alpha: Scalar

    @property
    def log_snr(self) -> Scalar:
        return jnp.log(self.alpha / self.sigma)


class Chart(eqx.Module):
    """The clock and the process of a flow, with numbers in the dtype of the state.

    The factors of a step belong to it: a step of order one is
    `lead * u + total * target`.
    """

    clock: AbstractClock
    process: AbstractProcess

    def level(self, tau: Scalar) -> Level:
        sigma, alpha = self.clock.level(self.process, tau)
        return Level(tau, sigma, alpha)

    def level_of_log_snr(self, log_snr: Scalar) -> Level:
        return self.level(self.clock.reading(self.process, self._time(log_snr)))

    def _time(self, log_snr: Array) -> Array:
        return self.process.time(jnp.exp(-log_snr), jnp.ones_like(log_snr))

    def angle(self, at: Level) -> Scalar:
        return jnp.arctan2(at.sigma, at.alpha * self.process.sigma_data)

    def size(self, at: Level) -> Scalar:
        """The scale of the state, which in the angle clock is one."""
        return jnp.hypot(at.sigma, at.alpha * self.process.sigma_data)

    def read(self, variable: Variable, at: Level) -> Scalar:
        """The variable at a level; `index` has none of its own."""
        readings = {
            "log_snr": lambda: at.log_snr,
            "angle": lambda: self.angle(at),
            "noise_ratio": lambda: at.sigma / at.alpha,
            "signal_ratio": lambda: at.alpha / at.sigma,
            "time": lambda: self.process.time(at.sigma, at.alpha),
            "clock": lambda: at.tau,
            "index": lambda: jnp.zeros_like(at.tau),
        }
        return readings[variable]()

    def read_log_snr(self, variable: Variable, log_snr: Array) -> Array:
        """The variable where the logarithm of alpha / sigma has these values."""
        readings = {
            "log_snr": lambda: log_snr,
            "angle": lambda: jnp.arctan2(
                jnp.exp(-log_snr), jnp.full_like(log_snr, self.process.sigma_data)
            ),
            "noise_ratio": lambda: jnp.exp(-log_snr),
            "signal_ratio": lambda: jnp.exp(log_snr),
            "time": lambda: self._time(log_snr),
            "clock": lambda: self.clock.reading(self.process, self._time(log_snr)),
        }
        return readings[variable]()

    # --- the target ------------------------------------------------------------------

    def of_target(self, target: Target, u: Array, clean: Array, at: Level) -> Array:
        """The target at a state, from the denoised sample there."""
        if target == "data":
            return clean
        noise = (u - at.alpha * clean) / at.sigma
        if target == "noise":
            return noise
        phi, scale = self.angle(at), self.process.sigma_data
        return jnp.cos(phi) * noise - jnp.sin(phi) * clean / scale

    def ratio(self, start: Level, end: Level) -> Scalar:
        r"""$\rho_0/\rho_1 = e^{-h}$, zero if the step starts without signal."""
        return (start.alpha * end.sigma) / (start.sigma * end.alpha)

    def total(self, target: Target, start: Level, end: Level, kappa: Any) -> Scalar:
        r"""The measure of the whole step, the factor of a target that is held.

        `kappa` is $1 + \tau^2$, with the noise $\tau$ of the step.
        """
        if target == "data":
            return end.alpha * (1 - self.ratio(start, end) ** kappa)
        if target == "noise":
            whole = kappa * (end.sigma - end.alpha * start.sigma / start.alpha)
            return jnp.where(start.alpha > 0, whole, 0.0)
        return self.size(end) * (self.angle(end) - self.angle(start))

    def hold(
        self,
        target: Target,
        u: Array,
        value: Array,
        clean: Array,
        start: Level,
        end: Level,
        kappa: Any,
    ) -> Array:
        """The state at `end` if the target keeps its value.

        For `noise` it is written with the denoised sample: nothing cancels where there
        is almost no signal.
        """
        if target == "velocity":
            return self.size(end) / self.size(start) * u + value * self.total(
                target, start, end, kappa
            )
        lead = end.sigma / start.sigma
        if target == "data":
            kept = self.ratio(start, end) ** (kappa - 1)
            return lead * kept * u + self.total("data", start, end, kappa) * value
        held = lead * u + (end.alpha - start.alpha * lead) * clean
        more = (kappa - 1) / kappa * self.total("noise", start, end, kappa)
        return held + more * value

    def density(
        self, target: Target, start: Level, end: Level, kappa: Any
    ) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
        r"""Points of $\lambda$ in the step, with weights of sum one: the measure."""
        first, last = start.log_snr, end.log_snr
        # Without signal the measure of the data begins far below.
        first = jnp.where(start.alpha > 0, first, last - 30.0)
        dtype = first.dtype
        x, w = (jnp.asarray(a, dtype) for a in (_FRACTIONS, _WEIGHTS))
        if target == "noise":
            at = last + (first - last) * x
            mass = jnp.exp(jnp.minimum(first, last) - at)
        else:
            at = first + (last - first) * x
            mass = jnp.exp(kappa * (at - jnp.maximum(first, last)))
        if target == "velocity":
            phi = self.read_log_snr("angle", at)
            mass = jnp.sin(phi) * jnp.cos(phi)
        w = w * mass
        return at, w / w.sum()

    def points(
        self,
        target: Target,
        variable: Variable,
        start: Level,
        end: Level,
        kappa: Any,
        plain: bool,
    ) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
        """The same points in the variable; `plain` is a step without noise."""
        uniform = variable == OWN[target] and (plain or target != "data")
        if variable == "index" or uniform:
            dtype = end.tau.dtype
            x, w = (jnp.asarray(a, dtype) for a in (FEW, FEW_WEIGHTS))
            if variable == "index":
                return x, w
            first, last = self.read(variable, start), self.read(variable, end)
            return first + (last - first) * x, w
        at, w = self.density(target, start, end, kappa)
        return self.read_log_snr(variable, at), w


def chart_of(flow: ProbabilityFlow, dtype: Any) -> Chart:
    """The chart of a flow; its numbers are arrays, which a loop can carry."""
    as_array = lambda a: jnp.asarray(a, dtype) if isinstance(a, float) else a
    clock, process = jax.tree.map(as_array, (flow.clock, flow.process))
    return Chart(clock, process)


def weighted_sum(coefficients: Float[Array, " node"], values: PyTree) -> PyTree:
    """Over the first axis of every leaf."""
    return jax.tree.map(
        lambda v: jnp.tensordot(
            coefficients.astype(v.dtype), v, axes=1, precision=jax.lax.Precision.HIGHEST
        ),
        values,
    )
