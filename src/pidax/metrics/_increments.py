r"""Increments: the differences of a field over a distance.

    δ(x) = u(x + r) - u(x),        S_p(r) = <δ^p>,        moments about zero

over all points, samples and rows together. A spectrum fixes the second moment only. The
skewness <δ³>/<δ²>^{3/2} is zero and the kurtosis <δ⁴>/<δ²>² is 3 for every Gaussian
field, whatever its spectrum: so these numbers see what spectra, means and pointwise
errors cannot, the shape of slopes, fronts and rare events (Kolmogorov 1941; Frisch
1995, *Turbulence*).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, whole_number
from ..types import Scalar, typed
from ._sets import unit

# Samples, rows and axes of fields, in any number: averages are over all of them.
FieldsLike = Float[Array | np.ndarray, "..."]


@typed
def increments(
    fields: FieldsLike, *, lag: int = 1, axis: int = -1, periodic: bool = True
) -> Float[Array, "..."]:
    r"""$u(x + r) - u(x)$ along one axis, $r$ being `lag` spacings.

    Of the shape of `fields`; along an axis that is not periodic `lag` points shorter.
    """
    _check_axis(fields.shape, axis, lag)
    return _increments(jnp.asarray(fields), int(lag), axis, periodic)


@typed
def increment_skewness(
    fields: FieldsLike, *, lag: int = 1, axis: int = -1, periodic: bool = True
) -> Scalar:
    r"""$\langle\delta^3\rangle / \langle\delta^2\rangle^{3/2}$ of the `increments`.

    Zero for a Gaussian field, and for every field that looks the same from both sides.
    NaN for fields without increments.
    """
    delta = increments(fields, lag=lag, axis=axis, periodic=periodic)
    return _moment_ratio(delta, 3)


@typed
def increment_kurtosis(
    fields: FieldsLike, *, lag: int = 1, axis: int = -1, periodic: bool = True
) -> Scalar:
    r"""$\langle\delta^4\rangle / \langle\delta^2\rangle^2$ of the `increments`.

    3 for a Gaussian field; more where a few steep places make the slopes, less for
    fields of few waves (3/2 for one). NaN for fields without increments.
    """
    delta = increments(fields, lag=lag, axis=axis, periodic=periodic)
    return _moment_ratio(delta, 4)


@typed
def structure_functions(
    fields: FieldsLike,
    *,
    order: int = 2,
    lags: Sequence[int] | None = None,
    axis: int = -1,
    periodic: bool = True,
    absolute: bool = False,
) -> Float[Array, " lag"]:
    r"""$S_p(r) = \langle\delta_r^p\rangle$ for each lag: moments of increments.

    $S_2(r) = 2(C(0) - C(r))$ with $C$ the covariance, so it says what the spectrum
    says; higher orders say more.

    **Arguments:**

    - `order`: $p$.
    - `lags`: in spacings; by default from 1 to half the points.
    - `absolute`: $\langle|\delta|^p\rangle$, of odd orders.

    **Cost:** a pass over the fields for each lag.
    """
    order = whole_number("order", order)
    _check_axis(fields.shape, axis, 1)
    chosen = range(1, fields.shape[axis] // 2 + 1) if lags is None else lags
    for lag in chosen:
        _check_axis(fields.shape, axis, lag)
    each = tuple(int(lag) for lag in chosen)
    return _moments(jnp.asarray(fields), order, each, axis, periodic, absolute)


@partial(jax.jit, static_argnames=("lag", "axis", "periodic"))
def _increments(u: Array, lag: int, axis: int, periodic: bool) -> Array:
    if periodic:
        return jnp.roll(u, -lag, axis) - u
    n = u.shape[axis]
    later = jax.lax.slice_in_dim(u, lag, n, axis=axis)
    return later - jax.lax.slice_in_dim(u, 0, n - lag, axis=axis)


@partial(jax.jit, static_argnames=("order", "lags", "axis", "periodic", "absolute"))
def _moments(
    u: Array,
    order: int,
    lags: tuple[int, ...],
    axis: int,
    periodic: bool,
    absolute: bool,
) -> Float[Array, " lag"]:
    found = []
    for lag in lags:
        delta = _increments(u, lag, axis, periodic)
        found.append(jnp.mean((jnp.abs(delta) if absolute else delta) ** order))
    return jnp.stack(found)


@partial(jax.jit, static_argnames="order")
def _moment_ratio(delta: Array, order: int) -> Scalar:
    delta = delta / unit(delta)  # so that no power overflows
    square = jnp.mean(jnp.square(delta))
    return jnp.mean(delta**order) / square ** (order / 2)


def _check_axis(shape: Sequence[int], axis: int, lag: int) -> None:
    inside = -len(shape) <= axis < len(shape)
    points = shape[axis] if inside else 0
    whole_number("lag", lag)
    require(
        None,
        0 < lag < points,
        f"a lag must be shorter than the axis it is along, 1 <= lag < points, got "
        f"lag={lag} on axis {axis} of fields of shape {tuple(shape)}. Give the axis of "
        "space, axis=-1 for the last, and lags of at most half its points.",
    )
