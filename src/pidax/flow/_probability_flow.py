r"""The probability-flow ODE.

A noised sample is $u = \alpha(\tau) x_0 + \sigma(\tau) \epsilon$. With $x_0$ and
$\epsilon$ replaced by their posterior means its velocity is

$$ \frac{du}{d\tau} = \dot\alpha\, D(u, \sigma, \alpha)
     + \dot\sigma\, \frac{u - \alpha\, D(u, \sigma, \alpha)}{\sigma}, $$

for any $(\alpha, \sigma)(\tau)$ (Song et al. 2021, eq. 13). With the angle as time,
$(\cos\varphi/\sigma_{data}, \sin\varphi)$, it reads
$\sin\varphi\, dy/d\varphi = y\cos\varphi - D/\sigma_{data}$; for EDM, $(1, t)$,
$dx/dt = (x - D)/t$.
"""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import is_traced
from ..denoiser import AbstractDenoiser
from ..process import AbstractProcess
from ..types import (
    Condition,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)
from ._clocks import AbstractClock, AngleClock, magnification

_INTERVAL_SLACK = 1e-4  # relative; two float32 routes to one noise level differ less


class ProbabilityFlow(eqx.Module):
    """The ODE whose solution from `z ~ prior` at `t_max` is a sample at `t_min`.

    It is a Diffrax vector field: `diffrax.ODETerm(flow)` (or `flow.term()`) works with
    any Diffrax solver. Its time and state are the clock's, and `args` is the
    condition. `enter` and `leave` convert from and to `(x, t)`. `pidax.solve` does all
    of this.

    **Arguments:**

    - `denoiser`: the model of the data.
    - `process`: the noise process of all arguments and results `(x, t)`.
    - `clock`: the solver's variables; by default `AngleClock()`.
    - `shape`: the shape of one sample; known already for exact denoisers.
    - `extrapolate`: allow noise levels for which the denoiser was not trained.
    """

    denoiser: AbstractDenoiser
    process: AbstractProcess
    clock: AbstractClock
    shape: Shape | None = eqx.field(static=True)
    extrapolate: bool = eqx.field(static=True)

    @typed
    def __init__(
        self,
        denoiser: AbstractDenoiser,
        process: AbstractProcess,
        *,
        clock: AbstractClock | None = None,
        shape: Shape | None = None,
        extrapolate: bool = False,
    ):
        self.denoiser = denoiser
        self.process = process
        self.clock = AngleClock() if clock is None else clock
        self.shape = denoiser.shape if shape is None else tuple(shape)
        self.extrapolate = extrapolate

    def __check_init__(self):
        known = self.denoiser.shape
        if known is not None and known != self.shape:
            raise ValueError(
                f"shape={self.shape} contradicts the denoiser, whose samples have the "
                f"shape {known}. Leave shape out, or fix the denoiser."
            )
        low, high = self.denoiser.interval
        least, most = self.process.ratio_interval
        inside = low * (1 - _INTERVAL_SLACK) <= least and most <= high * (
            1 + _INTERVAL_SLACK
        )
        if not (inside or self.extrapolate or is_traced(self.process)):
            raise ValueError(
                "the process runs over noise-to-signal ratios sigma/alpha in "
                f"[{least:.4g}, {most:.4g}], but the denoiser states that it is "
                f"trained for [{low:.4g}, {high:.4g}]. Choose t_min and t_max of the "
                "process inside that interval, or pass extrapolate=True to run the "
                "denoiser outside it."
            )

    def __call__(self, tau: ScalarLike, u: Sample, args: Condition = None) -> Sample:
        """The vector field of the ODE in the clock's variables."""
        sigma, alpha, sigma_rate, alpha_rate = self.level(jnp.asarray(tau))
        x0 = self.denoised(u, sigma, alpha, args)
        # du/dtau = alpha' D + sigma' (u - alpha D) / sigma
        return alpha_rate * x0 + sigma_rate * (u - alpha * x0) / sigma

    def denoised(
        self, u: Sample, sigma: Scalar, alpha: Scalar, args: Condition = None
    ) -> Sample:
        """The denoiser's answer for the clock's state at this noise level."""
        return _same_dtype(self.denoiser(u, sigma, alpha, args), u)

    def divergence(
        self,
        tau: Scalar,
        u: Sample,
        args: Condition,
        trace: Callable[[Callable[[Array], Array], Array], tuple[Array, Array]],
    ) -> tuple[Sample, Array]:
        """The vector field and its divergence, from one linearisation of the denoiser.

        `trace(fn, u)` returns `fn(u)` and the trace of its Jacobian, or estimates of
        it.
        """
        sigma, alpha, sigma_rate, alpha_rate = self.level(tau)
        x0, trace_d = trace(lambda v: self.denoiser(v, sigma, alpha, args), u)
        x0 = _same_dtype(x0, u)
        field = alpha_rate * x0 + sigma_rate * (u - alpha * x0) / sigma
        div = alpha_rate * trace_d + sigma_rate * (u.size - alpha * trace_d) / sigma
        return field, div

    def level(self, tau: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """`(sigma, alpha)` of the clock's state and their derivatives in `tau`."""
        (sigma, alpha), (sigma_rate, alpha_rate) = jax.jvp(
            lambda s: self.clock.level(self.process, s), (tau,), (jnp.ones_like(tau),)
        )
        return sigma, alpha, sigma_rate, alpha_rate

    def term(self) -> diffrax.ODETerm:
        """The flow as a Diffrax term, to use with `diffrax.diffeqsolve` directly."""
        return diffrax.ODETerm(self)

    @typed
    def enter(self, x: SampleLike, t: ScalarLike) -> tuple[Scalar, Sample]:
        """From the process's `(x, t)` to the clock's `(tau, u)`."""
        x = jnp.asarray(x)
        t = jnp.asarray(t, x.dtype)
        return self.clock.reading(self.process, t), x * self.magnification(t)

    @typed
    def leave(self, tau: ScalarLike, u: SampleLike) -> tuple[Sample, Scalar]:
        """From the clock's `(tau, u)` to the process's `(x, t)`."""
        u = jnp.asarray(u)
        t = self.clock.time(self.process, jnp.asarray(tau, u.dtype))
        return u / self.magnification(t), t

    def magnification(self, t: Array) -> Array:
        """`u / x`, the ratio of the solver's to the process's state at time `t`."""
        return magnification(self.clock, self.process, t)

    @typed
    def velocity(
        self, x: SampleLike, t: ScalarLike, condition: Condition = None
    ) -> Sample:
        """`dx/dt` in the process's `(x, t)`, for any clock."""
        return self.denoiser.velocity(x, t, self.process, condition)


def _same_dtype(x0: Sample, u: Sample) -> Sample:
    if x0.dtype != u.dtype:
        raise ValueError(
            f"the denoiser must return the dtype of its input, {u.dtype}, got "
            f"{x0.dtype}. Cast the state to the model's precision, or the model with "
            "jax.tree.map(lambda a: a.astype(...), denoiser)."
        )
    return x0
