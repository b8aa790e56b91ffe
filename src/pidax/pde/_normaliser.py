r"""Coordinates of fields: numbers of size one instead of physical units.

    y_c = (x_c - m_c) / s_c,        x_c = s_c y_c + m_c        for each channel c

A diffusion model sees y; physics sees x. Compute residuals of restored fields only:
`equation.residual(equation.unstack(normaliser.restore(y)))`.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Coordinates, CoordinatesLike, Shape, Stacked, StackedLike, typed

_FEW = 8  # more channels than these must be said to be channels


class AbstractNormaliser(eqx.Module):
    """Coordinates of stacked fields, of size one, and the inverse map.

    A model sees coordinates only, and physics never sees them. The numbers are
    constants: they are not trained, and are saved with the module that contains them.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one sample's coordinates, or None if it is the shape of the
        fields.

        Then it acts on each channel separately, at any point of any grid.
        """

    @abc.abstractmethod
    def normalise(self, stacked: StackedLike) -> Coordinates:
        """The coordinates of stacked fields, with any leading axes."""

    @abc.abstractmethod
    def restore(self, coordinates: CoordinatesLike) -> Stacked:
        """The stacked fields, in physical units, with any leading axes."""

    def distance(self, stacked: StackedLike) -> Stacked:
        """The distance of values to their channel's mean, in its standard deviations.

        Infinite for impossible values, zero if nothing is known (the default).
        """
        return jnp.zeros_like(jnp.asarray(stacked))

    def stop_given(self, coordinates: Coordinates) -> Coordinates:
        """The same coordinates, without gradients of the given fields' coordinates.

        For coordinates of given fields that influence other fields too; other classes
        return the coordinates unchanged.
        """
        return coordinates


class Normaliser(AbstractNormaliser):
    r"""$y_c = (x_c - m_c)/s_c$ on each channel of a stacked array, and its inverse.

        Normaliser.fit(dataset[:])                  # to mean 0, standard deviation 1
        Normaliser.affine((0.2, 115), (-1.5, -0.9)) # y = 0.2 a - 1.5, 115 u - 0.9
        Normaliser(mean=(0.0, 0.1), std=(1.0, 0.02))

    Its numbers are Python's: the same in every precision, never trained, and saved with
    the module that contains them (`px.save`). Arrays may have leading axes.
    """

    mean: tuple[float, ...] = eqx.field(static=True)
    std: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)

    def __check_init__(self):
        fine = np.isfinite([*self.mean, *self.std]).all() and min(self.std, default=0)
        if len(self.mean) != len(self.std) or not fine > 0:
            raise ValueError(
                "a normaliser has a finite mean and a positive std for each channel, "
                f"got mean={self.mean}, std={self.std}. A channel that is constant "
                "has std 1."
            )

    @property
    def shape(self) -> None:
        return None

    @classmethod
    @typed
    def fit(
        cls,
        samples: Float[Array | np.ndarray, "sample *grid channel"],
        *,
        channels: int | None = None,
    ) -> "Normaliser":
        """To mean 0 and standard deviation 1 over samples and points together.

        A constant channel is shifted to 0 and keeps its size. Pass `channels`, the
        length of the last axis, if there are more than eight.
        """
        require_channels(samples, channels)
        rows = np.asarray(samples, np.float64).reshape(-1, samples.shape[-1])
        return cls.of_moments(rows.mean(axis=0), rows.std(axis=0))

    @classmethod
    def of_moments(cls, mean: Sequence[float], std: Sequence[float]) -> "Normaliser":
        """With 1 in place of a standard deviation that is only rounding."""
        m, s = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        return cls(m, np.where(s > 1e-7 * np.abs(m), s, 1.0))  # type: ignore[arg-type]

    @classmethod
    def affine(cls, scale: Sequence[float], shift: Sequence[float]) -> "Normaliser":
        r"""The published form $y_c = \mathrm{scale}_c\, x_c + \mathrm{shift}_c$."""
        pairs = list(zip(scale, shift, strict=True))
        return cls([-b / a for a, b in pairs], [1 / a for a, _ in pairs])

    @typed
    def normalise(self, stacked: StackedLike) -> Coordinates:
        """The channels as numbers of order one."""
        x = self._checked(stacked)
        return (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)

    @typed
    def restore(self, coordinates: CoordinatesLike) -> Stacked:
        """The channels in physical units; the inverse of `normalise`, to rounding."""
        y = self._checked(coordinates)
        return y * jnp.asarray(self.std, y.dtype) + jnp.asarray(self.mean, y.dtype)

    def distance(self, stacked: StackedLike) -> Stacked:
        return jnp.abs(self.normalise(stacked))

    def _checked(self, stacked: StackedLike | CoordinatesLike) -> Array:
        if stacked.shape[-1] != len(self.mean):
            raise ValueError(
                f"this normaliser is of {len(self.mean)} channels, got an array of "
                f"shape {stacked.shape}. The channels are the last axis: "
                "equation.stack(fields) makes them so."
            )
        return jnp.asarray(stacked)


def require_channels(samples: Array | np.ndarray, channels: int | None) -> None:
    """Check that the last axis has channels, not points: many must be announced."""
    count = samples.shape[-1]
    if count != channels and (channels is not None or count > _FEW):
        raise ValueError(
            "samples must be stacked fields, whose last axis is their channels, got "
            f"shape {samples.shape} with channels={channels}. If its last axis is one "
            "of the grid, add one for the channel, samples[..., None]; if it is that "
            f"of the channels, say channels={count}."
        )
