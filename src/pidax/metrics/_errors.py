"""Distances between sets of samples that belong together, one to one."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Scalar, typed


@typed
def rms_error(
    samples: Float[Array | np.ndarray, "sample *event"],
    reference: Float[Array | np.ndarray, "sample *event"],
    *,
    per_component: bool = False,
) -> Scalar:
    r"""$\sqrt{\operatorname{mean} |\Delta x|^2}$ over samples, $|\cdot|$ the 2-norm.

    The root mean square distance between corresponding samples; `per_component=True`
    divides by the root of the number of components, as one tolerance per component is
    stated.
    """
    square = jnp.square(jnp.asarray(samples) - jnp.asarray(reference))
    if per_component:
        return jnp.sqrt(square.mean())
    return jnp.sqrt(square.reshape(square.shape[0], -1).sum(axis=1).mean())
