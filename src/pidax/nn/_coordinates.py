r"""Where a point of the grid is, as further channels of the field.

Along an axis that is not periodic its place in $[-1, 1]$; along a periodic one, of
coordinate $s \in [0, 1)$, $\cos 2\pi s$ and $\sin 2\pi s$, which do not jump where the
circle closes. Computed from the grid at each call, and not trained. (Liu et al. 2018,
"CoordConv".)
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import typed
from ._layers import Conv, Linear, require_channels
from ._modes import Layout, positions


class WithCoordinates(eqx.Module):
    """A first layer that is also told where each point is.

    A network of convolutions on a torus answers a shifted field with its shifted
    answer; with coordinates it knows a place from another: a boundary, a source that is
    always there, a coefficient that depends on position.

    `layer` takes `extra_channels(periodic)` more channels than the field has;
    `periodic` says of each axis whether it is a circle; `layout` where the points of
    the others are: `"nodes"` with both ends, `"cells"` half a step inside. `x` is
    `*grid channels`.
    """

    layer: Linear | Conv
    periodic: tuple[bool, ...] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)

    @property
    def inputs(self) -> int:
        """The number of channels of the field itself."""
        return self.layer.weight.shape[-2] - extra_channels(self.periodic)

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*new outs"]:
        require_channels(x, self.inputs, len(self.periodic))
        channels = [x]
        for axis, circle in enumerate(self.periodic):
            n = x.shape[axis]
            shape = [n if a == axis else 1 for a in range(x.ndim)]
            for values in _functions(n, circle, self.layout):
                column = jnp.asarray(values, x.dtype).reshape(shape)
                channels.append(jnp.broadcast_to(column, (*x.shape[:-1], 1)))
        return self.layer(jnp.concatenate(channels, -1))


def extra_channels(periodic: tuple[bool, ...]) -> int:
    """How many channels say where a point is."""
    return sum(2 if circle else 1 for circle in periodic)


def _functions(n: int, circle: bool, layout: Layout) -> list[np.ndarray]:
    places = positions(n, layout, circle)
    if circle:
        return [np.cos(2 * np.pi * places), np.sin(2 * np.pi * places)]
    return [2 * places - 1]
