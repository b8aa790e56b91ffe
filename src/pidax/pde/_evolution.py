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
from collections.abc import Sequence
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


class Evolution(NamedTuple):
    """The initial field, and the solution in rows of time, whose first row it is."""

    initial: Field
    solution: SpaceTime


class AbstractEvolution(AbstractEquation[FieldsT]):
    """An equation $u_t = F(u)$ whose solution is stored at `rows` times up to `end`.

    A final class has, in addition to `kind`, `draw` and the fields here,

    - `advance(u, *parameters)`, the field one row later;
    - `terms(u, *parameters)`, the terms whose sum is $F(u)$.

    The last of its `Fields` is the solution, the first the initial field. Fields
    between them, if any, are parameters of each sample, which `parameters` reads from a
    solution.

    A diffusion model sees the solution only: "time x channel" with one channel in one
    dimension; in two and three dimensions "*grid channel" with one channel for each
    row. The initial field is the first row, so the result of `unstack` starts from its
    own first row. To compare with a prescribed one use `fields._replace(initial=...)`.
    """

    end: AbstractVar[float]
    rows: AbstractVar[int]
    Fields: ClassVar[type[Any]] = Evolution
    given: ClassVar[tuple[str, ...]] = ("initial",)

    @abc.abstractmethod
    def advance(self, u: Field, *parameters: Any, **named: Any) -> Field:
        """The field one row later: the solver's step."""

    @abc.abstractmethod
    def terms(self, u: Field, *parameters: Any, **named: Any) -> tuple[Field, ...]:
        """The terms of the right side; their sum is the rate of change."""

    def parameters(self, solution: SpaceTime) -> tuple[Array, ...]:
        """The given fields other than the initial field, read from a solution."""
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

    def rate(self, u: Field, *parameters: Array) -> Field:
        """$F(u)$, the rate of change."""
        first, *others = self.terms(u, *parameters)
        return sum(others, first)

    def solve(self, *given: Any, **named: Any) -> FieldsT:
        """The solution from the given fields, one `advance` for each row."""
        initial, *parameters = self._checked(given)

        def row(u: Field, _: None) -> tuple[Field, Field]:
            new = self.advance(u, *parameters)
            return new, new

        _, later = jax.lax.scan(row, initial, length=self.rows - 1)
        solution = jnp.concatenate([initial[None], later])
        solution = self.impose(solution, initial, *parameters)
        cure = "The steps are too long for these data, or the data are not finite."
        solution = require_finite(
            f"a solution of {type(self).__name__}", solution, cure
        )
        return self.Fields(initial, *parameters, solution)

    def residual(self, fields: FieldsT) -> Array:
        r"""The defect of each step, $(u_{n+1} - S(u_n)) / \Delta t$; zero in row 0."""
        _, *parameters, u = fields
        step = jax.vmap(lambda row: self.advance(row, *parameters))
        defect = (u[1:] - step(u[:-1])) / self.interval
        return jnp.concatenate([jnp.zeros_like(u[:1]), defect])

    def collocation(self, fields: FieldsT) -> Array:
        r"""$(u_{n+1} - u_{n-1}) / 2\Delta t - F(u_n)$; zero in the first and last row.

        For the solver's output it is of order $\Delta t^2$, not zero. Use it to compare
        with residuals by finite differences, or if a step is too expensive to
        differentiate.
        """
        _, *parameters, u = fields
        rate = jax.vmap(lambda row: self.rate(row, *parameters))
        ddt = TimeDerivative(self.interval, "central")
        inner = ddt(u) - rate(ddt.at(u))
        edge = jnp.zeros_like(u[:1])
        return jnp.concatenate([edge, inner, edge])

    def scale(self, fields: FieldsT) -> Scalar:
        r"""The norms of $u_t$ (between rows) and of each term of $F$, together."""
        _, *parameters, u = fields
        terms = jax.vmap(lambda row: self.terms(row, *parameters))(u[1:])
        change = (u[1:] - u[:-1]) / self.interval
        share = np.sqrt((self.rows - 1) / self.rows)  # row 0 counts as zero
        return float(share) * sum((rms(term) for term in terms), rms(change))

    def boundary_error(self, fields: FieldsT) -> Scalar:
        """The largest deviation from the initial field and from prescribed values."""
        *given, u = fields
        return jnp.max(jnp.abs(u - self.impose(u, *given)))

    def without(self, fields: FieldsT) -> FieldsT:
        """The given fields, and zero wherever the solution is not prescribed."""
        *given, u = fields
        return self.Fields(*given, self.impose(jnp.zeros_like(u), *given))

    @property
    def stacked_shape(self) -> Shape:
        line = self.grid.ndim == 1
        space = self.grid.shape
        return (self.rows, *space, 1) if line else (*space, self.rows)

    @property
    def given_mask(self) -> np.ndarray:
        first = jnp.ones(self.grid.shape)
        parameters = [jnp.ones(()) for _ in self.given[1:]]
        solution = jnp.zeros((self.rows, *self.grid.shape)).at[0].set(1.0)
        return np.asarray(self.stack(self.Fields(first, *parameters, solution))) > 0

    def stop_given(self, fields: FieldsT) -> FieldsT:
        """The same fields, without gradients of the given ones and of row 0."""
        *given, u = jax.lax.stop_gradient(fields)
        first = jnp.zeros(self.rows, bool).at[0].set(True)
        first = first.reshape(-1, *[1] * (u.ndim - 1))
        return self.Fields(*given, jnp.where(first, u, fields[-1]))

    def stack(self, fields: FieldsT) -> Stacked:
        """The solution as one array: "time x channel", or "*grid channel" for rows."""
        solution = jnp.asarray(fields[-1])
        line = self.grid.ndim == 1
        return solution[..., None] if line else jnp.moveaxis(solution, 0, -1)

    def unstack(self, array: Stacked) -> FieldsT:
        """The fields of one array: the solution, and its first row as initial field."""
        solution = self.unstack_solution(array)
        return self.Fields(solution[0], *self.parameters(solution), solution)

    def unstack_solution(self, array: Stacked) -> SpaceTime:
        """The solution in an array that may have channels of parameters after it."""
        line, shape = self.grid.ndim == 1, self.stacked_shape
        if array.shape != shape:
            what = '"time x channel"' if line else '"*grid channel", a channel a row'
            raise ValueError(
                f"{type(self).__name__} is stacked as {what}, shape {shape}, got shape "
                f"{array.shape}. For a batch, jax.vmap."
            )
        return array[..., 0] if line else jnp.moveaxis(array, -1, 0)[: self.rows]

    def check_field(self, name: str, field: Array) -> None:
        """The shapes: of the grid, with rows for the solution, () for parameters."""
        if name == self.names[0]:
            return self.grid.check(**{name: field})
        last = name == self.names[-1]
        expected = (self.rows, *self.grid.shape) if last else ()
        if np.shape(field) != expected:
            what = f"{self.rows} rows of time on the grid" if last else "one number"
            raise ValueError(
                f"{name} must be {what}, shape {expected}, got shape "
                f"{np.shape(field)}. For a batch, jax.vmap."
            )

    def _checked(self, given: Sequence[Any]) -> list[Array]:
        if len(given) != len(self.given):
            raise ValueError(
                f"{type(self).__name__} is solved from {', '.join(self.given)}, got "
                f"{len(given)} arrays."
            )
        for name, field in zip(self.given, given, strict=True):
            self.check_field(name, field)
        return [jnp.asarray(field) for field in given]
