r"""The image U-Nets of diffusion models: DDPM++, NCSN++ and ADM.

`SongUNet` is the U-Net of Song et al. 2021, "Score-based generative modeling through
stochastic differential equations", as trained by Karras et al. 2022; `DhariwalUNet`
(ADM) the U-Net of Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis".
They are made for one `resolution`, act on one image `resolution resolution channels`, and
can load published weights (`pidax.convert`).

| network | features of $c_{noise}$ | encoder | filter | multipliers |
|---|---|---|---|---|
| `SongUNet.ddpmpp` | positional | standard | (1, 1) | (2, 2, 2) |
| `SongUNet.ncsnpp` | Fourier, twice as many | residual | (1, 3, 3, 1) | (2, 2, 2) |
| `DhariwalUNet` | positional | standard | (1, 1) | (1, 2, 3, 4) |

**Down and up.** Beside the blocks an image of few channels may go down the levels and up again:

| encoder | what is added at each coarser level |
|---|---|
| `"standard"` | nothing |
| `"skip"` | the input, resampled from level to level, through one convolution of its own |
| `"residual"` | the last such sum (first the input), convolved and resampled; $(h + r)/\sqrt2$ |

| decoder | the output |
|---|---|
| `"standard"` | normalisation and convolution of the finest level |
| `"skip"` | the sum of the outputs of all levels, each resampled up to the next |

**The block**:

$$ y = w\,\bigl(S\,h' + C_1\,\phi\,m(C_0\,(\phi\,N_0 h)')\bigr), \qquad
   y \leftarrow w\,\bigl(y + A\,N_2\, y\bigr), $$

with $\phi$ the `silu`, $N$ group normalisations, $C$ convolutions, a prime for an image
resampled, $A$ attention where there is one. The embedding $e$ enters in $m$:

| style | $m(r)$ | weight $w$ | shortcut $S$ when resampling | heads | $\epsilon$ |
|---|---|---|---|---|---|
| `SONG` | $N_1(r + W e)$ | $\sqrt{1/2}$ | one by one convolution | 1 | 1e-6 |
| `ADM` | $N_1(r)(1 + s) + b$, $(s, b) = We$ | 1 | none | channels // 64 | 1e-5 |

An `ADM` block of less than 64 channels has no attention, even if it is requested.

**The embedding.** With features $f$ of $c_{noise}$, one-hot class $c$ among $n$, augmentation labels $a$
and $\phi$ the `silu`,

$$ \text{Song:}\quad e = \phi\,L_1\,\phi\,L_0\,(f' + W_c \sqrt n\, c + b_c + W_a a),
\qquad
\text{ADM:}\quad e = \phi\,(L_1\,\phi\,L_0\,(f + W_a a) + W_c c), $$

where $f'$ has the sines before the cosines. Computed in float32 at least, as
`Embedding` is.
"""  # noqa: E501

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_whole, whole_number
from ..types import (
    Condition,
    Elementwise,
    Key,
    NoiseLike,
    Sample,
    SampleLike,
    ScalarLike,
    typed,
)
from ._base import (
    AbstractFeatures,
    AbstractNetwork,
    as_sample,
    level_sizes,
    require_rate,
)
from ._embedding import Fourier, Positional, class_vector
from ._layers import (
    GENTLE,
    SMALL,
    Attention,
    Conv,
    Direction,
    GroupNorm,
    Linear,
    Resample,
    dropout,
    pad_grid,
    stream,
)

Image = tuple[int, int, int]
Features = Literal["positional", "fourier"]
Order = Literal["song", "adm"]
EncoderKind = Literal["standard", "skip", "residual"]
DecoderKind = Literal["standard", "skip"]
FOURIER_SCALE = 16.0


class NoiseEmbedding(eqx.Module):
    r"""One vector for $c_{noise}$, class and augmentation; after its last `silu`.

    `classes` and `augments` are the numbers of class labels and of augmentation
    labels, None for none. Without labels $c$ is zero and $W_a a$ is left out.
    """

    features: AbstractFeatures
    label: Linear | None
    augment: Linear | None
    layers: tuple[Linear, Linear]
    order: Order = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    augments: int | None = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        features: AbstractFeatures,
        order: Order,
        classes: int | None = None,
        augments: int | None = None,
        key: Key,
    ):
        require_whole(size=size)
        first, second, third, fourth = jax.random.split(key, 4)
        inside, song = features.size, order == "song"
        self.features = features
        self.label = self.augment = None
        if classes is not None:
            classes = whole_number("classes", classes)
            # A one-hot vector has the norm 1: Song's is made longer in the call.
            scale = 1.0 if song else math.sqrt(classes)
            outputs = inside if song else size
            self.label = Linear(classes, outputs, scale=scale, bias=song, key=first)
        if augments is not None:
            augments = whole_number("augments", augments)
            self.augment = Linear(augments, inside, bias=False, key=second)
        scale = math.sqrt(2)
        self.layers = (
            Linear(inside, size, scale=scale, key=third),
            Linear(size, size, scale=scale, key=fourth),
        )
        self.order = order
        self.classes = classes
        self.augments = augments

    @typed
    def __call__(
        self,
        c_noise: ScalarLike,
        condition: Condition = None,
        augment: Condition = None,
    ) -> Float[Array, " size"]:
        e = self.features(c_noise)
        label = None
        vector = class_vector(condition, self.classes).astype(e.dtype)
        if self.order == "song":
            e = jnp.roll(e, e.size // 2)  # sines first
            vector = vector * math.sqrt(self.classes or 0)
        if self.label is not None:
            label = self.label(vector)
        if label is not None and self.order == "song":
            e = e + label
        moved = self._augmentation(augment)
        if moved is not None:
            e = e + moved.astype(e.dtype)
        e = self.layers[1](jax.nn.silu(self.layers[0](e)))
        if label is not None and self.order == "adm":
            e = e + label
        return jax.nn.silu(e)

    def _augmentation(self, augment: Condition) -> Array | None:
        if augment is None:
            return None
        shape = np.shape(augment)
        if self.augment is None or shape != (self.augments,):
            made = "without any" if self.augment is None else f"for {self.augments}"
            raise ValueError(
                "augment must be None or one vector of augmentation labels for a "
                f"network made {made}, got the shape {shape}. Make the network with "
                "augments=, their number, or leave them out; use jax.vmap for a batch."
            )
        return self.augment(jnp.asarray(augment, float))


@dataclasses.dataclass(frozen=True)
class Style:
    """The differences of the blocks of the two families; see the table above."""

    epsilon: float
    weight: float
    adaptive: bool
    project: bool
    head: int | None  # the channels of a head of attention; None: one head


SONG = Style(1e-6, math.sqrt(0.5), adaptive=False, project=True, head=None)
ADM = Style(1e-5, 1.0, adaptive=True, project=False, head=64)


class UNetBlock(eqx.Module):
    """Two convolutions beside a shortcut; then attention, if asked for.

    `embedding` is the length of $e$, `rate` the dropout rate; `direction` and `taps`
    say how the image is resampled inside, None for not at all.
    """

    norms: tuple[GroupNorm, GroupNorm]
    convs: tuple[Conv, Conv]
    modulation: Linear
    shortcut: Linear | None
    attention_norm: GroupNorm | None
    attention: Attention | None
    resample: Resample | None
    weight: float = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style: Style,
        embedding: int,
        rate: float = 0.0,
        direction: Direction | None = None,
        taps: tuple[float, ...] = (1.0, 1.0),
        attend: bool = False,
        key: Key,
    ):
        first, second, third, fourth, fifth = jax.random.split(key, 5)
        norm = lambda channels: image_norm(channels, style.epsilon)
        self.norms = norm(inputs), norm(outputs)
        self.convs = (
            Conv(inputs, outputs, key=first),
            Conv(outputs, outputs, scale=SMALL, key=second),
        )
        factor, scale = (2, GENTLE) if style.adaptive else (1, 1.0)
        self.modulation = Linear(embedding, factor * outputs, scale=scale, key=third)
        self.resample = None if direction is None else Resample(taps, direction)
        change = inputs != outputs or (style.project and direction is not None)
        self.shortcut = Linear(inputs, outputs, key=fourth) if change else None
        heads = 1 if style.head is None else outputs // style.head
        self.attention_norm = self.attention = None
        if attend and heads:
            self.attention_norm = norm(outputs)
            self.attention = Attention(
                outputs, heads=heads, scale=SMALL, bias=True, key=fifth
            )
        self.weight, self.adaptive = style.weight, style.adaptive
        self.rate = rate

    def __call__(
        self,
        h: Float[Array, "*grid inputs"],
        e: Float[Array, " embedding"],
        key: Key | None,
    ) -> Float[Array, "*new outputs"]:
        r = self.convs[0](self._resampled(jax.nn.silu(self.norms[0](h))))
        moved = self.modulation(e)
        if self.adaptive:
            scale, shift = jnp.split(moved, 2)
            r = self.norms[1](r) * (scale + 1) + shift
        else:
            r = self.norms[1](r + moved)
        r = self.convs[1](dropout(jax.nn.silu(r), self.rate, key))
        h = self._resampled(h)
        h = h if self.shortcut is None else self.shortcut(h)
        h = (h + r) * self.weight
        if self.attention is not None and self.attention_norm is not None:
            h = (h + self.attention(self.attention_norm(h))) * self.weight
        return h

    def _resampled(self, x: Array) -> Array:
        return x if self.resample is None else self.resample(x)


Run: TypeAlias = Callable[[UNetBlock, Array], Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sizes of a U-Net. `attention` are resolutions, `stem` channels."""

    inputs: int
    outputs: int
    stem: int
    sizes: tuple[int, ...]
    blocks: int
    resolution: int
    attention: tuple[int, ...]
    everywhere: bool  # attention in all blocks of a level on the way up, not the last
    style: Style
    embedding: int
    dropout: float
    taps: tuple[float, ...]

    def __post_init__(self):
        require_whole(in_channels=self.inputs, out_channels=self.outputs)
        require_whole(blocks=self.blocks, resolution=self.resolution)
        require_rate(self.dropout)
        halvings = len(self.sizes) - 1
        if self.resolution % 2**halvings:
            raise ValueError(
                f"resolution must be a multiple of {2**halvings}, which is halved "
                f"{halvings} times, got resolution={self.resolution}. Use fewer "
                "multipliers, or images of another size."
            )

    def block(self, inputs: int, outputs: int, key: Any, **options: Any) -> UNetBlock:
        """One block of this style."""
        return UNetBlock(
            inputs,
            outputs,
            style=self.style,
            embedding=self.embedding,
            rate=self.dropout,
            taps=self.taps,
            key=key,
            **options,
        )

    def attends(self, level: int) -> bool:
        """Whether there is attention at this level."""
        return self.resolution >> level in self.attention


class EncoderLevel(eqx.Module):
    """Into one level (not into the first), what is added there, and its blocks."""

    down: UNetBlock | None
    extra: Linear | Conv | None
    blocks: tuple[UNetBlock, ...]


class Encoder(eqx.Module):
    """From the image to the coarsest grid; gives what the decoder is joined with."""

    stem: Conv
    levels: tuple[EncoderLevel, ...]
    shrink: Resample
    kind: EncoderKind = eqx.field(static=True)

    def __init__(self, plan: Plan, kind: EncoderKind, keys: Iterator[Any]):
        self.stem = Conv(plan.inputs, plan.stem, key=next(keys))
        self.shrink = Resample(plan.taps, "down")
        self.kind = kind
        levels, here, image = [], plan.stem, plan.inputs
        for level, size in enumerate(plan.sizes):
            down = extra = None
            if level:
                down = plan.block(here, here, next(keys), direction="down")
            if level and kind == "skip":
                extra = Linear(image, here, key=next(keys))
            if level and kind == "residual":
                extra, image = Conv(image, here, key=next(keys)), here
            blocks = []
            for _ in range(plan.blocks):
                attend = plan.attends(level)
                blocks.append(plan.block(here, size, next(keys), attend=attend))
                here = size
            levels.append(EncoderLevel(down, extra, tuple(blocks)))
        self.levels = tuple(levels)

    def __call__(self, x: Array, run: Run) -> tuple[Array, list[Array]]:
        h, image = self.stem(x), x
        skips = [h]
        for level in self.levels:
            if level.down is not None:
                h = run(level.down, h)
                h, image = self._joined(level.extra, h, image)
                skips.append(h)
            for block in level.blocks:
                h = run(block, h)
                skips.append(h)
        return h, skips

    def _joined(
        self, extra: Linear | Conv | None, h: Array, image: Array
    ) -> tuple[Array, Array]:
        if extra is None:
            return h, image
        if self.kind == "skip":
            image = self.shrink(image)
            return h + extra(image), image
        # First the convolution, with the filter's margin too, then the filter without:
        # it keeps the constant that the bias is.
        wide = extra(pad_grid(image, self.shrink.margin))
        h = (h + self.shrink(wide, padded=True)) * math.sqrt(0.5)
        return h, h


class DecoderLevel(eqx.Module):
    """Into one level, its blocks, and the image that it answers, if it does."""

    into: tuple[UNetBlock, ...]
    blocks: tuple[UNetBlock, ...]
    norm: GroupNorm | None
    out: Conv | None


class Decoder(eqx.Module):
    """From the coarsest grid to an image; `levels` from the finest on."""

    levels: tuple[DecoderLevel, ...]
    grow: Resample
    kind: DecoderKind = eqx.field(static=True)

    def __init__(self, plan: Plan, kind: DecoderKind, keys: Iterator[Any]):
        self.grow = Resample(plan.taps, "up")
        self.kind = kind
        skips, last = skip_sizes(plan), len(plan.sizes) - 1
        levels, here = [], plan.sizes[-1]
        for level, size in reversed(list(enumerate(plan.sizes))):
            if level == last:
                into = (
                    plan.block(here, here, next(keys), attend=True),
                    plan.block(here, here, next(keys)),
                )
            else:
                into = (plan.block(here, here, next(keys), direction="up"),)
            blocks = []
            for i in range(plan.blocks + 1):
                attend = plan.attends(level) and (plan.everywhere or i == plan.blocks)
                inputs = here + skips.pop()
                blocks.append(plan.block(inputs, size, next(keys), attend=attend))
                here = size
            norm = out = None
            if kind == "skip" or level == 0:
                norm = image_norm(size, plan.style.epsilon)
                out = Conv(size, plan.outputs, scale=SMALL, key=next(keys))
            levels.append(DecoderLevel(into, tuple(blocks), norm, out))
        self.levels = tuple(reversed(levels))

    def __call__(self, h: Array, skips: list[Array], run: Run) -> Array:
        image = None
        for level in reversed(self.levels):
            for block in level.into:
                h = run(block, h)
            for block in level.blocks:
                h = run(block, jnp.concatenate([h, skips.pop()], -1))
            if level.norm is not None and level.out is not None:
                part = level.out(jax.nn.silu(level.norm(h)))
                image = part if image is None else part + self.grow(image)
        assert image is not None  # the finest level always answers
        return image


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
        require_whole(width=width, noise_multiplier=noise_multiplier)
        require_whole(embedding_multiplier=embedding_multiplier)
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
            sizes=level_sizes(width, multipliers),
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
        self.image = int(resolution), int(resolution), int(in_channels)
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
        c_noise: NoiseLike,
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

    `classes`, `augments`, `dropout`, `embedding_multiplier` and `remat` as in
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
        require_whole(width=width, embedding_multiplier=embedding_multiplier)
        first, second = jax.random.split(key)
        size, sizes = width * embedding_multiplier, level_sizes(width, multipliers)
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
        self.image = int(resolution), int(resolution), int(in_channels)
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
        c_noise: NoiseLike,
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


def _require_one(name: str, value: str, kinds: Any) -> None:
    if value not in get_args(kinds):
        raise ValueError(
            f"{name} must be one of {get_args(kinds)}, got {value!r}. Leave it out for "
            "that of DDPM++."
        )


def image_norm(channels: int, epsilon: float) -> GroupNorm:
    """At most 32 groups, each of at least four channels; the count must divide."""
    return GroupNorm(channels, min(32, max(channels // 4, 1)), epsilon=epsilon)


def skip_sizes(plan: Plan) -> list[int]:
    """The channels of what the encoder gives to the decoder, in its order."""
    sizes, here = [plan.stem], plan.stem
    for level, size in enumerate(plan.sizes):
        if level:
            sizes.append(here)
        sizes += [size] * plan.blocks
        here = size
    return sizes
