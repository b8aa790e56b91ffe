r"""Equations of evolution: $u_t = F(u)$ from an initial field, stored in rows of time.

    u_{n+1} = S(u_n),    t_n = n Δt,    n = 0 ... rows - 1

Row 0 is the given initial field. The residual of a row is the defect of the solver's
own step from the row before, in units of u per time,

    R_{n+1} = (u_{n+1} - S(u_n)) / Δt,        R_0 = 0,

zero to rounding for the solver's output, and $e/\Delta t$ for an error $e$ in one row
(which changes the next row's residual too). It is local in time: one step needs two
rows only. `collocation` is the residual of the equation itself, with central
differences between rows: it needs no steps, and is of second order in $\Delta t$.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array

from .._checks import require_finite
from ..types import Field, Scalar, Shape, SpaceTime, Stacked, Times
from ._derivative import TimeDerivative
from ._equation import AbstractEquation, FieldsT, rms

State = Array  # "*grid", or "*grid channel" of several fields
Terms = tuple[Array, ...] | None


class Evolution(NamedTuple):
    """The initial field, and the solution in rows of time, whose first row it is."""

    initial: Field
    solution: SpaceTime


class AbstractEvolution(AbstractEquation[FieldsT]):
    """An equation $u_t = F(u)$ whose solution is stored at `rows` times up to `end`.

    A final class has, in addition to `kind`, `draw` and the fields here,

    - `advance(u, *parameters)`, the state one row later;
    - `terms(u, *parameters)`, the terms whose sum is $F(u)$, if they are known.

    The last of its `Fields` is the solution, the first the initial field. Fields
    between them, if any, are parameters of each sample, which `parameters` reads from a
    solution. An equation of several fields, such as two concentrations, has as many
    initial fields at the beginning and as many solutions, in the same order, at the
    end: `Fields = (initial_a, initial_b, a, b)`. The state `u` is then one array "*grid
    channel" with a channel for each; `split` and `join` convert.

    A diffusion model sees the solution only: "time x channel" with one channel (for
    each field) in one dimension; in two and three dimensions "*grid channel" with one
    channel for each row (and field, the fields of a row together). The initial field is
    the first row, so the result of `unstack` starts from its own first row. To compare
    with a prescribed one use `fields._replace(initial=...)`.
    """

    end: AbstractVar[float]
    rows: AbstractVar[int]
    Fields: ClassVar[type[Any]] = Evolution
    given: ClassVar[tuple[str, ...]] = ("initial",)

    @abc.abstractmethod
    def advance(self, u: State, *parameters: Any, **named: Any) -> State:
        """The state one row later: the solver's step."""

    def terms(self, u: State, *parameters: Any, **named: Any) -> Terms:
        """The terms of the right side; their sum is the rate of change.

        None, the default, where nothing but the step is known: then there is no
        `collocation`, and the residual is measured by the change between rows.
        """
        return None

    def row_step(self, like: State, *parameters: Array) -> Callable[[State], State]:
        """`advance` as a function of the state, made once for all rows.

        `like` is a state in the precision of those to come.
        """
        return lambda u: self.advance(u, *parameters)

    def parameters(self, solution: SpaceTime) -> tuple[Array, ...]:
        """The given fields other than initial fields, read from a solution."""
        return ()

    def impose(
        self, solution: SpaceTime, initial: Field, *parameters: Array
    ) -> SpaceTime:
        """The solution with initial and boundary values written over it."""
        return solution.at[0].set(initial)

    @property
    def constant_determinant(self) -> bool:
        """True: in a row's defect the row itself has a constant factor."""
        return True

    @property
    def interval(self) -> float:
        r"""$\Delta t$, the time between rows."""
        return self.end / (self.rows - 1)

    @property
    def times(self) -> Times:
        """The time of each row."""
        return jnp.asarray(np.linspace(0.0, self.end, self.rows), float)

    def split(self, fields: FieldsT) -> tuple[State, tuple[Array, ...], SpaceTime]:
        """The initial state, the parameters, and the solution in rows of states."""
        count = len(self.given)
        initial, parameters = self._start(fields[:count])
        return initial, parameters, _together(fields[count:])

    def join(
        self, initial: State, parameters: Sequence[Array], solution: SpaceTime
    ) -> FieldsT:
        """The fields, from the states: the inverse of `split`."""
        first, later = (self._apart(state) for state in (initial, solution))
        return self.Fields(*first, *parameters, *later)

    def rate(self, u: State, *parameters: Array) -> State:
        """$F(u)$, the rate of change."""
        terms = self.terms(u, *parameters)
        if terms is None:
            name = type(self).__name__
            raise ValueError(
                f"the rate of change is the sum of the equation's terms: expected "
                f"{name}.terms(u) to return them, got None. Pass or define them; or "
                "use residual, the defect of the step, which needs none."
            )
        first, *others = terms
        return sum(others, first)

    def solve(self, *given: Any, **named: Any) -> FieldsT:
        """The solution from the given fields, one `advance` for each row."""
        initial, parameters = self._start(self._checked(given))
        step = self.row_step(initial, *parameters)

        def row(u: State, _: None) -> tuple[State, State]:
            new = step(u)
            return new, new

        _, later = jax.lax.scan(row, initial, length=self.rows - 1)
        solution = jnp.concatenate([initial[None], later])
        solution = self.impose(solution, initial, *parameters)
        solution = require_finite(
            f"a solution of {type(self).__name__}",
            solution,
            self.advice(initial, solution),
        )
        return self.join(initial, parameters, solution)

    def advice(self, initial: State, solution: SpaceTime) -> str:
        """What to do if this solution is not finite."""
        return "The steps are too long for these data, or the data are not finite."

    def residual(self, fields: FieldsT) -> Array:
        r"""The defect of each step, $(u_{n+1} - S(u_n)) / \Delta t$; zero in row 0."""
        _, parameters, u = self.split(fields)
        step = jax.vmap(self.row_step(u[0], *parameters))
        defect = (u[1:] - step(u[:-1])) / self.interval
        return jnp.concatenate([jnp.zeros_like(u[:1]), defect])

    def collocation(self, fields: FieldsT) -> Array:
        r"""$(u_{n+1} - u_{n-1}) / 2\Delta t - F(u_n)$; zero in the first and last row.

        For the solver's output it is of order $\Delta t^2$, not zero. Use it to compare
        with residuals by finite differences, or if a step is too expensive to
        differentiate. Needs `terms`.
        """
        _, parameters, u = self.split(fields)
        rate = jax.vmap(lambda row: self.rate(row, *parameters))
        ddt = TimeDerivative(self.interval, "central")
        inner = ddt(u) - rate(ddt.at(u))
        edge = jnp.zeros_like(u[:1])
        return jnp.concatenate([edge, inner, edge])

    def scale(self, fields: FieldsT) -> Scalar:
        r"""The norms of $u_t$ (between rows) and of each term of $F$, together.

        Where no terms are known, the norm of $u_t$ alone.
        """
        _, parameters, u = self.split(fields)
        terms = jax.vmap(lambda row: self.terms(row, *parameters))(u[1:])
        change = (u[1:] - u[:-1]) / self.interval
        share = np.sqrt((self.rows - 1) / self.rows)  # row 0 counts as zero
        return float(share) * sum((rms(term) for term in terms or ()), rms(change))

    def boundary_error(self, fields: FieldsT) -> Scalar:
        """The largest deviation from the initial field and from prescribed values."""
        initial, parameters, u = self.split(fields)
        return jnp.max(jnp.abs(u - self.impose(u, initial, *parameters)))

    def without(self, fields: FieldsT) -> FieldsT:
        """The given fields, and zero wherever the solution is not prescribed."""
        initial, parameters, u = self.split(fields)
        null = self.impose(jnp.zeros_like(u), initial, *parameters)
        return self.join(initial, parameters, null)

    @property
    def row_shape(self) -> Shape:
        """The shape of a state: of the grid, with a channel for each of several
        fields.
        """
        count = len(self.unknowns)
        return self.grid.shape if count == 1 else (*self.grid.shape, count)

    @property
    def stacked_shape(self) -> Shape:
        count, space = len(self.unknowns), self.grid.shape
        line = self.grid.ndim == 1
        return (self.rows, *space, count) if line else (*space, self.rows * count)

    @property
    def given_mask(self) -> np.ndarray:
        first = jnp.ones(self.row_shape)
        parameters = [jnp.ones(()) for _ in self.given[len(self.unknowns) :]]
        solution = jnp.zeros((self.rows, *self.row_shape)).at[0].set(1.0)
        return np.asarray(self.stack(self.join(first, parameters, solution))) > 0

    def stop_given(self, fields: FieldsT) -> FieldsT:
        """The same fields, without gradients of the given ones and of row 0."""
        initial, parameters, u = jax.lax.stop_gradient(self.split(fields))
        first = jnp.zeros(self.rows, bool).at[0].set(True)
        first = first.reshape(-1, *[1] * (u.ndim - 1))
        rows = jnp.where(first, u, self.split(fields)[2])
        return self.join(initial, parameters, rows)

    def stack(self, fields: FieldsT) -> Stacked:
        """The solution as one array: "time x channel", or "*grid channel" for rows."""
        rows = self.split(fields)[2].reshape(self.rows, *self.grid.shape, -1)
        if self.grid.ndim == 1:
            return rows
        image = jnp.moveaxis(rows, 0, -2)
        return image.reshape(*self.grid.shape, -1)

    def unstack(self, array: Stacked) -> FieldsT:
        """The fields of one array: the solution, and its first row as initial field."""
        solution = self.unstack_solution(array)
        return self.join(solution[0], self.parameters(solution), solution)

    def unstack_solution(self, array: Stacked) -> SpaceTime:
        """The solution in an array that may have channels of parameters after it."""
        line, shape = self.grid.ndim == 1, self.stacked_shape
        if array.shape != shape:
            what = '"time x channel"' if line else '"*grid channel", a channel a row'
            raise ValueError(
                f"{type(self).__name__} is stacked as {what}, shape {shape}, got shape "
                f"{array.shape}. For a batch, jax.vmap."
            )
        count = len(self.unknowns)
        image = array[..., : count * (1 if line else self.rows)]
        if not line:
            rows = image.reshape(*self.grid.shape, self.rows, count)
            image = jnp.moveaxis(rows, -2, 0)
        return image.reshape(self.rows, *self.row_shape)

    def check_field(self, name: str, field: Array) -> None:
        """The shapes: of the grid, with rows for the solution, () for parameters."""
        if name in self.given[: len(self.unknowns)]:
            return self.grid.check(**{name: field})
        last = name in self.unknowns
        expected = (self.rows, *self.grid.shape) if last else ()
        if np.shape(field) != expected:
            what = f"{self.rows} rows of time on the grid" if last else "one number"
            raise ValueError(
                f"{name} must be {what}, shape {expected}, got shape "
                f"{np.shape(field)}. For a batch, jax.vmap."
            )

    def _start(self, given: Sequence[Array]) -> tuple[State, tuple[Array, ...]]:
        """The initial state and the parameters, of the given fields."""
        count = len(self.unknowns)
        return _together(given[:count]), tuple(given[count:])

    def _apart(self, state: Array) -> tuple[Array, ...]:
        """The fields of a state or of rows of them, one for each unknown."""
        if len(self.unknowns) == 1:
            return (state,)
        return tuple(jnp.moveaxis(state, -1, 0))

    def _checked(self, given: Sequence[Any]) -> list[Array]:
        if len(given) != len(self.given):
            raise ValueError(
                f"{type(self).__name__} is solved from {', '.join(self.given)}, got "
                f"{len(given)} arrays."
            )
        for name, field in zip(self.given, given, strict=True):
            self.check_field(name, field)
        return [jnp.asarray(field) for field in given]


def _together(fields: Sequence[Array]) -> Array:
    """One field as it is, several as one array with a channel for each."""
    if len(fields) == 1:
        return jnp.asarray(fields[0])
    return jnp.stack([jnp.asarray(field) for field in fields], axis=-1)
