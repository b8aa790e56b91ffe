r"""A map between any two times of the probability-flow ODE.

$$ X(x; s \to t) = \frac{\sigma_t}{\sigma_s}\, x
     + \Bigl(\alpha_t - \alpha_s \frac{\sigma_t}{\sigma_s}\Bigr)\, F(x, s, t), \qquad
   F = \frac{1}{\rho_t - \rho_s} \int_{\rho_s}^{\rho_t} D\, d\rho $$

is the state at $t$ of the trajectory with the state $x$ at $s$, and $F$ the mean of the
denoiser between the two, with $\rho = \alpha/\sigma$ (Boffi, Albergo & Vanden-Eijnden
2024, "Flow map matching"; for rectified flow $F$ is the mean velocity of Geng et al.
2025, "Mean flows", up to $x$). $s = T$ is `Student`. Differentiating by $\rho_t$,

$$ F + (\rho_t - \rho_s)\, \frac{\partial F}{\partial \rho_t} = D(X, t), $$

the ODE in the second time (`lagrangian_residual`), whose limit for $t \to s$ is
$F(x, s, s) = D(x, s)$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    call_network,
    check_network,
    is_traced,
    one_sample,
    require,
)
from .._compatibility import check_grid
from .._table import network_title, samples_line, screen
from ..denoiser import AbstractCoefficients, AbstractDenoiser, Preconditioned
from ..flow import ProbabilityFlow
from ..nn import require_two_times, two_times
from ..process import AbstractProcess, uniform_angle
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    TimesLike,
    WholeLike,
    typed,
)
from ._in_steps import InSteps, in_steps
from ._student import AbstractNetworkStudent, coefficients_of, exactly, usable_teacher

_STOPS = 4  # the default number of times from which it samples


class FlowMap(AbstractNetworkStudent):
    r"""A network for the map from any time to any later one.

        network = px.nn.two_times(px.nn.MLP(2, 2, key=key))
        student = px.FlowMap(network, process)

    `student(z, t)` is $x(z, t)$, as for every student; `student.transport(x, s, t)`
    is $X(x; s \to t)$, and `student.in_steps(4)` samples with four evaluations of the
    network. `PID` trains it, without data and without solves.

    **Arguments:**

    - `network`: called as `network(c_in x, c_noise, condition, key=)` on one sample,
      where `c_noise` is an array of two numbers, of the times $s$ and $t$; returns an
      array of the shape of `x`. See `pidax.nn.two_times`.
    - `process`: in whose `(x, t)` the student answers.
    - `stops`: the times from which it samples in several steps, decreasing from
      `t_max`; by default four at equal steps of the angle. Good ones are where the
      denoised sample moves: `px.where_it_moves(flow, 5, key=key)[:-1]`.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.
    - `teacher`: the denoiser whose network this is; see `from_teacher`.
    - `coefficients`: from a new network to $F$. `CleanCoefficients("angle")` for losses
      with a derivative in the first time, such as `distill.MeanFlow`.
    """

    network: Any
    process: AbstractProcess
    coefficients: AbstractCoefficients
    trained_for: AbstractProcess
    event: Shape | None = eqx.field(static=True)
    boundary: str = eqx.field(static=True)
    start_times: tuple[float, ...] = eqx.field(static=True)

    @typed
    def __init__(
        self,
        network: Any,
        process: AbstractProcess,
        *,
        stops: TimesLike | None = None,
        shape: Shape | None = None,
        teacher: Preconditioned | None = None,
        coefficients: AbstractCoefficients | None = None,
    ):
        if is_traced(stops, process):
            raise ValueError(
                "the stops of a FlowMap are numbers, got times or a process that are "
                "not known while tracing. Make the student outside jit."
            )
        self.network = require_two_times(check_network(network))
        self.process = process
        self.coefficients, self.trained_for = coefficients_of(teacher, process)
        if coefficients is not None:
            require(
                None,
                teacher is None,
                "coefficients are of a new network, and a teacher has its own: "
                "expected one of both, got coefficients and teacher. Leave one out.",
            )
            self.coefficients = coefficients
        self.event = getattr(network, "shape", None) if shape is None else shape
        self.boundary = "hard"
        with jax.ensure_compile_time_eval():
            if stops is None:
                stops = uniform_angle(_STOPS + 1, process)[:-1]
            grid = jnp.append(jnp.asarray(stops, float), process.t_min)
            later = np.asarray(check_grid(grid, process), np.float64)[1:-1].tolist()
        self.start_times = (float(process.t_max), *later)

    def __repr__(self) -> str:
        return screen(
            network_title("FlowMap", self.network),
            process=self.process,
            stops=", ".join(f"{t:.3g}" for t in self.start_times),
            samples=samples_line(self.shape, self.classes),
        )

    @staticmethod
    @typed
    def from_teacher(
        denoiser: AbstractDenoiser,
        process: AbstractProcess,
        *,
        stops: TimesLike | None = None,
    ) -> "FlowMap":
        """A flow map that starts from a teacher's weights.

        Its network is the teacher's, told a second noise level (`nn.two_times`) that it
        does not use yet: at the start $F(x, s, t) = D(x, s)$, and each map is one step
        of DDIM. `denoiser` is a `Preconditioned` network of `pidax.nn`.
        """
        teacher = usable_teacher(denoiser, process)
        network = two_times(teacher.network)
        return FlowMap(
            network, process, stops=stops, shape=teacher.shape, teacher=teacher
        )

    @property
    def starts(self) -> int:
        """The number of times from which it samples."""
        return len(self.start_times)

    def clean(
        self, unit: Sample, t: Scalar, condition: Condition, *, key: Key | None = None
    ) -> Sample:
        """The mean of the denoiser between `t_max` and `t`."""
        last = jnp.asarray(self.process.t_max, unit.dtype)
        return self.mean(unit, last, t, condition, key=key)

    def mean(
        self,
        unit: Sample,
        s: Scalar,
        t: Scalar,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        r"""$F(x, s, t)$: the mean of the denoiser between two times.

        `unit` is $x/\sigma_s$.
        """
        at, to = self.process.level(s), self.process.level(t)
        c_skip, c_out, c_in, first = self.coefficients(*at, self.trained_for)
        second = self.coefficients(*to, self.trained_for)[3]
        x, both = (c_in * at[0]) * unit, jnp.stack([first, second])
        out = call_network(self.network, x, both, condition, key=key)
        cure = "The network's last layer must have as many channels as its input."
        out = one_sample(out, unit, "the network", cure).astype(unit.dtype)
        return (c_skip * at[0]) * unit + c_out * out

    def state(self, unit: Sample, mean: Sample, t: Scalar) -> Sample:
        r"""The state at `t`, of the trajectory from `t_max` whose mean up to `t` is
        known; `unit` is $z/\sigma_T$.
        """
        sigma, alpha = self.process.level(t)
        return sigma * unit + self.gap(sigma, alpha) * mean

    @typed
    def transport(
        self,
        x: SampleLike,
        s: ScalarLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at `t` of the trajectory with the state `x` at `s`; one evaluation.

        Both times lie in the process's interval, and `t` is not larger than `s`. For
        `t = s` it is `x` to the last bit.
        """
        x = jnp.asarray(x)
        s, t = jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype)
        if not is_traced(s, t, self.process):
            self._require_inside(s)
            self._require_inside(t)
            if t > s * (1 + 1e-6):
                raise ValueError(
                    f"t must not be larger than s: a student goes from noise to data, "
                    f"got t={t} for s={s}. Start at a larger s."
                )
        (sigma, alpha), (noise, signal) = self.process.level(t), self.process.level(s)
        factor = exactly(1.0, sigma / noise, where=t == s)
        gap = exactly(0.0, alpha - sigma * (signal / noise), where=t == s)
        return factor * x + gap * self.mean(x / noise, s, t, condition, key=key)

    @typed
    def in_steps(self, steps: WholeLike) -> InSteps:
        """This student, sampling in so many steps: a divisor of `starts`."""
        return in_steps(self, steps)


def lagrangian_residual(
    student: FlowMap,
    flow: ProbabilityFlow,
    unit: Sample,
    s: Scalar,
    t: Scalar,
    condition: Condition = None,
    *,
    inside: FlowMap | None = None,
) -> tuple[Sample, Sample]:
    r"""The two sides of the ODE in the second time: `(implied, denoised)`.

    $F + (\rho_t - \rho_s)\,\partial F/\partial\rho_t$, by one derivative of the network
    in forward mode, and $D(X(x; s \to t), t)$. `unit` is $x/\sigma_s$; `inside` another
    student, in whose state the teacher is evaluated.
    """
    process = student.process
    level = lambda t: jnp.stack(process.level(t))
    one = jnp.ones_like(t)
    (sigma, alpha), (sigma_rate, alpha_rate) = jax.jvp(level, (t,), (one,))
    noise, signal = process.level(s)
    of = lambda t: student.mean(unit, s, t, condition)
    mean, rate = jax.jvp(of, (t,), (one,))
    # (rho_t - rho_s) / (d rho / dt), with sigma^2 in numerator and denominator.
    way = exactly(0.0, alpha * sigma - sigma**2 * (signal / noise), where=t == s)
    implied = mean + way / (alpha_rate * sigma - alpha * sigma_rate) * rate
    if inside is not None:
        mean = inside.mean(unit, s, t, condition)
    gap = exactly(0.0, alpha - sigma * (signal / noise), where=t == s)
    state = sigma * unit + gap * mean
    return implied, flow.denoiser(state, sigma, alpha, condition)


def through(
    student: FlowMap,
    unit: Sample,
    first: Sample,
    s: Scalar,
    t: Scalar,
    condition: Condition = None,
) -> Sample:
    r"""The mean of the denoiser from `t_max` to `t`, by two maps that meet at `s`.

    $$ \frac{(\rho_s - \rho_T) F(z, T, s) + (\rho_t - \rho_s) F(x_s, s, t)}
            {\rho_t - \rho_T}, $$

    where `first` is $F(z, T, s)$ and $x_s$ the state there: what $F(z, T, t)$ is if the
    maps are consistent (the semigroup property).
    """
    last = jnp.asarray(student.process.t_max, unit.dtype)
    (sigma_0, alpha_0), (sigma_s, alpha_s) = (
        student.process.level(a) for a in (last, s)
    )
    sigma, alpha = student.process.level(t)
    here = unit + (alpha_s / sigma_s - alpha_0 / sigma_0) * first
    second = student.mean(here, s, t, condition)
    whole = alpha / sigma - alpha_0 / sigma_0
    share = (alpha_s / sigma_s - alpha_0 / sigma_0) / jnp.where(whole > 0, whole, 1.0)
    return share * first + (1 - share) * second
