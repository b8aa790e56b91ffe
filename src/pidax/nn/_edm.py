r"""The image U-Nets of diffusion models: DDPM++, NCSN++ and ADM.

`SongUNet` is that of Song et al. 2021, "Score-based generative modeling through
stochastic differential equations", as trained by Karras et al. 2022; `DhariwalUNet`
(ADM) that of Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis".
They are made for one `resolution`, answer for one image `resolution resolution
channels`, and take over published weights (`pidax.convert`).

| | features of $c_{noise}$ | encoder | filter | multipliers |
|---|---|---|---|---|
| `SongUNet.ddpmpp` | positional | standard | (1, 1) | (2, 2, 2) |
| `SongUNet.ncsnpp` | Fourier, twice as many | residual | (1, 3, 3, 1) | (2, 2, 2) |
| `DhariwalUNet` | positional | standard | (1, 1) | (1, 2, 3, 4) |
"""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
from jaxtyping import Array

from ..types import Condition, Elementwise, Key, Sample, SampleLike, ScalarLike, typed
from ._base import AbstractNetwork, as_sample, require_counts
from ._edm_block import ADM, SONG, UNetBlock
from ._edm_embedding import NoiseEmbedding, Positional
from ._edm_levels import Decoder, DecoderKind, Encoder, EncoderKind, Plan, Run
from ._embedding import Fourier
from ._random import stream

Image = tuple[int, int, int]
Features = Literal["positional", "fourier"]
FOURIER_SCALE = 16.0


class SongUNet(AbstractNetwork):
    r"""DDPM++ and NCSN++: the U-Net of Song et al. 2021.

    Level $l$ has `width * multipliers[l]` channels on a grid of `resolution` $/\,2^l$
    points, with `blocks` residual blocks on the way down and one more on the way up.
    There is attention at the resolutions named in `attention`: after each block on the
    way down, after the last of a level on the way up, and at the start of the way up.

    **Arguments:**

    - `classes`, `augments`: the numbers of class labels and of augmentation labels,
      None for none.
    - `features`: of $c_{noise}$, `"positional"` or `"fourier"` (random, of scale 16);
      `width * noise_multiplier` of them, and `width * embedding_multiplier` numbers in
      the embedding.
    - `encoder`: `"standard"`, `"skip"` or `"residual"`; `decoder`: `"standard"` or
      `"skip"`: what goes down and up beside the blocks.
    - `taps`: the filter of resampling.
    - `dropout`: the fraction dropped in each block, when there is a `key`.
    - `remat`: compute the inside of each block again for its gradient, instead of
      keeping it: one more forward pass for a fraction of the memory.
    """

    embedding: NoiseEmbedding
    encoder: Encoder
    decoder: Decoder
    image: Image = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resolution: int,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: tuple[int, ...] = (16,),
        classes: int | None = None,
        augments: int | None = None,
        dropout: float = 0.1,
        features: Features = "positional",
        noise_multiplier: int = 1,
        embedding_multiplier: int = 4,
        encoder: EncoderKind = "standard",
        decoder: DecoderKind = "standard",
        taps: tuple[float, ...] = (1, 1),
        remat: bool = False,
        key: Key,
    ):
        _require_one("features", features, Features)
        _require_one("encoder", encoder, EncoderKind)
        _require_one("decoder", decoder, DecoderKind)
        require_counts(width=width, noise_multiplier=noise_multiplier)
        require_counts(embedding_multiplier=embedding_multiplier)
        first, second, third = jax.random.split(key, 3)
        count, size = width * noise_multiplier, width * embedding_multiplier
        made = Positional(count, endpoint=True)
        if features == "fourier":
            made = Fourier(count, scale=FOURIER_SCALE, key=first)
        labels: Any = dict(classes=classes, augments=augments)
        self.embedding = NoiseEmbedding(
            size, features=made, order="song", **labels, key=second
        )
        plan = Plan(
            inputs=in_channels,
            outputs=out_channels,
            stem=width,
            sizes=_sizes(width, multipliers),
            blocks=blocks,
            resolution=resolution,
            attention=tuple(attention),
            style=SONG,
            everywhere=False,
            embedding=size,
            dropout=dropout,
            taps=tuple(taps),
        )
        keys = stream(third)
        self.encoder = Encoder(plan, encoder, keys)
        self.decoder = Decoder(plan, decoder, keys)
        self.image = resolution, resolution, in_channels
        self.remat = remat

    @staticmethod
    def ddpmpp(
        in_channels: int, out_channels: int, *, resolution: int, **options: Any
    ) -> "SongUNet":
        """DDPM++ as trained by Karras et al. 2022 for 32 by 32 images.

        `options` replace any argument, and bring the `key`.
        """
        chosen: Any = {"multipliers": (2, 2, 2), **options}
        return SongUNet(in_channels, out_channels, resolution=resolution, **chosen)

    @staticmethod
    def ncsnpp(
        in_channels: int, out_channels: int, *, resolution: int, **options: Any
    ) -> "SongUNet":
        """NCSN++ as trained by Karras et al. 2022 for 32 by 32 images.

        `options` replace any argument, and bring the `key`.
        """
        named = dict(features="fourier", noise_multiplier=2, encoder="residual")
        chosen: Any = {"multipliers": (2, 2, 2), "taps": (1, 3, 3, 1), **named}
        chosen.update(options)
        return SongUNet(in_channels, out_channels, resolution=resolution, **chosen)

    @property
    def classes(self) -> int | None:
        return self.embedding.classes

    @property
    def shape(self) -> Image:
        return self.image

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
        x = as_sample(x, self.shape)
        e = self.embedding(c_noise, condition, augment).astype(x.dtype)
        return _through(self, x, e, key)


class DhariwalUNet(AbstractNetwork):
    r"""ADM: the U-Net of Dhariwal & Nichol 2021.

    As `SongUNet`, with the embedding as scale and shift of each block, several heads of
    attention of 64 channels, in all blocks at the resolutions named in `attention` and
    at the start of the way up; blocks of less than 64 channels have none. The defaults
    are those for ImageNet at 64 by 64 but for the classes, of which it has 1000.

    `classes`, `augments`, `dropout`, `embedding_multiplier` and `remat` are those of
    `SongUNet`.
    """

    embedding: NoiseEmbedding
    encoder: Encoder
    decoder: Decoder
    image: Image = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resolution: int,
        width: int = 192,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: tuple[int, ...] = (32, 16, 8),
        classes: int | None = None,
        augments: int | None = None,
        dropout: float = 0.1,
        embedding_multiplier: int = 4,
        remat: bool = False,
        key: Key,
    ):
        require_counts(width=width, embedding_multiplier=embedding_multiplier)
        first, second = jax.random.split(key)
        size, sizes = width * embedding_multiplier, _sizes(width, multipliers)
        labels: Any = dict(classes=classes, augments=augments)
        self.embedding = NoiseEmbedding(
            size, features=Positional(width), order="adm", **labels, key=first
        )
        plan = Plan(
            inputs=in_channels,
            outputs=out_channels,
            stem=sizes[0],
            sizes=sizes,
            blocks=blocks,
            resolution=resolution,
            attention=tuple(attention),
            style=ADM,
            everywhere=True,
            embedding=size,
            dropout=dropout,
            taps=(1.0, 1.0),
        )
        keys = stream(second)
        self.encoder = Encoder(plan, "standard", keys)
        self.decoder = Decoder(plan, "standard", keys)
        self.image = resolution, resolution, in_channels
        self.remat = remat

    @property
    def classes(self) -> int | None:
        return self.embedding.classes

    @property
    def shape(self) -> Image:
        return self.image

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
        x = as_sample(x, self.shape)
        e = self.embedding(c_noise, condition, augment).astype(x.dtype)
        return _through(self, x, e, key)


def _through(
    network: SongUNet | DhariwalUNet, x: Sample, e: Array, key: Key | None
) -> Array:
    """Down, up, and what a block forgets until its gradient is taken."""
    keys = stream(key)

    def call(block: UNetBlock, h: Array, e: Array, key: Key | None) -> Array:
        return block(h, e, key)

    step = eqx.filter_checkpoint(call) if network.remat else call
    run: Run = lambda block, h: step(block, h, e, next(keys))
    h, skips = network.encoder(x, run)
    return network.decoder(h, skips, run)


def _sizes(width: int, multipliers: tuple[int, ...]) -> tuple[int, ...]:
    if not multipliers:
        raise ValueError(
            "multipliers must have one entry for each level of the grid, got none. Use "
            "(1,) for a network on one grid."
        )
    for multiplier in multipliers:
        require_counts(multipliers=multiplier)
    return tuple(width * multiplier for multiplier in multipliers)


def _require_one(name: str, value: str, kinds: Any) -> None:
    if value not in get_args(kinds):
        raise ValueError(f"{name} must be one of {get_args(kinds)}, got {value!r}.")
