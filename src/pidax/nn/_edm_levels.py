r"""Down and up through the grids: the encoder and the decoder of an image U-Net.

Beside the blocks an image of few channels may go down the levels and up again:

| encoder | what is added at each coarser level |
|---|---|
| `"standard"` | nothing |
| `"skip"` | the input, resampled from level to level, through one convolution of its own |
| `"residual"` | the last such sum (first the input), convolved and resampled; $(h + r)/\sqrt2$ |

| decoder | the output |
|---|---|
| `"standard"` | normalisation and convolution of the finest level |
| `"skip"` | the sum of those of all levels, each resampled up to the next |
"""  # noqa: E501

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._base import require_counts, require_rate
from ._edm_block import Style, UNetBlock, image_norm
from ._layers import SMALL, Conv, GroupNorm, Linear
from ._resample import Resample, pad_grid

EncoderKind = Literal["standard", "skip", "residual"]
DecoderKind = Literal["standard", "skip"]
Run: TypeAlias = Callable[[UNetBlock, Array], Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sizes of a U-Net. `attention` are resolutions, `stem` channels."""

    inputs: int
    outputs: int
    stem: int
    sizes: tuple[int, ...]
    blocks: int
    resolution: int
    attention: tuple[int, ...]
    everywhere: bool  # attention in all blocks of a level on the way up, not the last
    style: Style
    embedding: int
    dropout: float
    taps: tuple[float, ...]

    def __post_init__(self):
        require_counts(in_channels=self.inputs, out_channels=self.outputs)
        require_counts(blocks=self.blocks, resolution=self.resolution)
        require_rate(self.dropout)
        halvings = len(self.sizes) - 1
        if self.resolution % 2**halvings:
            raise ValueError(
                f"resolution must be a multiple of {2**halvings}, which is halved "
                f"{halvings} times, got resolution={self.resolution}. Use fewer "
                "multipliers, or images of another size."
            )

    def block(self, inputs: int, outputs: int, key: Any, **options: Any) -> UNetBlock:
        """One block of this style."""
        return UNetBlock(
            inputs,
            outputs,
            style=self.style,
            embedding=self.embedding,
            rate=self.dropout,
            taps=self.taps,
            key=key,
            **options,
        )

    def attends(self, level: int) -> bool:
        """Whether there is attention at this level."""
        return self.resolution >> level in self.attention


class EncoderLevel(eqx.Module):
    """Into one level (not into the first), what is added there, and its blocks."""

    down: UNetBlock | None
    extra: Linear | Conv | None
    blocks: tuple[UNetBlock, ...]


class Encoder(eqx.Module):
    """From the image to the coarsest grid; gives what the decoder is joined with."""

    stem: Conv
    levels: tuple[EncoderLevel, ...]
    shrink: Resample
    kind: EncoderKind = eqx.field(static=True)

    def __init__(self, plan: Plan, kind: EncoderKind, keys: Iterator[Any]):
        self.stem = Conv(plan.inputs, plan.stem, key=next(keys))
        self.shrink = Resample(plan.taps, "down")
        self.kind = kind
        levels, here, image = [], plan.stem, plan.inputs
        for level, size in enumerate(plan.sizes):
            down = extra = None
            if level:
                down = plan.block(here, here, next(keys), direction="down")
            if level and kind == "skip":
                extra = Linear(image, here, key=next(keys))
            if level and kind == "residual":
                extra, image = Conv(image, here, key=next(keys)), here
            blocks = []
            for _ in range(plan.blocks):
                attend = plan.attends(level)
                blocks.append(plan.block(here, size, next(keys), attend=attend))
                here = size
            levels.append(EncoderLevel(down, extra, tuple(blocks)))
        self.levels = tuple(levels)

    def __call__(self, x: Array, run: Run) -> tuple[Array, list[Array]]:
        h, image = self.stem(x), x
        skips = [h]
        for level in self.levels:
            if level.down is not None:
                h = run(level.down, h)
                h, image = self._joined(level.extra, h, image)
                skips.append(h)
            for block in level.blocks:
                h = run(block, h)
                skips.append(h)
        return h, skips

    def _joined(
        self, extra: Linear | Conv | None, h: Array, image: Array
    ) -> tuple[Array, Array]:
        if extra is None:
            return h, image
        if self.kind == "skip":
            image = self.shrink(image)
            return h + extra(image), image
        # First the convolution, with the filter's margin too, then the filter without:
        # it keeps the constant that the bias is.
        wide = extra(pad_grid(image, self.shrink.margin))
        h = (h + self.shrink(wide, padded=True)) * math.sqrt(0.5)
        return h, h


class DecoderLevel(eqx.Module):
    """Into one level, its blocks, and the image that it answers, if it does."""

    into: tuple[UNetBlock, ...]
    blocks: tuple[UNetBlock, ...]
    norm: GroupNorm | None
    out: Conv | None


class Decoder(eqx.Module):
    """From the coarsest grid to an image; `levels` from the finest on."""

    levels: tuple[DecoderLevel, ...]
    grow: Resample
    kind: DecoderKind = eqx.field(static=True)

    def __init__(self, plan: Plan, kind: DecoderKind, keys: Iterator[Any]):
        self.grow = Resample(plan.taps, "up")
        self.kind = kind
        skips, last = skip_sizes(plan), len(plan.sizes) - 1
        levels, here = [], plan.sizes[-1]
        for level, size in reversed(list(enumerate(plan.sizes))):
            if level == last:
                into = (
                    plan.block(here, here, next(keys), attend=True),
                    plan.block(here, here, next(keys)),
                )
            else:
                into = (plan.block(here, here, next(keys), direction="up"),)
            blocks = []
            for i in range(plan.blocks + 1):
                attend = plan.attends(level) and (plan.everywhere or i == plan.blocks)
                inputs = here + skips.pop()
                blocks.append(plan.block(inputs, size, next(keys), attend=attend))
                here = size
            norm = out = None
            if kind == "skip" or level == 0:
                norm = image_norm(size, plan.style.epsilon)
                out = Conv(size, plan.outputs, scale=SMALL, key=next(keys))
            levels.append(DecoderLevel(into, tuple(blocks), norm, out))
        self.levels = tuple(reversed(levels))

    def __call__(self, h: Array, skips: list[Array], run: Run) -> Array:
        image = None
        for level in reversed(self.levels):
            for block in level.into:
                h = run(block, h)
            for block in level.blocks:
                h = run(block, jnp.concatenate([h, skips.pop()], -1))
            if level.norm is not None and level.out is not None:
                part = level.out(jax.nn.silu(level.norm(h)))
                image = part if image is None else part + self.grow(image)
        assert image is not None  # the finest level always answers
        return image


def skip_sizes(plan: Plan) -> list[int]:
    """The channels of what the encoder gives to the decoder, in its order."""
    sizes, here = [plan.stem], plan.stem
    for level, size in enumerate(plan.sizes):
        if level:
            sizes.append(here)
        sizes += [size] * plan.blocks
        here = size
    return sizes
