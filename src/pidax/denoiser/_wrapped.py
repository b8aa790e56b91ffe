r"""A user's model as a denoiser for every process, whatever the model predicts.

The model was trained with one process. A denoiser is called at noise levels of any
process. The wrapper finds the time of this level in the model's process, rescales the
sample, and converts the prediction into $E[x_0|x]$:

| prediction | $D$ |
|---|---|
| data | the prediction |
| noise $\epsilon$ | $(x - \sigma\epsilon)/\alpha$ |
| score $s$ | $(x + \sigma^2 s)/\alpha$ |
| velocity $v = \dot\alpha x_0 + \dot\sigma\epsilon$ | $(\sigma v - \dot\sigma x)/(\sigma\dot\alpha - \alpha\dot\sigma)$ |
"""  # noqa: E501

import inspect
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import one_sample
from ..process import AbstractProcess
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, Shape, typed
from ._denoiser import AbstractDenoiser, as_arrays

Prediction = Literal["data", "noise", "score", "velocity"]


class Wrapped(AbstractDenoiser):
    """A model that was trained with `process`; made by `from_score` and the other
    wrappers.

    Levels outside the interval of the process are evaluated at its nearest time. Where
    `alpha` is zero, a score or a noise prediction does not determine the data; it is
    then evaluated at `sigma / alpha = 160 sigma_data` (the cap of the time grids). The
    error of such a model is amplified `sigma / alpha` times.
    """

    function: Callable[..., Array]
    process: AbstractProcess
    prediction: Prediction = eqx.field(static=True)
    event: Shape | None = eqx.field(static=True)

    @property
    def shape(self) -> Shape | None:
        return self.event

    @property
    def interval(self) -> tuple[float, float]:
        return self.process.ratio_interval

    def evaluations(self, condition: Condition = None) -> int:
        return 1

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
        process = self.process
        last = jnp.asarray(process.t_max, x.dtype)
        if self.prediction in ("noise", "score"):
            _, most = process.ratio_ends(x.dtype)
            last = jnp.minimum(last, process.time(most))
        t = jnp.clip(process.time(sigma, alpha), process.t_min, last)
        x = x * (process.scale(t) / jnp.hypot(alpha * process.sigma_data, sigma))
        extra = () if condition is None else (condition,)
        return self._data(_checked(self.function(x, t, *extra), x), x, t)

    def _data(self, out: Array, x: Array, t: Array) -> Array:
        sigma, alpha = self.process.level(t)
        if self.prediction == "data":
            return out
        if self.prediction == "noise":
            return (x - sigma * out) / alpha
        if self.prediction == "score":
            return (x + sigma**2 * out) / alpha
        alpha_rate, sigma_rate = self.process.rates(t)
        determinant = sigma * alpha_rate - alpha * sigma_rate
        return (sigma * out - sigma_rate * x) / determinant


class _ChartFree(AbstractDenoiser):
    """A user's own function of (x, sigma, alpha)."""

    function: Callable[..., Array]
    event: Shape | None = eqx.field(static=True)
    ratios: tuple[float, float] = eqx.field(static=True)

    @property
    def shape(self) -> Shape | None:
        return self.event

    @property
    def interval(self) -> tuple[float, float]:
        return self.ratios

    def evaluations(self, condition: Condition = None) -> int:
        return 1

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
        extra = () if condition is None else (condition,)
        return _checked(self.function(x, sigma, alpha, *extra), x)


def _checked(out: Array, x: Array) -> Array:
    return one_sample(
        out, x, "the wrapped model", "Wrap a function that returns just that."
    )


def check_model(who: str, model: Any, process: Any) -> None:
    """A function of `(x, t)` and its process, in this order."""
    if isinstance(model, AbstractProcess) and callable(process):
        raise ValueError(
            f"{who} takes the model first and the process second, got them in the "
            f"other order. Swap them: {who}(model, {type(model).__name__}(...))."
        )
    if inspect.isclass(process) and issubclass(process, AbstractProcess):
        raise ValueError(
            f"process must be an instance of AbstractProcess, got the class "
            f"{process.__name__}. Make one of it: {process.__name__}(...)."
        )
    if not isinstance(process, AbstractProcess):
        raise ValueError(
            f"{who} expects the process in whose (x, t) the model answers, got "
            f"{type(process).__name__}. Pass one such as EDM() or VP()."
        )
    if not callable(model):
        raise ValueError(
            f"{who} wraps a function model(x, t[, condition]), got "
            f"{type(model).__name__}. Pass the function itself."
        )


def from_score(
    score: Callable[..., Array],
    process: AbstractProcess,
    *,
    shape: Shape | None = None,
) -> Wrapped:
    r"""Wrap a model `score(x, t)` or `score(x, t, condition)` of $\nabla\log p_t$.

    `x` is one noised sample of `process`, `t` its time. `shape` is the shape of one
    sample; it is needed only to draw from the prior. One call costs one evaluation.
    """
    check_model("from_score", score, process)
    return Wrapped(score, process, "score", shape)


def from_noise(
    noise: Callable[..., Array],
    process: AbstractProcess,
    *,
    shape: Shape | None = None,
) -> Wrapped:
    r"""Wrap a noise-predicting model `noise(x, t[, condition])` (DDPM's $\epsilon$).

    `x` is one noised sample of `process`, `t` its time. Wrap a model that is indexed by
    integers 0..999 as `from_noise(lambda x, t: model(x, 999 * t), VP())`.
    """
    check_model("from_noise", noise, process)
    return Wrapped(noise, process, "noise", shape)


def from_velocity(
    velocity: Callable[..., Array],
    process: AbstractProcess,
    *,
    shape: Shape | None = None,
) -> Wrapped:
    r"""Wrap a velocity model `velocity(x, t[, condition])`, $dx/dt$ along `process`.

    For `RectifiedFlow` this is a flow-matching model, which predicts $\epsilon - x_0$
    with noise at $t = 1$ (negate it, and use $1 - t$, if yours has data at $t = 1$).
    """
    check_model("from_velocity", velocity, process)
    return Wrapped(velocity, process, "velocity", shape)


def from_function(
    denoise: Callable[..., Array],
    process: AbstractProcess | None = None,
    *,
    shape: Shape | None = None,
    interval: tuple[float, float] = (0.0, float("inf")),
) -> AbstractDenoiser:
    """Wrap a denoiser of your own.

    With a `process` it is called as `denoise(x, t[, condition])` with samples and times
    of this process (for `EDM()`, `t` is sigma: an EDM-style denoiser). Without a
    process it is called as `denoise(x, sigma, alpha[, condition])` at any noise level
    in `interval`.
    """
    if process is None:
        return _ChartFree(denoise, shape, interval)
    check_model("from_function", denoise, process)
    return Wrapped(denoise, process, "data", shape)
