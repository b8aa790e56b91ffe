"""The image network whose cost is measured, as a teacher and its flow."""

import jax

import pidax as px

BATCH = 16


def teacher() -> px.Preconditioned:
    """DDPM++ for 32 by 32 images: width 32, multipliers 1, 2, 2, two blocks."""
    network = px.nn.SongUNet.ddpmpp(
        3,
        3,
        resolution=32,
        width=32,
        multipliers=(1, 2, 2),
        blocks=2,
        dropout=0.0,
        key=jax.random.key(0),
    )
    return px.Preconditioned(network, px.EDM())
