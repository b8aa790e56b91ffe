"""The step of train_step.py written in PyTorch, for comparison on the same machine.

    python benchmarks/train_step_torch.py --threads 1    # where PyTorch is installed

A DDPM++ of the same sizes with random weights, as its paper describes it, and one step
of PID by the paper's upwind difference: both times of the student in one batch, the
teacher without gradient, RAdam, one average. Prints a JSON object that train_step.py
reads; pidax itself never needs PyTorch. On a GPU (benchmarks/gpu) it has what PyTorch
is fastest with: channels last, bfloat16 by autocast, fused attention, torch.compile.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import math
import time
from typing import Any

import torch  # type: ignore[import]
from torch import nn  # type: ignore[import]
from torch.nn import functional as F  # type: ignore[import]

NODES = 250
SIGMA_MIN, SIGMA_MAX, RHO, SIGMA_DATA = 0.002, 80.0, 7, 0.5
DECAY = 0.999


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the network; by default that of train_step.py."""

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: int = 16
    resolution: int = 32
    batch: int = 16


def norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class Block(nn.Module):
    """The residual block of DDPM++, resampling inside."""

    def __init__(self, inputs, outputs, embedding, *, up=False, down=False, attend):
        super().__init__()
        self.up, self.down, self.attend = up, down, attend
        self.norm0, self.norm1 = norm(inputs), norm(outputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, outputs)
        change = inputs != outputs or up or down
        self.skip = nn.Conv2d(inputs, outputs, 1) if change else None
        if attend:
            self.norm2 = norm(outputs)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.out = nn.Conv2d(outputs, outputs, 1)

    def resample(self, x):
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x, e):
        h = self.conv0(self.resample(F.silu(self.norm0(x))))
        h = self.conv1(F.silu(self.norm1(h + self.affine(e)[:, :, None, None])))
        x = self.resample(x)
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        if self.attend:
            n, c, height, width = x.shape
            qkv = self.qkv(self.norm2(x)).reshape(n, 3, 1, c, -1).transpose(3, 4)
            a = F.scaled_dot_product_attention(*qkv.unbind(1))
            a = a.transpose(2, 3).reshape(n, c, height, width)
            x = (x + self.out(a)) * math.sqrt(0.5)
        return x


class UNet(nn.Module):
    """DDPM++: down, up, and positional features of the noise level."""

    def __init__(self, sizes):
        super().__init__()
        base = sizes.width
        size = 4 * base
        self.base = base
        self.embed = nn.Sequential(
            nn.Linear(base, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU()
        )
        self.stem = nn.Conv2d(3, base, 3, padding=1)
        down, widths, here = [], [base], base
        for level, multiplier in enumerate(sizes.multipliers):
            at = sizes.resolution >> level == sizes.attention
            if level:
                down.append(Block(here, here, size, down=True, attend=False))
                widths.append(here)
            for _ in range(sizes.blocks):
                down.append(Block(here, base * multiplier, size, attend=at))
                here = base * multiplier
                widths.append(here)
        up = [(Block(here, here, size, attend=True), False)]
        up.append((Block(here, here, size, attend=False), False))
        for level, multiplier in reversed(list(enumerate(sizes.multipliers))):
            at = sizes.resolution >> level == sizes.attention
            if level < len(sizes.multipliers) - 1:
                up.append((Block(here, here, size, up=True, attend=False), False))
            for i in range(sizes.blocks + 1):
                last = i == sizes.blocks
                wide = here + widths.pop()
                outputs = base * multiplier
                up.append((Block(wide, outputs, size, attend=at and last), True))
                here = outputs
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(b for b, _ in up)
        self.joins = [join for _, join in up]
        self.norm, self.last = norm(here), nn.Conv2d(here, 3, 3, padding=1)

    def forward(self, x, c_noise):
        half = torch.arange(self.base // 2, device=x.device) / (self.base // 2 - 1)
        angles = c_noise[:, None] * (1 / 10000) ** half
        e = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        h = self.stem(x)
        skips = [h]
        for block in self.down:
            h = block(h, e)
            skips.append(h)
        for block, join in zip(self.up, self.joins, strict=True):
            h = block(torch.cat([h, skips.pop()], 1) if join else h, e)
        return self.last(F.silu(self.norm(h)))


def denoise(network, x, sigma):
    """Karras et al. 2022, eq. 7."""
    s = sigma[:, None, None, None]
    scale = (s**2 + SIGMA_DATA**2).sqrt()
    f = network(x / scale, sigma.log() / 4)
    return SIGMA_DATA**2 / scale**2 * x + s * SIGMA_DATA / scale * f


def times():
    i = torch.arange(NODES) / (NODES - 1)
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return (ends[0] + i * (ends[1] - ends[0])) ** RHO


def student(network, z, t):
    """Tee et al. 2024, eq. 7."""
    clean = network(z / math.sqrt(SIGMA_MAX**2 + SIGMA_DATA**2), t.log() / 4)
    share = (t / SIGMA_MAX)[:, None, None, None]
    return share * z + (1 - share) * clean


def loss_of(network, teacher, grid, sizes):
    """Tee et al. 2024, eqs. 9 to 11, the teacher's answer without gradient."""
    size, device = sizes.resolution, grid.device
    z = SIGMA_MAX * torch.randn(sizes.batch, 3, size, size, device=device)
    z = z.to(memory_format=torch.channels_last)
    i = torch.randint(NODES - 1, (sizes.batch,), device=device)
    now, then = grid[i], grid[i + 1]
    both = student(network, torch.cat([z, z]), torch.cat([now, then]))
    x, later = both.chunk(2)
    slope = (x - later) / (now - then)[:, None, None, None]
    with torch.no_grad():
        target = denoise(teacher, x, now)
    return (x - now[:, None, None, None] * slope - target).square().mean()


class Step:
    """A training step, eager or compiled, in float32 or under bfloat16's autocast."""

    def __init__(self, sizes, *, device="cpu", low=False, compiled=False):
        torch.manual_seed(0)
        network = UNet(sizes).to(device, memory_format=torch.channels_last)
        self.network, self.sizes = network, sizes
        teacher = copy.deepcopy(network).requires_grad_(False)
        self.average = copy.deepcopy(network).requires_grad_(False)
        options: dict[str, Any] = {} if device == "cpu" else {"foreach": True}
        self.optimiser = torch.optim.RAdam(network.parameters(), lr=1e-4, **options)
        grid = times().to(device)
        self.precision = (
            torch.autocast(device, torch.bfloat16) if low else contextlib.nullcontext()
        )
        self.loss = lambda: loss_of(network, teacher, grid, sizes)
        if compiled:
            self.loss = torch.compile(self.loss)

    @property
    def parameters(self):
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self):
        self.optimiser.zero_grad()
        with self.precision:
            loss = self.loss()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            mean = list(self.average.parameters())
            torch._foreach_lerp_(mean, list(self.network.parameters()), 1 - DECAY)
        return loss.detach()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    step, seconds = Step(Sizes()), []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    found = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "parameters": step.parameters,
        "seconds": seconds[2:],  # the first two warm up
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
