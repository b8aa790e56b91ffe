r"""Fields in coordinates of one size each: a chart in which a model sees small scales.

With $z$ the fields, each channel centred and in units of its standard deviation
(or the logarithm of a positive one), and $B$ an orthonormal basis,

$$ y_k = \frac{(B^T (z - \bar z))_k}{s_k}, \qquad
   s_k^2 \propto \operatorname{var}_k + \delta^2 \max_j \operatorname{var}_j, $$

so that all $y$ together have the mean square one: `sigma_data` is 1.

A denoiser makes errors of about one size in all its coordinates. A differential
operator amplifies small scales by $1/h^2$; in the channels' own units they are what a
model knows least, here they are seen as well as the others. The damping $\delta$ keeps
modes that hardly vary from being blown up to noise.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..types import Shape, typed
from ._basis import AbstractBasis, Conditional, Principal, batched
from ._bend import bend, check_rough, straighten
from ._grid import Grid
from ._normaliser import AbstractNormaliser, Channels, ChannelsLike, Normaliser

Form = Literal["modes", "grid"]
_LOST = 1e-3  # of a channel: more is no rounding
_JUDGED = 1024  # samples are enough to see it


class Whitened(AbstractNormaliser):
    r"""Coordinates in a basis of modes, each in units of its own damped size.

        Whitened.fit(fields, positive=[0])                      # principal directions
        Whitened.fit(fields, positive=[0], given=[0])           # a, and u beyond a's
        Whitened.fit(fields, basis=Spectral([a_grid, u_grid]))  # sines and cosines
        Whitened.fit(fields, form="grid")                       # for networks on a grid

    Made by `fit`. With `form="modes"` a sample is the vector of its coordinates, with
    `"grid"` the fields of those coordinates in the same basis, a multiple of $B\,y$:
    shaped like the stacked fields, for convolutional and spectral networks.

    What the basis cannot express does not exist for the model: prescribed boundary
    values, and every linear relation that holds for all samples, are kept exactly. How
    much of each channel is lost says `unexplained`, as a root mean square in units of
    the channel's standard deviation: more than rounding only with a `rank`.

    Keep the chart with the model that was trained in it (`px.save`): of samples that
    differ in the last bit, directions of nearly one variance are found turned.
    """

    basis: AbstractBasis
    channels: Normaliser  # of logarithms and Laplacians, where there are some
    units: Normaliser  # of the fields themselves
    centre: Float[np.ndarray | Array, "*grid channel"]
    scale: Float[np.ndarray | Array, " mode"]
    positive: tuple[bool, ...] = eqx.field(static=True)
    rough: tuple[Grid | None, ...] = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    turned: float = eqx.field(static=True)  # by what form="grid" divides B y
    unexplained: tuple[float, ...] = eqx.field(static=True)

    @classmethod
    @typed
    def fit(
        cls,
        samples: Float[Array | np.ndarray, "sample *grid channel"],
        *,
        positive: Sequence[int] = (),
        rough: Mapping[int, Grid] | None = None,
        damping: float | int = 0.02,
        basis: AbstractBasis | None = None,
        given: Sequence[int] | Bool[np.ndarray | Array, "*grid channel"] | None = None,
        rank: int | None = None,
        form: str = "modes",
    ) -> "Whitened":
        r"""To samples of stacked fields, in physical units.

        **Arguments:**

        - `positive`: channels that are positive and stay so: of their logarithm.
        - `rough`: channels that are seen through the Laplacian of a grid, as
          $\Delta u$, and restored by solving for $u$ with the grid's sides: the size of
          a mode is then that of its part in an elliptic residual.
        - `damping`: $\delta$. 0 gives every mode the variance one.
        - `basis`: by default `Principal`, found from the samples, of at most `rank`
          modes; `Spectral` costs less on large grids.
        - `given`: channels, or a mask of entries (`equation.given_mask`), that
          determine the others: `Conditional` in place of `Principal`, of at most `rank`
          modes of each.
        - `form`: `"modes"` or `"grid"`.
        """
        x = np.asarray(samples, np.float64)
        logs = tuple(i in positive for i in range(x.shape[-1]))
        grids = tuple((rough or {}).get(i) for i in range(x.shape[-1]))
        _check(x, positive, damping, form)
        check_rough(x, rough or {}, positive)
        with jax.enable_x64(True):
            z = np.asarray(bend(jnp.asarray(x), logs, grids))
        channels = Normaliser.fit(z)
        z = (z - np.asarray(channels.mean)) / np.asarray(channels.std)
        centre = z.mean(axis=0)
        found = _basis(z - centre, basis, given, rank)
        if form == "grid" and not found.orthonormal:
            raise ValueError(
                'form="grid" needs an orthonormal basis, got what is given and what it '
                'leaves unexplained. Leave given out, or take form="modes".'
            )
        scale = _scale(found, _coefficients(found, z - centre), damping)
        units = Normaliser.fit(x)
        made = cls(found, channels, units, centre, scale, logs, grids, form, 1.0, ())  # type: ignore[arg-type]
        return made._finished(x[:_JUDGED], strict=rank is None)

    def _finished(self, x: np.ndarray, strict: bool) -> "Whitened":
        """With what is known of a chart once it can be used on samples."""
        with jax.enable_x64(True):
            y = self.normalise(x)
            turned = float(jnp.sqrt(jnp.mean(y**2))) if self.form == "grid" else 1.0
            off = np.asarray(self.restore(y)) - x
        axes = tuple(range(x.ndim - 1))
        lost = np.sqrt((off**2).mean(axes)) / np.asarray(self.units.std)
        worst = int(lost.argmax())
        if strict and lost[worst] > _LOST:
            raise ValueError(
                f"the coordinates lose {lost[worst]:.1%} of channel {worst}: expected "
                "to find the samples again. A basis with zero sides, or a rough "
                "channel, is for fields that are zero on them; take sides that the "
                "field has, as grid.with_boundary(Neumann())."
            )
        return dataclasses.replace(
            self, turned=turned, unexplained=tuple(map(float, lost))
        )

    @property
    def shape(self) -> Shape:
        grid = self.form == "grid"
        return self.centre.shape if grid else self.scale.shape

    @property
    def given(self) -> np.ndarray:
        """Which coordinates are of what is given (`Conditional`): a mask."""
        mask = np.zeros(self.shape, bool)
        mask[: self.basis.held] = True
        return mask

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many coordinates are of what is given, and how many of the rest."""
        count = self.scale.size
        sizes = [len(range(*b.indices(count))) for b in self.basis.blocks(count)]
        return tuple(size for size in sizes if size)

    @typed
    def normalise(self, stacked: ChannelsLike) -> Float[Array, "..."]:
        """The coordinates of stacked fields; any axes may lead."""
        x = jnp.asarray(stacked)
        self._check(x.shape, self.centre.shape, "stacked fields")
        z = self.channels.normalise(bend(x, self.positive, self.rough))
        z = z - jnp.asarray(self.centre, z.dtype)
        scale = jnp.asarray(self.scale, z.dtype)

        def one(z):
            y = self.basis.forward(z) / scale
            return y if self.form == "modes" else self.basis.inverse(y) / self.turned

        return batched(one, z, self.centre.ndim)

    @typed
    def restore(self, coordinates: Float[Array | np.ndarray, "..."]) -> Channels:
        """The stacked fields, in physical units; any axes may lead."""
        y = jnp.asarray(coordinates)
        self._check(y.shape, self.shape, "coordinates")
        scale, centre = (jnp.asarray(a, y.dtype) for a in (self.scale, self.centre))

        def one(y):
            modes = y if self.form == "modes" else self.basis.forward(self.turned * y)
            return self.basis.inverse(scale * modes) + centre

        z = batched(one, y, len(self.shape))
        return straighten(self.channels.restore(z), self.positive, self.rough)

    def hold(self, coordinates: Array) -> Array:
        """No gradient reaches the coordinates of what is given (`Conditional`)."""
        held = jax.lax.stop_gradient(coordinates)
        return jnp.where(self.given, held, coordinates)

    def distance(self, stacked: ChannelsLike) -> Channels:
        x = jnp.asarray(stacked)
        impossible = jnp.asarray(self.positive) & (x <= 0)
        return jnp.where(impossible, jnp.inf, self.units.distance(x))

    def _check(self, got: Shape, expected: Shape, what: str) -> None:
        if got[len(got) - len(expected) :] != expected:
            raise ValueError(
                f"this chart takes {what} of shape {expected} (other axes may lead), "
                f"got shape {got}. It was fitted to fields of shape "
                f"{self.centre.shape}: fit one to yours with Whitened.fit."
            )


def _basis(centred: np.ndarray, basis, given, rank: int | None) -> AbstractBasis:
    if basis is not None:
        if given is not None or rank is not None:
            raise ValueError(
                "given and rank are of a basis that is found from the samples, got "
                f"{type(basis).__name__} beside them. Leave one out."
            )
        return basis
    if given is None:
        return Principal.find(centred, rank)
    mask = np.asarray(given)
    if mask.dtype != bool:
        mask = np.zeros(centred.shape[1:], bool)
        mask[..., list(given)] = True
    if mask.shape != centred.shape[1:] or mask.all() or not mask.any():
        raise ValueError(
            f"given must name some channels of fields of shape {centred.shape[1:]}, or "
            f"be a mask of that shape, and leave others, got {int(mask.sum())} entries "
            f"in a mask of shape {mask.shape}. Pass equation.given_mask."
        )
    return Conditional.find(centred, mask, rank)


def _coefficients(basis: AbstractBasis, centred: np.ndarray) -> np.ndarray:
    """In float64 whatever the session's precision."""
    with jax.enable_x64(True):
        z = jnp.asarray(centred, jnp.float64)
        return np.asarray(batched(basis.forward, z, z.ndim - 1))


def _scale(basis: AbstractBasis, found: np.ndarray, damping: float) -> np.ndarray:
    """What each coefficient is divided by, so that all have the mean square one."""
    variances = found.var(axis=0)
    scale = np.empty_like(variances)
    for block in basis.blocks(variances.size):
        largest = variances[block].max(initial=0.0)
        scale[block] = np.sqrt(variances[block] + damping**2 * largest)
    # A mode that no sample has is left as it is, rather than divided by nothing.
    scale = np.where(scale > 1e-7 * scale.max(), scale, 1.0)
    return scale * np.sqrt(np.mean(variances / scale**2))


def _check(x: np.ndarray, positive: Sequence[int], damping: float, form: str) -> None:
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}.")
    if not np.isfinite(damping) or damping < 0:
        raise ValueError(
            f"damping must be finite and not negative, got damping={damping}. 0.02 "
            "leaves the modes above two hundredths of the largest nearly as they are."
        )
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(
            "coordinates are fitted to at least two samples, all finite, got "
            f"{len(x)} with {int((~np.isfinite(x)).sum())} entries that are not."
        )
    for channel in positive:
        if not 0 <= channel < x.shape[-1] or (x[..., channel] <= 0).any():
            raise ValueError(
                f"positive names the channels (0 to {x.shape[-1] - 1}) that are "
                f"positive everywhere, got {channel}, whose least value is "
                f"{x[..., channel].min() if channel < x.shape[-1] else 'none'}. Leave "
                "it out."
            )
