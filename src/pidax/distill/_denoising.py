r"""Learning a denoiser from data: the regression of $x_0$ on $x_t$.

$$ L = E_{t, x_0, \epsilon}\ \frac1n\, w(t)\,
       |D(\alpha x_0 + \sigma\epsilon,\ \sigma,\ \alpha) - x_0|^2, $$

whose minimiser is $E[x_0 | x_t]$ for any weight $w > 0$ and any distribution of $t$;
$n$ is the number of components. The distribution decides which noise levels are trained
most. Other predictions have the same loss with another weight: flow matching, the
regression of the velocity $\dot\alpha x_0 + \dot\sigma\epsilon$, has $w = (\dot\alpha -
\dot\sigma\alpha/\sigma)^2$, because the noise cancels from the difference.

A sample of the data is `x0`, or `(x0, condition)`.
"""

import abc
import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import classes_of, is_known, require, require_positive
from ..denoiser import AbstractDenoiser
from ..process import AbstractProcess, RectifiedFlow
from ..types import Condition, Key, Sample, Scalar, at_least_float32, typed
from ._objective import AbstractObjective, State, Terms, Update

# Karras et al. 2022, Table 1: ln(sigma) ~ N(-1.2, 1.2^2) where sigma_data = 0.5.
EDM_MEAN, EDM_STD = -1.2 - math.log(0.5), 1.2
_INTERVAL_SLACK = 1e-4  # relative, as for ProbabilityFlow
Weighting = Literal["edm", "data", "noise", "velocity"]


class AbstractTimeLaw(eqx.Module):
    """A probability distribution of the times of any process."""

    @abc.abstractmethod
    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        """One time in `[t_min, t_max]` of this process."""


class LogNormal(AbstractTimeLaw):
    r"""$\ln\bigl((\sigma/\alpha)/\sigma_{data}\bigr) \sim N(mean, std^2)$: EDM's
    choice.

    It is in units of `sigma_data`, so it means the same for data of any scale and every
    process. The defaults are from Karras et al. 2022 for images, in the middle of
    the noise levels. Levels outside the process's interval are moved to its ends.
    """

    mean: float = EDM_MEAN
    std: float = EDM_STD

    def __check_init__(self):
        require_positive(std=self.std)

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        n = self.mean + self.std * jax.random.normal(key)
        t = process.time(process.sigma_data * jnp.exp(n))
        return jnp.clip(t, process.t_min, process.t_max)


class UniformTime(AbstractTimeLaw):
    """Uniform in the process time: the usual choice of flow matching, for
    `RectifiedFlow`.

    For `EDM` and `VE` nearly all times would be noise; use `LogNormal` or
    `UniformAngle` there.
    """

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        return _at_fraction(process, jax.random.uniform(key))


class LogitNormal(AbstractTimeLaw):
    r"""$t = t_{min} + (t_{max} - t_{min}) / (1 + e^{-n})$ with $n \sim N(mean, std^2)$.

    The middle of a linear path is drawn more often than its ends. Esser et al. 2024,
    "Scaling rectified flow transformers for high-resolution image synthesis", section
    3.1, where mean 0 and standard deviation 1 worked best.
    """

    mean: float = 0.0
    std: float = 1.0

    def __check_init__(self):
        require_positive(std=self.std)

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        n = self.mean + self.std * jax.random.normal(key)
        return _at_fraction(process, jax.nn.sigmoid(n))


class UniformAngle(AbstractTimeLaw):
    r"""Uniform in the angle $\varphi$: the same noise levels for every process.

    The default clock uses the same variable, so the network is trained evenly along the
    solver's path.
    """

    def __call__(self, process: AbstractProcess, *, key: Key) -> Scalar:
        low, high = process.angle(process.t_min), process.angle(process.t_max)
        t = process.time_of_angle(low + (high - low) * jax.random.uniform(key))
        return jnp.clip(t, process.t_min, process.t_max)


class DenoisingScoreMatching(AbstractObjective):
    r"""Train a denoiser from data: Vincent 2011; Ho et al. 2020; Karras et al. 2022.

    A sample of the data is `x0`, or the tuple `(x0, condition)`. The model is any
    denoiser: a `Preconditioned` network, or a wrapped model of your own. Costs one
    evaluation a sample.

    **Arguments:**

    - `process`: the noise process.
    - `law`: the distribution of the training time; by default `LogNormal()`, EDM's.
    - `weighting`: the weight $w(t)$,

        | weighting | $w$ | the loss is |
        |---|---|---|
        | `"edm"` | $(r^2 + \sigma_{data}^2)/(r\,\sigma_{data})^2$, $r = \sigma/\alpha$ | the network's own error under `EDMCoefficients` |
        | `"data"` | $1$ | the squared error of $D$ |
        | `"noise"` | $(\alpha/\sigma)^2$ | the squared error of the predicted noise |
        | `"velocity"` | $(\dot\alpha - \dot\sigma\,\alpha/\sigma)^2$ | the squared error of the velocity $dx/dt$ |

    - `label_dropout`: the probability of training a sample without its condition (-1
      for integers, zeros for floats), which `Guided` needs (Ho & Salimans 2022).

    The reported term `denoising_error` is the mean of $|D - x_0|^2/n$, unweighted.
    """  # noqa: E501

    process: AbstractProcess
    law: AbstractTimeLaw
    weighting: Weighting = eqx.field(static=True)
    label_dropout: float

    @typed
    def __init__(
        self,
        process: AbstractProcess,
        *,
        law: AbstractTimeLaw | None = None,
        weighting: str = "edm",
        label_dropout: float | int = 0.0,
    ):
        if weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting must be one of {get_args(Weighting)}, got {weighting!r}."
            )
        self.process = process
        self.law = LogNormal() if law is None else law
        self.weighting = weighting  # type: ignore[assignment]
        self.label_dropout = float(label_dropout)

    def __check_init__(self):
        rate = self.label_dropout
        require(
            None,
            0 <= rate <= 1,
            f"label_dropout is a probability between 0 and 1, got label_dropout={rate}."
            " Pass 0.1, or leave it out for no dropout.",
        )

    def check(self, model: PyTree, data: PyTree) -> None:
        _check_denoiser(model, self.process)
        check_data(model, data, self.label_dropout)

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        loss, _, _, terms = self.denoise(model, sample, key=key)
        return loss, ((), terms)

    def denoise(
        self, model: PyTree, sample: PyTree, *, key: Key
    ) -> tuple[Scalar, Sample, Scalar, Terms]:
        """The loss of one noised sample, the denoised sample, the time, the terms."""
        time_key, noise_key, label_key, model_key = jax.random.split(key, 4)
        x0, condition = sample if isinstance(sample, tuple) else (sample, None)
        x0 = jnp.asarray(x0)
        x0 = x0.astype(at_least_float32(x0.dtype))
        condition = drop_condition(condition, self.label_dropout, key=label_key)
        t = self.law(self.process, key=time_key).astype(x0.dtype)
        x, _ = self.process.perturb(x0, t, key=noise_key)
        sigma, alpha = self.process.level(t)
        out = model(x, sigma, alpha, condition, key=model_key)
        error = out.astype(x0.dtype) - x0
        loss = jnp.mean((self.factor(t) * error) ** 2)
        return loss, out, t, {"denoising_error": jnp.mean(error**2)}

    def factor(self, t: Scalar) -> Scalar:
        r"""$\pm\sqrt{w(t)}$: the factor of the denoiser's error."""
        process = self.process
        sigma, alpha = process.level(t)
        if self.weighting == "edm":
            # sqrt(r² + sd²) / (r sd), times alpha above and below
            return process.scale(t) / (sigma * process.sigma_data)
        if self.weighting == "noise":
            return alpha / sigma
        if self.weighting == "velocity":
            return velocity_factor(process, t)
        return jnp.ones_like(t)


def FlowMatching(
    process: AbstractProcess | None = None,
    *,
    law: AbstractTimeLaw | None = None,
    label_dropout: float = 0.0,
) -> DenoisingScoreMatching:
    """Train a denoiser by its velocity: Lipman et al. 2023; Liu et al. 2023.

    This is `DenoisingScoreMatching(..., weighting="velocity")`, by default on the path
    of `RectifiedFlow()` with `UniformTime()`; `LogitNormal()` draws the middle of the
    path more often. `Preconditioned(network, process, FlowCoefficients())` is a
    flow-matching network in the usual sense, which predicts `eps - x0`. For any other
    process this is the regression of `dx/dt`.
    """
    return DenoisingScoreMatching(
        RectifiedFlow() if process is None else process,
        law=UniformTime() if law is None else law,
        weighting="velocity",
        label_dropout=label_dropout,
    )


def velocity_factor(process: AbstractProcess, t: Scalar) -> Scalar:
    r"""$\dot\alpha - \dot\sigma\,\alpha/\sigma$: the velocity's error divided by the
    error of $D$.

    With $\hat v = \dot\alpha D + \dot\sigma (x - \alpha D)/\sigma$ the noise cancels
    from $\hat v - (\dot\alpha x_0 + \dot\sigma\epsilon)$.
    """
    (sigma, alpha), (alpha_rate, sigma_rate) = process.level(t), process.rates(t)
    return alpha_rate - sigma_rate * alpha / sigma


def drop_condition(condition: Condition, rate: float, *, key: Key) -> Condition:
    """With probability `rate` no class: -1 for integers, zeros for floats."""
    dropped = jax.random.bernoulli(key, rate)

    def drop(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.unsignedinteger):
            leaf = leaf.astype(jnp.int32)  # which has a -1
        none = -1 if jnp.issubdtype(leaf.dtype, jnp.integer) else 0
        return jnp.where(dropped, jnp.full_like(leaf, none), leaf)

    return jax.tree.map(drop, condition)


def _check_denoiser(model: PyTree, process: AbstractProcess) -> None:
    """Check that the model is a denoiser for all noise levels of the process."""
    if not isinstance(model, AbstractDenoiser):
        raise ValueError(
            "this objective trains a denoiser, got a model of type "
            f"{type(model).__name__}. Make one of your network with "
            "Preconditioned(network, process), or wrap your own model with from_noise, "
            "from_velocity, from_score or from_function."
        )
    (low, high), (least, most) = model.interval, process.ratio_interval
    if least < low * (1 - _INTERVAL_SLACK) or most > high * (1 + _INTERVAL_SLACK):
        raise ValueError(
            "the objective trains at noise-to-signal ratios sigma/alpha in "
            f"[{least:.4g}, {most:.4g}], but the model states that it is for "
            f"[{low:.4g}, {high:.4g}]. Make both with the same process."
        )


def check_data(model: PyTree, data: PyTree, label_dropout: float) -> None:
    """Check that data are samples, or (samples, conditions), and fit the model."""
    if data is None:
        raise ValueError(
            "this objective learns from data: expected an array of samples, or the "
            "tuple (samples, conditions), got None. Pass data= to fit."
        )
    pair = isinstance(data, tuple)
    if (pair and len(data) != 2) or not (pair or eqx.is_array_like(data)):
        got = f"a tuple of {len(data)}" if pair else type(data).__name__
        raise ValueError(
            "data must be an array of samples, the sample being its first axis, or the "
            f"tuple (samples, conditions), got {got}. Stack your samples into one "
            "array."
        )
    samples, condition = data if pair else (data, None)
    count = _check_samples(samples, getattr(model, "shape", None))
    if condition is not None:
        _check_condition(condition, count, classes_of(model))
    elif label_dropout > 0:
        raise ValueError(
            f"label_dropout={label_dropout} drops conditions, but the data have none. "
            "Pass the data as (samples, conditions), or leave label_dropout out."
        )


def _check_samples(samples: Any, shape: tuple[int, ...] | None) -> int:
    floating = jnp.issubdtype(getattr(samples, "dtype", int), jnp.floating)
    if jnp.ndim(samples) == 0 or not floating:
        raise ValueError(
            "samples must be a floating-point array with the sample as its first "
            f"axis, got {_describe(samples)}. Scale images from 0..255 to [-1, 1]."
        )
    if shape is not None and samples.shape[1:] != shape:
        raise ValueError(
            f"the model's samples have the shape {shape}, so data must have the shape "
            f"{('samples', *shape)}, got {samples.shape}. Reshape the data, or make "
            "the network for their shape."
        )
    return samples.shape[0]


def _check_condition(condition: Condition, count: int, classes: Any) -> None:
    for leaf in jax.tree.leaves(condition):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != count:
            raise ValueError(
                f"each of the {count} samples needs its condition: expected arrays "
                f"with {count} as their first axis, got {_describe(leaf)}. Repeat a "
                "shared condition with jnp.broadcast_to."
            )
    if not is_known(classes):
        return
    if classes is None:
        raise ValueError(
            "the data come with conditions, but the model knows no classes. Make its "
            "network with classes=, or pass the samples alone."
        )
    leaves = jax.tree.leaves(condition)
    if len(leaves) == 1:
        _check_labels(leaves[0], classes)


def _check_labels(labels: Any, classes: int) -> None:
    integers = jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1
    floating = jnp.issubdtype(labels.dtype, jnp.floating)
    vectors = floating and labels.shape[1:] == (classes,)
    if not (integers or vectors):
        raise ValueError(
            f"the conditions of a model with {classes} classes are integer labels, one "
            f"per sample, or float vectors of length {classes}, got "
            f"{_describe(labels)}. Cast labels with labels.astype(int), one-hot "
            "vectors with astype(float)."
        )
    if integers and labels.size:
        least, most = int(labels.min()), int(labels.max())
        if least < -1 or most >= classes:
            raise ValueError(
                f"labels must run from 0 to {classes - 1}, or be -1 for no class, got "
                f"labels from {least} to {most}. Count classes from 0, or make the "
                f"network with classes={most + 1}."
            )


def _describe(value: Any) -> str:
    if not hasattr(value, "shape"):
        return type(value).__name__
    return f"the shape {value.shape} and dtype {value.dtype}"


def _at_fraction(process: AbstractProcess, fraction: Scalar) -> Scalar:
    return process.t_min + (process.t_max - process.t_min) * fraction
