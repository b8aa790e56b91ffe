r"""Whitened coordinates of fields, in which a model sees small scales.

With $z$ the fields, each channel centred and in units of its standard deviation
(or the logarithm of a positive one), and $B$ an orthonormal basis,

$$ y_k = \frac{(B^T (z - \bar z))_k}{s_k}, \qquad
   s_k^2 \propto \operatorname{var}_k + \delta^2 \max_j \operatorname{var}_j, $$

so that all $y$ together have the mean square one: `sigma_data` is 1.

A denoiser has errors of about the same size in all its coordinates. A differential
operator amplifies small scales by $1/h^2$. In the channels' own units a model is least
accurate in small scales; here all scales have the same size. The damping $\delta$
prevents modes that hardly vary from being amplified to noise.

    coefficients = forward(z),      z = inverse(coefficients)

define a basis. `Principal` has the principal directions of all channels together.
`Conditional` has the principal directions of the given fields, and of the remainder of
the other fields after a regression. `Spectral` has sines, cosines or Fourier modes for
each channel, which cost a product along each axis instead of one dense matrix.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..types import Coordinates, CoordinatesLike, Shape, Stacked, StackedLike, typed
from ._float64 import full_product
from ._grid import Grid
from ._normaliser import AbstractNormaliser, Normaliser, require_channels
from ._transform import Transform

Coefficients = Float[Array, " mode"]
Form = Literal["modes", "grid"]
_SAMPLES_A_MODE = 2
_ROUNDING = 1e-12  # a variance below this share of the largest is no direction at all
_LOST = 1e-3  # of a channel: more is no rounding
_JUDGED = 1024  # samples are enough to see it


class AbstractBasis(eqx.Module):
    """Stacked fields as coefficients of modes, and back."""

    @property
    @abc.abstractmethod
    def orthonormal(self) -> bool:
        """Whether `inverse` is the adjoint of `forward`, in some weights of points."""

    @abc.abstractmethod
    def blocks(self, size: int) -> tuple[slice, ...]:
        """The groups of the `size` coefficients whose sizes are damped together."""

    @property
    @abc.abstractmethod
    def given_count(self) -> int:
        """The number of leading coefficients that belong to the given fields alone."""

    @abc.abstractmethod
    def forward(self, fields: Stacked) -> Coefficients:
        """The coefficients of one sample's fields."""

    @abc.abstractmethod
    def inverse(self, coefficients: Coefficients) -> Stacked:
        """The fields with these coefficients."""


class Principal(AbstractBasis):
    """The principal directions of samples: see `Whitened.fit`, which finds them.

    `vectors` has an orthonormal row for each mode. Dense: a product with
    modes x points x channels numbers. Linear relations between fields, such as boundary
    conditions or a linear equation, hold for every combination of the modes.
    """

    vectors: Float[np.ndarray | Array, "mode *event"]

    @property
    def orthonormal(self) -> bool:
        return True

    @property
    def given_count(self) -> int:
        return 0

    def blocks(self, size: int) -> tuple[slice, ...]:
        return (slice(size),)

    @staticmethod
    def find(
        centred: Float[np.ndarray, "sample *event"],
        rank: int | None = None,
        floor: float = 0.0,
    ) -> "Principal":
        """From samples about their mean: directions of variance, the largest first.

        At most `rank` of them; those without variance beyond rounding, or beyond
        `floor`, are left out.
        """
        rows = centred.reshape(len(centred), -1)
        n, size = rows.shape
        if size < n:  # the same singular vectors, and far fewer rows
            rows = np.linalg.qr(rows, mode="r")
        _, singular, vectors = np.linalg.svd(rows, full_matrices=False)
        variances = singular**2 / n
        least = max(_ROUNDING * variances[0], floor)
        kept = int((variances > least).sum())
        kept = kept if rank is None else min(kept, rank)
        found = _oriented(vectors[:kept])
        return Principal(found.reshape(kept, *centred.shape[1:]))

    def forward(self, fields: Stacked) -> Coefficients:
        vectors = jnp.asarray(self.vectors, fields.dtype)
        rows = vectors.reshape(len(vectors), fields.size)
        return full_product(rows, fields.ravel(), axes=1)

    def inverse(self, coefficients: Coefficients) -> Stacked:
        vectors = jnp.asarray(self.vectors, coefficients.dtype)
        size = math.prod(vectors.shape[1:])
        rows = vectors.reshape(len(vectors), size)
        return full_product(coefficients, rows, axes=1).reshape(vectors.shape[1:])


class Conditional(AbstractBasis):
    r"""The given fields, and the remainder of the others after a regression.

    $$ \xi = P^T z_{given}, \qquad
       \eta = Q^T \bigl(z_{rest} - B\,\xi\bigr), $$

    $P$ and $Q$ are principal directions, and $B$ is the linear regression of the other
    fields on the given fields; `Whitened.fit(given=)` finds them. All coefficients are
    uncorrelated, and the second ones change the other fields only: a model can correct
    the solution without changing the coefficient. If the other fields depend linearly
    on the given ones, as in a linear equation, there are no second coefficients.

    A regression on $k$ modes explains too much of the $n$ samples from which it is
    found. For other samples the second coordinates are larger, in mean square by $(1 -
    k/n)^{-2}$ for a linear dependence, and by more otherwise. Use eight samples a mode;
    two are the least.
    """

    first: Principal
    regression: Float[np.ndarray | Array, "mode rest"]
    second: Principal
    given: tuple[int, ...] = eqx.field(static=True, repr=False)  # one an entry
    shape: Shape = eqx.field(static=True)

    @staticmethod
    def find(
        centred: Float[np.ndarray, "sample *grid channel"],
        given: np.ndarray,
        rank: int | None = None,
    ) -> "Conditional":
        """From samples about their mean; `given` is a mask of the entries of one
        sample.
        """
        rows = centred.reshape(len(centred), -1)
        mask = given.ravel()
        known, rest = rows[:, mask], rows[:, ~mask]
        first = Principal.find(known, rank)
        count = len(first.vectors)
        if len(rows) < _SAMPLES_A_MODE * count:
            raise ValueError(
                "the other fields are regressed on the given ones: expected at least "
                f"{_SAMPLES_A_MODE} samples for each of their modes, got {len(rows)} "
                f"samples of {count} modes. Pass more samples, or a rank of at most "
                f"{len(rows) // _SAMPLES_A_MODE}."
            )
        xi = known @ np.asarray(first.vectors).T
        # In-sample they are uncorrelated: the regression is one mode at a time.
        regression = (xi.T @ rest) / (xi**2).sum(axis=0)[:, None]
        left = rest - xi @ regression
        second = Principal.find(left, rank, floor=_ROUNDING * (rest**2).mean(0).max())
        places = tuple(np.flatnonzero(mask).tolist())
        return Conditional(first, regression, second, places, centred.shape[1:])

    @property
    def orthonormal(self) -> bool:
        return False

    @property
    def given_count(self) -> int:
        return len(self.first.vectors)

    def blocks(self, size: int) -> tuple[slice, ...]:
        return slice(self.given_count), slice(self.given_count, size)

    def forward(self, fields: Stacked) -> Coefficients:
        known, rest = self._split(fields.ravel())
        xi = self.first.forward(known)
        return jnp.concatenate([xi, self.second.forward(rest - self._explained(xi))])

    def inverse(self, coefficients: Coefficients) -> Stacked:
        here, there = self.blocks(coefficients.size)
        xi, eta = coefficients[here], coefficients[there]
        rest = self._explained(xi) + self.second.inverse(eta)
        flat = jnp.zeros(math.prod(self.shape), xi.dtype)
        known, others = self._places()
        flat = flat.at[known].set(self.first.inverse(xi)).at[others].set(rest)
        return flat.reshape(self.shape)

    def _explained(self, xi: Array) -> Array:
        return full_product(xi, jnp.asarray(self.regression, xi.dtype), axes=1)

    def _split(self, flat: Array) -> tuple[Array, Array]:
        known, others = self._places()
        return flat[known], flat[others]

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        known = np.asarray(self.given, int)
        return known, np.delete(np.arange(math.prod(self.shape)), known)


class Spectral(AbstractBasis):
    """The eigenvectors of the Laplacian on a grid for each channel.

    The boundary conditions of the grid choose them: sines for Dirichlet, cosines for
    Neumann, Fourier modes for periodic sides. A channel with zero Dirichlet conditions
    is then zero there for all coefficients. Time counts as an axis with Neumann
    conditions.

        Spectral([grid.with_boundary(Neumann()), grid])     # a coefficient, a solution
    """

    grids: tuple[Grid, ...] = eqx.field(static=True)

    def __init__(self, grids: Sequence[Grid]):
        self.grids = tuple(grid.homogeneous() for grid in grids)

    def __check_init__(self):
        shapes = {grid.shape for grid in self.grids}
        if len(shapes) != 1:
            raise ValueError(
                "a spectral basis has one grid for each channel, all of one shape, "
                f"got grids of shapes {[grid.shape for grid in self.grids]}."
            )

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """One a channel; made of the grids, and not kept beside them."""
        return tuple(map(Transform, self.grids))

    @property
    def orthonormal(self) -> bool:
        return True

    @property
    def given_count(self) -> int:
        return 0

    def blocks(self, size: int) -> tuple[slice, ...]:
        return (slice(size),)

    def forward(self, fields: Stacked) -> Coefficients:
        pairs = zip(self.grids, self.transforms, strict=True)
        found = [
            transform.forward(grid.restrict(fields[..., i])).ravel()
            for i, (grid, transform) in enumerate(pairs)
        ]
        return jnp.concatenate(found)

    def inverse(self, coefficients: Coefficients) -> Stacked:
        sizes = [int(np.prod(grid.unknown_shape)) for grid in self.grids]
        parts = jnp.split(coefficients, np.cumsum(sizes)[:-1])
        triples = zip(self.grids, self.transforms, parts, strict=True)
        channels = [
            grid.extend(transform.inverse(part.reshape(grid.unknown_shape)))
            for grid, transform, part in triples
        ]
        return jnp.stack(channels, axis=-1)


class Whitened(AbstractNormaliser):
    r"""Coordinates in a basis of modes, each divided by its damped standard deviation.

        Whitened.fit(fields, positive=[0])                      # principal directions
        Whitened.fit(fields, positive=[0], given=[0])           # a, and u beyond a's
        Whitened.fit(fields, basis=Spectral([a_grid, u_grid]))  # sines and cosines
        Whitened.fit(fields, form="grid")                       # for networks on a grid

    Made by `fit`. With `form="modes"` a sample is the vector of its coordinates. With
    `"grid"` it is the fields of these coordinates in the same basis, a multiple of
    $B\,y$: shaped like the stacked fields, for convolutional and spectral networks.

    Prescribed boundary values, and every linear relation that holds for all samples,
    hold exactly, because the basis cannot express anything else. `unexplained` is the
    lost part of each channel, as a root mean square in units of the channel's standard
    deviation: more than rounding only with a `rank`.

    Save the coordinates with the model that was trained in them (`px.save`): a new fit
    may rotate directions of nearly equal variance.
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
        channels: int | None = None,
        positive: Sequence[int] = (),
        rough: Mapping[int, Grid] | None = None,
        damping: float | int = 0.02,
        basis: AbstractBasis | None = None,
        given: Sequence[int] | Bool[np.ndarray | Array, "*grid channel"] | None = None,
        rank: int | None = None,
        form: str = "modes",
    ) -> "Whitened":
        r"""Fit to samples of stacked fields, in physical units.

        **Arguments:**

        - `channels`: the length of the last axis; pass it if it is more than eight, so
          that an axis of the grid is not taken for channels.
        - `positive`: channels that are positive and stay so: their logarithm is used.
        - `rough`: channels that are seen through the Laplacian of a grid, as $\Delta
          u$, and restored by solving for $u$ with the grid's boundary conditions. The
          size of a mode is then the size of its part in an elliptic residual.
        - `damping`: $\delta$. 0 gives every mode the variance one.
        - `basis`: by default `Principal`, found from the samples, with at most `rank`
          modes; `Spectral` costs less on large grids.
        - `given`: channels, or a mask of entries (`equation.given_mask`), that
          determine the others: `Conditional` instead of `Principal`, with at most
          `rank` modes of each.
        - `form`: `"modes"` or `"grid"`.
        """
        require_channels(samples, channels)
        x = np.asarray(samples, np.float64)
        logs = tuple(i in positive for i in range(x.shape[-1]))
        grids = tuple((rough or {}).get(i) for i in range(x.shape[-1]))
        _check(x, positive, damping, form)
        _check_rough(x, rough or {}, positive)
        with jax.enable_x64(True):
            z = np.asarray(_log_or_laplacian(jnp.asarray(x), logs, grids))
        seen = Normaliser.fit(z, channels=channels)
        z = (z - np.asarray(seen.mean)) / np.asarray(seen.std)
        centre = z.mean(axis=0)
        found = _basis(z - centre, basis, given, rank)
        if form == "grid" and not found.orthonormal:
            raise ValueError(
                'form="grid" needs an orthonormal basis, got a Conditional '
                'one. Leave given out, or use form="modes".'
            )
        scale = _scale(found, _coefficients(found, z - centre), damping)
        units = Normaliser.fit(x, channels=channels)
        made = cls(found, seen, units, centre, scale, logs, grids, form, 1.0, ())  # type: ignore[arg-type]
        return made._finished(x[:_JUDGED], strict=rank is None)

    def _finished(self, x: np.ndarray, strict: bool) -> "Whitened":
        """With values that are known once it can be applied to samples."""
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
        """A mask of the given fields' coordinates (`Conditional`)."""
        mask = np.zeros(self.shape, bool)
        mask[: self.basis.given_count] = True
        return mask

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of coordinates of the given fields, and of the others."""
        count = self.scale.size
        sizes = [len(range(*b.indices(count))) for b in self.basis.blocks(count)]
        return tuple(size for size in sizes if size)

    @typed
    def normalise(self, stacked: StackedLike) -> Coordinates:
        """The coordinates of stacked fields, with any leading axes."""
        x = jnp.asarray(stacked)
        self._check(x.shape, self.centre.shape, "stacked fields")
        z = _log_or_laplacian(x, self.positive, self.rough)
        z = self.channels.normalise(z)
        z = z - jnp.asarray(self.centre, z.dtype)
        scale = jnp.asarray(self.scale, z.dtype)

        def one(z: Stacked) -> Coordinates:
            y = self.basis.forward(z) / scale
            return y if self.form == "modes" else self.basis.inverse(y) / self.turned

        return _batched(one, z, self.centre.ndim)

    @typed
    def restore(self, coordinates: CoordinatesLike) -> Stacked:
        """The stacked fields, in physical units, with any leading axes."""
        y = jnp.asarray(coordinates)
        self._check(y.shape, self.shape, "coordinates")
        scale, centre = (jnp.asarray(a, y.dtype) for a in (self.scale, self.centre))

        def one(y: Coordinates) -> Stacked:
            modes = y if self.form == "modes" else self.basis.forward(self.turned * y)
            return self.basis.inverse(scale * modes) + centre

        z = _batched(one, y, len(self.shape))
        z = self.channels.restore(z)
        return _log_or_laplacian(z, self.positive, self.rough, inverse=True)

    def stop_given(self, coordinates: Coordinates) -> Coordinates:
        """The coordinates without gradients of the given fields' (`Conditional`)."""
        stopped = jax.lax.stop_gradient(coordinates)
        return jnp.where(self.given, stopped, coordinates)

    def distance(self, stacked: StackedLike) -> Stacked:
        x = jnp.asarray(stacked)
        impossible = jnp.asarray(self.positive) & (x <= 0)
        return jnp.where(impossible, jnp.inf, self.units.distance(x))

    def _check(self, got: Shape, expected: Shape, what: str) -> None:
        if got[len(got) - len(expected) :] != expected:
            raise ValueError(
                f"expected {what} of shape {expected} (other axes may lead), "
                f"got shape {got}. It was fitted to fields of shape "
                f"{self.centre.shape}: fit one to yours with Whitened.fit."
            )


def _basis(
    centred: np.ndarray,
    basis: AbstractBasis | None,
    given: Sequence[int] | np.ndarray | Array | None,
    rank: int | None,
) -> AbstractBasis:
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
        return np.asarray(_batched(basis.forward, z, z.ndim - 1))


def _scale(basis: AbstractBasis, found: np.ndarray, damping: float) -> np.ndarray:
    """The divisor of each coefficient; all have the mean square one together."""
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


def _oriented(vectors: np.ndarray) -> np.ndarray:
    """With the sign of each row that makes its first large entry positive.

    A decomposition leaves the signs to the machine and its number of threads.
    """
    size = np.abs(vectors)
    large = np.argmax(size > 0.5 * size.max(axis=1, keepdims=True), axis=1)
    return vectors * np.sign(vectors[np.arange(len(vectors)), large])[:, None]


def _batched(function: Callable[[Array], Array], many: Array, axes: int) -> Array:
    """`function` of each sample of an array whose last `axes` axes are one sample."""
    lead = many.shape[: many.ndim - axes]
    flat = many.reshape(-1, *many.shape[many.ndim - axes :])
    found = jax.vmap(function)(flat)
    return found.reshape(*lead, *found.shape[1:])


def _log_or_laplacian(
    x: Stacked,
    positive: tuple[bool, ...],
    rough: tuple[Grid | None, ...],
    *,
    inverse: bool = False,
) -> Stacked:
    """The logarithm of positive channels, the Laplacian of rough ones; or back."""
    channels = list(jnp.moveaxis(x, -1, 0))
    for i, (log, grid) in enumerate(zip(positive, rough, strict=True)):
        if log:
            channels[i] = jnp.exp(channels[i]) if inverse else jnp.log(channels[i])
        elif grid is not None:
            channels[i] = _laplacian(grid, channels[i], -1 if inverse else 1)
    return jnp.stack(channels, axis=-1)


def _laplacian(grid: Grid, u: Array, power: int) -> Array:
    r"""$\Delta^{power}$ with zero data; a mode of eigenvalue zero is kept."""
    transform = Transform(grid)
    values = transform.eigenvalues
    symbol = np.where(values == 0, 1.0, values) ** power
    one = lambda u: grid.pad(transform.multiply(symbol, grid.restrict(u)))
    return _batched(one, u, grid.ndim)


def _check_rough(
    x: np.ndarray, rough: Mapping[int, Grid], positive: Sequence[int]
) -> None:
    for channel, grid in rough.items():
        fine = 0 <= channel < x.shape[-1] and channel not in positive
        zero = grid.homogeneous()
        if not fine or grid.shape != x.shape[1:-1] or zero != grid:
            raise ValueError(
                f"rough names channels (0 to {x.shape[-1] - 1}, none of them positive) "
                f"and for each a grid of their shape {x.shape[1:-1]} whose sides have "
                f"zero data, got {channel} with {grid}. Pass {{{channel}: "
                "equation.grid}."
            )
