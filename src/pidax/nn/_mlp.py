r"""Networks for vectors: a perceptron, and residual blocks.

$$ h_0 = W x + e(c_{noise}, c), \qquad h_{i+1} = W_i\,\phi(h_i) + b_i $$

is the `MLP`, a perceptron on the concatenation of $x$, the features of $c_{noise}$ and
the class. `ResidualMLP` adds residual blocks to the same $h_0$. `Concatenated` has
several networks, whose outputs are concatenated.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_whole
from ..types import Condition, Elementwise, Key, NoiseLike, SampleLike, Shape, typed
from ._base import (
    AbstractFeatures,
    AbstractNetwork,
    as_sample,
    refuse_augment,
    require_rate,
)
from ._embedding import Embedding
from ._layers import SMALL, Block, GroupNorm, Linear, stream


class MLP(AbstractNetwork):
    r"""A perceptron of `depth` hidden layers of `width` units, for vectors.

    Its first layer acts on $x$, the features of $c_{noise}$ and the class together.
    For data of a few dimensions and quick experiments; `ResidualMLP` trains better
    when deep.

    `x` is `(in_size,)`, the result `(out_size,)`. `classes` is the number of class
    labels; `activation` a function of `jax.nn`; `features` the number of Fourier
    features of `c_noise`, or the features themselves.
    """

    embedding: Embedding
    input: Linear
    hidden: tuple[Linear, ...]
    out: Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int = 256,
        depth: int = 4,
        classes: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        features: int | AbstractFeatures = 32,
        key: Key,
    ):
        require_whole(in_size=in_size, out_size=out_size, width=width, depth=depth)
        first, second, third, *rest = jax.random.split(key, depth + 2)
        # Each of x, the features and the class enters with the variance 1: with the
        # fan-in of the concatenation, two coordinates among 32 features would be lost.
        self.embedding = Embedding(width, features=features, classes=classes, key=first)
        self.input = Linear(in_size, width, bias=False, key=second)
        gain = math.sqrt(2)  # an activation keeps about half the mean square
        self.hidden = tuple(Linear(width, width, scale=gain, key=k) for k in rest)
        self.out = Linear(width, out_size, scale=SMALL, key=third)
        self.activation = activation

    @property
    def classes(self) -> int | None:
        return self.embedding.classes

    @property
    def shape(self) -> Shape:
        return self.input.weight.shape[:1]

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
        x = as_sample(x, self.shape)
        refuse_augment(augment)
        h = self.input(x) + self.embedding(c_noise, condition).astype(x.dtype)
        for layer in self.hidden:
            h = layer(self.activation(h))
        return self.out(self.activation(h))


class ResidualMLP(AbstractNetwork):
    r"""A linear layer, `depth` residual blocks of `width` units, a linear layer.

    $$ h \leftarrow h + W_2\, \phi\bigl((1 + s) \odot \widehat{W_1 \phi(\hat h)} + b
    \bigr), \qquad (s, b) = W e(c_{noise}, c), $$

    with hats for normalised values: time and class modulate each block. Use it for
    vectors of any length, and for data for which an `MLP` is too smooth. Width 512 and
    depth 6 are good values, with 6.6 million parameters.

    With `gain=i` it adds $g(e) \odot x_{i:}$: a time-dependent factor for each
    coordinate of the output, applied to the input coordinates from the i-th on; use 0
    for a network that returns all coordinates. For independent Gaussian coordinates
    this is exact, and the blocks learn the remainder: for whitened fields
    (`pidax.pde.Whitened`), whose samples are nearly a linear function of the noise.

    `x` is `(in_size,)`, the result `(out_size,)`; other arguments as in `MLP`.
    `dropout` is the fraction dropped in each block, when there is a `key`.
    """

    embedding: Embedding
    input: Linear
    blocks: tuple[Block, ...]
    norm: GroupNorm
    out: Linear
    gain: Linear | None
    gained: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int = 512,
        depth: int = 6,
        classes: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        dropout: float = 0.0,
        features: int | AbstractFeatures = 32,
        gain: int | None = None,
        key: Key,
    ):
        require_whole(in_size=in_size, out_size=out_size, width=width, depth=depth)
        require_rate(dropout)
        self.gained = 0 if gain is None else int(gain)
        if gain is not None and not 0 <= gain <= in_size - out_size:
            raise ValueError(
                f"a gain multiplies {out_size} coordinates of the input, from the one "
                f"it names on, got gain={gain} for an input of {in_size}. Leave gain "
                "out, or give the place of the first."
            )
        keys = stream(key)

        def make(inputs: int, outputs: int, scale: float = 1.0) -> Linear:
            return Linear(inputs, outputs, scale=scale, key=next(keys))

        def block() -> Block:
            return Block(
                make,
                width,
                width,
                embedding=width,
                rate=dropout,
                groups=1,
                activation=activation,
                key=next(keys),
            )

        self.embedding = Embedding(
            width, features=features, classes=classes, depth=2, key=next(keys)
        )
        self.input = make(in_size, width)
        self.blocks = tuple(block() for _ in range(depth))
        self.norm = GroupNorm(width, 1)
        self.out = make(width, out_size, scale=SMALL)
        self.gain = make(width, out_size, scale=SMALL) if gain is not None else None
        self.activation = activation

    @property
    def classes(self) -> int | None:
        return self.embedding.classes

    @property
    def shape(self) -> Shape:
        return self.input.weight.shape[:1]

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
        x = as_sample(x, self.shape)
        refuse_augment(augment)
        e = self.embedding(c_noise, condition).astype(x.dtype)
        # The sum: W x alone would lose the length of x in the first normalisation.
        h = self.input(x) + e
        e = jax.nn.silu(e)
        for block, k in zip(self.blocks, stream(key), strict=False):
            h = block(h, e, k)
        out = self.out(self.activation(self.norm(h)))
        if self.gain is None:
            return out
        # A step of Adam moves a sum over the whole width: let it not move the gain so.
        own = x[self.gained : self.gained + out.size]
        return out + self.gain(e) / math.sqrt(e.size) * own


class Concatenated(AbstractNetwork):
    r"""Networks with concatenated outputs: $F(x) = (F_1(x), F_2(x), \ldots)$, no weight
    shared.

    If a loss acts on one part of the output only, its gradient also changes the rest
    through a shared trunk. Here it does not. Each network sees the whole sample;
    outputs are concatenated along the last axis.

    `networks` have the same input and classes, and their outputs together are as long
    as the sample's last axis: such as one network for the coordinates of the given
    fields and one for the unknowns (`pidax.pde.Conditional`).
    """

    networks: tuple[AbstractNetwork, ...]

    def __init__(self, networks: Sequence[AbstractNetwork]):
        self.networks = tuple(networks)

    def __check_init__(self):
        told = {(network.shape, network.classes) for network in self.networks}
        if len(told) != 1:
            raise ValueError(
                "networks side by side take one input and the same classes, got "
                f"{len(self.networks)} networks of (shape, classes) {sorted(told)}. "
                "Make all for the whole sample."
            )

    @property
    def classes(self) -> int | None:
        return self.networks[0].classes

    @property
    def shape(self) -> Shape | None:
        return self.networks[0].shape

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
        count = len(self.networks)
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        parts = [
            network(x, c_noise, condition, augment=augment, key=k)
            for network, k in zip(self.networks, keys, strict=True)
        ]
        return jnp.concatenate(parts, axis=-1)


def blockwise(
    sizes: Sequence[int], *, width: int = 512, depth: int = 4, key: Key
) -> AbstractNetwork:
    """A `ResidualMLP` with a gain for each block of coordinates.

        blockwise(coordinates.blocks, key=key)    # of a `pidax.pde.Whitened`

    Each network sees all `sum(sizes)` coordinates and returns its own block. For one
    block it is a plain `ResidualMLP`.
    """
    total, place, networks = sum(sizes), 0, []
    for size, k in zip(sizes, jax.random.split(key, len(sizes)), strict=True):
        networks.append(
            ResidualMLP(total, size, width=width, depth=depth, gain=place, key=k)
        )
        place += size
    return networks[0] if len(networks) == 1 else Concatenated(networks)
