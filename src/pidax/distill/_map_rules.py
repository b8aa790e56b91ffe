r"""The equations of a flow map, each of which says that it is the teacher's.

With $\rho = \alpha/\sigma$ and $F(x, s, t)$ the mean of the denoiser from $s$ to $t$
(`pidax.student.FlowMap`), a network is the flow map if one of these holds everywhere:

$$ \begin{aligned}
F(x, s, t) &= D(X_t, t) - (\rho_t - \rho_s)\,\partial_{\rho_t} F
  && \text{Lagrangian: the end moves,} \\
F(x, s, t) &= D(x, s) + (\rho_t - \rho_s)\,\frac{d}{d\rho_s} F(x_s, s, t)
  && \text{Eulerian: the start moves along the teacher,} \\
F(x, s, t) &= \lambda F(x, s, r) + (1 - \lambda) F(X_r, r, t), \quad
  \lambda = \frac{\rho_r - \rho_s}{\rho_t - \rho_s}
  && \text{semigroup: two maps are one.}
\end{aligned} $$

A rule returns the two sides of its equation for one state: the student's, and a target
through which no gradient flows.
"""

import abc
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import require, require_positive, whole_number
from .._compatibility import check_grid
from ..flow import ProbabilityFlow
from ..process import AbstractProcess
from ..student import FlowMap, lagrangian_residual
from ..types import (
    Condition,
    Key,
    Sample,
    Scalar,
    Times,
    TimesLike,
    WholeLike,
)
from ._denoising import AbstractTimeLaw

Sides = tuple[Sample, Sample]


class Leg(eqx.Module):
    """One state, and the times between which its map is compared.

    `unit` is $x/\\sigma_s$. `slow` is the student that makes targets. `data` is the
    clean sample of which the state was made, if it answers in place of the teacher.
    """

    model: FlowMap
    slow: FlowMap
    flow: ProbabilityFlow
    unit: Sample
    s: Scalar
    r: Scalar
    t: Scalar
    condition: Condition
    data: Sample | None

    def clean(self) -> Sample:
        """What the denoiser says at the state: the teacher's answer, or the data."""
        if self.data is not None:
            return self.data
        return self.denoised(self.unit, self.s)

    def denoised(self, unit: Sample, t: Scalar) -> Sample:
        """The teacher's answer at a state divided by its noise level."""
        sigma, alpha = self.flow.process.level(t)
        clean = self.flow.denoiser(sigma * unit, sigma, alpha, self.condition)
        return jax.lax.stop_gradient(clean).astype(unit.dtype)

    def mean(self, model: FlowMap) -> Sample:
        """$F(x, s, t)$ of this model."""
        return model.mean(self.unit, self.s, self.t, self.condition)

    def way(self, start: Scalar, end: Scalar) -> Scalar:
        r"""$\rho$ at the end minus $\rho$ at the start."""
        rho = lambda t: jnp.divide(*self.flow.process.level(t)[::-1])
        return rho(end) - rho(start)


class AbstractMapRule(eqx.Module):
    """An equation of flow maps."""

    @property
    def asks_on_diagonal(self) -> bool:
        """Whether the denoiser enters only where both times are equal."""
        return False

    def check(self, process: AbstractProcess) -> None:
        """Raise `ValueError` if it does not fit the process."""

    @abc.abstractmethod
    def sides(self, leg: Leg) -> Sides:
        """The student's side, and the target."""

    def times(
        self,
        process: AbstractProcess,
        law: AbstractTimeLaw,
        progress: Scalar,
        whole: Scalar,
        *,
        key: Key,
    ) -> tuple[Scalar, Scalar, Scalar]:
        """A start, a time between and an end; the start is `t_max` where `whole`."""
        return any_times(process, law, whole, key=key)


def any_times(
    process: AbstractProcess,
    law: AbstractTimeLaw,
    whole: Scalar,
    *,
    to_end: bool = False,
    key: Key,
) -> tuple[Scalar, Scalar, Scalar]:
    """The start is drawn by the law, the others evenly in the angle after it; with
    `to_end` the end is `t_min`.
    """
    first, second, third = jax.random.split(key, 3)
    s = jnp.where(whole, process.t_max, law(process, key=first))
    high, low = process.angle(s), process.angle(jnp.asarray(process.t_min, s.dtype))
    end = low + (high - low) * jax.random.uniform(second, dtype=s.dtype)
    middle = end + (high - end) * jax.random.uniform(third, dtype=s.dtype)
    inside = lambda phi: jnp.clip(process.time_of_angle(phi), process.t_min, s)
    t = jnp.full_like(s, process.t_min) if to_end else inside(end)
    return s, inside(middle), t


class Lagrangian(AbstractMapRule):
    r"""The end moves: the residual of `PID`, from any state.

    Boffi, Albergo and Vanden-Eijnden 2024, "Flow map matching" (their Lagrangian map
    distillation). With `hold=True` no gradient flows through the derivative: what BOOT
    (Gu et al. 2023) and FreeFlow (Tong et al. 2025) do. The value is the same. Costs
    one pass of the student with its derivative in forward mode, and one of the teacher.
    """

    hold: bool = eqx.field(static=True, default=False)

    def sides(self, leg: Leg) -> Sides:
        inside = None if leg.slow is leg.model else leg.slow
        implied, clean = lagrangian_residual(
            leg.model, leg.flow, leg.unit, leg.s, leg.t, leg.condition, inside=inside
        )
        if not self.hold:
            return implied, jax.lax.stop_gradient(clean)
        own = leg.mean(leg.model)
        return own, jax.lax.stop_gradient(clean - (implied - own))


class Eulerian(AbstractMapRule):
    r"""The start moves along the teacher: consistency models in continuous time.

    The derivative of $F$ along the trajectory is one in forward mode, in the direction
    $(D, 1)$ of $(x/\sigma, \rho_s)$. Long maps would amplify its errors by
    $(\rho_t - \rho_s)/\rho_t$, so the residual is multiplied by
    $\sin\varphi_t/\sin\varphi_s$: it is then the change of the end of the map with its
    start, as in the published losses.

    - `own`: take the direction from the student, $F(x, s, s)$, in place of the denoiser
      (the "improved" MeanFlow of Geng et al. 2025).
    - `normalise`: $c$, with which the residual $R$ becomes $R/(|R|/\sqrt n + c)$ before
      it is a gradient, as sCM (Lu and Song 2024) and Align Your Flow (Sabour et al.
      2025) do; None leaves it.
    - `to_end`: the end is `t_min` always: a consistency model.

    Costs two passes of the student, one of them with a derivative, and one of the
    teacher.
    """

    own: bool = eqx.field(static=True, default=False)
    normalise: float | None = None
    to_end: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.normalise is not None:
            require_positive(normalise=self.normalise)

    def times(
        self,
        process: AbstractProcess,
        law: AbstractTimeLaw,
        progress: Scalar,
        whole: Scalar,
        *,
        key: Key,
    ) -> tuple[Scalar, Scalar, Scalar]:
        return any_times(process, law, whole, to_end=self.to_end, key=key)

    def sides(self, leg: Leg) -> Sides:
        clean = leg.clean()
        along = clean
        if self.own:
            equal = (leg.unit, leg.s, leg.s, leg.condition)
            along = jax.lax.stop_gradient(leg.model.mean(*equal))
        process, way = leg.flow.process, leg.way(leg.s, leg.t)
        rho = lambda s: leg.way(jnp.asarray(process.t_max, s.dtype), s)
        rate = jax.grad(rho)(leg.s)
        of = lambda unit, s: leg.model.mean(unit, s, leg.t, leg.condition)
        own, slope = jax.jvp(of, (leg.unit, leg.s), (way * along, way / rate))
        slope = jax.lax.stop_gradient(slope)
        held = jax.lax.stop_gradient(own)
        ratio = jnp.sin(process.angle(leg.t)) / jnp.sin(process.angle(leg.s))
        residual = ratio * (held - clean - slope)
        if self.normalise is not None:
            size = jnp.sqrt(jnp.mean(residual**2))
            residual = residual / (size + self.normalise)
        return own, held - residual


First = Literal["denoiser", "map"]


class Semigroup(AbstractMapRule):
    r"""Two maps are one: the second is the student's, the first of a choice.

    - `first`: `"denoiser"` holds the denoiser from $s$ to $r$ (a step of DDIM): with
      neighbours $s, r$ of a grid this is consistency distillation. With `heun` it is a
      step of Heun's method in the angle, for a second call. `"map"` is the student's
      own map: shortcut models; the denoiser then enters where both times are equal.
    - `grid`: the times of $s$ and $r$, neighbours in it; None for any.
    - `start_steps`: begin with the grid's every $k$-th time, so that it has this number
      of steps, and double it to the whole grid in the course of training.
    - `to_end`: the end is `t_min` always: a consistency model.

    Costs two passes of the student, or three with `first="map"`, and one call of the
    teacher, none, or two.
    """

    first: First = eqx.field(static=True, default="map")
    heun: bool = eqx.field(static=True, default=False)
    grid: Times | None = None
    start_steps: int | None = eqx.field(static=True, default=None)
    to_end: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        first: First = "map",
        *,
        heun: bool = False,
        grid: TimesLike | None = None,
        start_steps: WholeLike | None = None,
        to_end: bool = False,
    ):
        self.first, self.heun, self.to_end = first, heun, to_end
        self.grid = None if grid is None else jnp.asarray(grid)
        self.start_steps = None
        if start_steps is not None:
            self.start_steps = whole_number("start_steps", start_steps)

    def __check_init__(self):
        require(
            None,
            self.first in get_args(First),
            f"first is one of {get_args(First)}, got {self.first!r}.",
        )
        require(
            None,
            not (self.heun and self.first == "map"),
            "heun is a second call of the denoiser, got heun=True with first='map'. "
            "Take first='denoiser'.",
        )
        if self.grid is not None:
            require(
                None,
                self.grid.ndim == 1 and self.grid.size > 2,
                "a grid has at least two steps, three times, got the shape "
                f"{self.grid.shape}. With one step there is nothing between its ends.",
            )
        if self.start_steps is not None:
            steps = 0 if self.grid is None else self.grid.size - 1
            ratio = steps / self.start_steps
            require(
                None,
                ratio >= 1 and ratio == 2 ** round(jnp.log2(jnp.maximum(ratio, 1))),
                "start_steps doubles to the steps of the grid, got start_steps="
                f"{self.start_steps} and {steps} steps. Take a power of two times "
                "start_steps.",
            )

    def check(self, process: AbstractProcess) -> None:
        if self.grid is not None:
            check_grid(self.grid, process)

    @property
    def asks_on_diagonal(self) -> bool:
        return self.first == "map"

    def times(
        self,
        process: AbstractProcess,
        law: AbstractTimeLaw,
        progress: Scalar,
        whole: Scalar,
        *,
        key: Key,
    ) -> tuple[Scalar, Scalar, Scalar]:
        if self.grid is None:
            return any_times(process, law, whole, to_end=self.to_end, key=key)
        first, second = jax.random.split(key)
        grid = self.grid
        stride = self._stride(progress)
        steps = (grid.size - 1) // stride
        index = jax.random.randint(first, (), 0, steps)
        index = jnp.where(whole, 0, index) * stride
        s, r = grid[index], grid[index + stride]
        low, high = (process.angle(a) for a in (grid[-1], r))
        phi = low + (high - low) * jax.random.uniform(second, dtype=s.dtype)
        t = jnp.clip(process.time_of_angle(phi), process.t_min, r)
        return s, r, jnp.full_like(s, process.t_min) if self.to_end else t

    def _stride(self, progress: Scalar) -> Scalar:
        """How many times of the grid a step spans."""
        assert self.grid is not None
        if self.start_steps is None:
            return jnp.asarray(1)
        most = (self.grid.size - 1) // self.start_steps
        levels = most.bit_length()
        done = jnp.clip(jnp.floor(progress * levels), 0, levels - 1).astype(int)
        return most // 2**done

    def sides(self, leg: Leg) -> Sides:
        here = leg.way(leg.s, leg.r)
        first = self._first(leg, here)
        there = leg.unit + here * first
        second = leg.slow.mean(there, leg.r, leg.t, leg.condition)
        whole = leg.way(leg.s, leg.t)
        share = here / jnp.where(whole > 0, whole, 1.0)
        target = share * first + (1 - share) * second
        return leg.mean(leg.model), jax.lax.stop_gradient(target)

    def _first(self, leg: Leg, way: Scalar) -> Sample:
        if self.first == "map":
            return leg.slow.mean(leg.unit, leg.s, leg.r, leg.condition)
        clean = leg.clean()
        if not self.heun:
            return clean
        return heun_mean(leg, clean, way)


def heun_mean(leg: Leg, clean: Sample, way: Scalar) -> Sample:
    r"""The mean of the denoiser over a step of Heun's method in the angle.

    The velocity $v = (\cos\varphi\, y - D/\sigma_{data})/\sin\varphi$ at both ends.
    """
    process = leg.flow.process
    scale = process.sigma_data

    def velocity(unit: Sample, clean: Sample, t: Scalar) -> tuple[Sample, Sample]:
        phi = process.angle(t)
        y = jnp.sin(phi) * unit
        return y, (jnp.cos(phi) * y - clean / scale) / jnp.sin(phi)

    y, first = velocity(leg.unit, clean, leg.s)
    turn = process.angle(leg.r) - process.angle(leg.s)
    last = jnp.sin(process.angle(leg.r))
    there = (y + turn * first) / last
    _, second = velocity(there, leg.denoised(there, leg.r), leg.r)
    end = (y + turn * (first + second) / 2) / last
    return (end - leg.unit) / jnp.where(way > 0, way, 1.0)
