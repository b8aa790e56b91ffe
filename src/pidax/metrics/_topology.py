r"""The topology of one of two phases: its Euler number.

A point of the grid stands for the closed cell around it. The cells of a phase with all
their faces, edges and corners are a complex, of which

    χ = corners - edges + faces            (- cells in three dimensions)

is the number of pieces minus the number of holes; in three dimensions pieces - tunnels
+ cavities. Cells that touch at a corner are connected (8 neighbours in two dimensions,
26 in three); the cells of the other phase then are not.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import require
from ..types import Scalar, ScalarLike, typed


@typed
def euler_number(
    field: Float[Array | np.ndarray, "..."] | Bool[Array | np.ndarray, "..."],
    *,
    threshold: ScalarLike = 0.0,
    periodic: bool = True,
) -> Scalar:
    r"""The Euler number of the phase where the field is above the threshold.

    In two dimensions pieces minus holes: a disc 1, two discs 2, an annulus 0, a band
    around a torus 0, the whole torus 0, a torus with a hole -1.

    **Arguments:**

    - `field`: one field in one to three dimensions, or a mask; for a batch, `jax.vmap`.
    - `periodic`: whether the sides are identified; otherwise all outside is the other
      phase.

    **Returns:** a whole number, as a floating-point one.

    **Cost:** a pass over the field for each kind of face: 4 in two dimensions.
    """
    mask = jnp.asarray(field)
    ndim = mask.ndim
    require(
        None,
        1 <= ndim <= 3,
        f"the Euler number is of one field in one to three dimensions, got shape "
        f"{mask.shape}. For a batch, jax.vmap.",
    )
    if mask.dtype != jnp.bool_:
        mask = mask > jnp.asarray(threshold, mask.dtype)
    if not periodic:
        mask = jnp.pad(mask, 1)
    total = jnp.zeros((), int)
    for across in itertools.product((False, True), repeat=ndim):
        faces = mask
        for axis in np.flatnonzero(across).tolist():  # on the low side of each cell
            faces = faces | jnp.roll(faces, 1, axis)
        sign = -1 if (ndim - sum(across)) % 2 else 1
        total = total + sign * jnp.sum(faces, dtype=total.dtype)
    return total.astype(float)
