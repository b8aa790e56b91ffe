r"""What an equation is: fields, a law to draw them from, a solver, a residual.

    given  --solve-->  solution,        residual(given, solution) = 0

all three from one discretisation, in physical units. An equation names its fields by a
`NamedTuple`, which is what `sample` returns and `residual` takes. A new one is a class
with three methods, `draw`, `solve` and `residual`: see examples/own_equation.py.
"""

import abc
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array

from ..types import Field, Key, Scalar, Shape, Stacked
from ._grid import Grid
from ._precision import in_double

Kind = Literal["linear", "bilinear", "nonlinear"]
Values = Any  # an instance of an equation's `Fields`


class AbstractEquation(eqx.Module):
    r"""A partial differential equation on a grid, with its solver and its residual.

    A final class says

    - `Fields`, a `NamedTuple` class of its fields, what is given first;
    - `given`, the names of those that determine the others;
    - `kind`, how the residual depends on the fields together: "linear" (means of
      solutions are solutions), "bilinear" or "nonlinear";
    - `draw(key=)`, the given fields of a random sample, in the order of `given`;
    - `solve(*given)`, all fields, from the given ones;
    - `residual(fields)`, left side minus right side of the equation at every point,
      zero where values are prescribed;
    - `scale(fields)`, the size that a residual is relative to: the norm of the source,
      or the sum of the norms of the equation's terms.
    """

    grid: AbstractVar[Grid]
    Fields: ClassVar[type]
    given: ClassVar[tuple[str, ...]]
    kind: ClassVar[Kind]

    @abc.abstractmethod
    def draw(self, *, key: Key) -> tuple[Array, ...]:
        """The given fields of a random sample, in the order of `given`."""

    @abc.abstractmethod
    def solve(self, *given: Any, **named: Any) -> Values:
        """All fields, from the given ones, in the order of `given`."""

    @abc.abstractmethod
    def residual(self, fields: Values) -> Array:
        """Left side minus right side at every point, in physical units."""

    @abc.abstractmethod
    def scale(self, fields: Values) -> Scalar:
        """The size that a residual is relative to, in its units and norm."""

    def boundary_error(self, fields: Values) -> Scalar:
        """The largest distance from what boundary and initial conditions prescribe.

        Zero unless an equation says otherwise.
        """
        return jnp.zeros(())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in the order of their channels."""
        return self.Fields._fields  # type: ignore[attr-defined]

    def sample(self, *, key: Key) -> Values:
        """Draw the given fields and solve for the others.

        In float64 when called from Python, and handed back in default precision.
        """
        return _sample_in_double(self, key)

    def relative_residual(self, fields: Values) -> Scalar:
        r"""$\lVert R \rVert / s$, with $R$ the residual and $s$ its `scale`.

        0 where $R$ is, whatever the scale: zero solves a homogeneous equation.
        """
        return ratio(self.residual_norm(fields), self.scale(fields))

    def residual_norm(self, fields: Values) -> Scalar:
        r"""$\lVert R \rVert$: root mean square over points."""
        return rms(self.residual(fields))

    def resolve(self, fields: Values) -> Values:
        """The fields that this equation's own solver makes of the given ones."""
        return _resolve_in_double(self, fields)

    def without(self, fields: Values) -> Values:
        """The same given fields with zero for all others: the null of every report."""
        zeros = {n: jnp.zeros_like(getattr(fields, n)) for n in self.unknowns}
        return fields._replace(**zeros)

    def hold(self, fields: Values) -> Values:
        """The same fields, of which no gradient reaches the given ones."""
        held = {n: jax.lax.stop_gradient(getattr(fields, n)) for n in self.given}
        return fields._replace(**held)

    @property
    def given_mask(self) -> np.ndarray:
        """Which entries of the stacked array are given: a mask of `stacked_shape`."""
        space = self.grid.shape
        ones = [jnp.full(space, float(name in self.given)) for name in self.names]
        return np.asarray(self.stack(self.Fields(*ones))) > 0

    @property
    def unknowns(self) -> tuple[str, ...]:
        """The names of the fields that are solved for."""
        return tuple(name for name in self.names if name not in self.given)

    @property
    def stacked_shape(self) -> Shape:
        """The shape of the array that `stack` makes: write both, or neither."""
        return (*self.grid.shape, len(self.names))

    def stack(self, fields: Values) -> Stacked:
        """The fields as one array "*grid channel", what a diffusion model sees."""
        return jnp.stack([jnp.asarray(f) for f in fields], axis=-1)

    def unstack(self, array: Stacked) -> Values:
        """The fields of one array; the inverse of `stack`."""
        if array.shape[-1] != len(self.names):
            raise ValueError(
                f"{type(self).__name__} has the {len(self.names)} fields "
                f"{', '.join(self.names)}, got {array.shape[-1]} channels (shape "
                f"{array.shape}). The channels are last; for a batch, jax.vmap."
            )
        return self.Fields(*jnp.moveaxis(array, -1, 0))

    def fields(self, **fields: Array) -> Values:
        """The fields by name, each checked to be one of this equation's."""
        unknown, missing = set(fields) - set(self.names), set(self.names) - set(fields)
        if unknown or missing:
            raise ValueError(
                f"{type(self).__name__} has the fields {', '.join(self.names)}; got "
                f"{', '.join(fields)}."
            )
        for name, field in fields.items():
            self.check_field(name, field)
        return self.Fields(**fields)

    def check_field(self, name: str, field: Array) -> None:
        """The field `name` has its shape, by default that of the grid."""
        self.grid.check(**{name: field})


def _sample(equation, key):
    return equation.solve(*equation.draw(key=key))


def _resolve(equation, fields):
    return equation.solve(*(getattr(fields, name) for name in equation.given))


_sample_in_double = in_double(_sample, explain=True)
_resolve_in_double = in_double(_resolve, explain=True)


def rms(field: Field | np.ndarray) -> Scalar:
    """Root mean square over the points; its derivative at zero is taken to be zero."""
    square = jnp.mean(jnp.square(field))
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def ratio(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where `a` is."""
    zero = a == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def batched(equation: AbstractEquation, keys: Array) -> Values:
    """A batch of samples, one a key: `vmap` of `draw` and `solve`."""
    return jax.vmap(lambda key: equation.solve(*equation.draw(key=key)))(keys)
