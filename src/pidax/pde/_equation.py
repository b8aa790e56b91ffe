r"""Equations: fields, their distribution, a solver, a residual.

    given  --solve-->  solution,        residual(given, solution) = 0

with one discretisation, in physical units. The fields are a `NamedTuple`, which
`sample` returns and `residual` takes. A new equation is a class with the methods
`draw`, `solve`, `residual` and `scale`: see examples/own_equation.py.

For a linear equation the distribution of all fields is known. If the given field is $g
= m + F\xi$ and the solver is affine, $S(g) = S(0) + S_0 g$, then all fields are jointly
Gaussian, with mean $(m, S(m))$ and factor $(F, S_0 F)$ (`gaussian_law`).
"""

import abc
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float

from ..types import Field, Key, Scalar, Shape, Stacked
from ._float64 import in_double
from ._grid import Grid
from ._random_field import AbstractGaussianField, AbstractRandomField

Kind = Literal["linear", "bilinear", "nonlinear"]
Values = Any  # an instance of some equation's `Fields`
FieldsT = TypeVar("FieldsT", bound=tuple[Any, ...])  # an equation's own `Fields`


class AbstractEquation(eqx.Module, Generic[FieldsT]):
    """A partial differential equation on a grid, with its solver and its residual.

    A final class, `class Heat(AbstractEquation[HeatFields])`, has

    - `Fields`, a `NamedTuple` class of its fields, the given fields first;
    - `given`, the names of the fields that determine the others;
    - `kind`, how the residual depends on all fields together: "linear" (means of
      solutions are solutions), "bilinear" or "nonlinear";
    - `draw(key=)`, the given fields of a random sample, in the order of `given`;
    - `solve(*given)`, all fields, from the given fields;
    - `residual(fields)`, left side minus right side of the equation at every point,
      zero where values are prescribed;
    - `scale(fields)`, the scale of the residual: the norm of the source, or the sum of
      the norms of the equation's terms.
    """

    grid: AbstractVar[Grid]
    Fields: ClassVar[type[Any]]
    given: ClassVar[tuple[str, ...]]
    kind: ClassVar[Kind]

    @abc.abstractmethod
    def draw(self, *, key: Key) -> tuple[Array, ...]:
        """The given fields of a random sample, in the order of `given`."""

    @abc.abstractmethod
    def solve(self, *given: Any, **named: Any) -> FieldsT:
        """All fields, from the given fields in the order of `given`."""

    @abc.abstractmethod
    def residual(self, fields: FieldsT) -> Array:
        """Left side minus right side at every point, in physical units."""

    @abc.abstractmethod
    def scale(self, fields: FieldsT) -> Scalar:
        """The scale of a relative residual, in the residual's units and norm."""

    def boundary_error(self, fields: FieldsT) -> Scalar:
        """The largest deviation from boundary and initial conditions.

        Zero unless an equation overrides it.
        """
        return jnp.zeros(())

    def log_determinant(self, fields: FieldsT) -> Scalar:
        r"""$\ln|\det\partial R/\partial u|$ by the unknown fields, up to a constant.

        A law that penalises the residual is divided by this determinant when the
        unknown fields are left out. It is constant, here 0, for linear equations and
        for the steps of an evolution. Others define this method, by
        `pde.log_determinant(operator)` of the operator that acts on the unknown field.
        """
        self.check_fields(fields)
        if not self.constant_determinant:
            name = type(self).__name__
            raise ValueError(
                f"the determinant of the residual of {name} depends on its given "
                f"fields: expected {name}.log_determinant(fields), got none. Define "
                "it, by pde.log_determinant(operator) with the operator that acts on "
                'the unknown field; or pass slack_on="solution" to infer or refine.'
            )
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(fields)))

    @property
    def constant_determinant(self) -> bool:
        r"""Whether $\det\partial R/\partial u$ is the same for all given fields: for a
        linear equation.
        """
        return self.kind == "linear"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in the order of their channels."""
        return self.Fields._fields

    def sample(self, *, key: Key) -> FieldsT:
        """Draw the given fields and solve for the others.

        Computed in float64 when called from Python, and returned in default precision.
        """
        return _sample_in_double(self, key)

    def relative_residual(self, fields: FieldsT) -> Scalar:
        r"""$\lVert R \rVert / s$, with $R$ the residual and $s$ its `scale`.

        0 where $R$ is 0, for any scale: zero solves a homogeneous equation.
        """
        return ratio(self.residual_norm(fields), self.scale(fields))

    def residual_norm(self, fields: FieldsT) -> Scalar:
        r"""$\lVert R \rVert$: root mean square over points."""
        return rms(self.residual(fields))

    def resolve(self, fields: FieldsT) -> FieldsT:
        """The solver's fields for the same given fields."""
        self.check_fields(fields)
        return _resolve_in_double(self, fields)

    def without(self, fields: FieldsT) -> FieldsT:
        """The same given fields, and zero for all others: a baseline of
        every report.
        """
        self.check_fields(fields)
        zeros = {n: jnp.zeros_like(getattr(fields, n)) for n in self.unknowns}
        return fields._replace(**zeros)  # type: ignore[attr-defined]

    def stop_given(self, fields: FieldsT) -> FieldsT:
        """The same fields, without gradients of the given ones."""
        self.check_fields(fields)
        given = {n: jax.lax.stop_gradient(getattr(fields, n)) for n in self.given}
        return fields._replace(**given)  # type: ignore[attr-defined]

    @property
    def given_mask(self) -> np.ndarray:
        """The given entries of the stacked array: a mask of `stacked_shape`."""
        space = self.grid.shape
        ones = [jnp.full(space, float(name in self.given)) for name in self.names]
        return np.asarray(self.stack(self.Fields(*ones))) > 0

    @property
    def unknowns(self) -> tuple[str, ...]:
        """The names of the fields that are solved for."""
        return tuple(name for name in self.names if name not in self.given)

    @property
    def stacked_shape(self) -> Shape:
        """The shape of `stack`'s result; override both or neither."""
        return (*self.grid.shape, len(self.names))

    def stack(self, fields: FieldsT) -> Stacked:
        """The fields as one array "*grid channel", which a diffusion model sees."""
        return jnp.stack([jnp.asarray(f) for f in fields], axis=-1)

    def unstack(self, array: Stacked) -> FieldsT:
        """The fields of one array; the inverse of `stack`."""
        if array.shape[-1] != len(self.names):
            raise ValueError(
                f"{type(self).__name__} has the {len(self.names)} fields "
                f"{', '.join(self.names)}, got {array.shape[-1]} channels (shape "
                f"{array.shape}). The channels are last; for a batch, jax.vmap."
            )
        return self.Fields(*jnp.moveaxis(array, -1, 0))

    def fields(self, **fields: Array) -> FieldsT:
        """The fields by name, each checked to be a field of this equation."""
        unknown, missing = set(fields) - set(self.names), set(self.names) - set(fields)
        if unknown or missing:
            raise ValueError(
                f"{type(self).__name__} has the fields {', '.join(self.names)}; got "
                f"{', '.join(fields)}."
            )
        for name, field in fields.items():
            self.check_field(name, field)
        return self.Fields(**fields)

    def check_fields(self, fields: Any) -> None:
        """The argument of a residual is this equation's `Fields`, and no bare tuple."""
        if isinstance(fields, self.Fields):
            return
        name, kind = type(self).__name__, type(fields).__name__
        size = f" of {len(fields)}" if isinstance(fields, tuple | list) else ""
        some = ", ".join(f"{field}=..." for field in self.names)
        raise ValueError(
            f"{name} expects its {self.Fields.__name__}({', '.join(self.names)}), got "
            f"a {kind}{size}. Name the fields: equation.fields({some}); of one stacked "
            "array, equation.unstack(array)."
        )

    def check_field(self, name: str, field: Array) -> None:
        """Check that the field `name` has its shape, by default the grid's."""
        self.grid.check(**{name: field})


class GaussianLaw(NamedTuple):
    """The mean and a low-rank factor of the covariance of the stacked fields."""

    mean: Stacked
    factor: Float[Array, "*grid channel rank"]


def _sample(equation: AbstractEquation[FieldsT], key: Key) -> FieldsT:
    return equation.solve(*equation.draw(key=key))


def _resolve(equation: AbstractEquation[FieldsT], fields: FieldsT) -> FieldsT:
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


def batched(equation: AbstractEquation[FieldsT], keys: Array) -> FieldsT:
    """A batch of samples, one for each key: `vmap` of `draw` and `solve`."""
    return jax.vmap(lambda key: equation.solve(*equation.draw(key=key)))(keys)


def gaussian_law(
    equation: AbstractEquation[Any], given: AbstractRandomField
) -> GaussianLaw:
    """The distribution of all fields if the one given field is drawn from `given`.

    `Gaussian(law.mean, Covariance.low_rank(law.factor))`, both of `pidax.denoiser`, is
    the exact denoiser of the equation's samples. Samplers and inverse methods can be
    tested with it.

    For an equation of `kind` "linear" with one given field. Costs one solve for each
    mode of `given`, and the factor has as many columns: use a distribution with few
    modes (`Matern(grid, modes=64)`). In float64 when called from Python.
    """
    name = type(equation).__name__
    if equation.kind != "linear" or len(equation.given) != 1:
        raise ValueError(
            f"the fields of {name} are not jointly Gaussian: its residual is "
            f"{equation.kind} in them and its given fields are {equation.given}. Only "
            "a linear equation with one given field has a Gaussian law."
        )
    if not isinstance(given, AbstractGaussianField):
        raise ValueError(
            f"{name} has a Gaussian law if its {equation.given[0]} has one, got "
            f"{type(given).__name__}. Use Matern, KarhunenLoeve or Fixed."
        )
    return _law(equation, given)


@in_double
def _law(equation: AbstractEquation[Any], given: AbstractGaussianField) -> GaussianLaw:
    solve = lambda g: equation.stack(equation.solve(g))
    columns = given.factor()
    base = solve(jnp.zeros_like(given.mean()))
    push = lambda column: solve(column) - base
    factor = jax.vmap(push, in_axes=-1, out_axes=-1)(columns)
    return GaussianLaw(solve(given.mean()), factor)
