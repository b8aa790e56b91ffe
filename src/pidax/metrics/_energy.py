r"""The energy distance: a distance between laws that needs nothing to be chosen."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Scalar, typed
from ._pairs import discrepancy
from ._sets import ReferenceLike, SamplesLike, root, two_sets


@typed
def energy_distance(
    samples: SamplesLike, reference: ReferenceLike, *, unbiased: bool = True
) -> Scalar:
    r"""The squared energy distance of two laws, from draws of each.

    $$ 2\,E|X - Y| - E|X - X'| - E|Y - Y'|, $$

    $|\cdot|$ the 2-norm of the flattened samples; zero if and only if the laws are
    equal. Not its root, because only this is estimated without bias.

    **Arguments:**

    - `samples`, `reference`: two sets of events of one shape; sizes may differ.
    - `unbiased`: the U-statistic, which leaves out the pair of a sample with itself.
      Its mean is the distance of the laws: zero when they are equal, so that it falls
      on both sides of zero. `False` is the V-statistic, the energy distance of the
      two empirical laws: never negative, zero for two copies of one set, and
      on average $E|X - X'|/n + E|Y - Y'|/m$ too large. In one dimension it is
      `scipy.stats.energy_distance(samples, reference) ** 2`.

    **When:** two sets, no choice of a kernel's width, no random directions. It weighs
    large scales most; `mmd` looks at the scale that you name. Dependent draws
    (`samples` that contain `reference`) void `unbiased`.

    **Cost:** $(n + m)^2$ distances in $d$ components, a block at a time, so that
    memory does not grow with $nm$. Differentiable; coinciding points have gradient 0.

    Székely and Rizzo 2013, "Energy statistics: a class of statistics based on
    distances".
    """
    x, y = two_sets(samples, reference, least=2 if unbiased else 1)
    none = jnp.zeros(0, x.dtype)
    return discrepancy(_nearness, 0.0, x, y, none, unbiased=unbiased)


def _nearness(
    square: Float[Array, "..."], _: Float[Array, " 0"]
) -> Float[Array, "..."]:
    """Minus the distance: the kernel whose squared discrepancy this is."""
    return -root(square)
