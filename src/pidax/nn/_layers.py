r"""Layers for one sample, channels last: `*grid channels`; and the block made of them.

A layer computes in the dtype of its input, to which it converts its parameters; sums
over many numbers (the statistics of a normalisation, a softmax) are in float32 at
least. Weights are drawn as $N(0, s^2/n)$ with $n$ the fan-in, which keeps the variance
of the input for `scale` $s = 1$; biases start at zero.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_whole, settled
from ..types import Key, Scalar, ScalarLike, Shape, at_least_float32, typed

Padding = Literal["zeros", "periodic", "edge"]
Direction = Literal["up", "down"]
Layout = Literal["nodes", "cells"]  # the ends of an axis among its points, or outside
Layer: TypeAlias = Callable[[Array], Array]
PADDINGS = {"zeros": "constant", "periodic": "wrap", "edge": "edge"}
# The last layer of a residual branch and of a network begins ten times smaller than it
# would: a block is nearly the identity and the output nearly zero, whatever the depth.
# Not exactly zero, which would keep the gradients of all before it at zero.
SMALL = 0.1
# The modulation by the embedding begins gently: a factor of 1 +- 0.2 or so.
GENTLE = 0.3


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
        require_whole(inputs=inputs, outputs=outputs)
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

    with kernel $k$ (odd) and stride $s$. Outside the grid $x$ is zero
    (`padding="zeros"`, for images), periodic (`"periodic"`, for fields on a torus) or
    the nearest value (`"edge"`, for fields without flux through the boundary).

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
        require_whole(inputs=inputs, outputs=outputs, kernel=kernel, stride=stride)
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
        self.stride = int(stride)
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
        require_whole(channels=channels)
        most = min(32, max(channels // 4, 1))
        fitting = max(n for n in range(1, most + 1) if channels % n == 0)
        groups = fitting if groups is None else groups
        require_whole(groups=groups)
        if channels % groups:
            raise ValueError(
                f"groups must divide the channels, got channels={channels}, "
                f"groups={groups}. Use groups={fitting}, or None to have it chosen."
            )
        self.gain = jnp.ones(channels)
        self.shift = jnp.zeros(channels)
        self.groups = int(groups)
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
        require_whole(channels=channels, heads=heads)
        if channels % heads:
            raise ValueError(
                f"heads must divide the channels, got channels={channels}, "
                f"heads={heads}. Use heads={math.gcd(channels, heads)}."
            )
        first, second = jax.random.split(key)
        # No bias, unless published weights have one: the bias of the keys adds the same
        # number to all logits of a softmax.
        self.qkv = Linear(channels, 3 * channels, bias=bias, key=first)
        self.out = Linear(channels, channels, scale=scale, key=second)
        self.heads = int(heads)

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


class Resample(eqx.Module):
    r"""Images twice as large or half as large, by one filter along each axis.

    With taps $r_0, \ldots, r_{L-1}$, $p = \lfloor (L-1)/2 \rfloor$ and
    $s = \sum_k r_k$, along every axis of the grid

    $$ \text{down:}\quad y_i = \frac1s \sum_k r_k\, x_{2i + k - p}, \qquad
       \text{up:}\quad y_m = \frac2s \sum_{2i + k - p = m} r_k\, x_i, $$

    zero beyond the grid. `(1, 1)` is the mean of two neighbours and its repetition,
    `(1, 3, 3, 1)` smoother. Up is $2^{dims}$ times the transpose of down, and away from
    the boundary either keeps a constant.

    `x` is `*grid channels`.
    """

    taps: tuple[float, ...] = eqx.field(static=True)
    direction: Direction = eqx.field(static=True)

    def __init__(self, taps: tuple[float, ...], direction: Direction):
        self.taps = tuple(float(tap) for tap in taps)
        self.direction = direction

    def __check_init__(self):
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"direction must be one of {get_args(Direction)}, got "
                f"{self.direction!r}. Up doubles the grid, down halves it."
            )
        if not self.taps or len(self.taps) % 2 or sum(self.taps) == 0:
            raise ValueError(
                "a filter has an even number of taps, whose sum is not zero, got "
                f"{self.taps}. Use (1, 1) or (1, 3, 3, 1)."
            )

    @property
    def margin(self) -> int:
        """How far the filter reaches beyond the grid."""
        return (len(self.taps) - 1) // 2

    @typed
    def __call__(
        self, x: Float[Array, "*grid channels"], *, padded: bool = False
    ) -> Float[Array, "..."]:
        """The resampled image; a `padded` one already has its `margin` on all sides."""
        total = sum(self.taps)
        for axis in range(x.ndim - 1):
            if self.direction == "up":
                x = _up(x, [2 * tap / total for tap in self.taps], axis, self.margin)
            else:
                margin = 0 if padded else self.margin
                x = _down(x, [tap / total for tap in self.taps], axis, margin)
        return x


class WithCoordinates(eqx.Module):
    r"""A first layer that also sees the coordinates of each point.

    A network of convolutions on a torus commutes with translations. With coordinates it
    can depend on the position: on a boundary, a fixed source, a coefficient.

    `layer` takes `extra_channels(periodic)` more channels than the field has;
    `periodic` says of each axis whether it is a circle; `layout` where the points of
    the others are: `"nodes"` with both ends, `"cells"` half a step inside. `x` is
    `*grid channels`.

    Along an axis that is not periodic its place is in $[-1, 1]$; along a periodic one,
    of coordinate $s \in [0, 1)$, it is $\cos 2\pi s$ and $\sin 2\pi s$, which do not
    jump where the circle closes. They are computed at each call, and not trained.
    (Liu et al. 2018, "CoordConv".)
    """

    layer: Linear | Conv
    periodic: tuple[bool, ...] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)

    @property
    def inputs(self) -> int:
        """The number of channels of the field itself."""
        return self.layer.weight.shape[-2] - extra_channels(self.periodic)

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*new outs"]:
        require_channels(x, self.inputs, len(self.periodic))
        channels = [x]
        for axis, circle in enumerate(self.periodic):
            n = x.shape[axis]
            shape = [n if a == axis else 1 for a in range(x.ndim)]
            place = positions(n, self.layout, circle)
            turns = 2 * np.pi * place
            functions = [np.cos(turns), np.sin(turns)] if circle else [2 * place - 1]
            for values in functions:
                column = jnp.asarray(values, x.dtype).reshape(shape)
                channels.append(jnp.broadcast_to(column, (*x.shape[:-1], 1)))
        return self.layer(jnp.concatenate(channels, -1))


class Block(eqx.Module):
    r"""The residual block of all networks here but the image U-Nets.

    $$ y = h + L_2\, \phi\bigl((1 + s) \odot \widehat{r} + b\bigr), \qquad
    r = L_1 \phi(\widehat{h}), \qquad (s, b) = W e, $$

    with hats for normalised values, $L$ linear layers or convolutions and $e$ the
    embedding of time and class. Two activations in a block, and a normalisation before
    each: with one of each, networks for vectors learn more slowly.

    Then attention, if asked for.

    `make(inputs, outputs, scale=...)` makes a layer, `groups` is for
    the normalisation, `embedding` is the length of $e$, `rate` the dropout rate.
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


def stream(key: Key | None) -> Iterator[Any]:
    """`count` keys, or as many None without a key."""
    for i in itertools.count():
        yield None if key is None else jax.random.fold_in(key, i)


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Each number zero with this probability, else larger, so that the mean stays."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def normal(key: Key, shape: Shape, spread: float) -> Array:
    """Independent normal numbers of this standard deviation, in the default dtype."""
    # XLA takes up to seconds to compile a draw for each new size: few sizes are drawn.
    count, size = math.prod(shape), 4096
    while size < count:
        size *= 4
    numbers = settled(_draw(key, size))[:count].reshape(shape)
    return jnp.asarray(spread * numbers)


@functools.partial(jax.jit, static_argnums=1)
def _draw(key: Key, size: int) -> Array:
    return jax.random.normal(key, (size,), jnp.zeros(()).dtype)


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


def extra_channels(periodic: tuple[bool, ...]) -> int:
    """How many channels say where a point is."""
    return sum(2 if circle else 1 for circle in periodic)


def positions(points: int, layout: Layout, circle: bool) -> np.ndarray:
    """Where the points of an axis of length one are; on a circle, from 0 up to 1."""
    if circle:
        return np.arange(points) / points
    if layout == "cells":
        return (np.arange(points) + 0.5) / points
    return np.arange(points) / max(points - 1, 1)


def pad_grid(x: Array, margin: int) -> Array:
    """`x` with zeros on all sides of its grid."""
    return jnp.pad(x, [(margin, margin)] * (x.ndim - 1) + [(0, 0)]) if margin else x


def _pad(x: Array, axis: int, margin: int) -> Array:
    pads = [(0, 0)] * x.ndim
    pads[axis] = (margin, margin)
    return jnp.pad(x, pads) if margin else x


def _down(x: Array, taps: list[float], axis: int, margin: int) -> Array:
    x = _pad(x, axis, margin)
    count = (x.shape[axis] - len(taps)) // 2 + 1
    total = jnp.zeros((), x.dtype)
    for k, tap in enumerate(taps):
        part = jax.lax.slice_in_dim(x, k, k + 2 * count - 1, stride=2, axis=axis)
        total = total + tap * part
    return total


def _up(x: Array, taps: list[float], axis: int, margin: int) -> Array:
    # Even and odd points apart: of y_m with m = 2j + parity, x_i with i = j + shift.
    count, reach = x.shape[axis], len(taps) // 2
    wide = _pad(x, axis, reach)
    halves = []
    for parity in (0, 1):
        total = jnp.zeros((), x.dtype)
        for k, tap in enumerate(taps):
            shift, odd = divmod(parity + margin - k, 2)
            if not odd:
                start = reach + shift
                part = jax.lax.slice_in_dim(wide, start, start + count, axis=axis)
                total = total + tap * part
        halves.append(total)
    both = jnp.stack(halves, axis + 1)
    return both.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])
