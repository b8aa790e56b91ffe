r"""Several constraints at once: $a \mathbin{\&} b$.

$$ \text{cost} = \sum_i \text{cost}_i $$
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import is_traced, require
from ..pde import AbstractNormaliser
from ..types import Scalar, Shape, Stacked
from ._base import AbstractConstraint
from ._match import check_normaliser
from ._mean import Mean
from ._observation import Observation
from ._observed import check_units


class All(AbstractConstraint):
    """All of `parts` hold: the sum of their costs, and their residuals end to end.

        Residual(darcy, normaliser) & Observation.of(darcy, solution=(mask, u))

    One normaliser serves all: parts without one adopt the others', and two that differ
    are refused, since samples have one chart. Exact values and means project together
    (overwrite, then shift what is free); `Affine` only alone: put further linear
    conditions into its rows.
    """

    parts: tuple[AbstractConstraint, ...]

    def __init__(self, parts: Sequence[AbstractConstraint]):
        flat = [
            p
            for part in parts
            for p in (part.parts if isinstance(part, All) else (part,))
        ]
        if not flat:
            raise ValueError("expected at least one constraint, got none.")
        _check_shapes(flat)
        _check_grids(flat)
        chart = _one_normaliser(flat)
        self.parts = _free_to_shift(tuple(_adopt(part, chart) for part in flat))

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
        return _obstacle(self.parts) is None

    def residual_of(self, fields: Stacked) -> Array:
        return jnp.concatenate([p.residual_of(fields).ravel() for p in self.parts])

    def scale_of(self, fields: Stacked) -> Array:
        def one(part):
            size = jnp.shape(part.residual_of(fields))
            return jnp.broadcast_to(part.scale_of(fields), size).ravel()

        return jnp.concatenate([one(part) for part in self.parts])

    def cost_of(self, fields: Stacked) -> Scalar:
        """The sum of the parts' costs, each the mean over its own entries."""
        costs = [part.cost_of(fields) for part in self.parts]
        return sum(costs[1:], costs[0])

    def project_fields(self, fields: Stacked) -> Stacked:
        obstacle = _obstacle(self.parts)
        if obstacle is not None:
            raise ValueError(obstacle)
        if len(self.parts) == 1:
            return self.parts[0].project_fields(fields)
        # Overwritten values stay, and a shift of all others is the nearest that has
        # the mean: means of different channels do not see each other.
        for part in _of(Observation, self.parts):
            fields = part.overwrite(fields)
        free = _free(self.parts, fields)
        for part in _of(Mean, self.parts):
            fields = part.shift(fields, free)
        return fields


def _of(kind, parts):
    return [part for part in parts if isinstance(part, kind)]


def _free(parts, like):
    """Where no value is known exactly."""
    free = jnp.ones(like.shape, bool)
    for part in _of(Observation, parts):
        free = free & ~part.exact
    return free


def _obstacle(parts):
    """Why the parts have no exact projection together, or None if they have one."""
    without = [part.subject for part in parts if not part.projects]
    if without:
        return f"no exact projection is known of {without[0]}. Minimise the cost."
    if len(parts) == 1:
        return None
    other = [p.subject for p in parts if not isinstance(p, Observation | Mean)]
    if other:
        return (
            f"{other[0]} and what it is joined to do not project one after the other: "
            "the second moves what the first put right. Write all of them as rows of "
            "one Affine, whose projection is exact."
        )
    channels = [part.channel for part in _of(Mean, parts)]
    if len(set(channels)) < len(channels) or (None in channels and len(channels) > 1):
        return (
            "two means of one channel do not project one after the other. Write them "
            "as rows of one Affine, whose projection is exact."
        )
    return None


def _free_to_shift(parts):
    """The parts, having checked that they can hold together."""
    seen = _of(Observation, parts)
    for i, second in enumerate(seen):
        for first in seen[:i]:
            differs = first.exact & second.exact & (first.values != second.values)
            values = require(
                second.values,
                ~differs.any(),
                "two observations know one point exactly, with different values. "
                "Observe each point once.",
            )
            changed = eqx.tree_at(lambda o: o.values, second, values)
            parts = tuple(changed if part is second else part for part in parts)
    if seen and _of(Mean, parts):
        free = _free(parts, seen[0].mask)
        for mean in _of(Mean, parts):
            left = mean.part(free)
            axes, _ = mean._weights(jnp.ones(left.shape))
            some = left.any(axes).all()
            if not is_traced(some) and not some:
                raise ValueError(
                    f"{mean.subject} is prescribed where every value is known exactly: "
                    "nothing is left to shift. Leave out the one or the other."
                )
    return parts


def _check_shapes(parts):
    shapes = [part.shape for part in parts if part.shape is not None]
    if len(set(shapes)) > 1:
        listed = "; ".join(f"{p.subject}: {p.shape}" for p in parts)
        raise ValueError(
            f"constraints of one sample judge fields of one shape, got {listed}. Make "
            "them on one grid, with the same stacked fields."
        )


def _check_grids(parts):
    """What says on which grid it is, is on the same points. Sides may differ."""
    points = lambda grid: (grid.shape, grid.extent, grid.layout, grid.periodic)
    known = [p for p in parts if getattr(p, "grid", None) is not None]
    for other in known[1:]:
        if points(other.grid) != points(known[0].grid):
            raise ValueError(
                "constraints of one sample are on the points of one grid, got "
                f"{known[0].subject}; and {other.subject}. Make both with one "
                "equation, or observe at_points, by coordinates."
            )


def _one_normaliser(parts):
    """The chart that all parts have or adopt."""
    charts = [part.normaliser for part in parts if part.normaliser is not None]
    for chart in charts[1:]:
        same = chart is charts[0] or eqx.tree_equal(chart, charts[0])
        if not is_traced(same) and not same:
            raise ValueError(
                "constraints of one sample have one normaliser, got two that differ: "
                f"{charts[0]} and {chart}. Give it to one of them; the others adopt it."
            )
    return charts[0] if charts else None


def _adopt(part, chart):
    if part.normaliser is not None or chart is None:
        return part
    if part.shape is not None:
        check_normaliser(chart, part.shape, part.subject)
    if isinstance(part, Observation):
        check_units(part.mask, part.values, chart)
    return eqx.tree_at(
        lambda p: p.normaliser, part, chart, is_leaf=lambda leaf: leaf is None
    )
