r"""The network $F(x, c_{noise}, c)$ inside a denoiser or a student.

A network acts on one sample `x`, channels last (`*grid channels`) if it is an image or
a field. `c_noise` is one number: a logarithm of the noise level, an angle, or a time;
its meaning is up to the caller. `condition` is a class label or a vector.

For a batch use `jax.vmap`, which costs nothing: convolutions of single samples with
shared weights become one convolution of the batch.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import require_whole
from ..types import (
    Condition,
    Elementwise,
    Key,
    NoiseLike,
    Sample,
    SampleLike,
    ScalarLike,
    Shape,
)


class AbstractNetwork(eqx.Module):
    """A function of one sample, one number and a condition.

    A subclass has `classes` and `shape`, and returns the dtype of `x`. `c_noise` may be
    more precise (see `LowPrecision`): compute features of `c_noise` first, and convert
    those.
    """

    @property
    @abc.abstractmethod
    def classes(self) -> int | None:
        """The number of class labels the network was made for, or None."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one input sample, or None for any grid."""

    @abc.abstractmethod
    def __call__(
        self,
        x: SampleLike,
        c_noise: NoiseLike,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Elementwise:
        """The output for one sample `x` of the shape `*event`.

        `condition` is None, a class label or a vector (see `class_vector`); `augment`
        are labels of an augmentation, for networks that use them; `key=None` means
        inference: no dropout.
        """


class AbstractFeatures(eqx.Module):
    """A vector of features of one number."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of features."""

    @abc.abstractmethod
    def __call__(self, c_noise: ScalarLike) -> Float[Array, " size"]:
        """The features of one number, in its dtype but float32 at least."""


def trainable(model: PyTree, fixed: tuple[type, ...] = (AbstractFeatures,)) -> PyTree:
    """The trainable arrays of a model, as a filter specification for
    `equinox.partition`.

    All floating-point arrays except those inside an instance of `fixed`, by default
    `AbstractFeatures`, whose arrays are drawn once. No gradient reaches them, but the
    weight decay of an optimiser would.
    """

    def one(node: PyTree) -> PyTree:
        if isinstance(node, fixed):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return jax.tree.map(one, model, is_leaf=lambda x: isinstance(x, fixed))


def require_rate(rate: float) -> None:
    """A probability of dropout."""
    if not 0 <= rate < 1:
        raise ValueError(
            f"dropout must satisfy 0 <= dropout < 1, got dropout={rate}. It is the "
            "fraction that is dropped: 0.0 for none."
        )


def level_sizes(width: int, multipliers: tuple[int, ...]) -> tuple[int, ...]:
    """The channels of each level of a U-Net, the finest first."""
    if not multipliers:
        raise ValueError(
            "multipliers must have one entry for each level of the grid, got none. Use "
            "(1,) for a network on one grid."
        )
    for multiplier in multipliers:
        require_whole(multipliers=multiplier)
    return tuple(width * multiplier for multiplier in multipliers)


def as_sample(x: SampleLike, shape: Shape) -> Sample:
    """One sample of this shape, as an array."""
    if x.shape != shape:
        batch = x.shape[1:] == shape
        raise ValueError(
            f"x must be one sample of the shape {shape}, got {x.shape}. "
            + ("Use jax.vmap for a batch." if batch else "Reshape it.")
        )
    return jnp.asarray(x)


def refuse_augment(augment: Condition) -> None:
    """For networks without labels of an augmentation."""
    if augment is not None:
        raise ValueError(
            "augment must be None for a network without augmentation labels, got "
            f"{type(augment).__name__}. Leave it out, or give the labels to a network "
            "made for them."
        )
