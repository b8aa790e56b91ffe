r"""A Fourier neural operator: a network for fields, in their low frequencies.

$$ h_0 = W x + e(c_{noise}, c), \qquad
h \leftarrow h + L\,\phi\bigl((1 + s) \odot \widehat{r} + b\bigr), \qquad
r = S\,\phi(\hat h) + W' \phi(\hat h), $$

with hats for normalised values, $S$ a spectral convolution, $L$, $W$ and $W'$ linear at
each point, and $(s, b)$ from the embedding of time and class. One block sees the whole
field, where a convolution sees its neighbours.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..types import Condition, Elementwise, Key, SampleLike, ScalarLike, typed
from ._base import AbstractNetwork, refuse_augment, require_counts, require_rate
from ._block import Block
from ._coordinates import WithCoordinates, extra_channels
from ._embedding import AbstractFeatures, Embedding
from ._layers import SMALL, GroupNorm, Linear, require_channels
from ._modes import Basis, Layout
from ._random import stream
from ._spectral import SpectralConv, SpectralLayer


class FNO(AbstractNetwork):
    r"""`depth` residual blocks with a spectral convolution each, modulated by time.

    For fields, in one, two or three dimensions, whose structure is in their low
    frequencies: after Li et al. 2021, as a network of a diffusion model. What is finer
    than the `modes` passes through the linear layers, point by point.

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
      or no value at the ends. For rows of time and a periodic axis,
      `("padded", "fourier")`. `layout` is that of the points, `padding` the fraction
      of a padded axis that is appended.
    - `coordinates`: tells the first layer where each point is. With `"fourier"` on all
      axes and without coordinates the network commutes with translations, and a
      constant field has a constant answer.
    - `classes` is the number of class labels; `dropout` the fraction dropped in each
      block, when there is a `key`; `activation` a function of `jax.nn`; `features` the
      number of Fourier features of `c_noise`, or the features themselves.

    Most of its weights are spectral, $2^f \cdot modes^{dims} \cdot width^2$ a block
    with $f$ the number of periodic and padded axes. They are many, and cheap: each is
    used once for a sample, and not once a point.
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
        require_counts(in_channels=in_channels, out_channels=out_channels)
        require_counts(width=width, depth=depth)
        require_rate(dropout)
        keys, size = stream(key), 4 * width
        along: Any = dict(
            modes=modes, basis=basis, dims=dims, layout=layout, padding=padding
        )

        def make(inputs, outputs, scale=None):
            if scale is not None:  # the second layer of a block
                return Linear(inputs, outputs, scale=scale, key=next(keys))
            spectral = SpectralConv(inputs, outputs, **along, key=next(keys))
            return SpectralLayer(spectral, Linear(inputs, outputs, key=next(keys)))

        def block():
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
        c_noise: ScalarLike,
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
