r"""Laws of fields that are functions of a few standard normal numbers.

$$ a = f(e), \qquad e \sim N(0, I). $$

Objects (channels, steps) have parameters. Each is a normal number put through its
quantile function, $q(\Phi(e_i))$, and each object beyond the first has a number that
switches it on. So a chain that moves in $e$ samples the law itself as its prior,
without jumps between dimensions.
"""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from .._checks import check_interval
from ..types import Field, Key
from ._random_field import AbstractRandomField

Latent = Float[Array, " number"]
Range = tuple[float, float]


class AbstractLatentField(AbstractRandomField):
    """The law of `from_latent(e)` with `latent_size` standard normal numbers `e`."""

    @property
    @abc.abstractmethod
    def latent_size(self) -> int:
        """How many normal numbers make a draw."""

    @abc.abstractmethod
    def from_latent(self, latent: Latent) -> Field:
        """The field of these numbers."""

    def sample(self, *, key: Key) -> Field:
        return self.from_latent(jax.random.normal(key, (self.latent_size,)))

    def check_latent(self, latent: Latent) -> Latent:
        """The numbers, if there are as many as the law has."""
        shape = jnp.shape(latent)
        if shape != (self.latent_size,):
            raise ValueError(
                f"{type(self).__name__} is a function of {self.latent_size} normal "
                f"numbers, shape {(self.latent_size,)}, got shape {shape}. For a "
                "batch, jax.vmap."
            )
        return jnp.asarray(latent)


def uniform(latent: Array, between: Range) -> Array:
    """Standard normal numbers as uniform ones, by their quantile function."""
    low, high = between
    return low + (high - low) * ndtr(latent)


def present(switches: Latent, least: int = 1) -> Bool[Array, " object"]:
    """Which objects there are, so that every number of them is equally likely.

    The first `least` always are. Of `m` switches each is obeyed if all before it are
    on, and on with the probability that leaves each number of objects the same share.
    """
    m = switches.shape[0]
    odds = jnp.asarray([(m - k) / (m - k + 1) for k in range(m)], switches.dtype)
    more = jnp.cumprod(ndtr(switches) < odds).astype(bool)
    return jnp.concatenate([jnp.ones(least, bool), more])


def check_ranges(names: Sequence[str], values: Sequence[Range]) -> None:
    """Each is an interval with finite ends."""
    for name, value in zip(names, values, strict=True):
        check_interval(name, value)
