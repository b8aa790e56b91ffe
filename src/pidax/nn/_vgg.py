r"""The convolutions of VGG16, whose features are used in perceptual distances.

Thirteen convolutions of three by three with a ReLU after each, in five groups of 2, 2,
3, 3 and 3; between groups the image is halved (Simonyan & Zisserman 2015). A
perceptual distance uses the last feature map of each group.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import require_whole
from ..types import Key, typed
from ._layers import Conv, require_channels

GROUPS = (2, 2, 3, 3, 3)
_WIDTHS = (1, 2, 4, 8, 8)  # of a group, in units of the first
POOLINGS = ("average", "max")


class VGG16(eqx.Module):
    """The five feature maps of an image of three channels, each before it is halved.

    **Arguments:** `width`, the channels of the first group: 64 for the published
    network; `pooling`, how a map is halved: `"max"` as it was trained, or `"average"`,
    whose gradient reaches every pixel. Weights are random until they are read:
    `pidax.convert`.
    """

    convolutions: tuple[Conv, ...]
    pooling: str = eqx.field(static=True)

    def __init__(self, *, width: int = 64, pooling: str = "max", key: Key):
        require_whole(width=width)
        if pooling not in POOLINGS:
            raise ValueError(
                f"pooling must be one of {POOLINGS}, got {pooling!r}. Use 'max' for "
                "VGG16 as it was trained, 'average' for smooth gradients."
            )
        channels = [3]
        for depth, times in zip(GROUPS, _WIDTHS, strict=True):
            channels += [times * width] * depth
        keys = jax.random.split(key, len(channels) - 1)
        self.convolutions = tuple(
            Conv(before, after, scale=2**0.5, key=k)
            for before, after, k in zip(channels[:-1], channels[1:], keys, strict=True)
        )
        self.pooling = pooling

    @typed
    def __call__(self, x: Float[Array, "*grid 3"]) -> tuple[Float[Array, "..."], ...]:
        require_channels(x, 3, 2)
        if min(x.shape[:2]) < 2 ** (len(GROUPS) - 1):
            raise ValueError(
                f"an image of 16 by 16 pixels or more is needed, which is halved four "
                f"times, got {x.shape}. Resize it first."
            )
        maps, layers = [], iter(self.convolutions)
        for group, depth in enumerate(GROUPS):
            x = x if group == 0 else _halved(x, self.pooling)
            for _ in range(depth):
                x = jax.nn.relu(next(layers)(x))
            maps.append(x)
        return tuple(maps)


def _halved(x: Float[Array, "h w c"], pooling: str) -> Array:
    """Each square of two by two pixels as one; an odd last row or column is left."""
    h, w, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    squares = x[: 2 * h, : 2 * w].reshape(h, 2, w, 2, channels)
    reduce = jnp.mean if pooling == "average" else jnp.max
    return reduce(squares, axis=(1, 3))
