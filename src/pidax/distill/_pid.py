r"""Physics-informed distillation: train a student on the residual of the teacher's ODE.

$$ L = E_{z, i}\; w_i\; d\bigl(\hat D(z, t_i),\ D(x(z, t_i), t_i)\bigr), $$

where $\hat D$ is the clean sample that the student's time derivative implies, and $D$
the teacher's denoised sample at its state (`pidax.student.residual`). For EDM $\hat D =
x - t\,dx/dt$: eq. 9 and 11 of Tee, Zhang et al. 2024, "Physics informed distillation
for diffusion models". Only noise is drawn; there are no data and no solves.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import check_interval, require, whole_number
from .._compatibility import check_grid
from ..denoiser import AbstractExactDenoiser
from ..flow import ProbabilityFlow, TimeClock
from ..process import karras
from ..student import (
    AbstractDerivative,
    FlowMap,
    IntegralStudent,
    SolverStep,
    Stencil,
    Upwind,
    integral_residual,
    lagrangian_residual,
    residual,
    through,
)
from ..types import (
    Condition,
    Key,
    Sample,
    Scalar,
    Times,
    TimesLike,
    WholeLike,
    at_least_float32,
    typed,
)
from ._border_draws import Borders
from ._denoising import velocity_factor
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_condition_draw,
    check_teacher,
    check_teacher_at,
    dtype_of,
)
from ._losses import L2, PseudoHuber
from ._objective import Terms, Update
from ._row_sampling import (
    AbstractSampling,
    AbstractWeighting,
    Rows,
    RunningMeans,
    Slope,
    Uniform,
    Unweighted,
    draw_row,
    draw_rows,
    steepness,
)
from ._slow_copy import averaged, check_decay, copy_of

_TIMES = 35  # times of the default grid
_LONG_STEPS = 12  # fewer are inaccurate, more compound errors (docs/pid.md)
_PAPER_TIMES = 250
_DRAWN = 4  # nodes of a pass at which a learned teacher is asked
_ROBUST = 0.01  # above which the distance of an integral student's sides is linear
_APART = 0.25  # of sigma_data: two sides that are further apart disagree
_REACH = 5  # consecutive nodes along which its answers are carried
Form = Literal["clean", "velocity"]


class PIDState(eqx.Module):
    """What PID remembers.

    Running losses of the rows, a slow copy of the student, what the weighting measured
    before the first step, the keys of the draws near borders, and the shares of draws
    that disagree at the rows.
    """

    losses: RunningMeans | None
    slow: Any
    measured: Rows
    borders: Key | None
    disagree: RunningMeans | None = None


class PID(AbstractDistillation):
    r"""Teach a student the teacher's ODE by its residual: Tee et al. 2024.

    Use it to distil a diffusion model without data and without solving trajectories. A
    step costs the passes of the derivative and its teacher evaluations, for each
    sample: by default two and three. Networks run without dropout. `PID.paper(flow)`
    and `PID.authors(flow)` are the choices of the paper and of its authors' code.

    A student is either a function of time (`Student`), whose residual needs its
    derivative in time, or the integral of clean samples at nodes of its own
    (`IntegralStudent`), whose residual does not. For the second, `times` and
    `derivative` are not used: a step costs one pass of the student, without a
    derivative, and `draw` evaluations of the teacher.

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `times`: process times from `t_max` to `t_min`; by default `karras(35, process)`.
    - `derivative`: of the student in time, and its clock; by default twelve long steps
      of a third-order solver, `SolverStep(diffrax.Bosh3(), steps=12)`. See
      `pidax.student`.
    - `distance`: a function of two samples: `L2()`, `L1()`, `PseudoHuber()`, or your
      own. By default `L2()` for a `Student`, and `PseudoHuber(0.01)` for an
      `IntegralStudent`: the few draws between two modes, whose residual is large, then
      count no more than others.
    - `form`: `"clean"` compares clean samples (eq. 9 and 11), `"velocity"` velocities
      `dx/dt` (eq. 8): the same residual times $\dot\alpha - \dot\sigma\alpha/\sigma$,
      for EDM $-1/t$.
    - `stop_gradient`: no gradient flows through the teacher (default). False
      differentiates through it.
    - `sampling`, `weighting`: the probability and the weight of each time: `Uniform()`,
      `ByLoss()`, `Curriculum()`, `PowerLaw()`; `Unweighted()`, `Causal()`, `Slope()`,
      `SlopeAlongDraws()`, all in `pidax.distill`. By default uniform, with
      `Unweighted()` for a `Student` and `Slope()` for an `IntegralStudent`.
    - `draw`: the number of nodes of an `IntegralStudent` at which the teacher is
      evaluated in a pass; by default all nodes of an exact teacher, and 4 of a learned
      one.
    - `reach`: the number of consecutive nodes of an `IntegralStudent` along which the
      teacher's answers are carried. The nodes are drawn in runs of `reach`. The state
      at a node of a run contains the teacher's answers at the nodes before it in the
      run, where otherwise it contains the student's predictions. The trajectory at zero
      residual is the same for any `reach`; a longer one learns it in fewer steps. With
      1 the teacher is always evaluated in the student's own states, as in the paper;
      with all nodes every trajectory is solved, and the student regresses on it.
    - `legs`: for a `FlowMap`, or an `IntegralStudent` with several `starts`, the share
      of the loss that belongs to its later starts, in [0, 1). A pass from one of them
      begins in the student's own state there, through which no gradient flows. A
      `FlowMap` starts at any of the `times`, and its residual there is exact.
    - `semigroup`: for the same students, the share of the loss that compares their maps
      with each other, in [0, 1): what the first pass predicts after a later start, with
      what a pass from that start predicts. The second pass has the shorter way, and no
      gradient flows through it. The teacher is not asked. With `slow` the moving
      average makes the second pass.
    - `borders`: take a share of each batch from draws of noise with a large loss:
      `Borders()` of `pidax.distill`.
    - `slow`: evaluate the teacher at the state of a moving average of the student with
      this decay, for additional passes. None for the student itself.
    - `clamp`: limit the teacher's clean sample to this interval, such as `(-1, 1)` for
      images.
    - `classes`: draw a label from `0..classes-1` for every sample, for teacher and
      student. `condition`: a function of a key that draws any other condition, such as
      `lambda key: -1` for "no class".
    - `boundary_weight`: the weight of $|x(z, T) - z|^2 / n$ for a student with a soft
      boundary.

    The reported term `residual` is the mean squared residual per component, as a clean
    sample, unweighted.
    """

    flow: ProbabilityFlow
    times: Times
    derivative: AbstractDerivative
    stencil: Stencil
    distance: Callable[[Sample, Sample], Scalar] | None
    sampling: AbstractSampling
    weighting: AbstractWeighting | None
    borders: Borders | None
    slow: float | None
    clamp: tuple[float, float] | None
    boundary_weight: Scalar
    draw: int | None = eqx.field(static=True)
    reach: int = eqx.field(static=True)
    legs: float = eqx.field(static=True)
    semigroup: float = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    stop_gradient: bool = eqx.field(static=True)
    condition: Draw | None
    classes: int | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        flow: ProbabilityFlow,
        *,
        times: TimesLike | None = None,
        derivative: AbstractDerivative | None = None,
        distance: Callable[..., Any] | None = None,
        form: str = "clean",
        stop_gradient: bool = True,
        sampling: AbstractSampling | None = None,
        weighting: AbstractWeighting | None = None,
        draw: WholeLike | None = None,
        reach: WholeLike = _REACH,
        legs: float | int = 0.5,
        semigroup: float | int = 0.0,
        borders: Borders | None = None,
        slow: float | None = None,
        clamp: tuple[float | int, float | int] | None = None,
        classes: WholeLike | None = None,
        condition: Any = None,
        boundary_weight: float | int = 1.0,
    ):
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}.")
        times = karras(_TIMES, flow.process) if times is None else times
        self.flow = flow
        self.times = check_grid(jnp.asarray(times), flow.process)
        if derivative is None:
            derivative = SolverStep(diffrax.Bosh3(), steps=_LONG_STEPS)
        self.derivative = derivative
        self.stencil = self.derivative.stencil(flow.process, self.times)
        self.distance = distance
        self.sampling = Uniform() if sampling is None else sampling
        self.weighting = weighting
        self.draw = None if draw is None else whole_number("draw", draw)
        self.reach = whole_number("reach", reach)
        self.legs, self.semigroup = float(legs), float(semigroup)
        self.borders = borders
        self.slow = slow
        self.clamp = None if clamp is None else check_interval("clamp", clamp)
        require(
            None,
            boundary_weight >= 0,
            f"boundary_weight must not be negative, got {boundary_weight}. Zero "
            "leaves the boundary condition out.",
        )
        self.boundary_weight = jnp.asarray(boundary_weight, float)
        self.form = form  # type: ignore[assignment]
        self.stop_gradient = stop_gradient
        self.condition = condition
        self.classes = check_condition_draw(classes, condition)

    def __check_init__(self):
        require(
            None,
            0 <= self.legs < 1,
            "legs is the share of the loss of a student's later starts, in [0, 1), got "
            f"legs={self.legs}. The default is 0.5; with 0 they are not trained.",
        )
        require(
            None,
            0 <= self.semigroup < 1 and (self.semigroup == 0 or self.legs > 0),
            "semigroup is the share of the loss that compares the first pass with one "
            "from a later start, in [0, 1), and needs legs, which train the later one: "
            f"got semigroup={self.semigroup}, legs={self.legs}. Use 0.2 and 0.5.",
        )
        check_decay(self.slow)
        require(
            None,
            self.slow is None or self.stop_gradient,
            "slow asks the teacher in another student's state, through which no "
            "gradient flows: expected stop_gradient=True beside it, got False. Leave "
            "one of the two out.",
        )

    @staticmethod
    def paper(flow: ProbabilityFlow, n: int = _PAPER_TIMES, **choices: Any) -> "PID":
        """The choices of the paper: Tee et al. 2024, eq. 11 and Algorithm 1.

        Upwind differences in the process time on `karras(250)`; the index is drawn
        evenly from the unknown states (0 to N - 2, as in the proof). The paper's
        distance is LPIPS for images; here it is L2 unless another is passed. `choices`
        replaces any argument of `PID`.
        """
        made = {"times": karras(n, flow.process), "derivative": Upwind(TimeClock())}
        return PID(flow, **{**made, **choices})

    @staticmethod
    def authors(flow: ProbabilityFlow, n: int = _PAPER_TIMES, **choices: Any) -> "PID":
        """The choices of the authors' code, which has one index more than the paper.

        The index runs to N - 1, where there is no next time: the difference is to the
        time before, and the student has one equation more than unknowns. Their student
        also starts from the teacher's network itself, `Student(teacher.network,
        process)`, without the map to a clean sample of `Student.from_teacher`.
        """
        derivative = Upwind(TimeClock(), last=True)
        made = {"times": karras(n, flow.process), "derivative": derivative}
        return PID(flow, **{**made, **choices})

    def check(self, model: PyTree, data: PyTree) -> None:
        self.check_student(model, data)
        shape = self.shape_of(model)
        several = isinstance(model, FlowMap) or getattr(model, "starts", 1) > 1
        require(
            None,
            several or self.semigroup == 0,
            "semigroup compares the maps of a FlowMap, or of an IntegralStudent with "
            f"several starts, got semigroup={self.semigroup} and a student without "
            "them. Make IntegralStudent(network, process, times, starts=4), or leave "
            "it out.",
        )
        if isinstance(model, IntegralStudent):
            check_teacher_at(self, model.times, shape)
            return
        require(
            None,
            not self._weighting(model).per_draw,
            "weights per draw follow the trajectory of an IntegralStudent, which one "
            f"pass gives, got a {type(model).__name__}. Use Slope() for one weight for "
            "each time, or an IntegralStudent.",
        )
        check_teacher(self, self.derivative, self.stencil, shape)

    def init(self, model: PyTree, *, key: Key) -> PIDState:
        times = self._times_of(model)
        watches = self.sampling.watches or self._weighting(model).watches
        losses = RunningMeans.start(times.size) if watches else None
        asks = self._weighting(model).asks_who_disagrees
        disagree = RunningMeans.start(times.size) if asks else None
        slow = None if self.slow is None else copy_of(model)
        measured = self._weighting(model).measure(
            self.flow, times, self.shape_of(model), self.draw_condition, key=key
        )
        state = PIDState(losses, slow, measured, None, disagree)
        return self.refresh(model, state, key=jax.random.fold_in(key, 1))

    @property
    def refresh_every(self) -> int | None:
        return None if self.borders is None else int(self.borders.every)

    def refresh(self, model: PyTree, state: PIDState, *, key: Key) -> PIDState:
        """With `borders` the draws with the largest loss, chosen anew."""
        if self.borders is None:
            return state
        loss = eqx.Partial(_loss_of, self, model, state)
        borders = self.borders.choose(loss, key=key)
        return dataclasses.replace(state, borders=borders)

    def answer(
        self, model: PyTree, state: PIDState, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, None, tuple[Update, Terms]]:
        draw = key
        if self.borders is not None and state.borders is not None:
            coin = jax.random.fold_in(key, 2)
            draw = self.borders.swap(state.borders, key, key=coin)
        return self._answer(model, state, progress, draw, key)

    def _answer(
        self, model: PyTree, state: PIDState, progress: Scalar, draw: Key, key: Key
    ) -> tuple[Scalar, None, tuple[Update, Terms]]:
        """The answer for the noise and condition of the key `draw`."""
        z_key, _, condition_key = jax.random.split(draw, 3)
        _, row_key, _ = jax.random.split(key, 3)
        unit = jax.random.normal(z_key, self.shape_of(model))
        unit = unit.astype(dtype_of(model))
        condition = self.draw_condition(condition_key)
        times = self._times_of(model)
        losses = jnp.ones(times.size) if state.losses is None else state.losses.means()
        laws = (self.sampling, self._weighting(model))
        measured = state.measured
        if state.disagree is not None:
            measured = laws[1].eased(measured, state.disagree.means().max())
        seen = (times, losses, progress, measured, row_key)
        agreement = None
        if isinstance(model, IntegralStudent):
            sides, agreement = self._integral_rows(
                model, state, unit, condition, laws, seen, key
            )
        else:
            rows, weights = jax.tree.map(lambda a: a[None], draw_row(*laws, *seen))
            row = self.stencil[rows[0]]
            both = residual(
                model,
                self.flow,
                self.derivative,
                row,
                unit,
                condition,
                inside=state.slow,
            )
            sides = _Sides(rows, weights, *(side[None] for side in both))
            if isinstance(model, FlowMap) and self.legs > 0:
                sides, agreement = self._map_rows(
                    model, state, unit, condition, laws, seen, key, sides
                )
        clean = sides.clean
        if self.clamp is not None:
            clean = jnp.clip(clean, *self.clamp)
        if self.stop_gradient:
            clean = jax.lax.stop_gradient(clean)
        distance = self._distance(model)

        def each(sides: _Sides, clean: Array) -> Array:
            factor = jnp.ones(sides.rows.size, unit.dtype)
            if self.form == "velocity":
                at = times[sides.rows].astype(unit.dtype)
                process = self.flow.process
                factor = jax.vmap(lambda t: velocity_factor(process, t))(at)
            scale = lambda x: factor.reshape(-1, *[1] * unit.ndim) * x
            one = jax.vmap(lambda a, b: jnp.asarray(distance(a, b)))
            loss = one(scale(sides.implied), scale(clean))
            return loss.astype(at_least_float32(loss.dtype))

        loss = each(sides, clean)
        terms = {"residual": L2()(sides.implied, clean)}
        update: tuple[Any, ...] = ()
        if state.losses is not None or state.disagree is not None:
            here = jax.nn.one_hot(sides.rows, times.size, dtype=loss.dtype)
            count = here.sum(0)
            held = jax.lax.stop_gradient(loss)
            apart = self._apart(sides, clean).astype(loss.dtype)
            kept = ((state.losses, held), (state.disagree, apart))
            update = tuple((v @ here, count) for mean, v in kept if mean is not None)
        loss = jnp.mean(sides.weights.astype(loss.dtype) * loss)
        if agreement is not None:
            apart = each(agreement, agreement.clean)
            apart = jnp.mean(agreement.weights.astype(apart.dtype) * apart)
            loss = (1 - self.semigroup) * loss + self.semigroup * apart
        if model.boundary == "soft":
            last = jnp.asarray(self.flow.process.t_max, unit.dtype)
            z = self.flow.process.sigma(last) * unit
            terms["boundary"] = L2()(model(z, last, condition), z)
            weight = self.boundary_weight.astype(loss.dtype)
            loss = loss + weight * terms["boundary"]
        return loss, None, (update, terms)

    def _integral_rows(
        self,
        model: IntegralStudent,
        state: PIDState,
        unit: Sample,
        condition: Condition,
        laws: tuple[AbstractSampling, AbstractWeighting],
        seen: tuple[Any, ...],
        key: Key,
    ) -> tuple["_Sides", "_Sides | None"]:
        """The two sides of the residual at the drawn rows; and of the semigroup.

        If the student has several starts, the state of its trajectory at one of the
        later ones, drawn evenly, begins a second pass with rows of its own. With
        `semigroup` the two passes are compared at the nodes of the second.
        """
        count = self._rows_of(model)
        sides = functools.partial(
            integral_residual, model, self.flow, inside=state.slow,
            hold=self.stop_gradient,
        )  # fmt: skip
        flat = lambda side: side.reshape(-1, *unit.shape)
        predicted = model.predicted(unit, condition)
        if laws[1].per_draw:
            own = steepness(model, unit, condition, key=jax.random.fold_in(key, 3))
            seen = (*seen[:3], seen[3] * own, seen[4])
        rows, weights = draw_rows(*count, *laws, *seen)
        implied, clean = sides(unit, condition, predicted=predicted, which=rows)
        first = _Sides(
            rows.reshape(-1), weights.reshape(-1), flat(implied), flat(clean)
        )
        if model.starts == 1 or self.legs == 0:
            return first, None
        start_key, row_key = jax.random.split(jax.random.fold_in(key, 1))
        start = jax.random.randint(start_key, (), 1, model.starts)
        node = jnp.asarray(model.start_nodes)[start]
        held = jax.lax.stop_gradient(predicted)
        sigma = jnp.asarray(np.array(model.levels)[:, 0], unit.dtype)
        there = model.states(unit, held)[node] / sigma[node]
        seen = (*seen[:-1], row_key)
        rows, weights = draw_rows(*count, *laws, *seen, first=node)
        factors = laws[1](*seen[:-1])
        weights = weights / factors[node]  # what grows, grows from there
        later = model.predicted(there, condition, start=start)
        implied, clean = sides(
            there, condition, start=start, predicted=later, which=rows
        )
        second = _Sides(
            rows.reshape(-1), weights.reshape(-1), flat(implied), flat(clean)
        )
        legs = self._both(first, second)
        if self.semigroup == 0:
            return legs, None
        if state.slow is not None:
            later = state.slow.predicted(there, condition, start=start)
        after = jnp.arange(len(model.nodes)) >= node
        factors = jnp.where(after, factors, 0.0) / jnp.mean(after.astype(factors.dtype))
        apart = _Sides(
            jnp.arange(after.size), factors, predicted, jax.lax.stop_gradient(later)
        )
        return legs, apart

    def _map_rows(
        self,
        model: FlowMap,
        state: PIDState,
        unit: Sample,
        condition: Condition,
        laws: tuple[AbstractSampling, AbstractWeighting],
        seen: tuple[Any, ...],
        key: Key,
        first: "_Sides",
    ) -> tuple["_Sides", "_Sides | None"]:
        """The two sides from `t_max`, and from a later time drawn evenly.

        The second pass begins in the student's own state there. With `semigroup` both
        together are compared with the map from `t_max`.
        """
        times = seen[0].astype(unit.dtype)
        start_key, row_key = jax.random.split(jax.random.fold_in(key, 1))
        node = jax.random.randint(start_key, (), 1, times.size)
        seen = (*seen[:-1], row_key)
        row, weight = draw_row(*laws, *seen, first=node)
        s, t = times[node], times[row]
        to_start = jax.lax.stop_gradient(model.clean(unit, s, condition))
        there = model.state(unit, to_start, s) / self.flow.process.sigma(s)
        implied, clean = lagrangian_residual(
            model, self.flow, there, s, t, condition, inside=state.slow
        )
        factors = laws[1](*seen[:-1])
        second = _Sides(
            row[None], (weight / factors[node])[None], implied[None], clean[None]
        )
        legs = self._both(first, second)
        if self.semigroup == 0:
            return legs, None
        teacher = model if state.slow is None else state.slow
        wanted = jax.lax.stop_gradient(
            through(teacher, unit, teacher.clean(unit, s, condition), s, t, condition)
        )
        own = model.clean(unit, t, condition)
        return legs, _Sides(row[None], weight[None], own[None], wanted[None])

    def _both(self, first: "_Sides", second: "_Sides") -> "_Sides":
        """The rows of two passes, whose losses count as `legs` says."""
        return jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            first.times(2 * (1 - self.legs)),
            second.times(2 * self.legs),
        )

    def _times_of(self, model: PyTree) -> Times:
        """Where the rows ask for the ODE: the nodes of a student that has its own."""
        if isinstance(model, IntegralStudent):
            return model.times
        return self.stencil.rows.at_time

    def _rows_of(self, model: IntegralStudent) -> tuple[int, int]:
        """How many nodes of a pass are drawn, in runs of how many."""
        count, draw = len(model.nodes), self.draw
        if draw is None:
            exact = isinstance(self.flow.denoiser, AbstractExactDenoiser)
            draw = count if exact else _DRAWN
        draw = min(draw, count)
        return draw, min(self.reach, draw)

    def _weighting(self, model: PyTree) -> AbstractWeighting:
        if self.weighting is not None:
            return self.weighting
        return Slope() if isinstance(model, IntegralStudent) else Unweighted()

    def _distance(self, model: PyTree) -> Callable[[Sample, Sample], Scalar]:
        if self.distance is not None:
            return self.distance
        return PseudoHuber(_ROBUST) if isinstance(model, IntegralStudent) else L2()

    def _apart(self, sides: "_Sides", clean: Array) -> Array:
        """In which rows the two sides are further apart than what is tolerated."""
        square = (jax.lax.stop_gradient(sides.implied) - clean) ** 2
        mean = square.reshape(len(square), -1).mean(1)
        return mean > (_APART * self.flow.process.sigma_data) ** 2

    def advance(self, model: PyTree, state: PIDState, update: Update) -> PIDState:
        new = iter(update)
        losses, disagree = (
            None if mean is None else mean.update(*next(new))
            for mean in (state.losses, state.disagree)
        )
        state = dataclasses.replace(state, losses=losses, disagree=disagree)
        if self.slow is None:
            return state
        slow = averaged(self.slow, state.slow, model)
        return dataclasses.replace(state, slow=slow)


class _Sides(NamedTuple):
    """The two sides of an equation in some rows, and the factors of their losses."""

    rows: Array
    weights: Array
    implied: Array
    clean: Array

    def times(self, share: float) -> "_Sides":
        return self._replace(weights=share * self.weights)


def _loss_of(pid: PID, model: PyTree, state: PIDState, key: Key) -> Scalar:
    """The loss of a draw, which is not one of the kept ones."""
    loss, *_ = pid._answer(model, state, jnp.ones(()), key, key)
    return loss
