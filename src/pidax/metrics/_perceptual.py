r"""LPIPS: the perceptual distance of two images, by the features of a network.

$$ d(x, y) = \sum_l \operatorname{mean}_{ij} \sum_c w_{lc}
   \Bigl( \frac{f^l_{ijc}(x)}{|f^l_{ij}(x)|} - \frac{f^l_{ijc}(y)}{|f^l_{ij}(y)|}
   \Bigr)^2 $$

with the feature maps $f^l$ of VGG16 and weights $w \ge 0$ fitted to human judgements:
Zhang, Isola, Efros, Shechtman & Wang 2018, "The unreasonable effectiveness of deep
features as a perceptual metric".
"""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn import VGG16
from ..types import Scalar, typed
from ._sets import same_shape

Image: TypeAlias = Float[Array | np.ndarray, "h w c"]

# Of the images that VGG16 was trained on, whose pixels are in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TINY = 1e-20  # under the root: where no feature is active there is no direction


class LPIPS(eqx.Module):
    """The distance of two images with pixels in [-1, 1]: channels last, 1 or 3 of them.

    A distance for any objective, `PID(flow, distance=lpips)`, and a metric. Read the
    published weights from your own files with `pidax.convert.load_lpips`.

    **Arguments:**

    - `trunk`: a `VGG16`.
    - `weights`: one vector for each of its maps, none of them negative.
    - `size`: images are resized bilinearly to squares of this many pixels. 224 with
      average pooling is the distance of Tee et al. 2024. None with max pooling is the
      original, without resizing.
    """

    trunk: VGG16
    weights: tuple[Float[Array, " channels"], ...]
    size: int | None = eqx.field(static=True)

    def __init__(self, trunk: VGG16, weights: list | tuple, size: int | None = 224):
        found = [np.asarray(w).ravel() for w in weights]
        maps = jax.eval_shape(trunk, jax.ShapeDtypeStruct((16, 16, 3), jnp.float32))
        expected = [m.shape[-1] for m in maps]
        if [len(w) for w in found] != expected:
            raise ValueError(
                f"expected one weight for each channel of the five maps, {expected}, "
                f"got {[len(w) for w in found]}. Use the linear layers that were "
                "fitted to this network."
            )
        if any((w < 0).any() or not np.isfinite(w).all() for w in found):
            raise ValueError(
                "the weights of a distance must not be negative, got some that are, "
                "or that are not finite. Use those that were fitted."
            )
        self.trunk = trunk
        self.weights = tuple(jnp.asarray(w) for w in found)
        self.size = size

    @typed
    def __call__(self, x: Image, reference: Image) -> Scalar:
        same_shape(x[..., :1], reference[..., :1])  # grey and colour may meet
        maps = jax.vmap(self.trunk)(jnp.stack([self._seen(x), self._seen(reference)]))
        parts = [
            (jnp.square(jnp.subtract(*_direction(m))) @ w.astype(m.dtype)).mean()
            for m, w in zip(maps, self.weights, strict=True)
        ]
        return jnp.stack(parts).sum()

    def _seen(self, image: Image) -> Array:
        """The image with the colours, size, mean and range that the network was
        trained on.
        """
        if image.shape[-1] not in (1, 3):
            raise ValueError(
                "LPIPS is for images of 1 or 3 channels, channels last, got the shape "
                f"{image.shape}. For a field use L2 or a distance of your own."
            )
        colours = jnp.broadcast_to(jnp.asarray(image), (*image.shape[:2], 3))
        colours = colours.astype(np.promote_types(colours.dtype, np.float32))
        if self.size is not None:
            shape = (self.size, self.size, 3)
            colours = jax.image.resize(colours, shape, "bilinear", antialias=False)
        mean, std = (jnp.asarray(v, colours.dtype) for v in (_MEAN, _STD))
        return ((colours + 1) / 2 - mean) / std


def _direction(features: Float[Array, "two h w c"]) -> Array:
    """Each pixel's features as a unit vector; zero where all are zero.

    The small number is inside the root, whose derivative would not be finite at zero.
    """
    square = jnp.square(features).sum(-1, keepdims=True)
    return features * jax.lax.rsqrt(square + _TINY)
