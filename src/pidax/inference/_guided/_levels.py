r"""Noise levels of a sampler, and the steps between them.

Every process is sampled in $u = x/\alpha = x_0 + r\epsilon$ with $r = \sigma/\alpha$.
With the clean sample $D$ that the denoiser predicts at $r$, the way to $r' < r$ is

$$ u' = D + k\,(u - D) + s\,\xi, \qquad
   s = \eta\, r' \sqrt{1 - (r'/r)^2}, \qquad k = \sqrt{r'^2 - s^2}\,/\,r . $$

$\eta = 0$ is DDIM, which is Euler's method of the probability-flow ODE in $r$, and
$\eta = 1$ is ancestral sampling: $s^2$ is the variance of $u'$ if $u$ and $x_0 = D$ are
known (Song, Meng & Ermon 2021, eq. 12). The last level is $r' = 0$, where $u' = D$.
Methods that replace $D$ by a corrected clean sample add $r'$ times a noise to it: the
state's own, $(u - D)/r$, as DDIM does; the one of the first state, which inflates the
spread, because $D$ and this noise are not independent; or a fresh one, which makes it
too small, because $D$ is a mean. Heun's method takes the mean of the slopes
$(u - D)/r$ at both ends: EDM's sampler.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import is_traced, require, show, whole_number
from ...flow import ProbabilityFlow
from ...process import AbstractProcess
from ...types import Key, Sample, Scalar, Times

Grid = Callable[[int, AbstractProcess], Times]
_SLACK = 1e-4  # relative, of a denoiser's interval


class Now(NamedTuple):
    """A step from the ratio `level` to `after`; `done` is the share of steps before it,
    `number` its index, and `size` the standard deviation of one entry of the data.
    """

    level: Scalar
    after: Scalar
    done: Scalar
    number: Array
    size: Scalar


def ratios(flow: ProbabilityFlow, steps: int, grid: Grid) -> Float[Array, " level"]:
    r"""The ratios $\sigma/\alpha$ at `steps` times of the grid, and 0 after them.

    A time without signal has the ratio at which time grids of the process start,
    $160\,\sigma_{data}$, or twice the next ratio.
    """
    process = flow.process
    times = grid(whole_number("steps", steps, least=2), process)
    of = jnp if is_traced(times, process) else np  # what is known compiles nothing
    sigma, alpha = (of.asarray(level) for level in process.level(times))
    most = of.asarray(process.ratio_ends(sigma.dtype)[1])
    signal = alpha > jnp.finfo(alpha.dtype).eps
    found = of.where(signal, sigma / of.where(signal, alpha, 1), most)
    # Above the first time with a signal, however early it is.
    first = of.where(signal[0], found[0], of.maximum(most, 2 * found[1]))
    found = of.concatenate([first[None], found[1:]])
    found = require(
        found,
        (of.diff(found) < 0).all() & (found[-1] > 0),
        "a grid of a guided sampler has decreasing times, from noise to the least "
        f"noise before zero, got {show(times)}. Pass grid=px.karras, or a function of "
        "a number and a process.",
    )
    low, high = flow.denoiser.interval
    inside = (found[-1] >= low * (1 - _SLACK)) & (found[0] <= high * (1 + _SLACK))
    found = require(
        found,
        inside | flow.extrapolate,
        f"the sampler runs over noise-to-signal ratios from {show(found[0])} to "
        f"{show(found[-1])}, but the denoiser states that it is trained for "
        f"[{low:.4g}, {high:.4g}]. Choose a grid inside this interval, another t_min "
        "and t_max of the process, or ProbabilityFlow(..., extrapolate=True).",
    )
    return jnp.asarray(of.append(found, of.zeros((), found.dtype)))


def between(
    u: Sample, clean: Sample, now: Now, eta: float = 0.0, noise: Sample | None = None
) -> Sample:
    """The state at the next level, if the clean sample is `clean`."""
    level, after = now.level, now.after
    if noise is None or eta == 0:
        return clean + (after / level) * (u - clean)
    spread = eta * spread_between(now)
    keep = jnp.sqrt((after - spread) * (after + spread)) / level
    return clean + keep * (u - clean) + spread * noise


NOISES = ("own", "first", "fresh")


def onward(
    fixed: Sample,
    u: Sample,
    clean: Sample,
    first: Sample,
    to: Scalar,
    now: Now,
    noise: str,
    key: Key,
) -> Sample:
    """From a corrected clean sample to the level `to`, with one of the `NOISES`: the
    state's own, `(u - clean) / level`; the first one; or a fresh one.
    """
    if noise == "own":
        return fixed + (to / now.level) * (u - clean)
    if noise == "fresh":
        first = jax.random.normal(key, u.shape, u.dtype)
    return fixed + to * first


def check_noise(noise: str) -> None:
    """Check that it is one of the `NOISES`."""
    if noise not in NOISES:
        raise ValueError(
            f'noise must be one of {NOISES}, got {noise!r}. "own" is the noise of the '
            "state itself, with which a sampler without conditions is DDIM."
        )


def spread_between(now: Now) -> Scalar:
    """The standard deviation of ancestral sampling."""
    ratio = now.after / now.level
    return now.after * jnp.sqrt((1 - ratio) * (1 + ratio))


def heun(
    denoised: Callable[[Sample, Scalar], Sample], u: Sample, clean: Sample, now: Now
) -> Sample:
    """One step of Heun's method, for one more evaluation except in the last step."""
    level, after = now.level, now.after
    guess = between(u, clean, now)

    def corrected() -> Sample:
        slope = (u - clean) / level
        other = (guess - denoised(guess, after)) / after
        return u + (after - level) * (slope + other) / 2

    return jax.lax.cond(after > 0, corrected, lambda: guess)


# --- strengths -----------------------------------------------------------------------

Schedule = Callable[[Now], Scalar]


def constant(now: Now) -> Scalar:
    """1 at every level."""
    return jnp.ones_like(now.level)


def with_noise(now: Now) -> Scalar:
    r"""$1 + (r/\sigma_{data})^2$: constant for a state that is divided by its size, as
    that of `VP` is.
    """
    return 1 + (now.level / now.size) ** 2
