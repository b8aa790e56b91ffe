r"""A stepper as an equation: any function that moves a state one time step ahead.

    u(t + dt) = F(u(t)),        u_{n+1} = F(F(... u_n)) = S(u_n),    `steps` times a row

Law, solver, residual, data sets and report follow from the function alone. The residual
is the defect of the step between rows, $(u_{n+1} - S(u_n))/\Delta t$ with $\Delta t =$
`steps * dt`: zero for the stepper's own output, whatever is inside the stepper.

A chaotic equation forgets where it started. Its rows then begin after `skip` rows that
are thrown away, so that the initial field is a state of the attractor, not of the law.
"""

import abc
import dataclasses
import functools
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array

from .._checks import is_traced, require_finite, require_positive, require_whole
from ..types import Key, SpaceTime
from ._equation import FieldsT, Kind
from ._evolution import AbstractEvolution, Evolution, State, Terms
from ._exponax import check_exponax, rebuilt, spectral_terms
from ._grid import Grid
from ._random_field import AbstractRandomField, Law, as_law

HALVINGS = 6  # of an unstable time step, until a search for a stable one gives up
Function = Callable[[Array], Array]


class AbstractStepped(AbstractEvolution[FieldsT]):
    """An equation whose rows are `steps` time steps of `dt` apart.

    A final class has `one_step(dtype)`, the function from a state to the state `dt`
    later, and `with_step(dt, steps)`. `draw` takes the law's sample `skip` rows ahead
    and returns where it arrives.
    """

    skip: AbstractVar[int]
    initial: AbstractVar[Any]  # the law of the initial field, or a tuple of several

    @property
    @abc.abstractmethod
    def dt(self) -> float:
        """The time of one step."""

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Steps from one row to the next."""

    @abc.abstractmethod
    def one_step(self, dtype: Any) -> Function:
        """The function from a state in this precision to the state `dt` later."""

    @abc.abstractmethod
    def with_step(self, dt: float, steps: int) -> "AbstractStepped[FieldsT] | None":
        """The same equation with another time step, or None if it cannot be made."""

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        """The initial fields: a sample of the law, `skip` rows later."""
        start = self._sample(key)
        if not self.skip:
            return self._apart(start)
        step = self.row_step(start)
        arrived = jax.lax.fori_loop(0, self.skip, lambda _, u: step(u), start)
        arrived = require_finite(
            f"a state of {type(self).__name__} after {self.skip} rows",
            arrived,
            self.advice(start, arrived),
        )
        return self._apart(arrived)

    def advance(self, u: State, *parameters: Array) -> State:
        """The state one row later: `steps` time steps."""
        return self.row_step(u, *parameters)(u)

    def row_step(self, like: State, *parameters: Array) -> Function:
        step = self.one_step(like.dtype)  # outside of all loops
        return lambda u: jax.lax.fori_loop(0, self.steps, lambda _, u: step(u), u)

    def advice(self, initial: State, solution: SpaceTime) -> str:
        """The first halving of the time step that stays finite, if one is found."""
        cure = super().advice(initial, solution)
        if is_traced(initial, solution) or np.isfinite(np.asarray(solution)).all():
            return f"{cure} Take more steps from row to row."
        count = self.skip + self.rows - 1
        for halvings in range(1, HALVINGS + 1):
            factor = 2**halvings
            finer = self.with_step(self.dt / factor, self.steps * factor)
            if finer is None:
                break
            if bool(_stays_finite(finer, initial, count)):
                return (
                    f"The steps are too long for these data: {self.dt:g} is unstable, "
                    f"{self.dt / factor:g} stays finite. Take {self.steps * factor} "
                    f"steps from row to row in place of {self.steps}."
                )
        return f"{cure} The time step is {self.dt:g}; look at the law first."

    def _sample(self, key: Key) -> State:
        if isinstance(self.initial, AbstractRandomField):
            return self.initial.sample(key=key)
        keys = jax.random.split(key, len(self.initial))
        pairs = zip(self.initial, keys, strict=True)
        return jnp.stack([law.sample(key=k) for law, k in pairs], axis=-1)


class Stepper(AbstractStepped[Any]):
    r"""A stepper of someone else's as an equation: $u(t + dt) = F(u(t))$.

        import exponax

        grid = px.pde.Grid((64,), extent=(0.0, 20.0), boundary=px.pde.Periodic())
        waves = exponax.stepper.KortewegDeVries(1, 20.0, 64, 0.01)
        kdv = px.pde.Stepper(waves, grid, px.pde.Matern(grid), steps=10, rows=11)

    Every stepper of exponax is one: its time step, extent, points and channels are
    compared with the grid. So is any other function; it may not change the shape and
    dtype of its argument.

    The units are the stepper's: of lengths in `grid.extent`, of times in `dt`.
    Boundary conditions are the stepper's too; those of exponax are periodic, on the
    points $x_i = ih$, $h = L/n$, which are the points of a periodic `Grid`.

    **Arguments:**

    - `stepper`: a function of one state. One that has `num_channels`, as exponax's, and
      any with `names`, acts on "channel *grid"; every other on a field of the grid.
    - `law`: the distribution of the initial field; of several fields one for each, as a
      dictionary by name or in the order of `names`.
    - `dt`: the time of one step; by default the stepper's own `dt`.
    - `steps`: steps of the stepper from one row to the next.
    - `rows`: stored rows, the initial field among them.
    - `skip`: rows that are thrown away before the first.
    - `names`: the names of the fields of a stepper with several channels. The equation
      has the fields `initial_a`, `initial_b`, `a`, `b` for `names=("a", "b")`.
    - `terms`: a function from a state to the terms whose sum is its rate of change. By
      default the linear and the nonlinear term of a stepper of exponax, and unknown
      (None) for others: then `collocation` is refused and the relative residual is
      relative to the change between rows alone.

    **Cost:** `steps` calls of the stepper a row, and as many in the residual.

    Koehler, Niedermayr, Westermann & Thuerey (2024), *APEBench*, NeurIPS, describe
    exponax.
    """

    stepper: Function
    grid: Grid
    initial: AbstractRandomField | tuple[AbstractRandomField, ...]
    _dt: float = eqx.field(static=True)
    _steps: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    skip: int = eqx.field(static=True)
    channels: tuple[str, ...] = eqx.field(static=True)
    leading: bool = eqx.field(static=True)
    own_terms: Callable[[Array], tuple[Array, ...]] | None
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        stepper: Function,
        grid: Grid,
        law: Law | Mapping[str, Law] | Sequence[Law],
        *,
        dt: float | None = None,
        steps: int = 1,
        rows: int = 11,
        skip: int = 0,
        names: Sequence[str] = (),
        terms: Callable[[Array], tuple[Array, ...]] | None = None,
    ):
        self.stepper, self.grid = stepper, grid
        self.channels = _checked_names(stepper, names)
        self.leading = bool(names) or hasattr(stepper, "num_channels")
        self.initial = _laws(grid, law, self.channels)
        self._dt, self._steps = _time_step(stepper, dt), steps
        self.rows, self.skip = rows, skip
        self.own_terms = terms

    def __check_init__(self):
        require_whole(least=2, rows=self.rows)
        require_whole(steps=self.steps)
        require_whole(least=0, skip=self.skip)
        check_exponax(self.stepper, self.grid)
        state = jax.ShapeDtypeStruct(self.row_shape, jnp.result_type(float))
        self._check_output(jax.eval_shape(self._raw, state), state)

    @property
    def dt(self) -> float:
        """The time of one step."""
        return self._dt

    @property
    def steps(self) -> int:
        """Steps from one row to the next."""
        return self._steps

    @property
    def interval(self) -> float:
        r"""$\Delta t$, the time between rows."""
        return self.steps * self.dt

    @property
    def end(self) -> float:  # type: ignore[override]
        """The time of the last row; row 0 is at zero."""
        return self.interval * (self.rows - 1)

    @property
    def Fields(self) -> type[Any]:  # type: ignore[override]
        """The initial fields and the solutions, by name."""
        return _fields_of(self.channels)

    @property
    def given(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the initial fields."""
        return self.Fields._fields[: max(1, len(self.channels))]

    def one_step(self, dtype: Any) -> Function:
        """The stepper, in this precision: its arrays are rounded to it."""
        stepper = cast(self.stepper, dtype)
        return lambda u: self._raw(u, stepper).astype(dtype)

    def terms(self, u: State, *parameters: Array) -> Terms:
        """The stepper's linear and nonlinear term, those of `terms=`, or None."""
        x = self._lead(u)
        with jax.numpy_dtype_promotion("standard"):
            stepper = cast(self.stepper, u.dtype)
            own = self.own_terms
            found = spectral_terms(stepper, x) if own is None else own(x)
        if found is None:
            return None
        return tuple(self._trail(term).astype(u.dtype) for term in found)

    def with_step(self, dt: float, steps: int) -> "Stepper | None":
        stepper = rebuilt(self.stepper, dt)
        if stepper is None:
            return None
        return changed(self, stepper=stepper, _dt=dt, _steps=steps)

    def _raw(self, u: State, stepper: Function | None = None) -> State:
        """One step, in the layout and the precision of the stepper."""
        stepper = self.stepper if stepper is None else stepper
        with jax.numpy_dtype_promotion("standard"):
            found = stepper(self._lead(u))
        if getattr(found, "ndim", None) != u.ndim + self._added:
            return found  # is refused
        return self._trail(found)

    @property
    def _added(self) -> int:
        """The axes that a stepper's states have and ours have not."""
        return int(self.leading and not self.channels)

    def _lead(self, u: State) -> Array:
        """A state with its channel first, if the stepper has it so."""
        if not self.leading:
            return u
        return jnp.moveaxis(u, -1, 0) if self.channels else u[None]

    def _trail(self, x: Array) -> State:
        if not self.leading:
            return x
        return jnp.moveaxis(x, 0, -1) if self.channels else x[0]

    def _check_output(self, found: Any, state: jax.ShapeDtypeStruct) -> None:
        shape = getattr(found, "shape", None)
        if shape == state.shape and jnp.issubdtype(found.dtype, jnp.floating):
            return
        what = type(found).__name__ if shape is None else f"{found.dtype}{list(shape)}"
        layout = '"channel *grid"' if self.leading else '"*grid"'
        raise ValueError(
            f"a stepper returns a state of the shape of its argument, "
            f"{list(state.shape)} for {type(self.stepper).__name__} on {self.grid}, "
            f"got {what}. It is called on {layout}: with names=, or an attribute "
            "num_channels, a channel is the first axis, otherwise there is none."
        )


def cast(stepper: Function, dtype: Any) -> Function:
    """The stepper with its arrays, real and complex, in one precision."""
    waves = np.result_type(dtype, np.complex64)

    def narrow(leaf: Any) -> Any:
        known = isinstance(leaf, jax.Array | np.ndarray)
        if not known or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.asarray(leaf, waves if jnp.iscomplexobj(leaf) else dtype)

    return jax.tree.map(narrow, stepper)


def changed(module: Any, **fields: Any) -> Any:
    """A copy of the module with other values of some fields, which are not checked."""
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        value = fields.get(field.name, getattr(module, field.name))
        object.__setattr__(copy, field.name, value)
    return copy


@eqx.filter_jit
def _stays_finite(equation: AbstractStepped[Any], u: State, rows: int) -> Array:
    step = equation.row_step(u)
    return jnp.isfinite(jax.lax.fori_loop(0, rows, lambda _, u: step(u), u)).all()


@functools.cache
def _fields_of(names: tuple[str, ...]) -> type[Any]:
    if not names:
        return Evolution
    return namedtuple("Fields", [*(f"initial_{name}" for name in names), *names])


def _checked_names(stepper: Any, names: Sequence[str]) -> tuple[str, ...]:
    """The names of several fields; () for one, which needs none."""
    if not callable(stepper) or isinstance(stepper, type):
        raise ValueError(
            "expected a stepper, a function from a state to the state one step later, "
            f"got {stepper!r}. Make one: exponax.stepper.Diffusion(1, 1.0, 64, 0.1)."
        )
    names = tuple(names)
    count = getattr(stepper, "num_channels", max(1, len(names)))
    letters = all(isinstance(name, str) and name.isidentifier() for name in names)
    wrong = len(names) != count if names else count > 1
    taken = [*names, *(f"initial_{name}" for name in names)]
    if wrong or not letters or len(set(taken)) < len(taken):
        kind = type(stepper).__name__
        some = ", ".join(f'"{letter}"' for letter in "abcdefgh"[:count])
        raise ValueError(
            f"names must be a name for each channel of the stepper, {count} of "
            f"{kind}, all different and such as Python's, got names={names}. Write "
            f"names=({some},)."
        )
    return names if len(names) > 1 else ()


def _laws(
    grid: Grid, law: Law | Mapping[str, Law] | Sequence[Law], names: tuple[str, ...]
) -> AbstractRandomField | tuple[AbstractRandomField, ...]:
    if not names:
        return as_law(grid, law)  # type: ignore[arg-type]
    if isinstance(law, Mapping) and set(law) == set(names):
        return tuple(as_law(grid, law[name]) for name in names)
    if isinstance(law, tuple | list) and len(law) == len(names):
        return tuple(as_law(grid, one) for one in law)
    got = f"those of {', '.join(law)}" if isinstance(law, Mapping) else repr(law)
    some = ", ".join(f"{name}=..." for name in names)
    raise ValueError(
        f"the law must have a distribution for each of {', '.join(names)}, got {got}. "
        f"Write dict({some})."
    )


def _time_step(stepper: Any, dt: float | None) -> float:
    own = getattr(stepper, "dt", None)
    chosen = own if dt is None else dt
    if chosen is None:
        raise ValueError(
            f"dt must be the time of one step of {type(stepper).__name__}, which does "
            "not say it, got dt=None. Write dt=0.1 or whatever it is."
        )
    require_positive(dt=chosen)
    step = float(chosen)
    if own is not None and not np.isclose(float(own), step, rtol=1e-6, atol=0):
        raise ValueError(
            f"dt must be the time step of {type(stepper).__name__}, {float(own):g}, "
            f"got dt={step:g}. Leave it out; for longer rows, steps=."
        )
    return step
