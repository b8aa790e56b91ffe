r"""The residual block of all networks here, on vectors and on grids.

$$ y = h + L_2\, \phi\bigl((1 + s) \odot \widehat{r} + b\bigr), \qquad
r = L_1 \phi(\widehat{h}), \qquad (s, b) = W e, $$

with hats for normalised values, $L$ linear layers or convolutions and $e$ the embedding
of time and class. Two activations in a block, and a normalisation before each: with one
of each, networks for vectors learn more slowly.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Key
from ._layers import SMALL, Attention, Conv, GroupNorm, Linear
from ._random import dropout
from ._spectral import SpectralLayer

Layer = Linear | Conv | SpectralLayer

# The modulation by the embedding begins gently: a factor of 1 +- 0.2 or so.
GENTLE = 0.3


class Block(eqx.Module):
    """Two layers beside a shortcut, the second modulated; then attention, if asked for.

    `make(inputs, outputs, scale=...)` makes a layer, `groups` are those of the
    normalisation, `embedding` is the length of $e$, `rate` that of dropout.
    """

    norms: tuple[GroupNorm, GroupNorm]
    layers: tuple[Layer, Layer]
    modulation: Linear
    shortcut: Linear | None
    attention_norm: GroupNorm | None
    attention: Attention | None
    activation: Callable[[Array], Array] = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        make: Callable[..., Layer],
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        rate: float,
        groups: int | None = None,
        attend: bool = False,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: Key,
    ):
        first, second, third = jax.random.split(key, 3)
        self.norms = GroupNorm(inputs, groups), GroupNorm(outputs, groups)
        self.layers = make(inputs, outputs), make(outputs, outputs, scale=SMALL)
        self.modulation = Linear(embedding, 2 * outputs, scale=GENTLE, key=first)
        change = inputs != outputs
        self.shortcut = Linear(inputs, outputs, key=second) if change else None
        self.attention_norm = GroupNorm(outputs, groups) if attend else None
        self.attention = Attention(outputs, scale=SMALL, key=third) if attend else None
        self.activation = activation
        self.rate = rate

    def __call__(
        self,
        h: Float[Array, "*grid inputs"],
        e: Float[Array, " embedding"],
        key: Key | None,
    ) -> Float[Array, "*grid outputs"]:
        scale, shift = jnp.split(self.modulation(e), 2)
        r = self.layers[0](self.activation(self.norms[0](h)))
        r = self.activation(self.norms[1](r) * (1 + scale) + shift)
        r = self.layers[1](dropout(r, self.rate, key))
        h = r + (h if self.shortcut is None else self.shortcut(h))
        if self.attention is not None and self.attention_norm is not None:
            h = h + self.attention(self.attention_norm(h))
        return h
