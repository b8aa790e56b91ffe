r"""Data on their way into a loss: checked, noised, their labels dropped.

A sample is `x0`, or `(x0, condition)`. Regressions on data differ in one factor of
the denoiser's error at $x_t = \alpha x_0 + \sigma\epsilon$, from which all of them are
computed here.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import classes_of, is_known, require
from ..denoiser import AbstractDenoiser
from ..process import AbstractProcess
from ..types import Condition, Key, Sample, Scalar, at_least_float32
from ._laws import AbstractTimeLaw

_INTERVAL_SLACK = 1e-4  # relative, as for ProbabilityFlow


def mean_square(x: Sample, reference: Sample) -> Scalar:
    """The mean over components of the squared difference, in at least float32."""
    dtype = at_least_float32(x.dtype)
    return jnp.mean((x.astype(dtype) - reference.astype(dtype)) ** 2)


def denoising_loss(
    model: AbstractDenoiser,
    process: AbstractProcess,
    law: AbstractTimeLaw,
    factor: Callable[[AbstractProcess, Scalar], Scalar],
    sample: PyTree,
    label_dropout: float,
    key: Key,
) -> tuple[Scalar, tuple[tuple[()], dict[str, Scalar]]]:
    r"""The mean over components of $(f(t)\,(D(x_t) - x_0))^2$, and $|D - x_0|^2$."""
    loss, _, _, terms = denoised(
        model, process, law, factor, sample, label_dropout, key
    )
    return loss, ((), terms)


def denoised(
    model: AbstractDenoiser,
    process: AbstractProcess,
    law: AbstractTimeLaw,
    factor: Callable[[AbstractProcess, Scalar], Scalar],
    sample: PyTree,
    label_dropout: float,
    key: Key,
) -> tuple[Scalar, Sample, Scalar, dict[str, Scalar]]:
    """The loss of one noised sample, the denoiser's answer, the time, the terms."""
    time_key, noise_key, label_key, model_key = jax.random.split(key, 4)
    x0, condition = sample if isinstance(sample, tuple) else (sample, None)
    x0 = jnp.asarray(x0)
    x0 = x0.astype(at_least_float32(x0.dtype))
    condition = drop_condition(condition, label_dropout, key=label_key)
    t = law(process, key=time_key).astype(x0.dtype)
    x, _ = process.perturb(x0, t, key=noise_key)
    sigma, alpha = process.level(t)
    out = model(x, sigma, alpha, condition, key=model_key)
    error = out.astype(x0.dtype) - x0
    loss = jnp.mean((factor(process, t) * error) ** 2)
    return loss, out, t, {"denoising_error": jnp.mean(error**2)}


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


def check_rate(label_dropout: float) -> None:
    """It is a probability."""
    require(
        None,
        0 <= label_dropout <= 1,
        "label_dropout is a probability between 0 and 1, got "
        f"label_dropout={label_dropout}.",
    )


def check_denoiser(model: PyTree, process: AbstractProcess) -> None:
    """The model is a denoiser, for all the levels of the process."""
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
    """Data are samples, or (samples, conditions), and fit the model."""
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
