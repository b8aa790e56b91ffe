"""A U-Net for images and fields in one, two or three dimensions.

Residual blocks on coarser and coarser grids and back, with skip connections at each
level (Ronneberger et al. 2015, in the form of Ho et al. 2020). Time and class modulate
the blocks.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from .._checks import require_whole
from ..types import Condition, Elementwise, Key, NoiseLike, Sample, SampleLike, typed
from ._base import (
    AbstractFeatures,
    AbstractNetwork,
    level_sizes,
    refuse_augment,
    require_rate,
)
from ._embedding import Embedding
from ._layers import (
    SMALL,
    Block,
    Conv,
    GroupNorm,
    Linear,
    Padding,
    WithCoordinates,
    extra_channels,
    require_channels,
    require_grid,
    stream,
    upsample,
)


class UNet(AbstractNetwork):
    r"""Residual convolutions on a hierarchy of grids, modulated by time and class.

    Level $l$ has `width * multipliers[l]` channels on a grid $2^l$ times coarser, and
    `blocks` residual blocks on the way down and as many on the way up; the blocks of
    the levels in `attention` (0 is the finest) also attend to the whole grid. Each side
    of the grid must be a multiple of $2^{levels - 1}$.

    `padding="periodic"` is for fields on a torus: the network commutes with shifts by
    multiples of $2^{levels-1}$ points. With `"zeros"` it can learn where the boundary
    is. With `coordinates` its first layer also sees the coordinates of each point (see
    `WithCoordinates`), so that the output may depend on the position.

    `x` is `*grid in_channels` with `dims` axes of grid, the result
    `*grid out_channels`. `classes` is the number of class labels; `dropout` the
    fraction dropped in each block, when there is a `key`; `features` the number of
    Fourier features of `c_noise`, or the features themselves.
    """

    embedding: Embedding
    start: Linear
    stem: Conv | WithCoordinates
    downs: tuple[Conv, ...]
    encoder: tuple[tuple[Block, ...], ...]
    middle: Block
    decoder: tuple[tuple[Block, ...], ...]
    ups: tuple[Conv, ...]
    norm: GroupNorm
    out: Conv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        classes: int | None = None,
        dropout: float = 0.0,
        dims: int = 2,
        padding: Padding = "zeros",
        coordinates: bool = False,
        features: int | AbstractFeatures = 32,
        key: Key,
    ):
        require_whole(in_channels=in_channels, out_channels=out_channels)
        require_whole(width=width, blocks=blocks)
        require_rate(dropout)
        require_grid(dims, padding)
        sizes = level_sizes(width, multipliers)
        levels, size = range(len(sizes)), 4 * width
        outside = [level for level in attention if level not in levels]
        if outside:
            raise ValueError(
                f"attention must name levels from 0 (finest) to {len(sizes) - 1}, "
                f"got {outside}. Remove them, or add multipliers."
            )
        keys = stream(key)

        def conv(
            inputs: int, outputs: int, scale: float = 1.0, stride: int = 1
        ) -> Conv:
            options: Any = dict(dims=dims, padding=padding, scale=scale, stride=stride)
            return Conv(inputs, outputs, **options, key=next(keys))

        def block(level: int, inputs: int) -> Block:
            options: Any = dict(embedding=size, rate=dropout, attend=level in attention)
            return Block(conv, inputs, sizes[level], **options, key=next(keys))

        self.embedding = Embedding(
            size, features=features, classes=classes, depth=2, key=next(keys)
        )
        self.start = Linear(size, sizes[0], key=next(keys))
        periodic = (padding == "periodic",) * dims
        more = extra_channels(periodic) if coordinates else 0
        stem = conv(in_channels + more, sizes[0])
        # Around the layer, and no field of its own: older files have no such field.
        self.stem = WithCoordinates(stem, periodic, "cells") if coordinates else stem
        pairs = list(itertools.pairwise(sizes))
        self.downs = tuple(conv(fine, coarse, stride=2) for fine, coarse in pairs)
        self.encoder = tuple(
            tuple(block(level, sizes[level]) for _ in range(blocks)) for level in levels
        )
        self.middle = block(levels[-1], sizes[-1])
        self.decoder = tuple(
            tuple(block(level, 2 * sizes[level]) for _ in range(blocks))
            for level in levels
        )
        self.ups = tuple(conv(coarse, fine) for fine, coarse in pairs)
        self.norm = GroupNorm(sizes[0])
        self.out = conv(sizes[0], out_channels, scale=SMALL)

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
        x = self._one_sample(x)
        refuse_augment(augment)
        keys = stream(key)
        e = jax.nn.silu(self.embedding(c_noise, condition)).astype(x.dtype)
        # The sum: a convolution of x alone would lose the amplitude of the field in the
        # first normalisation.
        h = self.stem(x) + self.start(e)
        skips = []
        for level, blocks in enumerate(self.encoder):
            h = self.downs[level - 1](h) if level else h
            for block in blocks:
                h = block(h, e, next(keys))
                skips.append(h)
        h = self.middle(h, e, next(keys))
        for level, blocks in reversed(list(enumerate(self.decoder))):
            for block in blocks:
                h = block(jnp.concatenate([h, skips.pop()], -1), e, next(keys))
            h = self.ups[level - 1](upsample(h)) if level else h
        return self.out(jax.nn.silu(self.norm(h)))

    def _one_sample(self, x: SampleLike) -> Sample:
        """One sample on a grid that can be made coarser often enough."""
        stem, dims = self.stem, self.out.weight.ndim - 2
        located = isinstance(stem, WithCoordinates)
        require_channels(x, stem.inputs if located else stem.weight.shape[-2], dims)
        multiple, grid = 2 ** len(self.downs), x.shape[:-1]
        if any(n == 0 or n % multiple for n in grid):
            less = tuple(max(n // multiple, 1) * multiple for n in grid)
            more = tuple(-(-max(n, 1) // multiple) * multiple for n in grid)
            raise ValueError(
                f"each side of the grid must be a multiple of {multiple}, which is "
                f"halved {len(self.downs)} times, got the grid {grid}. Crop it to "
                f"{less}, pad it to {more}, or use fewer multipliers."
            )
        return jnp.asarray(x)
