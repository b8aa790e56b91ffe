r"""A Fourier neural operator: a network for fields, in their low frequencies.

$$ h_0 = W x + e(c_{noise}, c), \qquad
h \leftarrow h + L\,\phi\bigl((1 + s) \odot \widehat{r} + b\bigr), \qquad
r = S\,\phi(\hat h) + W' \phi(\hat h), $$

with hats for normalised values, $S$ a spectral convolution, $L$, $W$ and $W'$ linear at
each point, and $(s, b)$ from the embedding of time and class. One block depends on the
whole field; a convolution depends on neighbours only.

**The spectral convolution** is one matrix of channels for each low frequency,

$$ y = \sum_{|k| < modes} W_k\, \hat u_k\, \phi_k, \qquad
   \hat u_k = \int \overline{\phi_k}\, u\, ds, $$

with $\phi_k = e^{2\pi i k \cdot s}$ on periodic axes, where it is the convolution
with a smooth kernel (Li et al. 2021, "Fourier neural operator"). A real field has
$\hat u_{-k} = \overline{\hat u_k}$ and needs $W_{-k} = \overline{W_k}$: half of the
waves have a weight of their own. Integrals and sums are products with a dense matrix
along one axis after the other, with the low frequencies alone, in real arithmetic.

**Functions of an axis** of length one, with coordinate $s$, are with $k < modes$

    fourier   1, sqrt 2 cos 2 pi k s, sqrt 2 sin 2 pi k s         the axis is a circle
    padded    the same on a circle longer by the padding, over which the field is zero
    cosine    1, sqrt 2 cos pi k s                                no slope at the ends
    sine      sqrt 2 sin pi (k + 1) s                             zero at the ends

orthonormal with respect to $\int u v\, ds$. Points of a circle are $s_i = i/n$; of
another axis, on nodes $s_i = i/(n-1)$ with the ends among them, on cells $s_i = (i +
1/2)/n$. Integrals are sums over the points (on nodes by the trapezoidal rule), which
is exact for what the points resolve.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_whole, whole_number
from ..types import Condition, Elementwise, Key, NoiseLike, SampleLike, typed
from ._base import AbstractFeatures, AbstractNetwork, refuse_augment, require_rate
from ._embedding import Embedding
from ._layers import (
    SMALL,
    Block,
    GroupNorm,
    Layer,
    Layout,
    Linear,
    WithCoordinates,
    extra_channels,
    normal,
    positions,
    require_channels,
    require_grid,
    stream,
)

Basis = Literal["fourier", "padded", "cosine", "sine"]
# With a cosine and a sine of each frequency, which a complex number mixes.
WAVES = ("fourier", "padded")


class Axis(NamedTuple):
    """The functions of one axis, whatever its number of points."""

    basis: Basis
    modes: int
    layout: Layout
    padding: float

    @property
    def waves(self) -> bool:
        """Whether there are a cosine and a sine of each frequency."""
        return self.basis in WAVES

    @property
    def frequencies(self) -> np.ndarray:
        """In periods per axis, one for each of the `modes`."""
        k = np.arange(self.modes)
        match self.basis:
            case "fourier":
                return 1.0 * k
            case "padded":
                return k / (1 + self.padding)
            case "cosine":
                return k / 2
            case "sine":
                return (k + 1) / 2


class Matrices(NamedTuple):
    """`analysis.T @ u` are the coefficients of `u`, `synthesis @ c` is a field."""

    analysis: np.ndarray  # (points, functions), float64
    synthesis: np.ndarray  # (points, functions), float64


def make_axes(
    basis: Basis | tuple[Basis, ...],
    modes: int | tuple[int, ...],
    *,
    dims: int,
    layout: Layout,
    padding: float,
) -> tuple[Axis, ...]:
    """One description for each axis of the grid; what is one word is for all."""
    bases = (basis,) * dims if isinstance(basis, str) else tuple(basis)
    counts = tuple(modes) if isinstance(modes, tuple | list) else (modes,) * dims
    for name, given in (("basis", bases), ("modes", counts)):
        if len(given) != dims:
            raise ValueError(
                f"{name} must be one for all axes or one for each of the {dims}, got "
                f"{given}. Give a tuple of the length dims={dims}."
            )
    for one in bases:
        if one not in get_args(Basis):
            raise ValueError(
                f"basis must be one of {get_args(Basis)}, got {one!r}. Use 'fourier' "
                "for a periodic axis, 'padded' for any other, 'cosine' or 'sine' for "
                "fields without slope or without value at its ends."
            )
    counts = tuple(whole_number("modes", count) for count in counts)
    if layout not in get_args(Layout):
        raise ValueError(
            f"layout must be one of {get_args(Layout)}, got {layout!r}. On nodes the "
            "ends of an axis are among its points, on cells half a step outside."
        )
    if not 0 < padding < np.inf:
        raise ValueError(
            f"padding must be positive and finite, got padding={padding}. It is the "
            "fraction of a padded axis that is added to it: 0.25 for a quarter."
        )
    return tuple(
        Axis(one, count, layout, float(padding))
        for one, count in zip(bases, counts, strict=True)
    )


@functools.lru_cache(maxsize=256)
def matrices(axis: Axis, points: int) -> Matrices:
    """The functions of an axis at its points, made once."""
    highest = axis.frequencies[-1]
    circle = axis.basis == "fourier"
    steps = points - 1 if axis.layout == "nodes" and not circle else points
    # Strictly: at half the points the sine vanishes, and twice the cosine is its norm.
    if 2 * highest >= steps:
        raise ValueError(
            f"modes={axis.modes} of the basis {axis.basis!r} need an axis of at least "
            f"{int(2 * highest) + 1 + points - steps} points, got {points}. Use fewer "
            "modes, or a finer grid."
        )
    places = positions(points, axis.layout, circle)
    turns = np.outer(places, axis.frequencies) % 1.0
    wave = {"cosine": (np.cos,), "sine": (np.sin,)}.get(axis.basis, (np.cos, np.sin))
    size = np.where(axis.frequencies == 0, 1.0, np.sqrt(2.0))
    synthesis = np.concatenate([size * f(2 * np.pi * turns) for f in wave], axis=1)
    weights = np.full(points, 1.0 / steps)
    if steps < points:
        weights[[0, -1]] /= 2
    length = 1 + axis.padding if axis.basis == "padded" else 1.0
    return Matrices(weights[:, None] / length * synthesis, synthesis)


class SpectralConv(eqx.Module):
    r"""A linear layer between the low frequencies of a field's channels.

    `basis`, one for all axes or one for each, says what the frequencies are of:

    | basis | for an axis | and the layer then |
    |---|---|---|
    | `"fourier"` | that is periodic | commutes with translations |
    | `"padded"` | with any boundary | is a convolution of the field with zeros beyond it |
    | `"cosine"` | where fields have no slope at the ends (Neumann) | mirrors the field there |
    | `"sine"` | where fields are zero at the ends (Dirichlet) | mirrors it with the other sign, and is zero there |

    On a periodic or padded axis its kernel may be any; on a cosine or sine axis it is
    even, so that a derivative is not among what the layer can be. Periodic fields want
    `"fourier"`; several fields with sides of several kinds want `"padded"`.

    `modes` is the number of frequencies along each axis; `layout` says where the points
    of axes that are not periodic are: `"nodes"` with both ends, `"cells"` half a step
    inside; `padding` is the fraction of a padded axis that is appended as zeros. A
    kernel that reaches further than that comes in again at the other end.

    `x` is `*grid inputs` on any grid of `dims` axes that resolves the modes, the result
    `*grid outputs`. Weights do not depend on the grid, and a field that is a sum of the
    modes gives the same function on each; with a padded axis only in the limit, since
    the field jumps to zero. With $M$ functions an axis the transforms cost $O(M)$ a
    point and channel, on a CPU less than fast transforms of as many points.

    Weights are real arrays. With a periodic or padded axis their first axis is (real,
    imaginary); then comes (+, -), the sign of the frequency, for each further such
    axis, then the modes, then `inputs outputs`. `waves` says which frequencies those
    are. Where two entries belong to the same wave, or to a wave and its conjugate, their
    mean counts.
    """  # noqa: E501

    weight: Float[Array, "*parts inputs outputs"]
    basis: tuple[Basis, ...] = eqx.field(static=True)
    modes: tuple[int, ...] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    padding: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        modes: int | tuple[int, ...],
        basis: Basis | tuple[Basis, ...] = "fourier",
        dims: int = 2,
        layout: Layout = "nodes",
        padding: float = 0.25,
        scale: float = 1.0,
        key: Key,
    ):
        require_whole(inputs=inputs, outputs=outputs)
        require_grid(dims, "zeros")
        axes = make_axes(basis, modes, dims=dims, layout=layout, padding=padding)
        self.basis = tuple(axis.basis for axis in axes)
        self.modes = tuple(axis.modes for axis in axes)
        self.layout, self.padding = layout, float(padding)
        circles = sum(axis.waves for axis in axes)
        shape = (2,) * circles + self.modes
        # A complex number of variance 1 has two parts of variance 1/2.
        spread = scale / math.sqrt(inputs * (2 if circles else 1))
        self.weight = normal(key, (*shape, inputs, outputs), spread)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The functions of each axis."""
        pairs = zip(self.basis, self.modes, strict=True)
        return tuple(Axis(basis, n, self.layout, self.padding) for basis, n in pairs)

    @property
    def waves(self) -> np.ndarray:
        r"""The frequencies, in periods per axis, of each matrix of channels: float64.

        Shaped as the `weight` without its channels and its real and imaginary parts,
        then `dims`. What the layer multiplies a wave with is the Fourier transform of
        its kernel there: $2\pi i k$ for a derivative.
        """
        dims = len(self.axes)
        grids = np.meshgrid(*(axis.frequencies for axis in self.axes), indexing="ij")
        vectors = np.stack(grids, -1)
        for a in [a for a, axis in enumerate(self.axes) if axis.waves][:0:-1]:
            mirror = np.where(np.arange(dims) == a, -1.0, 1.0)
            vectors = np.stack([vectors, mirror * vectors])
        return vectors

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outs"]:
        dims, outputs = len(self.axes), self.weight.shape[-1]
        require_channels(x, self.weight.shape[-2], dims)
        along = [matrices(axis, n) for axis, n in zip(self.axes, x.shape, strict=False)]
        c = x
        for a in range(dims):
            c = _contract(c, along[a].analysis, a, 0)
        y = self._mix(c.reshape(*self._functions(), c.shape[-1]))
        y = y.reshape(*(m.synthesis.shape[1] for m in along), outputs)
        for a in reversed(range(dims)):
            y = _contract(y, along[a].synthesis, a, 1)
        return y

    def _functions(self) -> list[int]:
        """How the functions of all axes are numbered: (cos, sin) first, then modes."""
        shape = []
        for axis in self.axes:
            shape += [2, axis.modes] if axis.waves else [axis.modes]
        return shape

    def _mix(self, c: Array) -> Array:
        """The coefficients of the result, in the order of the field's."""
        weight = self.weight.astype(c.dtype)
        parts, place = [], 0
        for axis in self.axes:
            parts += [place] if axis.waves else []
            place += 2 if axis.waves else 1
        if not parts:
            return jnp.einsum("...i,...io->...o", c, weight)
        # A complex product as a real one, of pairs: fewer and larger matrices.
        real, imaginary = weight
        rows = [(real, imaginary), (-imaginary, real)]
        block = jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)
        front = range(len(parts))
        z = _to_waves(jnp.moveaxis(c, parts, front), len(parts))
        y = jnp.einsum("...i,...io->...o", jnp.concatenate(z, -1), block)
        real, imaginary = jnp.split(y, 2, -1)
        y = _from_waves(real, imaginary, len(parts))
        return jnp.moveaxis(y, front, parts)


class SpectralLayer(eqx.Module):
    """A spectral convolution and, beside it, a linear layer at each point.

    The second passes on what the `modes` do not resolve. `x` is `*grid inputs`.
    """

    spectral: SpectralConv
    pointwise: Linear

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outs"]:
        return self.spectral(x) + self.pointwise(x)


def _contract(x: Array, matrix: np.ndarray, axis: int, side: int) -> Array:
    """A matrix along one axis: the sum runs over its rows (0) or columns (1)."""
    y = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), axes=((axis,), (side,)))
    return jnp.moveaxis(y, -1, axis)


def _to_waves(c: Array, circles: int) -> tuple[Array, Array]:
    r"""From (cos, sin) along each of the first axes to complex waves.

    $c_{cos} - i c_{sin}$ is the coefficient of $e^{2\pi i k s}$, and the other sign of
    $k$ needs to be asked for along all axes but one.
    """
    real, imaginary = c[0], -c[1]
    for j in range(circles - 1):
        (r, r1), (i, i1) = (jnp.moveaxis(h, j, 0) for h in (real, imaginary))
        real = jnp.stack([r + i1, r - i1], j)
        imaginary = jnp.stack([i - r1, i + r1], j)
    return real, imaginary


def _from_waves(real: Array, imaginary: Array, circles: int) -> Array:
    """The inverse of `_to_waves`."""
    for j in range(circles - 1):
        (r, r1), (i, i1) = (jnp.moveaxis(h, j, 0) / 2 for h in (real, imaginary))
        real = jnp.stack([r + r1, i1 - i], j)
        imaginary = jnp.stack([i + i1, r - r1], j)
    return jnp.stack([real, -imaginary])


class FNO(AbstractNetwork):
    r"""`depth` residual blocks with a spectral convolution each, modulated by time.

    For fields, in one, two or three dimensions, whose structure is in their low
    frequencies: after Li et al. 2021, as a network of a diffusion model. Scales finer
    than the `modes` pass through the linear layers, point by point.

    - `x` is `*grid in_channels` with `dims` axes of grid, the result `*grid
      out_channels`. Weights do not depend on the grid, and any will do whose axes
      resolve the `modes`: hence `shape` is None. On a finer grid the answer is the
      same function up to aliasing of the activations, small for smooth fields; for
      the mean of the normalisations and, on a padded axis, for the jump at the end up
      to the order of the spacing.
    - `modes`: frequencies along each axis, one number or one for each; a periodic axis
      needs more than `2 * (modes - 1)` points. Few suffice where fields are smooth.
    - `basis`: of each axis, or of all (see `SpectralConv`): `"fourier"` for a periodic
      one, `"padded"` where in doubt, `"cosine"` or `"sine"` where fields have no slope
      or no value at the ends. For rows of time and a periodic axis, `("padded",
      "fourier")`. `layout` is the layout of the points, `padding` the fraction of a
      padded axis that is appended.
    - `coordinates`: adds the coordinates of the points as channels of the first layer.
      With `"fourier"` on all axes and without coordinates the network commutes with
      translations, and the output for a constant field is constant.
    - `classes` is the number of class labels; `dropout` the fraction dropped in each
      block, when there is a `key`; `activation` a function of `jax.nn`; `features` the
      number of Fourier features of `c_noise`, or the features themselves.

    Most of its weights are spectral, $2^f \cdot modes^{dims} \cdot width^2$ a block
    with $f$ the number of periodic and padded axes. They are many but cheap: each is
    used once for a sample, not once for a point.
    """

    embedding: Embedding
    start: Linear
    lift: Linear | WithCoordinates
    blocks: tuple[Block, ...]
    norm: GroupNorm
    out: Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | tuple[int, ...] = 8,
        width: int = 32,
        depth: int = 4,
        basis: Basis | tuple[Basis, ...] = "fourier",
        dims: int = 2,
        layout: Layout = "nodes",
        padding: float = 0.25,
        coordinates: bool = False,
        classes: int | None = None,
        dropout: float = 0.0,
        activation: Callable[[Array], Array] = jax.nn.silu,
        features: int | AbstractFeatures = 32,
        key: Key,
    ):
        require_whole(in_channels=in_channels, out_channels=out_channels)
        require_whole(width=width, depth=depth)
        require_rate(dropout)
        keys, size = stream(key), 4 * width
        along: Any = dict(
            modes=modes, basis=basis, dims=dims, layout=layout, padding=padding
        )

        def make(inputs: int, outputs: int, scale: float | None = None) -> Layer:
            if scale is not None:  # the second layer of a block
                return Linear(inputs, outputs, scale=scale, key=next(keys))
            spectral = SpectralConv(inputs, outputs, **along, key=next(keys))
            return SpectralLayer(spectral, Linear(inputs, outputs, key=next(keys)))

        def block() -> Block:
            options: Any = dict(embedding=size, rate=dropout, activation=activation)
            return Block(make, width, width, **options, key=next(keys))

        self.embedding = Embedding(
            size, features=features, classes=classes, depth=2, key=next(keys)
        )
        self.start = Linear(size, width, key=next(keys))
        self.blocks = tuple(block() for _ in range(depth))
        periodic = tuple(a.basis == "fourier" for a in self.spectral[0].axes)
        more = extra_channels(periodic) if coordinates else 0
        lift = Linear(in_channels + more, width, key=next(keys))
        self.lift = WithCoordinates(lift, periodic, layout) if coordinates else lift
        self.norm = GroupNorm(width)
        self.out = Linear(width, out_channels, scale=SMALL, key=next(keys))
        self.activation = activation

    @property
    def spectral(self) -> tuple[SpectralConv, ...]:
        """The spectral convolution of each block."""
        layers = (block.layers[0] for block in self.blocks)
        return tuple(one.spectral for one in layers if isinstance(one, SpectralLayer))

    @property
    def classes(self) -> int | None:
        return self.embedding.classes

    @property
    def shape(self) -> None:
        return None

    @typed
    def __call__(
        self,
        x: SampleLike,
        c_noise: NoiseLike,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Elementwise:
        lift, dims = self.lift, len(self.spectral[0].modes)
        located = isinstance(lift, WithCoordinates)
        require_channels(x, lift.inputs if located else lift.weight.shape[0], dims)
        refuse_augment(augment)
        x = jnp.asarray(x)
        e = jax.nn.silu(self.embedding(c_noise, condition)).astype(x.dtype)
        # The sum: W x alone would lose the amplitude of x in the first normalisation.
        h = self.lift(x) + self.start(e)
        for block, k in zip(self.blocks, stream(key), strict=False):
            h = block(h, e, k)
        return self.out(self.activation(self.norm(h)))
