r"""Noise level, class and augmentation as one vector, in the order of two networks.

With features $f$ of $c_{noise}$, one-hot class $c$ among $n$, augmentation labels $a$
and $\phi$ the `silu`,

$$ \text{Song:}\quad e = \phi\,L_1\,\phi\,L_0\,(f' + W_c \sqrt n\, c + b_c + W_a a),
\qquad
\text{ADM:}\quad e = \phi\,(L_1\,\phi\,L_0\,(f + W_a a) + W_c c), $$

where $f'$ has the sines before the cosines. Computed in float32 at least, as
`Embedding` is.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Condition, Key, ScalarLike, typed
from ._base import require_counts
from ._embedding import AbstractFeatures, class_vector
from ._layers import Linear, as_float

Order = Literal["song", "adm"]
_MAX_PERIOD = 10_000.0


class Positional(AbstractFeatures):
    r"""Cosines and sines of frequencies from 1 down to 1/10000, as in DDPM.

    $$ f(c) = (\cos\omega_k c,\ \sin\omega_k c)_{k=0}^{n-1}, \qquad
    \omega_k = 10000^{-k/(n - endpoint)}, \qquad n = size/2. $$

    With `endpoint` the last frequency is 1/10000 itself. Frequencies are float32
    numbers in any precision, so that a network means the same in float64.
    """

    count: int = eqx.field(static=True)
    endpoint: bool = eqx.field(static=True)

    def __init__(self, size: int, *, endpoint: bool = False):
        require_counts(features=size)
        if size % 2 or size < 4:
            raise ValueError(
                f"positional features come in pairs, two at least, got {size} of "
                "them. Use an even number from 4."
            )
        self.count = size
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


class NoiseEmbedding(eqx.Module):
    r"""One vector for $c_{noise}$, class and augmentation; after its last `silu`.

    `classes` and `augments` are the numbers of class labels and of augmentation
    labels, None for none. Without labels $c$ is zero and $W_a a$ is left out.
    """

    features: AbstractFeatures
    label: Linear | None
    augment: Linear | None
    layers: tuple[Linear, Linear]
    order: Order = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    augments: int | None = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        features: AbstractFeatures,
        order: Order,
        classes: int | None = None,
        augments: int | None = None,
        key: Key,
    ):
        require_counts(size=size)
        first, second, third, fourth = jax.random.split(key, 4)
        inside, song = features.size, order == "song"
        self.features = features
        self.label = self.augment = None
        if classes is not None:
            require_counts(classes=classes)
            # A one-hot vector has the norm 1: Song's is made longer in the call.
            scale = 1.0 if song else math.sqrt(classes)
            outputs = inside if song else size
            self.label = Linear(classes, outputs, scale=scale, bias=song, key=first)
        if augments is not None:
            require_counts(augments=augments)
            self.augment = Linear(augments, inside, bias=False, key=second)
        scale = math.sqrt(2)
        self.layers = (
            Linear(inside, size, scale=scale, key=third),
            Linear(size, size, scale=scale, key=fourth),
        )
        self.order = order
        self.classes = classes
        self.augments = augments

    @typed
    def __call__(
        self,
        c_noise: ScalarLike,
        condition: Condition = None,
        augment: Condition = None,
    ) -> Float[Array, " size"]:
        e = self.features(c_noise)
        label = None
        vector = class_vector(condition, self.classes).astype(e.dtype)
        if self.order == "song":
            e = jnp.roll(e, e.size // 2)  # sines first
            vector = vector * math.sqrt(self.classes or 0)
        if self.label is not None:
            label = self.label(vector)
        if label is not None and self.order == "song":
            e = e + label
        moved = self._augmentation(augment)
        if moved is not None:
            e = e + moved.astype(e.dtype)
        e = self.layers[1](jax.nn.silu(self.layers[0](e)))
        if label is not None and self.order == "adm":
            e = e + label
        return jax.nn.silu(e)

    def _augmentation(self, augment: Condition) -> Array | None:
        if augment is None:
            return None
        shape = np.shape(augment)
        if self.augment is None or shape != (self.augments,):
            made = "without any" if self.augment is None else f"for {self.augments}"
            raise ValueError(
                "augment must be None or one vector of augmentation labels for a "
                f"network made {made}, got the shape {shape}. Make the network with "
                "augments=, their number, or leave them out; use jax.vmap for a batch."
            )
        return self.augment(jnp.asarray(augment, float))
