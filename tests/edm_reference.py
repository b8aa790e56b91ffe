"""EDM's networks once more, for tests: from a state dict, in NumPy, channels first.

Plain loops over names, as the facts about the published networks read, in float64 and
without any layer of pidax.
"""

from typing import Any

import numpy as np

SONG: Any = dict(epsilon=1e-6, weight=np.sqrt(0.5))
ADM: Any = dict(epsilon=1e-5, weight=1.0)


def silu(x):
    return x / (1 + np.exp(-x))


def windows(x, k, pad):
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))


def conv(x, weight, bias=None, extra=0):
    k = weight.shape[-1]
    y = np.einsum("ihwkl,oikl->ohw", windows(x, k, k // 2 + extra), weight)
    return y if bias is None else y + bias[:, None, None]


def down(x, f, pad):
    return np.einsum("chwkl,kl->chw", windows(x, len(f), pad)[:, ::2, ::2], f)


def up(x, f, pad):
    channels, height, width = x.shape
    size = len(f)
    y = np.zeros((channels, 2 * height - 2 + size, 2 * width - 2 + size))
    for i in range(height):
        for j in range(width):
            block = 4 * f * x[:, i, j, None, None]
            y[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size] += block
    return y[:, pad : pad + 2 * height, pad : pad + 2 * width]


class Reference:
    """One network: `kind` is "song" or "adm"; `settings` are its own words."""

    def __init__(self, state, kind, taps=(1, 1), encoder="standard", **settings):
        self.state = {k: np.asarray(v, np.float64) for k, v in state.items()}
        self.song = kind == "song"
        self.style = SONG if self.song else ADM
        r = np.asarray(taps, float)
        self.f, self.pad = np.outer(r, r) / r.sum() ** 2, (len(r) - 1) // 2
        self.encoder = encoder
        self.settings = settings

    def has(self, name):
        return f"{name}.weight" in self.state

    def get(self, name) -> Any:
        return self.state[f"{name}.weight"], self.state.get(f"{name}.bias")

    def linear(self, name, x):
        weight, bias = self.get(name)
        return weight @ x + (0 if bias is None else bias)

    def norm(self, name, x, epsilon):
        weight, bias = self.get(name)
        channels = x.shape[0]
        h = x.reshape(min(32, channels // 4), -1)
        h = h - h.mean(1, keepdims=True)
        h = h / np.sqrt((h**2).mean(1, keepdims=True) + epsilon)
        return h.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def resampled(self, x, way):
        if way is None:
            return x
        return (up if way == "up" else down)(x, self.f, self.pad)

    def block(self, name, x, e, way=None):
        epsilon, weight = self.style["epsilon"], self.style["weight"]
        r = self.resampled(silu(self.norm(f"{name}.norm0", x, epsilon)), way)
        r = conv(r, *self.get(f"{name}.conv0"))
        p = self.linear(f"{name}.affine", e)[:, None, None]
        if self.song:
            r = self.norm(f"{name}.norm1", r + p, epsilon)
        else:
            scale, shift = np.split(p, 2)
            r = self.norm(f"{name}.norm1", r, epsilon) * (scale + 1) + shift
        r = conv(silu(r), *self.get(f"{name}.conv1"))
        x = self.resampled(x, way)
        if self.has(f"{name}.skip"):
            x = conv(x, *self.get(f"{name}.skip"))
        x = (x + r) * weight
        if self.has(f"{name}.qkv"):
            a = self.attention(name, self.norm(f"{name}.norm2", x, epsilon))
            x = (x + a) * weight
        return x

    def attention(self, name, x):
        channels = x.shape[0]
        heads = 1 if self.song else channels // 64
        qkv = conv(x, *self.get(f"{name}.qkv"))
        q, k, v = np.moveaxis(qkv.reshape(heads, channels // heads, 3, -1), 2, 0)
        logits = np.einsum("hci,hcj->hij", q, k) / np.sqrt(channels // heads)
        w = np.exp(logits - logits.max(-1, keepdims=True))
        w = w / w.sum(-1, keepdims=True)
        y = np.einsum("hij,hcj->hci", w, v).reshape(x.shape)
        return conv(y, *self.get(f"{name}.proj"))

    def embedding(self, c_noise, label, augment):
        freqs = self.state.get("map_noise.freqs")
        if freqs is None:
            half = self.get("map_layer0")[0].shape[1] // 2
            freqs = (1e-4) ** (np.arange(half) / (half - self.song))
        else:
            freqs = 2 * np.pi * freqs
        phase = freqs * c_noise
        pair = [np.cos(phase), np.sin(phase)]
        e = np.concatenate(pair[::-1] if self.song else pair)
        if self.song and label is not None:
            e = e + self.linear("map_label", label * np.sqrt(len(label)))
        if augment is not None:
            e = e + self.linear("map_augment", augment)
        e = self.linear("map_layer1", silu(self.linear("map_layer0", e)))
        if not self.song and label is not None:
            e = e + self.linear("map_label", label)
        return silu(e)

    def __call__(self, x, c_noise, label=None, augment=None):
        e = self.embedding(c_noise, label, augment)
        side, levels, blocks = x.shape[-1], *self.settings["size"]
        sides = [f"{side >> level}x{side >> level}" for level in range(levels)]
        image, skips = x, []
        for level, at in enumerate(sides):
            at = f"enc.{at}_"
            if level == 0:
                x = conv(x, *self.get(f"{at}conv"))
            else:
                x = self.block(f"{at}down", x, e, "down")
                if self.encoder == "skip":
                    image = down(image, self.f, self.pad)
                    x = x + conv(image, *self.get(f"{at}aux_skip"))
                if self.encoder == "residual":
                    weight, bias = self.get(f"{at}aux_residual")
                    image = down(conv(image, weight, extra=self.pad), self.f, 0)
                    x = (x + image + bias[:, None, None]) / np.sqrt(2)
                    image = x
            skips.append(x)
            for i in range(blocks):
                x = self.block(f"{at}block{i}", x, e)
                skips.append(x)
        answer = None
        for level, at in reversed(list(enumerate(sides))):
            at = f"dec.{at}_"
            if level == levels - 1:
                x = self.block(f"{at}in1", self.block(f"{at}in0", x, e), e)
            else:
                x = self.block(f"{at}up", x, e, "up")
            for i in range(blocks + 1):
                x = self.block(f"{at}block{i}", np.concatenate([x, skips.pop()]), e)
            head = f"{at}aux" if self.song else "out"
            if self.has(f"{head}_conv") and (self.song or level == 0):
                h = silu(self.norm(f"{head}_norm", x, self.style["epsilon"]))
                part = conv(h, *self.get(f"{head}_conv"))
                answer = part if answer is None else part + up(answer, self.f, self.pad)
        return answer
