r"""Networks that predict the noise: the coefficients of VP, VE and iDDPM.

With $r = \sigma/\alpha$ and $x/\alpha$, these are Karras et al. 2022, Table 1, in any
chart:

| class | $c_{skip}$ | $c_{out}$ | $c_{in}$ | $c_{noise}$ |
|---|---|---|---|---|
| `VPCoefficients` | $1/\alpha$ | $-r$ | $1/\sqrt{\alpha^2+\sigma^2}$ | $999\,t(r)$ |
| `VECoefficients` | $1/\alpha$ | $r$ | $1/\alpha$ | $\ln(r/2)$ |
| `IDDPMCoefficients` | $1/\alpha$ | $-r$ | $1/\sqrt{\alpha^2+\sigma^2}$ | $M - 1 - \arg\min_j \lvert r - u_j\rvert$ |

The noise says nothing about the data where there is no signal. Above the largest ratio
$r_{max}$ of the process $\alpha$ is therefore taken as $\sigma/r_{max}$: the answer is
finite at $\alpha = 0$, and continuous. The error of the network is amplified $r$ times,
and there is no start for a student in it (`Student.from_teacher`).
"""  # noqa: E501

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_positive
from ..process import AbstractProcess, ratio_ends
from ..types import Sample, Scalar
from ._preconditioned import AbstractCoefficients, Coefficients, log_ratio


class VPCoefficients(AbstractCoefficients):
    r"""The network predicts the noise, given the time of its own process.

    $c_{noise} = steps \cdot t$ with $t$ the time of the process at this noise level,
    from `t_min` on. `steps=999` is that of Song et al. 2021 for $t \le 1$, whose
    networks count a thousand steps. In EDM's words the coefficients `VPPrecond`, with
    `process=VP(t_min=1e-5)`.
    """

    steps: float = eqx.field(static=True, default=999.0)

    def __check_init__(self):
        require_positive(steps=self.steps)

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        low, alpha = _with_signal(sigma, alpha, process)
        time = process.time(jnp.maximum(sigma, low * alpha), alpha)
        c_in = 1 / jnp.hypot(sigma, alpha)
        return 1 / alpha, -sigma / alpha, c_in, self.steps * time


class VECoefficients(AbstractCoefficients):
    r"""The network predicts the negative noise, given $\ln(\sigma/2\alpha)$.

    In EDM's words `VEPrecond`, with `process=VE()`.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        _, some = _with_signal(sigma, alpha, process)
        c_noise = log_ratio(sigma, alpha, process, factor=0.5)
        return 1 / some, sigma / some, 1 / some, c_noise


class IDDPMCoefficients(AbstractCoefficients):
    r"""The network predicts the noise, given the number of the nearest of its levels.

    `levels` are $u_0 > u_1 > \ldots > u_M = 0$ as ratios $\sigma/\alpha$, by default
    those of `iddpm_levels()`. $c_{noise}$ is piecewise constant: smooth solvers see
    steps unless they stop at the levels themselves. Of $2C$ output channels the first
    $C$ are the noise and the others a variance, which is not used. In EDM's words
    `iDDPMPrecond` (Nichol & Dhariwal 2021), with the process `EDM(levels[-2],
    levels[0])`.
    """

    levels: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, levels: tuple[float, ...] | None = None):
        levels = iddpm_levels() if levels is None else levels
        self.levels = tuple(float(level) for level in levels)

    def __check_init__(self):
        pairs = zip(self.levels, self.levels[1:], strict=False)
        falling = all(a > b for a, b in pairs) and self.levels[-1:] == (0.0,)
        if len(self.levels) < 3 or not falling or not math.isfinite(self.levels[0]):
            raise ValueError(
                "levels must be finite and decrease to 0, the last of them, got "
                f"{len(self.levels)} from {self.levels[:1]} to {self.levels[-1:]}. "
                "Leave them out, or take the buffer `u` of the checkpoint."
            )

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        _, alpha = _with_signal(sigma, alpha, process)
        _, index = self._nearest(sigma / alpha)
        c_noise = (len(self.levels) - 2 - index).astype(sigma.dtype)
        return 1 / alpha, -sigma / alpha, 1 / jnp.hypot(sigma, alpha), c_noise

    def nearest_level(self, ratio: Array) -> Array:
        table, index = self._nearest(ratio)
        return table[index]

    def _nearest(self, ratio: Array) -> tuple[Array, Array]:
        table = jnp.asarray(self.levels, ratio.dtype)
        return table, jnp.argmin(jnp.abs(ratio[..., None] - table), axis=-1)

    def prediction(self, out: Array, x: Sample) -> Array:
        channels = x.shape[-1] if x.ndim else 0
        doubled = (*x.shape[:-1], 2 * channels)
        return out[..., :channels] if getattr(out, "shape", None) == doubled else out


def iddpm_levels(
    steps: int = 1000, *, least: float = 0.001, offset: float = 0.008
) -> tuple[float, ...]:
    r"""The noise levels of iDDPM's cosine schedule, from the largest to zero.

    $$ u_M = 0, \qquad u_{j-1}^2 = \frac{u_j^2 + 1}{\max(\bar\alpha_{j-1}/\bar\alpha_j,
    \text{least})} - 1, \qquad
    \bar\alpha_j = \sin^2\Bigl(\frac{\pi j}{2 M (1 + \text{offset})}\Bigr) $$

    Nichol & Dhariwal 2021 as in Karras et al. 2022, Table 1.
    """
    signal = [
        math.sin(0.5 * math.pi * j / (steps * (1 + offset))) ** 2
        for j in range(steps + 1)
    ]
    levels = [0.0]
    for j in range(steps, 0, -1):
        ratio = max(signal[j - 1] / signal[j], least)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    return tuple(reversed(levels))


def _with_signal(
    sigma: Scalar, alpha: Scalar, process: AbstractProcess
) -> tuple[Scalar, Scalar]:
    """The least ratio of the process, and `alpha` with its largest at most."""
    low, high = ratio_ends(process, sigma.dtype)
    return low, jnp.maximum(alpha, sigma / high)
