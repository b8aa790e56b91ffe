r"""The trace of the denoiser's Jacobian, exactly or by random probes.

$\operatorname{tr} J = \sum_i e_i^T J e_i = E[v^T J v]$ for any $v$ with
$E[vv^T] = I$ (Hutchinson 1989). The Jacobian is linearised once and applied to every
direction, so one trace costs one evaluation and as many Jacobian-vector products as
there are directions.
"""

import abc
import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import require, require_whole
from ..types import Key, Sample, Shape

Fn = Callable[[Array], Array]


class AbstractTrace(eqx.Module):
    """How `log_density` finds the divergence of the flow."""

    @abc.abstractmethod
    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        """The directions along which the Jacobian is probed, one a row."""

    @abc.abstractmethod
    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        """Independent estimates of the trace, from `v . J v` of every direction."""


class ExactTrace(AbstractTrace):
    """Every unit vector in turn: exact, at `size` Jacobian-vector products."""

    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        size = math.prod(shape)
        return jnp.eye(size, dtype=dtype).reshape((size, *shape))

    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        return products.sum(keepdims=True)


class Hutchinson(AbstractTrace):
    """Random probes, the same along the whole trajectory: unbiased at any size.

    Rademacher probes have the smaller variance (none from the Jacobian's diagonal).
    The spread over the probes gives the standard error of the density.
    """

    probes: int = 16
    law: Literal["rademacher", "gaussian"] = "rademacher"

    def __check_init__(self):
        require_whole(probes=self.probes)
        require(
            None,
            self.law in ("rademacher", "gaussian"),
            f"law must be 'rademacher' or 'gaussian', got {self.law!r}.",
        )

    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        if key is None:
            raise ValueError(
                "Hutchinson draws random probes (the default for large samples): pass "
                "key=jax.random.key(0), or trace=ExactTrace()."
            )
        if self.law == "rademacher":
            return jax.random.rademacher(key, (self.probes, *shape), dtype)
        return jax.random.normal(key, (self.probes, *shape), dtype)

    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        return products


def probe(fn: Fn, u: Sample, directions: Array) -> tuple[Sample, Float[Array, " n"]]:
    """`fn(u)` and `v . J v` for every direction `v`."""
    value, linear = jax.linearize(fn, u)
    return value, jax.vmap(lambda v: jnp.vdot(v, linear(v)))(directions)
