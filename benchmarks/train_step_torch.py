"""The step of train_step.py written in PyTorch, for comparison on the same machine.

    python benchmarks/train_step_torch.py --threads 1    # where PyTorch is installed

A DDPM++ of the same sizes with random weights, as its paper describes it, and one step
of PID by the paper's upwind difference: both times of the student in one batch, the
teacher without gradient, RAdam, one average. Prints a JSON object that train_step.py
reads; pidax itself never needs PyTorch.
"""

import argparse
import copy
import json
import math
import time

import torch  # type: ignore[import]
from torch import nn  # type: ignore[import]
from torch.nn import functional as F  # type: ignore[import]

WIDTH, MULTIPLIERS, BLOCKS, ATTENTION, RESOLUTION = 32, (1, 2, 2), 2, 16, 32
BATCH, NODES = 16, 250
SIGMA_MIN, SIGMA_MAX, RHO, SIGMA_DATA = 0.002, 80.0, 7, 0.5
DECAY = 0.999


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
            q, k, v = self.qkv(self.norm2(x)).reshape(n, 3, c, -1).unbind(1)
            weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(c), -1)
            a = (v @ weights.transpose(1, 2)).reshape(n, c, height, width)
            x = (x + self.out(a)) * math.sqrt(0.5)
        return x


class UNet(nn.Module):
    """DDPM++: down, up, and positional features of the noise level."""

    def __init__(self):
        super().__init__()
        size = 4 * WIDTH
        self.embed = nn.Sequential(
            nn.Linear(WIDTH, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU()
        )
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        down, widths, here = [], [WIDTH], WIDTH
        for level, multiplier in enumerate(MULTIPLIERS):
            at = RESOLUTION >> level == ATTENTION
            if level:
                down.append(Block(here, here, size, down=True, attend=False))
                widths.append(here)
            for _ in range(BLOCKS):
                down.append(Block(here, WIDTH * multiplier, size, attend=at))
                here = WIDTH * multiplier
                widths.append(here)
        up = [(Block(here, here, size, attend=True), False)]
        up.append((Block(here, here, size, attend=False), False))
        for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
            at = RESOLUTION >> level == ATTENTION
            if level < len(MULTIPLIERS) - 1:
                up.append((Block(here, here, size, up=True, attend=False), False))
            for i in range(BLOCKS + 1):
                last = i == BLOCKS
                wide = here + widths.pop()
                outputs = WIDTH * multiplier
                up.append((Block(wide, outputs, size, attend=at and last), True))
                here = outputs
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(b for b, _ in up)
        self.joins = [join for _, join in up]
        self.norm, self.last = norm(here), nn.Conv2d(here, 3, 3, padding=1)

    def forward(self, x, c_noise):
        half = torch.arange(WIDTH // 2) / (WIDTH // 2 - 1)
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


def loss_of(network, teacher, grid):
    """Tee et al. 2024, eqs. 9 to 11, the teacher's answer without gradient."""
    z = SIGMA_MAX * torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    z = z.to(memory_format=torch.channels_last)
    i = torch.randint(NODES - 1, (BATCH,))
    now, then = grid[i], grid[i + 1]
    both = student(network, torch.cat([z, z]), torch.cat([now, then]))
    x, later = both.chunk(2)
    slope = (x - later) / (now - then)[:, None, None, None]
    with torch.no_grad():
        target = denoise(teacher, x, now)
    return (x - now[:, None, None, None] * slope - target).square().mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = UNet().to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(network).requires_grad_(False)
    average = copy.deepcopy(network).requires_grad_(False)
    grid = times()
    optimiser = torch.optim.RAdam(network.parameters(), lr=1e-4)
    seconds = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss_of(network, teacher, grid).backward()
        optimiser.step()
        with torch.no_grad():
            for mean, weight in zip(
                average.parameters(), network.parameters(), strict=True
            ):
                mean.lerp_(weight, 1 - DECAY)
        seconds.append(time.perf_counter() - start)
    found = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": seconds[2:],  # the first two warm up
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
