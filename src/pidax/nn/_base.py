r"""The network $F(x, c_{noise}, c)$: what a denoiser or a student is made of.

A network acts on one sample `x`, channels last (`*grid channels`) if it is an image or
a field. `c_noise` is one number that says when: a logarithm of the noise level, an
angle, a time; what it means is its caller's business. `condition` says which.

A batch is the caller's `jax.vmap`, and costs nothing: a convolution of one sample with
weights that all samples share becomes one convolution of the batch.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from ..types import Condition, Elementwise, Key, Sample, SampleLike, ScalarLike, Shape


class AbstractNetwork(eqx.Module):
    """A function of one sample, one number and a condition.

    A network of your own states `classes` and `shape`, and answers in the dtype of
    `x`, of which `c_noise` may be more precise (see `LowPrecision`): take features of
    `c_noise` first, and convert those.
    """

    @property
    @abc.abstractmethod
    def classes(self) -> int | None:
        """The number of class labels the network was made for, or None."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one input sample, or None if any grid will do."""

    @abc.abstractmethod
    def __call__(
        self,
        x: SampleLike,
        c_noise: ScalarLike,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Elementwise:
        """The network's answer for one sample `x` of the shape `*event`.

        `condition` is None, a class label or a vector (see `class_vector`); `augment`
        are labels of an augmentation, for networks that have them; `key=None` means
        inference: no dropout.
        """


def require_counts(**numbers: int) -> None:
    """Each named number is a positive integer."""
    for name, number in numbers.items():
        integer = isinstance(number, int) and not isinstance(number, bool)
        if not integer or number < 1:
            raise ValueError(
                f"{name} must be a positive integer, got {name}={number!r}. "
                "Pass 1 or more."
            )


def require_rate(rate: float) -> None:
    """A probability of dropout."""
    if not 0 <= rate < 1:
        raise ValueError(
            f"dropout must satisfy 0 <= dropout < 1, got dropout={rate}. It is the "
            "fraction that is dropped: 0.0 for none."
        )


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
