r"""Networks side by side: $F(x) = (F_1(x), F_2(x), \ldots)$, no weight shared.

Where one part of the answer is pulled by another loss than the rest, a shared trunk
carries the pull over to all of it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..types import Condition, Elementwise, Key, SampleLike, ScalarLike, Shape, typed
from ._base import AbstractNetwork
from ._mlp import ResidualMLP


class Concatenated(AbstractNetwork):
    """Each network sees the whole sample; the answers follow each other, channels last.

    `networks` are made for the same input and classes, and their outputs together are
    as long as the sample's last axis: such as one for the coordinates of what is given
    and one for those of what is solved for (`pidax.pde.Conditional`).
    """

    networks: tuple[AbstractNetwork, ...]

    def __init__(self, networks: Sequence[AbstractNetwork]):
        self.networks = tuple(networks)

    def __check_init__(self):
        told = {(network.shape, network.classes) for network in self.networks}
        if len(told) != 1:
            raise ValueError(
                "networks side by side take one input and the same classes, got "
                f"{len(self.networks)} networks of (shape, classes) {sorted(told)}. "
                "Make all for the whole sample."
            )

    @property
    def classes(self) -> int | None:
        return self.networks[0].classes

    @property
    def shape(self) -> Shape | None:
        return self.networks[0].shape

    @typed
    def __call__(
        self,
        x: SampleLike,
        c_noise: ScalarLike,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Elementwise:
        count = len(self.networks)
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        parts = [
            network(x, c_noise, condition, augment=augment, key=k)
            for network, k in zip(self.networks, keys, strict=True)
        ]
        return jnp.concatenate(parts, axis=-1)


def blockwise(
    sizes: Sequence[int], *, width: int = 512, depth: int = 4, key: Key
) -> AbstractNetwork:
    """A `ResidualMLP` with a gain for each block of coordinates, side by side.

        blockwise(chart.blocks, key=key)    # of a `pidax.pde.Whitened` chart

    Each sees all `sum(sizes)` coordinates and answers for its own. One block is a plain
    `ResidualMLP`.
    """
    total, place, networks = sum(sizes), 0, []
    for size, k in zip(sizes, jax.random.split(key, len(sizes)), strict=True):
        networks.append(
            ResidualMLP(total, size, width=width, depth=depth, gain=place, key=k)
        )
        place += size
    return networks[0] if len(networks) == 1 else Concatenated(networks)
