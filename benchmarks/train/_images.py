"""The image network whose cost is measured, as a teacher."""

import dataclasses

import jax

import pidax as px


@dataclasses.dataclass(frozen=True)
class Images:
    """DDPM++ for square images with three channels, and how it is timed."""

    resolution: int = 32
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    batch: int = 16
    repeats: int = 5
    nodes: int = 250  # of PID
    steps: int = 10

    def teacher(self) -> px.Preconditioned:
        """With random weights."""
        network = px.nn.SongUNet.ddpmpp(
            3, 3, resolution=self.resolution, width=self.width,
            multipliers=self.multipliers, blocks=self.blocks, dropout=0.0,
            key=jax.random.key(0),
        )  # fmt: skip
        return px.Preconditioned(network, px.EDM())

    def shape(self, count):
        return count, self.resolution, self.resolution, 3


SMALL = Images(8, 8, (1,), 1, batch=2, repeats=1, nodes=8, steps=3)
