r"""Distances of two samples, of which losses are made.

They are means over components, so that a weight or a learning rate means the same for
samples of any size, and are computed in float32 at least. Any function of two samples
can be used instead.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import require_positive
from ..types import Sample, Scalar, at_least_float32


class AbstractDistance(eqx.Module):
    """A number for two samples: zero if they are equal, positive otherwise."""

    @abc.abstractmethod
    def __call__(self, x: Sample, reference: Sample) -> Scalar:
        """The distance of one sample to its reference."""


class L2(AbstractDistance):
    r"""$\frac1n |x - y|^2$: the mean square."""

    def __call__(self, x: Sample, reference: Sample) -> Scalar:
        return jnp.mean(_difference(x, reference) ** 2)


class L1(AbstractDistance):
    r"""$\frac1n \sum_j |x_j - y_j|$: the mean absolute difference."""

    def __call__(self, x: Sample, reference: Sample) -> Scalar:
        return jnp.mean(jnp.abs(_difference(x, reference)))


class PseudoHuber(AbstractDistance):
    r"""$\sqrt{\frac1n |x - y|^2 + c^2} - c$: quadratic below `c`, linear above.

    Its gradient is bounded, so that no sample dominates (Charbonnier et al. 1997; Song
    & Dhariwal 2024 for consistency models, with $c = 0.00054\sqrt n$ for the sum over
    components, which is `c = 0.00054` here).
    """

    c: float = 0.03

    def __check_init__(self):
        require_positive(c=self.c)

    def __call__(self, x: Sample, reference: Sample) -> Scalar:
        square = jnp.mean(_difference(x, reference) ** 2)
        # sqrt(s + c²) - c without the cancellation of a small s
        return square / (jnp.sqrt(square + self.c**2) + self.c)


class Adaptive(AbstractDistance):
    r"""$s / \mathrm{sg}(s + c)^p$, $s = \frac1n |x - y|^2$: every draw counts alike.

    With $p = 1$ the gradient of a draw does not grow with its error; with $p = 1/2$ it
    is that of a pseudo-Huber distance; $p = 0$ is `L2`. $\mathrm{sg}$ stops the
    gradient. Geng et al. 2025, "Mean flows for one-step generative modeling", which
    take $p = 1$ for images of latents and 0.75 for CIFAR-10.
    """

    power: float = 1.0
    c: float = 1e-3

    def __check_init__(self):
        require_positive(c=self.c)

    def __call__(self, x: Sample, reference: Sample) -> Scalar:
        square = jnp.mean(_difference(x, reference) ** 2)
        return square / jax.lax.stop_gradient(square + self.c) ** self.power


def _difference(x: Sample, reference: Sample) -> Sample:
    dtype = at_least_float32(x.dtype)
    return x.astype(dtype) - reference.astype(dtype)
