"""LPIPS from the two files in which it is published.

The convolutions are torchvision's VGG16 (`vgg16-397923af.pth`, of which the classifier
is not used), the weights of its features the five linear layers of the `lpips` package
(`vgg.pth`). Neither is part of pidax.
"""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._files import FileName
from ..metrics import LPIPS
from ..nn import VGG16
from ._reader import named, read_checkpoint
from ._state_dict import State

# Where the convolutions stand between ReLUs and poolings.
_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_LINEAR = re.compile(r"lin([0-4])(\.model)?(\.1)?(\.weight)?")
WHERE = (
    "The convolutions are torchvision's VGG16, "
    "https://download.pytorch.org/models/vgg16-397923af.pth; the linear layers "
    "lpips/weights/v0.1/vgg.pth of https://github.com/richzhang/PerceptualSimilarity."
)


def load_lpips(
    convolutions: FileName,
    linear: FileName,
    *,
    pooling: str = "average",
    size: int | None = 224,
) -> LPIPS:
    """The perceptual distance LPIPS from your two files.

    `convolutions` is torchvision's VGG16 (`vgg16-397923af.pth`), `linear` the weights
    of the `lpips` package (`vgg.pth`, version 0.1). By default as in Tee et al. 2024;
    `pooling="max", size=None` is the original.
    """
    states = [read_checkpoint(path).state for path in (convolutions, linear)]
    return named(linear, lambda: lpips_from(*states, pooling=pooling, size=size))


def lpips_from(
    convolutions: State,
    linear: State,
    *,
    pooling: str = "average",
    size: int | None = 224,
) -> LPIPS:
    """The distance from the arrays of both files."""
    names = [f"features.{i}.{part}" for i in _LAYERS for part in ("weight", "bias")]
    missing = [name for name in names if name not in convolutions]
    if missing:
        raise ValueError(
            f"expected VGG16's convolutions, {names[0]} to {names[-1]}; {len(missing)} "
            f"of {len(names)} arrays are missing, the first {missing[0]}. {WHERE}"
        )
    width = convolutions[names[0]].shape[0]
    make = lambda: VGG16(width=width, pooling=pooling, key=jax.random.key(0))
    trunk = eqx.filter_eval_shape(make)  # nothing is drawn
    layers = []
    for i, layer in zip(_LAYERS, trunk.convolutions, strict=True):
        kernel = np.moveaxis(convolutions[f"features.{i}.weight"], (0, 1), (3, 2))
        bias = convolutions[f"features.{i}.bias"]
        shape, biases = layer.weight.shape, layer.weight.shape[-1:]
        if (kernel.shape, bias.shape) != (shape, biases):
            raise ValueError(
                f"features.{i} of VGG16 with {width} channels at first has a kernel of "
                f"the shape {shape} and {biases} biases, got "
                f"{kernel.shape} and {bias.shape}. Is this another network? {WHERE}"
            )
        layers.append(
            eqx.tree_at(
                lambda m: (m.weight, m.bias),
                layer,
                (jnp.asarray(kernel), jnp.asarray(bias)),
            )
        )
    trunk = eqx.tree_at(lambda m: m.convolutions, trunk, tuple(layers))
    return LPIPS(trunk, _linear_weights(linear), size)


def _linear_weights(linear: State) -> list[np.ndarray]:
    """The weights lin0 to lin4, under either of their names."""
    found = {}
    for name, array in linear.items():
        match = _LINEAR.fullmatch(name)
        if match is not None:
            found[int(match[1])] = np.asarray(array).ravel()
    if sorted(found) != [0, 1, 2, 3, 4]:
        raise ValueError(
            f"expected the five linear layers lin0 to lin4, got {sorted(linear)[:8]}. "
            f"{WHERE}"
        )
    return [found[i] for i in range(5)]
