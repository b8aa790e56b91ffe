r"""The embedding of noise level ($c_{noise}$) and class.

$$ e = W_f\, f(c_{noise}) + W_c\, c + b, \qquad f = (\cos \omega_k c_{noise},\,
\sin \omega_k c_{noise})_k $$

with $c$ the one-hot vector of a class. Features are computed in float32 at least,
even in a network of lower precision: bfloat16 has three digits, and could not tell two
noise levels apart that differ by a hundredth.
"""

import math
import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_whole, whole_number
from ..types import Condition, Key, ScalarLike, typed
from ._base import AbstractFeatures
from ._layers import Linear, as_float, normal

_MAX_PERIOD = 10_000.0


class Fourier(AbstractFeatures):
    r"""Fourier features of one number (Tancik et al. 2020).

    $$ f(c) = (\cos 2\pi \omega_k c,\ \sin 2\pi \omega_k c)_{k=1}^{size/2},
    \qquad |\omega_k| \sim |N(0, scale^2)| $$

    For a `c_noise` of size one, such as the logarithm of a noise level or an angle.
    `scale` is the inverse of the distance at which two values should have different
    features. The frequencies get no gradient and are not `trainable`.

    They are the quantiles of the distribution, all positive. With a `key` they are
    drawn at random, with either sign. Few random frequencies leave gaps: with the 16
    frequencies of size 32, results depend on the seed. Draw them if `scale` is so large
    that evenly spread frequencies would give distant values of `c_noise` equal
    features.
    """

    frequencies: Float[Array, " half"]

    def __init__(self, size: int, *, scale: float = 1.0, key: Key | None = None):
        _require_even(size)
        if not 0 < scale < math.inf:
            raise ValueError(
                f"scale must be positive and finite, got scale={scale}. For numbers "
                "of order one use 1.0."
            )
        if key is None:
            self.frequencies = _half_normal_quantiles(size // 2, scale)
        else:
            self.frequencies = normal(key, (size // 2,), scale)

    @property
    def size(self) -> int:
        return 2 * self.frequencies.size

    @typed
    def __call__(self, c_noise: ScalarLike) -> Float[Array, " size"]:
        c_noise = as_float(c_noise)
        frequencies = jax.lax.stop_gradient(self.frequencies).astype(c_noise.dtype)
        # Rounded in this order, however it is compiled: large phases show it, and
        # published weights were trained so.
        return _waves(jax.lax.optimization_barrier(2 * jnp.pi * frequencies) * c_noise)


class Sinusoidal(AbstractFeatures):
    r"""The features that positions have in a transformer (Vaswani et al. 2017).

    $$ f(c) = (\cos \omega_k c,\ \sin \omega_k c)_{k=0}^{size/2-1},
    \qquad \omega_k = P^{-2k/size} $$

    with $P$ the `max_period`. For a `c_noise` that counts steps, such as DDPM's 0 to
    999: neighbours differ in the first features, ends in the last.
    """

    count: int = eqx.field(static=True)
    max_period: float = eqx.field(static=True)

    def __init__(self, size: int, *, max_period: float = 10_000.0):
        _require_even(size)
        if not 1 < max_period < math.inf:
            raise ValueError(
                f"max_period must be more than 1 and finite, got {max_period}. It is "
                "the longest period, in units of 2 pi: 10000.0 for steps up to 1000."
            )
        self.count = int(size)
        self.max_period = max_period

    @property
    def size(self) -> int:
        return self.count

    @typed
    def __call__(self, c_noise: ScalarLike) -> Float[Array, " size"]:
        c_noise = as_float(c_noise)
        exponents = np.arange(self.count // 2) * (-2.0 / self.count)
        return _waves(jnp.asarray(self.max_period**exponents, c_noise.dtype) * c_noise)


class Positional(AbstractFeatures):
    r"""Cosines and sines of frequencies from 1 down to 1/10000, as in DDPM.

    $$ f(c) = (\cos\omega_k c,\ \sin\omega_k c)_{k=0}^{n-1}, \qquad
    \omega_k = 10000^{-k/(n - endpoint)}, \qquad n = size/2. $$

    With `endpoint` the last frequency is 1/10000 itself. Frequencies are float32
    numbers in any precision, so that a network is the same function in float64.
    """

    count: int = eqx.field(static=True)
    endpoint: bool = eqx.field(static=True)

    def __init__(self, size: int, *, endpoint: bool = False):
        require_whole(features=size)
        if size % 2 or size < 4:
            raise ValueError(
                f"positional features come in pairs, two at least, got {size} of "
                "them. Use an even number from 4."
            )
        self.count = int(size)
        self.endpoint = endpoint

    @property
    def size(self) -> int:
        return self.count

    @property
    def frequencies(self) -> np.ndarray:
        """The frequencies, in float32."""
        half = self.count // 2
        steps = np.float32(half - self.endpoint)
        exponents = np.arange(half, dtype=np.float32) / steps
        # A power of float32 numbers, rounded once.
        base = np.float64(np.float32(1 / _MAX_PERIOD))
        return (base ** exponents.astype(np.float64)).astype(np.float32)

    @typed
    def __call__(self, c_noise: ScalarLike) -> Float[Array, " size"]:
        c_noise = as_float(c_noise)
        phase = jnp.asarray(self.frequencies).astype(c_noise.dtype) * c_noise
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)])


class Embedding(eqx.Module):
    r"""One vector for $c_{noise}$ and the class together.

    $e = W_f f(c_{noise}) + W_c c + b$, then `depth - 1` times a `silu` and a linear
    layer. `features` is their number (of `Fourier` features) or the features
    themselves; `classes` is the number of class labels, None for none.
    """

    features: AbstractFeatures
    noise: Linear
    label: Linear | None
    layers: tuple[Linear, ...]
    classes: int | None = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        features: int | AbstractFeatures = 32,
        classes: int | None = None,
        depth: int = 1,
        key: Key,
    ):
        require_whole(size=size, depth=depth)
        first, second, *rest = jax.random.split(key, depth + 1)
        if not isinstance(features, AbstractFeatures):
            require_whole(features=features)
            features = Fourier(features)
        self.features = features
        # Features have the mean square 1/2, a one-hot vector has the norm 1: so each of
        # the two contributes the variance 1, however many features or classes.
        self.noise = Linear(features.size, size, scale=math.sqrt(2), key=first)
        self.label = None
        if classes is not None:
            classes = whole_number("classes", classes)
            scale = math.sqrt(classes)
            self.label = Linear(classes, size, scale=scale, bias=False, key=second)
        self.layers = tuple(Linear(size, size, scale=math.sqrt(2), key=k) for k in rest)
        self.classes = classes

    @typed
    def __call__(
        self, c_noise: ScalarLike, condition: Condition = None
    ) -> Float[Array, " size"]:
        e = self.noise(self.features(c_noise))
        vector = class_vector(condition, self.classes)
        if self.label is not None:
            e = e + self.label(vector.astype(e.dtype))
        for layer in self.layers:
            e = layer(jax.nn.silu(e))
        return e


def class_vector(condition: Condition, classes: int | None) -> Float[Array, " classes"]:
    """A condition as a vector with one entry for each class.

    | condition | vector |
    |---|---|
    | None | zeros: no class |
    | an integer from 0 to `classes - 1` | its one-hot |
    | any other integer, by convention -1 | zeros: no class |
    | a float vector of length `classes` | itself: a one-hot, or a mixture of classes |

    With `classes=None` the condition must be None, and the vector is empty. Dropping
    labels in training, for classifier-free guidance, is setting some of them to -1.
    """
    if condition is None:
        return jnp.zeros(classes or 0)
    if classes is None:
        raise ValueError(
            "condition must be None for a network made without classes, got "
            f"{_describe(condition)}. Make the network with classes=, the number of "
            "class labels, or leave the condition out."
        )
    if isinstance(condition, int | Array | np.ndarray | np.generic):
        value = jnp.asarray(condition)
        if value.shape == () and jnp.issubdtype(value.dtype, jnp.integer):
            return jax.nn.one_hot(value, classes, dtype=float)
        if value.shape == (classes,) and jnp.issubdtype(value.dtype, jnp.floating):
            return value
    raise ValueError(
        "condition must be None, one integer label (-1: no class) or a float vector of "
        f"length {classes}, got {_describe(condition)}. Use jax.vmap for a batch, and "
        f"jax.nn.one_hot(label, {classes}) for a vector."
    )


def _describe(condition: Condition) -> str:
    shape, dtype = (getattr(condition, name, None) for name in ("shape", "dtype"))
    if shape is None or dtype is None:
        return f"{condition!r:.60}"
    return f"an array of the shape {shape} and the dtype {dtype}"


def _half_normal_quantiles(count: int, scale: float) -> Float[Array, " count"]:
    """Where |N(0, scale^2)| has its probabilities (k + 1/2) / count."""
    law = statistics.NormalDist(0.0, scale)
    inside = [law.inv_cdf(0.5 + (k + 0.5) / (2 * count)) for k in range(count)]
    return jnp.asarray(inside, float)


def _waves(phase: Array) -> Array:
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)])


def _require_even(size: int) -> None:
    require_whole(features=size)
    if size % 2:
        raise ValueError(
            f"features come in pairs of a cosine and a sine, got {size} of them. Use "
            f"an even number, such as {size + 1}."
        )
