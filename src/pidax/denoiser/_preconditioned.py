r"""A network as a denoiser, with inputs, outputs and targets of size one at every noise.

$$ D(x, \sigma, \alpha) = c_{skip}\, x
     + c_{out}\, F(c_{in}\, x,\ c_{noise},\ \text{condition}). $$

The four coefficients determine what the network $F$ predicts (Karras et al. 2022,
section 5). With $h = \sqrt{(\alpha\,\sigma_{data})^2 + \sigma^2}$, the size of $x$,
and $\varphi = \operatorname{atan2}(\sigma, \alpha\,\sigma_{data})$:

| class | $c_{skip}$ | $c_{out}$ | $c_{in}$ | $c_{noise}$ |
|---|---|---|---|---|
| `EDMCoefficients` | $\alpha\sigma_{data}^2/h^2$ | $\sigma_{data}\,\sigma/h$ | $1/h$ | $\tfrac14\ln(\sigma/\alpha)$ |
| `VelocityCoefficients` | $\alpha\sigma_{data}^2/h^2$ | $-\sigma_{data}\,\sigma/h$ | $1/h$ | $\varphi$ |
| `ConsistencyCoefficients` | see the class | see the class | $1/h$ | $250\ln(\sigma/\alpha)$ |
| `FlowCoefficients` | $1/(\alpha+\sigma)$ | $-\sigma/(\alpha+\sigma)$ | $1/(\alpha+\sigma)$ | $\sigma/(\alpha+\sigma)$ |

No coefficient divides by $\alpha$. They are homogeneous like the denoiser, finite without
signal ($\alpha = 0$), and give $D = x/\alpha$ without noise ($\sigma = 0$).

Networks that predict the noise have, with $r = \sigma/\alpha$ and $x/\alpha$ as in Karras
et al. 2022, Table 1:

| class | $c_{skip}$ | $c_{out}$ | $c_{in}$ | $c_{noise}$ |
|---|---|---|---|---|
| `VPCoefficients` | $1/\alpha$ | $-r$ | $1/\sqrt{\alpha^2+\sigma^2}$ | $999\,t(r)$ |
| `VECoefficients` | $1/\alpha$ | $r$ | $1/\alpha$ | $\ln(r/2)$ |
| `IDDPMCoefficients` | $1/\alpha$ | $-r$ | $1/\sqrt{\alpha^2+\sigma^2}$ | $M - 1 - \arg\min_j \lvert r - u_j\rvert$ |

A predicted noise does not determine the data without signal. Above the largest ratio
$r_{max}$ of the process $\alpha$ is therefore replaced by $\sigma/r_{max}$, so that the
result is finite at $\alpha = 0$ and continuous. The error of the network is amplified
$r$ times; `Student.from_teacher` refuses its weights.
"""  # noqa: E501

import abc
import math
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import (
    as_float,
    call_network,
    check_network,
    classes_of_network,
    one_sample,
    require_positive,
)
from .._table import network_title, samples_line, screen
from ..process import AbstractProcess
from ..types import Condition, Key, Sample, SampleLike, Scalar, ScalarLike, Shape, typed
from ._denoiser import AbstractDenoiser, as_arrays

Coefficients: TypeAlias = tuple[Scalar, Scalar, Scalar, Scalar]


class AbstractCoefficients(eqx.Module):
    """The inputs and the prediction of the network of a `Preconditioned` denoiser."""

    @abc.abstractmethod
    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        """$(c_{skip}, c_{out}, c_{in}, c_{noise})$ at a noise level of any process.

        $c_{skip}$ and $c_{in}$ are homogeneous of degree -1 in `(sigma, alpha)`, the
        other two of degree 0. `process` is the process that the network is trained for.
        """

    def prediction(self, out: Array, x: Sample) -> Array:
        """The part of the network's output that is the prediction; by default all of
        it.
        """
        return out

    def nearest_level(self, ratio: Array) -> Array:
        r"""The ratio $\sigma/\alpha$ of the network's levels that is nearest to this
        ratio.
        """
        return ratio


class EDMCoefficients(AbstractCoefficients):
    r"""The network's target has unit variance, and its error is amplified least.

    $F$ predicts $(x_0 - c_{skip} x)/c_{out}$: nearly the data where noise dominates,
    nearly the negative noise where there is little noise. Karras et al. 2022, Table 1,
    with their $\sigma$ and $x$ replaced by $\sigma/\alpha$ and $x/\alpha$. Use it for
    training from data at any noise, and for the initial weights of a student. `slope`
    is the slope of $c_{noise}$ in $\ln(\sigma/\alpha)$; OpenAI's networks use 250.
    """

    slope: float = eqx.field(static=True, default=0.25, converter=as_float)

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        c_skip, c_out, c_in = _unit_variance(sigma, alpha, process)
        return c_skip, c_out, c_in, self.slope * log_ratio(sigma, alpha, process)


class ConsistencyCoefficients(AbstractCoefficients):
    r"""A consistency function: the identity at the least noise of the process.

    $$ c_{skip} = \frac{\sigma_{data}^2}{(r - r_{min})^2 + \sigma_{data}^2}, \qquad
    c_{out} = \frac{(r - r_{min})\,\sigma_{data}}{\sqrt{r^2 + \sigma_{data}^2}} $$

    with $r = \sigma/\alpha$ and $x/\alpha$; the other two as in `EDMCoefficients` (Song
    et al. 2023, "Consistency models", appendix C). The output is not a posterior mean
    but the end of the trajectory: $f(z, T)$ is a sample, in one evaluation.
    """

    slope: float = eqx.field(static=True, default=250.0, converter=as_float)

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        _, _, c_in = _unit_variance(sigma, alpha, process)
        above = sigma - process.ratio_ends(sigma.dtype)[0] * alpha
        size = process.sigma_data
        c_skip = alpha * size**2 / (above**2 + (alpha * size) ** 2)
        c_noise = self.slope * log_ratio(sigma, alpha, process)
        return c_skip, size * above * c_in, c_in, c_noise


class VelocityCoefficients(AbstractCoefficients):
    r"""The network predicts the velocity $dy/d\varphi$ in the angle.

    $F = \cos\varphi\,\epsilon - \sin\varphi\,x_0/\sigma_{data}$ and, with $y = x/h$, $D
    = \sigma_{data} (\cos\varphi\, y - \sin\varphi\, F)$: Salimans & Ho 2022,
    "Progressive distillation for fast sampling of diffusion models", appendix D, for
    data of any scale. With $c_{noise} = \varphi$ this is TrigFlow (Lu & Song 2024). It
    differs from `EDMCoefficients` in the sign of $F$ and in $c_{noise}$, which is
    bounded and smooth at both ends. Use it if derivatives in time are taken.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        c_skip, c_out, c_in = _unit_variance(sigma, alpha, process)
        angle = jnp.arctan2(sigma, alpha * process.sigma_data)
        return c_skip, -c_out, c_in, angle


class FlowCoefficients(AbstractCoefficients):
    r"""The network predicts $\epsilon - x_0$ on the linear path, with the time of this
    path.

    $x_{lin} = x/(\alpha+\sigma)$, $t = \sigma/(\alpha+\sigma)$ and $D = x_{lin} -
    t\,F(x_{lin}, t)$: the network of flow matching (Lipman et al. 2023; Liu et al.
    2023), for every process. It needs no `sigma_data`; its input and target have unit
    variance only if the data have.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        shrink = 1 / (alpha + sigma)
        t = sigma * shrink
        return shrink, -t, shrink, t


class VPCoefficients(AbstractCoefficients):
    r"""The network predicts the noise, from the time of its process.

    $c_{noise} = steps \cdot t$, where $t$ is the time of the process at this noise
    level. `steps=999` is for the networks of Song et al. 2021, $t \le 1$, which count a
    thousand steps. EDM calls these coefficients `VPPrecond`, with
    `process=VP(t_min=1e-5)`.
    """

    steps: float = eqx.field(static=True, default=999.0, converter=as_float)

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
    r"""The network predicts the negative noise, from $\ln(\sigma/2\alpha)$.

    EDM calls these coefficients `VEPrecond`, with `process=VE()`.
    """

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> Coefficients:
        _, some = _with_signal(sigma, alpha, process)
        c_noise = log_ratio(sigma, alpha, process, factor=0.5)
        return 1 / some, sigma / some, 1 / some, c_noise


class IDDPMCoefficients(AbstractCoefficients):
    r"""The network predicts the noise, from the index of the nearest of its noise
    levels.

    `levels` are $u_0 > u_1 > \ldots > u_M = 0$ as ratios $\sigma/\alpha$, by default
    `iddpm_levels()`. $c_{noise}$ is piecewise constant: an adaptive solver sees jumps,
    unless it steps from level to level. Of $2C$ output channels the first $C$ are the
    noise; the others, a variance, are not used. EDM calls these coefficients
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


class Preconditioned(AbstractDenoiser):
    r"""A trainable network as a denoiser that works with every noise process.

    $D = c_{skip}\, x + c_{out}\, F(c_{in}\, x, c_{noise}, \text{condition})$. One call
    is one evaluation of the network. Train it with `DenoisingScoreMatching` or
    `FlowMatching`.

    **Arguments:**

    - `network`: called as `network(x, c_noise, condition, augment=, key=)` on one
      sample; returns an array of the same shape. A network may leave out the last
      three arguments if it has no use for them. It may compute in a lower precision:
      coefficients and sum are computed in the dtype of the sample.
    - `process`: the process that it is trained for. It gives the noise levels and
      `sigma_data`. The denoiser works with other processes too.
    - `coefficients`: what the network predicts; by default `EDMCoefficients()`.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.
    """

    network: Any
    process: AbstractProcess
    coefficients: AbstractCoefficients
    event: Shape | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        network: Any,
        process: AbstractProcess,
        coefficients: AbstractCoefficients | None = None,
        *,
        shape: Shape | None = None,
    ):
        self.network = check_network(network)
        self.process = process
        self.coefficients = EDMCoefficients() if coefficients is None else coefficients
        self.event = getattr(network, "shape", None) if shape is None else shape

    def __repr__(self) -> str:
        return screen(
            network_title("Preconditioned", self.network),
            process=self.process,
            coefficients=type(self.coefficients).__name__,
            samples=samples_line(self.shape, getattr(self, "classes", None)),
        )

    @property
    def shape(self) -> Shape | None:
        return self.event

    @property
    def classes(self) -> int | None:
        """The number of classes of the network; None without classes."""
        return classes_of_network(self.network)

    @property
    def interval(self) -> tuple[float, float]:
        return self.process.ratio_interval

    def evaluations(self, condition: Condition = None) -> int:
        return 1

    def nearest_level(self, ratio: Array) -> Array:
        r"""The ratio $\sigma/\alpha$ of the network's levels that is nearest to this
        ratio.

        It is the same ratio, except for networks with a table of levels (iDDPM).
        """
        return self.coefficients.nearest_level(ratio)

    @typed
    def __call__(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Sample:
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma, alpha, self.process)
        given = {"augment": augment, "key": key}
        out = call_network(self.network, c_in * x, c_noise, condition, **given)
        cure = "The network's last layer must have as many channels as its input."
        out = self.coefficients.prediction(out, x)
        out = one_sample(out, x, "the network", cure)
        return c_skip * x + c_out * out.astype(x.dtype)


def log_ratio(
    sigma: Scalar, alpha: Scalar, process: AbstractProcess, *, factor: float = 1.0
) -> Scalar:
    r"""$\ln(f \sigma/\alpha)$ on the levels of the process, continued to finite values
    outside.

    Below the least and above the largest ratio it continues along its tangent in
    $\sigma/\alpha$ and in $\alpha/\sigma$, to $\ln r_{min} - 1$ without noise and $\ln
    r_{max} + 1$ without signal. It is increasing, so different levels have different
    values, and it has a derivative at both ends. For a process that ends without signal
    $r_{max} = 160\,\sigma_{data}$, as in the time grids. `factor` is $f$, whose
    logarithm is added without another rounding.
    """
    low, high = process.ratio_ends(sigma.dtype)
    above, below = sigma > high * alpha, sigma < low * alpha
    inside = ~(above | below)
    ratio = jnp.where(inside, sigma, 1.0) / jnp.where(inside, alpha, 1.0)
    noisier = jnp.log(factor * high) + 1 - high * alpha / jnp.where(above, sigma, 1.0)
    cleaner = jnp.log(factor * low) - 1 + sigma / (low * jnp.where(below, alpha, 1.0))
    return jnp.where(above, noisier, jnp.where(below, cleaner, jnp.log(factor * ratio)))


def _unit_variance(
    sigma: Scalar, alpha: Scalar, process: AbstractProcess
) -> tuple[Scalar, Scalar, Scalar]:
    """c_skip, c_out and c_in of Karras et al. 2022, eq. 7, for any process."""
    scale = process.sigma_data
    c_in = 1 / jnp.hypot(alpha * scale, sigma)
    signal, noise = alpha * scale * c_in, sigma * c_in  # cos and sin of the angle
    return scale * signal * c_in, scale * noise, c_in


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
    """The least ratio of the process, and `alpha` limited so that the ratio is at most
    the largest.
    """
    low, high = process.ratio_ends(sigma.dtype)
    return low, jnp.maximum(alpha, sigma / high)
