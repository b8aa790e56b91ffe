r"""Layers for one sample, channels last: `*grid channels`.

A layer computes in the dtype of its input, to which it converts its parameters; sums
over many numbers (the statistics of a normalisation, a softmax) are in float32 at
least. Weights are drawn as $N(0, s^2/n)$ with $n$ the fan-in, which keeps the variance
of the input for `scale` $s = 1$; biases start at zero.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Key, Scalar, ScalarLike, at_least_float32, typed
from ._base import require_counts
from ._random import normal

Padding = Literal["zeros", "periodic", "edge"]
PADDINGS = {"zeros": "constant", "periodic": "wrap", "edge": "edge"}
# The last layer of a residual branch and of a network begins ten times smaller than it
# would: a block is nearly the identity and the output nearly zero, whatever the depth.
# Not exactly zero, which would keep the gradients of all before it at zero.
SMALL = 0.1


class Linear(eqx.Module):
    """`x W + b` on the last axis: a linear layer, or a convolution with one point.

    `x` is `*grid inputs`, the result `*grid outputs`, the weight `inputs outputs`.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scale: float = 1.0,
        bias: bool = True,
        key: Key,
    ):
        require_counts(inputs=inputs, outputs=outputs)
        self.weight = normal(key, (inputs, outputs), scale / math.sqrt(inputs))
        self.bias = jnp.zeros(outputs) if bias else None

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outs"]:
        require_channels(x, self.weight.shape[0])
        weight = self.weight.astype(x.dtype)
        # Of an image as a convolution: the gradient by the weights of a product of long
        # thin matrices makes XLA's CPU backend transpose them first.
        y = _correlate(x, weight[None, None]) if x.ndim == 3 else x @ weight
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Conv(eqx.Module):
    r"""A convolution of one sample (a correlation, as everywhere in deep learning).

    $$ y_i = b + \sum_j w_j\, x_{s i + j}, \qquad j = -\lfloor k/2 \rfloor, \ldots,
    \lfloor k/2 \rfloor \text{ along every axis} $$

    with kernel $k$ (odd) and stride $s$. Beyond the grid $x$ is zero
    (`padding="zeros"`, images), itself again (`"periodic"`, fields on a torus) or its
    nearest value (`"edge"`, fields without flux through the boundary).

    `x` is `*grid inputs` with `dims` axes of grid; the result has `outputs` channels
    on a grid of every `stride`-th point; the weight is `*kernel inputs outputs`.
    """

    weight: Float[Array, "*kernel inputs outputs"]
    bias: Float[Array, " outputs"] | None
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        dims: int = 2,
        padding: Padding = "zeros",
        scale: float = 1.0,
        bias: bool = True,
        key: Key,
    ):
        require_counts(inputs=inputs, outputs=outputs, kernel=kernel, stride=stride)
        require_grid(dims, padding)
        if kernel % 2 == 0:
            raise ValueError(
                f"kernel must be odd, so that it has a centre, got kernel={kernel}. "
                f"Use {kernel - 1} or {kernel + 1}."
            )
        fan_in = kernel**dims * inputs
        shape = (kernel,) * dims + (inputs, outputs)
        self.weight = normal(key, shape, scale / math.sqrt(fan_in))
        self.bias = jnp.zeros(outputs) if bias else None
        self.stride = stride
        self.padding = padding

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*new outs"]:
        dims = self.weight.ndim - 2
        require_channels(x, self.weight.shape[-2], dims)
        half = self.weight.shape[0] // 2
        if self.padding != "zeros":
            pads = [(half, half)] * dims + [(0, 0)]
            x, half = jnp.pad(x, pads, mode=PADDINGS[self.padding]), 0
        y = _correlate(x, self.weight.astype(x.dtype), self.stride, half)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


def _correlate(x: Array, weight: Array, stride: int = 1, margin: int = 0) -> Array:
    """`*kernel inputs outputs` over `*grid inputs`, with zeros beyond the grid."""
    dims = x.ndim - 1
    axes = "DHW"[-dims:]
    return jax.lax.conv_general_dilated(
        x[None],
        weight,
        window_strides=(stride,) * dims,
        padding=[(margin, margin)] * dims,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )[0]


class GroupNorm(eqx.Module):
    r"""Each group of channels brought to mean 0 and variance 1, then scaled, shifted.

    $$ y = \gamma\, \frac{x - \mu_g}{\sqrt{v_g + \epsilon}} + \beta, $$

    mean and variance over the grid and the channels of the group (Wu & He 2018), in
    float32 at least. `groups=None` chooses: at most 32, each of at least four channels.
    With `groups=1` and a vector it is layer normalisation. `x` is `*grid channels`.
    """

    gain: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    groups: int = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self, channels: int, groups: int | None = None, *, epsilon: float = 1e-5
    ):
        require_counts(channels=channels)
        most = min(32, max(channels // 4, 1))
        fitting = max(n for n in range(1, most + 1) if channels % n == 0)
        groups = fitting if groups is None else groups
        require_counts(groups=groups)
        if channels % groups:
            raise ValueError(
                f"groups must divide the channels, got channels={channels}, "
                f"groups={groups}. Use groups={fitting}, or None to have it chosen."
            )
        self.gain = jnp.ones(channels)
        self.shift = jnp.zeros(channels)
        self.groups = groups
        self.epsilon = epsilon

    @typed
    def __call__(self, x: Float[Array, "*grid channels"]) -> Float[Array, "..."]:
        (channels,) = self.gain.shape
        require_channels(x, channels)
        dtype = at_least_float32(x.dtype)
        # Means over the grid channel by channel, then of each group's channels by a
        # small matrix: the groups as an axis of the image would be the last, of four
        # numbers, which a CPU cannot take together.
        member = np.kron(np.eye(self.groups), np.ones((channels // self.groups, 1)))
        share = jnp.asarray(member * self.groups / channels, dtype)
        grid = tuple(range(x.ndim - 1))
        group_mean = lambda h: (h.mean(grid) @ share) @ jnp.asarray(member.T, dtype)
        h = x.astype(dtype)
        h = h - group_mean(h)
        variance = group_mean(jnp.square(h))
        h = h * (jax.lax.rsqrt(variance + self.epsilon) * self.gain.astype(dtype))
        h = h + self.shift.astype(dtype)
        return h.astype(x.dtype)


class Attention(eqx.Module):
    r"""Self-attention over all points of the grid.

    $$ y_i = W_o \sum_j \operatorname{softmax}_j\!\left(
    \frac{q_i \cdot k_j}{\sqrt{d}}\right) v_j, \qquad (q, k, v) = W x, $$

    in each of `heads` heads of $d$ channels (Vaswani et al. 2017), the softmax in
    float32 at least. Its memory is the square of the number of points: for coarse
    grids. `x` and the result are `*grid channels`. With `bias`, $q$, $k$ and $v$ have
    one.
    """

    qkv: Linear
    out: Linear
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        scale: float = 1.0,
        bias: bool = False,
        key: Key,
    ):
        require_counts(channels=channels, heads=heads)
        if channels % heads:
            raise ValueError(
                f"heads must divide the channels, got channels={channels}, "
                f"heads={heads}. Use heads={math.gcd(channels, heads)}."
            )
        first, second = jax.random.split(key)
        # No bias, unless published weights have one: that of the keys adds the same
        # number to all logits of a softmax.
        self.qkv = Linear(channels, 3 * channels, bias=bias, key=first)
        self.out = Linear(channels, channels, scale=scale, key=second)
        self.heads = heads

    @typed
    def __call__(self, x: Float[Array, "*grid channels"]) -> Float[Array, "..."]:
        channels = x.shape[-1]
        qkv = self.qkv(x).reshape(-1, 3, self.heads, channels // self.heads)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        dtype = at_least_float32(x.dtype)
        logits = jnp.einsum("ihd,jhd->hij", q, k, preferred_element_type=dtype)
        weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
        y = jnp.einsum("hij,jhd->ihd", weights.astype(x.dtype), v)
        return self.out(y.reshape(x.shape))


def upsample(x: Float[Array, "*grid channels"]) -> Array:
    """Each point twice along every axis of the grid."""
    for axis in range(x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x


def as_float(number: ScalarLike) -> Scalar:
    """A number as an array of float32 at least."""
    number = jnp.asarray(number)
    floating = jnp.issubdtype(number.dtype, jnp.floating)
    dtype = number.dtype if floating else jnp.zeros(()).dtype
    return number.astype(at_least_float32(dtype))


def require_grid(dims: int, padding: str) -> None:
    """A grid of one, two or three axes, and what is beyond it."""
    if dims not in (1, 2, 3):
        raise ValueError(
            f"dims must be 1, 2 or 3, got dims={dims!r}. It is the number of axes of "
            "the grid, without the channels."
        )
    if padding not in PADDINGS:
        names = ", ".join(repr(name) for name in PADDINGS)
        raise ValueError(
            f"padding must be one of {names}, got padding={padding!r}. Use 'zeros' for "
            "images, 'periodic' for fields on a torus."
        )


def require_channels(
    x: Array | np.ndarray, channels: int, dims: int | None = None
) -> None:
    """One sample with so many channels on a grid of `dims` axes, or of any number."""
    grid = "*grid" if dims is None else ", ".join(["n"] * dims)
    if x.ndim == 0 or x.shape[-1] != channels or dims not in (None, x.ndim - 1):
        raise ValueError(
            f"x must be one sample of the shape ({grid}, {channels}), channels last, "
            f"got {x.shape}. Use jax.vmap for a batch."
        )
