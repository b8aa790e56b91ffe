"""Jumps on a circle: a law of objects in one dimension."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._checks import whole_number
from ..types import Field
from ._fourier import check_periodic
from ._grid import Grid
from ._latent_field import (
    AbstractLatentField,
    Latent,
    Range,
    check_ranges,
    present,
    uniform,
)


class JumpShapes(NamedTuple):
    """Where each piece begins in units of the circle, its value; which there are."""

    place: Float[Array, " piece"]
    value: Float[Array, " piece"]
    present: Bool[Array, " piece"]


class Jumps(AbstractLatentField):
    r"""A piecewise constant field on a circle, with a random number of jumps.

    From `least` to `most` jumps, each number equally likely, at uniform places, with
    independent values uniform in `values` between them. A point has the value of the
    piece in which it lies. A draw is a function of `latent_size` standard normal
    numbers (`from_latent`).
    """

    grid: Grid
    least: int = eqx.field(static=True, default=2)
    most: int = eqx.field(static=True, default=4)
    values: Range = (-1.0, 1.0)
    piecewise: ClassVar[bool] = True

    def __check_init__(self):
        whole_number("least", self.least)
        whole_number("most", self.most, least=self.least)
        check_ranges(["values"], [self.values])
        check_periodic(self.grid, "Jumps")
        n = self.grid.shape[0]
        if self.grid.ndim != 1 or n < 2 * self.most:
            raise ValueError(
                f"jumps must fit their grid: expected one axis of at least "
                f"{2 * self.most} points, two a jump, got {self.grid}. Take "
                f"Grid(({2 * self.most},), boundary=Periodic()) or a finer one."
            )

    @property
    def latent_size(self) -> int:
        """Two numbers a jump, and a switch for each beyond the fewest."""
        return 3 * self.most - self.least

    def shapes(self, latent: Latent) -> JumpShapes:
        """The pieces of these normal numbers."""
        latent = self.check_latent(latent)
        place, value, switches = jnp.split(latent, [self.most, 2 * self.most])
        there = present(switches, self.least)
        return JumpShapes(
            uniform(place, (0.0, 1.0)), uniform(value, self.values), there
        )

    def from_latent(self, latent: Latent) -> Field:
        s = self.shapes(latent)
        low, length = self.grid.extent[0][0], self.grid.lengths[0]
        x = jnp.asarray((self.grid._points[0] - low) / length, s.place.dtype)
        behind = jnp.mod(x[:, None] - s.place, 1)  # how far behind the point it began
        return s.value[jnp.argmin(jnp.where(s.present, behind, 2), axis=1)]
