r"""Channels of one material in another: a law of objects.

Channel $k$ is where

$$ \bigl|\, y - c_k - t_k (x - \tfrac12) - A_k \sin(2\pi x / \ell_k + p_k) \,\bigr|
   < w_k, $$

with $x$, $y$ in units of the sides of the domain.
"""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import require_positive, whole_number
from ..types import Field
from ._grid import Grid
from ._latent_field import (
    AbstractLatentField,
    Latent,
    Range,
    check_ranges,
    present,
    uniform,
)

NUMBERS = 6  # of a channel
POINTS_A_WAVE = 4


class ChannelShapes(NamedTuple):
    """The parameters of all channels, and which of them there are."""

    centre: Float[Array, " channel"]
    tilt: Float[Array, " channel"]
    amplitude: Float[Array, " channel"]
    wavelength: Float[Array, " channel"]
    phase: Float[Array, " channel"]
    half_width: Float[Array, " channel"]
    present: Bool[Array, " channel"]


class Channels(AbstractLatentField):
    r"""Winding channels of the value `high` across the domain, `low` beside them.

    There are one to `most` channels, each number equally likely. A channel is

    $$ \bigl|\, y - c - t (x - \tfrac12) - A \sin(2\pi x / \ell + p) \,\bigr| < w, $$

    $x$ and $y$ in units of the sides, with $p$ uniform in $(0, 2\pi)$ and every other
    parameter uniform in its range: $c$ `centre`, $t$ `tilt`, $A$ `amplitude`, $\ell$
    `wavelength`, $w$ `half_width`.

    A draw is a function of `latent_size` standard normal numbers (`from_latent`), so
    that chains which move in them have exactly this law as their prior. The law is
    far from Gaussian, also after any map of values point by point: a threshold of a
    Gaussian field has no channels.

    Between two columns of points a channel may jump by more than its width, and so be
    cut. A channel that is narrower than a cell is cut for no other reason than the
    grid: such laws are refused.
    """

    grid: Grid
    high: float = 300.0
    low: float = 3.0
    most: int = eqx.field(static=True, default=3)
    centre: Range = (0.0, 1.0)
    tilt: Range = (-0.3, 0.3)
    amplitude: Range = (0.02, 0.12)
    wavelength: Range = (0.5, 1.2)
    half_width: Range = (0.05, 0.1)
    piecewise: ClassVar[bool] = True

    def __check_init__(self):
        require_positive(high=self.high, low=self.low)
        whole_number("most", self.most)
        if not isinstance(self.grid, Grid) or self.grid.ndim != 2:
            raise ValueError(
                f"Channels are in the plane, got {self.grid}. Use a Grid of two axes, "
                'such as Grid((32, 32), layout="cells").'
            )
        names = ("centre", "tilt", "amplitude", "wavelength", "half_width")
        check_ranges(names, [getattr(self, name) for name in names])
        require_positive(half_width=self.half_width[0], wavelength=self.wavelength[0])
        cell, (nx, ny) = self._cells, self.grid.shape
        need = tuple(
            math.ceil(n * ratio - 1e-9)
            for n, ratio in (
                (nx, POINTS_A_WAVE * cell[0] / self.wavelength[0]),
                (ny, cell[1] / (2 * self.half_width[0])),
            )
        )
        if need[0] > nx or need[1] > ny:
            best = max(need[0], nx), max(need[1], ny)
            raise ValueError(
                "channels must fit their grid: expected a width 2w of at least one "
                f"cell and {POINTS_A_WAVE} cells a wave, got widths from "
                f"{2 * self.half_width[0]:.3g} with cells of {cell[1]:.3g} along y, "
                f"and waves from {self.wavelength[0]:.3g} with cells of {cell[0]:.3g} "
                f"along x. Take {best[0]} x {best[1]} points or more, or larger "
                "half_width and wavelength."
            )

    @property
    def _cells(self) -> tuple[float, ...]:
        """The spacings in units of the sides."""
        pairs = zip(self.grid.spacing, self.grid.lengths, strict=True)
        return tuple(h / length for h, length in pairs)

    @property
    def latent_size(self) -> int:
        """Six numbers a channel, and a switch for each beyond the first."""
        return NUMBERS * self.most + self.most - 1

    def shapes(self, latent: Latent) -> ChannelShapes:
        """The channels of these normal numbers."""
        latent = self.check_latent(latent)
        own = latent[: NUMBERS * self.most].reshape(self.most, NUMBERS).T
        ranges = (
            self.centre,
            self.tilt,
            self.amplitude,
            self.wavelength,
            (0.0, 2 * math.pi),
            self.half_width,
        )
        c, t, a, wave, p, w = (uniform(e, r) for e, r in zip(own, ranges, strict=True))
        return ChannelShapes(c, t, a, wave, p, w, present(latent[own.size :]))

    def inside(self, latent: Latent) -> Bool[Array, "x y"]:
        """Where the channels are."""
        s = self.shapes(latent)
        x, y = (
            jnp.asarray((p - low) / (high - low), s.centre.dtype)
            for p, (low, high) in zip(
                np.meshgrid(*self.grid._points, indexing="ij"),
                self.grid.extent,
                strict=True,
            )
        )
        x, y = x[..., None], y[..., None]
        wave = s.amplitude * jnp.sin(2 * math.pi * x / s.wavelength + s.phase)
        off = jnp.abs(y - s.centre - s.tilt * (x - 0.5) - wave)
        return jnp.any((off < s.half_width) & s.present, axis=-1)

    def from_latent(self, latent: Latent) -> Field:
        inside = self.inside(latent)
        dtype = jnp.result_type(latent)
        return jnp.where(
            inside, jnp.asarray(self.high, dtype), jnp.asarray(self.low, dtype)
        )
