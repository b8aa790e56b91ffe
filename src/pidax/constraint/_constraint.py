r"""Conditions on clean samples, the only link between physics and diffusion.

A model makes a sample $x_0$ in its coordinates. A `normaliser` restores it to fields in
physical units. A constraint has a residual and a cost,

$$ R(x_0) = R\bigl(\mathrm{restore}(x_0)\bigr), \qquad
   \text{cost}(x_0) = \operatorname{mean}\, |R|^2 / s^2, $$

with $s$ the scale of the residual. A constraint is evaluated on clean samples, for
which equations are exact, not on noised samples or posterior means.

    Residual(darcy, normaliser)                     # the equation
    Observation.of(darcy, solution=(mask, u))       # measured values
    Residual(...) & Observation.of(...)             # both
    from_residual(f, shape, normaliser)             # any function of the fields
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float

from .._checks import is_traced, require
from ..pde import AbstractNormaliser
from ..types import Scalar, Shape, Stacked, at_least_float32, typed

Coordinates = Float[Array, "*coordinate"]  # a model's sample
Mask = Bool[Array, "*grid channel"]


class Pinned(NamedTuple):
    """The entries of stacked fields that have one exact value, with these values."""

    mask: Mask
    values: Stacked


class AbstractConstraint(eqx.Module):
    """A condition on clean samples, evaluated on their fields.

    A final class has a field `normaliser` and implements `residual_of(fields)`. It may
    implement `scale_of(fields)`, the `shape` of the fields, and an exact projection
    (`projects` and `project_fields`). If it has a `grid`, it cannot be combined with
    constraints on another grid. The functions on samples follow from these. `a & b` is
    both constraints. `from_residual` makes a constraint from a function.
    """

    normaliser: AbstractVar[AbstractNormaliser | None]

    @abc.abstractmethod
    def residual_of(self, fields: Stacked) -> Array:
        """The residual of stacked fields in physical units: zero if the condition
        holds.
        """

    def scale_of(self, fields: Stacked) -> Array:
        """The scale of the residual: one number, or one for each entry.

        No gradient flows through it, so that a larger scale cannot lower the cost. By
        default 1: the residual in its own units.
        """
        return jnp.ones((), fields.dtype)

    @property
    def shape(self) -> Shape | None:
        """The shape of the stacked fields, or None for any shape."""
        return None

    @property
    def subject(self) -> str:
        """The constraint in words, the beginning of its messages."""
        return f"{type(self).__name__} of fields of shape {self.shape}"

    @property
    def projects(self) -> bool:
        """Whether there is an exact projection."""
        return False

    @property
    def pinned(self) -> Pinned | None:
        """The exact values, if the projection writes them and changes nothing else."""
        return None

    @property
    def channels(self) -> tuple[int, ...] | None:
        """The channels of the fields that the projection changes; None for any."""
        return None

    def project_fields(self, fields: Stacked, free: Mask | None = None) -> Stacked:
        """The nearest stacked fields that satisfy the condition, if there is an exact
        projection.

        Entries that are not `free` keep their values; by default all are free.
        """
        raise ValueError(
            f"no exact projection is known of {self.subject}. Minimise its cost "
            "(px.refine), or solve for the unknown fields: equation.resolve(fields)."
        )

    def check_free(self, free: Mask) -> None:
        """Whether the free entries suffice for the projection; called by `&`."""

    def restore(self, x: Coordinates) -> Stacked:
        """The fields of a clean sample, in physical units and at least float32."""
        if self.normaliser is None:
            raise ValueError(
                f"{type(self).__name__} needs fields in physical units and a sample is "
                "in a model's coordinates: expected a normaliser between them, got "
                "none. Pass normaliser=, as the model was trained with it; "
                "px.pde.Normaliser of means 0 and standard deviations 1 if it sees "
                "physical units."
            )
        return self.normaliser.restore(x.astype(at_least_float32(x.dtype)))

    def residual(self, x: Coordinates) -> Array:
        """The residual of a clean sample, in physical units."""
        return self.residual_of(self.restore(x))

    def cost(self, x: Coordinates) -> Scalar:
        """The mean square of the residual of a clean sample, in units of its scale."""
        return self.cost_of(self.restore(x))

    def cost_of(self, fields: Stacked) -> Scalar:
        """The mean square of the residual of stacked fields, in units of its scale."""
        return jnp.mean(jnp.square(self.relative_of(fields)))

    def relative_of(self, fields: Stacked) -> Array:
        """The residual of stacked fields in units of its scale."""
        scale = jax.lax.stop_gradient(self.scale_of(fields))
        return self.residual_of(fields) / scale

    def project(self, x: Coordinates) -> Stacked:
        """The nearest *fields* to a clean sample's fields that satisfy the condition
        exactly.
        """
        return self.project_fields(self.restore(x))

    def check_normaliser(self, normaliser: AbstractNormaliser) -> None:
        """Check that the normaliser restores to fields of the right shape."""
        if self.shape is None:
            return
        coordinates = normaliser.shape
        shape = self.shape if coordinates is None else coordinates
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        try:
            restored = jax.eval_shape(normaliser.restore, x).shape
        except (ValueError, jaxtyping.TypeCheckError) as error:
            raise ValueError(
                f"the normaliser does not fit {self.subject}, whose stacked fields "
                f"have the shape {self.shape}, channels last: {error} Fit it to this "
                "equation's own fields: Normaliser.fit(dataset[:])."
            ) from error
        if restored != self.shape:
            raise ValueError(
                f"the normaliser restores samples to fields of the shape {restored}, "
                f"expected {self.shape}, the shape of {self.subject}. Fit it to fields "
                "of this grid, or make the equation on the normaliser's grid."
            )

    def adopt(self, normaliser: AbstractNormaliser | None) -> Self:
        """This constraint with the normaliser, unless it has one."""
        if self.normaliser is not None or normaliser is None:
            return self
        self.check_normaliser(normaliser)
        absent = lambda leaf: leaf is None
        return eqx.tree_at(lambda c: c.normaliser, self, normaliser, is_leaf=absent)

    def check(self, shape: Shape) -> None:
        """Check the shape of samples, before compiling.

        Nothing is computed: the normaliser and the residual are traced by shape.
        """
        normaliser, expected = self.normaliser, self.shape
        if normaliser is not None and normaliser.shape is not None:
            expected = normaliser.shape
        if expected is not None and tuple(shape) != expected:
            if normaliser is None:
                raise ValueError(
                    f"{self.subject} needs fields in physical units, and samples "
                    f"of the shape {shape} are in a model's coordinates: expected the "
                    "normaliser between them, got none. Pass normaliser=, the one that "
                    "the model was trained with, or join the constraint by & to a "
                    "Residual that has it."
                )
            raise ValueError(
                f"expected samples of the shape {expected}, got samples of the shape "
                f"{shape}, which are not on the grid of {self.subject}. Make the "
                "model for that grid, or the constraint and its normaliser on the grid "
                "of the samples; fields can be moved from grid to grid only before "
                "training."
            )
        try:
            jax.eval_shape(self.residual, jax.ShapeDtypeStruct(shape, jnp.float32))
        except (ValueError, jaxtyping.TypeCheckError) as error:
            if normaliser is None:
                raise
            raise ValueError(
                f"samples of the shape {shape} are not such as {self.subject} can "
                f"judge: {error}"
            ) from error

    @typed
    def check_start(self, x: Float[Array | np.ndarray, "batch *coordinate"]) -> None:
        """Check once, before minimising, that the costs of these samples are finite.

        Residuals, whose squares may overflow although they do not, and scales are
        checked too. A value that is not finite at the start stays so, as do its
        gradients.
        """
        samples, residuals = (np.asarray(b) for b in _not_finite(self, jnp.asarray(x)))
        if samples.any():
            raise ValueError(
                f"expected finite samples, got {samples.sum()} of {samples.size} with "
                f"NaN or infinite entries (first: {samples.argmax()}). The model that "
                "made them is not trained, or is called beyond the noise levels it "
                "was trained on."
            )
        if residuals.any():
            raise ValueError(
                f"expected finite residuals of {self.subject}, and squares of them, "
                f"got {residuals.sum()} of {residuals.size} samples whose residual, or "
                "its square or scale, is not finite in this precision (first: "
                f"{residuals.argmax()}), though the samples are. Their "
                "fields are too large for the equation, or the normaliser is not the "
                "one that the model was trained with: look at constraint.restore(x)."
            )

    def __and__(self, other: "AbstractConstraint") -> "All":
        return All((self, other))


@eqx.filter_jit
def _not_finite(constraint: AbstractConstraint, x: Array) -> tuple[Array, Array]:
    """For each sample, whether it has such entries, and whether its cost has."""
    bad = lambda a: ~jnp.isfinite(a).all()

    def one(x: Array) -> tuple[Array, Array]:
        fields = constraint.restore(x)
        residual, scale = constraint.residual_of(fields), constraint.scale_of(fields)
        # A residual divided by an infinite scale would be zero.
        return bad(x), bad(residual) | bad(scale) | bad(constraint.cost_of(fields))

    return jax.vmap(one)(x)


class All(AbstractConstraint):
    """All of `parts` hold: the sum of their costs, and the concatenation of their
    residuals.

        Residual(darcy, normaliser) & Observation.of(darcy, solution=(mask, u))

    All parts share one normaliser: parts without one adopt it, and two different ones
    are refused, since samples have one system of coordinates.

    Exact values and one linear condition for each channel can be projected together:
    the values are written, then the other entries are moved. Two conditions that move
    the same entries cannot: the second would undo the first. Write both as rows of one
    `Affine`.
    """

    parts: tuple[AbstractConstraint, ...]

    def __init__(self, parts: Sequence[AbstractConstraint]):
        flat: list[AbstractConstraint] = []
        for part in parts:
            flat += part.parts if isinstance(part, All) else [part]
        if not flat:
            raise ValueError("expected at least one constraint, got none.")
        if len({part.shape for part in flat} - {None}) > 1:
            listed = "; ".join(f"{p.subject}: {p.shape}" for p in flat)
            raise ValueError(
                f"constraints of one sample judge fields of one shape, got {listed}. "
                "Make them on one grid, with the same stacked fields."
            )
        placed = [(p, g) for p in flat if (g := getattr(p, "grid", None)) is not None]
        points = lambda grid: (grid.shape, grid.extent, grid.layout, grid.periodic)
        for other, grid in placed[1:]:  # their points; values on the sides may differ
            if points(grid) != points(placed[0][1]):
                raise ValueError(
                    "constraints of one sample are on the points of one grid, got "
                    f"{placed[0][0].subject}; and {other.subject}. Make both with one "
                    "equation, or observe at_points, by coordinates."
                )
        charts = [part.normaliser for part in flat if part.normaliser is not None]
        for chart in charts[1:]:
            same = chart is charts[0] or eqx.tree_equal(chart, charts[0])
            if not is_traced(same) and not same:
                raise ValueError(
                    "constraints of one sample have one normaliser, got two that "
                    f"differ: {charts[0]} and {chart}. Give it to one of them; the "
                    "others adopt it."
                )
        adopted = [part.adopt(charts[0] if charts else None) for part in flat]
        self.parts = _compatible(adopted)

    @property
    def normaliser(self) -> AbstractNormaliser | None:  # type: ignore[override]
        return self.parts[0].normaliser

    @property
    def shape(self) -> Shape | None:
        return next((p.shape for p in self.parts if p.shape is not None), None)

    @property
    def subject(self) -> str:
        return " and ".join(part.subject for part in self.parts)

    @property
    def projects(self) -> bool:
        return self._obstacle() is None

    def residual_of(self, fields: Stacked) -> Array:
        return jnp.concatenate([p.residual_of(fields).ravel() for p in self.parts])

    def scale_of(self, fields: Stacked) -> Array:
        def one(part: AbstractConstraint) -> Array:
            size = jnp.shape(part.residual_of(fields))
            return jnp.broadcast_to(part.scale_of(fields), size).ravel()

        return jnp.concatenate([one(part) for part in self.parts])

    def cost_of(self, fields: Stacked) -> Scalar:
        """The sum of the parts' costs, each the mean over its own entries."""
        costs = [part.cost_of(fields) for part in self.parts]
        return sum(costs[1:], costs[0])

    def project_fields(self, fields: Stacked, free: Mask | None = None) -> Stacked:
        if (obstacle := self._obstacle()) is not None:
            raise ValueError(obstacle)
        if len(self.parts) == 1:
            return self.parts[0].project_fields(fields, free)
        free = jnp.ones(fields.shape, bool) if free is None else free
        # Exact values stay; the other entries satisfy the rest.
        pinned = [part for part in self.parts if part.pinned is not None]
        for part in pinned:
            fields = part.project_fields(fields, free)
        free = _free(self.parts, free)
        for part in self.parts:
            if part.pinned is None:
                fields = part.project_fields(fields, free)
        return fields

    def _obstacle(self) -> str | None:
        """Why the parts have no exact projection together; None if they have one."""
        for part in self.parts:
            if not part.projects:
                return (
                    f"no exact projection is known of {part.subject}. Minimise the "
                    "cost."
                )
        moving = [part for part in self.parts if part.pinned is None]
        for i, second in enumerate(moving):
            for first in moving[:i]:
                a, b = first.channels, second.channels
                if a is None or b is None or set(a) & set(b):
                    return (
                        f"{first.subject} and {second.subject} do not project one "
                        "after the other: the second moves what the first put right. "
                        "Write them as rows of one Affine, whose projection is exact."
                    )
        return None


def _free(parts: Sequence[AbstractConstraint], free: Mask) -> Mask:
    """The free entries at which no part has an exact value."""
    for part in parts:
        if part.pinned is not None:
            free = free & ~part.pinned.mask
    return free


def _compatible(
    parts: list[AbstractConstraint],
) -> tuple[AbstractConstraint, ...]:
    """The parts, after checking that exact values agree and leave some entries free."""
    exact: list[Pinned] = []
    for i, part in enumerate(parts):
        if (pinned := part.pinned) is None:
            continue
        for other in exact:
            twice = pinned.mask & other.mask & (pinned.values != other.values)
            parts[i] = part = require(
                part,
                ~twice.any(),
                "two constraints know one point exactly, with different values. "
                "Observe each point once.",
            )
        exact.append(pinned)
    if exact:
        free = _free(parts, jnp.ones(exact[0].mask.shape, bool))
        for part in parts:
            part.check_free(free)
    return tuple(parts)
