r"""What the semilinear equations need of Fourier coefficients."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..types import FieldLike


def to_modes(u: FieldLike) -> Array:
    """The Fourier coefficients of a real field."""
    return jnp.fft.rfftn(u)


def times(factor: Array, c: Array) -> Array:
    """`factor * c`, where a real factor costs two products and not four."""
    if jnp.iscomplexobj(c) and not jnp.iscomplexobj(factor):
        return lax.complex(factor * c.real, factor * c.imag)
    return factor * c
