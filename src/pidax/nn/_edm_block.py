r"""The residual block of the image U-Nets of Song et al. and of Dhariwal and Nichol.

$$ y = w\,\bigl(S\,h' + C_1\,\phi\,m(C_0\,(\phi\,N_0 h)')\bigr), \qquad
   y \leftarrow w\,\bigl(y + A\,N_2\, y\bigr), $$

with $\phi$ the `silu`, $N$ group normalisations, $C$ convolutions, a prime for an image
resampled, $A$ attention where there is one. The embedding $e$ enters in $m$:

| style | $m(r)$ | weight $w$ | shortcut $S$ when resampling | heads | $\epsilon$ |
|---|---|---|---|---|---|
| `SONG` | $N_1(r + W e)$ | $\sqrt{1/2}$ | one by one convolution | 1 | 1e-6 |
| `ADM` | $N_1(r)(1 + s) + b$, $(s, b) = We$ | 1 | none | channels // 64 | 1e-5 |

An `ADM` block of less than 64 channels has no attention, where it is asked for too.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Key
from ._block import GENTLE
from ._layers import SMALL, Attention, Conv, GroupNorm, Linear
from ._random import dropout
from ._resample import Direction, Resample


@dataclasses.dataclass(frozen=True)
class Style:
    """In what the blocks of the two families differ; see the table above."""

    epsilon: float
    weight: float
    adaptive: bool
    project: bool
    head: int | None  # the channels of a head of attention; None: one head


SONG = Style(1e-6, math.sqrt(0.5), adaptive=False, project=True, head=None)
ADM = Style(1e-5, 1.0, adaptive=True, project=False, head=64)


def image_norm(channels: int, epsilon: float) -> GroupNorm:
    """At most 32 groups, each of at least four channels; the count must divide."""
    return GroupNorm(channels, min(32, max(channels // 4, 1)), epsilon=epsilon)


class UNetBlock(eqx.Module):
    """Two convolutions beside a shortcut; then attention, if asked for.

    `embedding` is the length of $e$, `rate` that of dropout; `direction` and `taps`
    say how the image is resampled inside, None for not at all.
    """

    norms: tuple[GroupNorm, GroupNorm]
    convs: tuple[Conv, Conv]
    modulation: Linear
    shortcut: Linear | None
    attention_norm: GroupNorm | None
    attention: Attention | None
    resample: Resample | None
    weight: float = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style: Style,
        embedding: int,
        rate: float = 0.0,
        direction: Direction | None = None,
        taps: tuple[float, ...] = (1.0, 1.0),
        attend: bool = False,
        key: Key,
    ):
        first, second, third, fourth, fifth = jax.random.split(key, 5)
        norm = lambda channels: image_norm(channels, style.epsilon)
        self.norms = norm(inputs), norm(outputs)
        self.convs = (
            Conv(inputs, outputs, key=first),
            Conv(outputs, outputs, scale=SMALL, key=second),
        )
        factor, scale = (2, GENTLE) if style.adaptive else (1, 1.0)
        self.modulation = Linear(embedding, factor * outputs, scale=scale, key=third)
        self.resample = None if direction is None else Resample(taps, direction)
        change = inputs != outputs or (style.project and direction is not None)
        self.shortcut = Linear(inputs, outputs, key=fourth) if change else None
        heads = 1 if style.head is None else outputs // style.head
        self.attention_norm = self.attention = None
        if attend and heads:
            self.attention_norm = norm(outputs)
            self.attention = Attention(
                outputs, heads=heads, scale=SMALL, bias=True, key=fifth
            )
        self.weight, self.adaptive = style.weight, style.adaptive
        self.rate = rate

    def __call__(
        self,
        h: Float[Array, "*grid inputs"],
        e: Float[Array, " embedding"],
        key: Key | None,
    ) -> Float[Array, "*new outputs"]:
        r = self.convs[0](self._resampled(jax.nn.silu(self.norms[0](h))))
        moved = self.modulation(e)
        if self.adaptive:
            scale, shift = jnp.split(moved, 2)
            r = self.norms[1](r) * (scale + 1) + shift
        else:
            r = self.norms[1](r + moved)
        r = self.convs[1](dropout(jax.nn.silu(r), self.rate, key))
        h = self._resampled(h)
        h = h if self.shortcut is None else self.shortcut(h)
        h = (h + r) * self.weight
        if self.attention is not None and self.attention_norm is not None:
            h = (h + self.attention(self.attention_norm(h))) * self.weight
        return h

    def _resampled(self, x: Array) -> Array:
        return x if self.resample is None else self.resample(x)
