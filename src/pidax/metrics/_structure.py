r"""The structure of a field: what a mean square does not see.

Two fields of the same spectrum may differ in all that matters: whether a material
connects two sides, how long its straight segments are, where the jumps are. The
functions here take one field, or one *phase*: a mask of the points that are of one
material, `field > threshold`. Along an axis that is not periodic, probabilities are
shares of the pairs and segments that lie in the field.

Torquato 2002, "Random heterogeneous materials", chapter 2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._checks import is_traced, require, require_positive, whole_number
from ..types import Field1, Flag, ScalarLike, WholeLike, typed

Phase = (
    Bool[Array | np.ndarray, "*grid"]
    | Float[Array | np.ndarray, "*grid"]
    | Int[Array | np.ndarray, "*grid"]
)  # the last two to be refused with the cure
Sides = bool | Sequence[bool]


@typed
def connects(phase: Phase, axis: int = 0, *, periodic: Sides = False) -> Flag:
    """Whether the phase connects the first and the last slice along `axis`.

    By steps between neighbours along the axes, not along diagonals: as a flow through
    the faces of cells would go. `periodic` says of each axis (or of all) whether its
    ends are neighbours; of `axis` itself this is not used. Cost: as many passes over
    the field as the longest of the shortest ways has cells. It works under `jax.jit`
    and `jax.vmap`.
    """
    phase = _mask(phase)
    axis, periodic = _axis(phase, axis), _sides(phase, periodic)
    wraps = [p and i != axis for i, p in enumerate(periodic)]
    ends = np.zeros((2, phase.shape[axis]), bool)
    ends[0, 0] = ends[1, -1] = True
    shape = [-1 if i == axis else 1 for i in range(phase.ndim)]
    first, last = (phase & end.reshape(shape) for end in ends)
    reached = _fixed_point(lambda r: _dilated(r, wraps, jnp.logical_or) & phase, first)
    return jnp.any(reached & last)


@typed
def components(phase: Phase, *, periodic: Sides = False) -> Int[Array, "*grid"]:
    """The connected parts of the phase: the same number at all points of a part.

    The number is the largest index of its points in the flattened field, plus one; 0
    is outside of the phase. Neighbours are along the axes. The largest number moves to
    neighbours until nothing changes; cost and transformations as of `connects`.
    """
    phase = _mask(phase)
    wraps = _sides(phase, periodic)
    number = jnp.arange(1, phase.size + 1, dtype=jnp.int32).reshape(phase.shape)
    spread = lambda r: jnp.where(phase, _dilated(r, wraps, jnp.maximum), 0)
    return _fixed_point(spread, jnp.where(phase, number, 0))


@typed
def two_point(
    phase: Phase, axis: int = 0, *, periodic: bool = False
) -> Float[Array, " lag"]:
    r"""$S_2(r)$: the probability that two points, `r` steps apart along `axis`, are
    both in the phase.

    For every `r` from 0; up to half of the axis if it is periodic, and to the whole if
    not. $S_2(0)$ is the share of the phase; of independent points with the probability
    $p$ it is $p^2$ at all other `r`. One fast transform along the axis. Counts are
    whole numbers, and so exact.
    """
    phase = _mask(phase)
    axis = _axis(phase, axis)
    n = phase.shape[axis]
    size = n if periodic else 2 * n
    hat = jnp.fft.rfft(phase.astype(float), n=size, axis=axis)
    power = jnp.square(hat.real) + jnp.square(hat.imag)
    counts = jnp.round(jnp.fft.irfft(power, n=size, axis=axis))
    counts = jnp.moveaxis(counts, axis, 0).reshape(size, -1).sum(axis=1)
    lags = np.arange(n // 2 + 1 if periodic else n)
    pairs = (np.full(len(lags), n) if periodic else n - lags) * (phase.size // n)
    return counts[: len(lags)] / jnp.asarray(pairs, counts.dtype)


@typed
def lineal_path(
    phase: Phase, axis: int = 0, *, periodic: bool = False
) -> Float[Array, " length"]:
    r"""$L(k)$: the probability that `k` points in a row along `axis` all are in the
    phase, for `k` from 1 to the length of the axis.

    $L(1)$ is the share of the phase; of independent points with the probability $p$ it
    is $p^k$. Unlike `two_point` it sees whether what lies between is in the phase too.
    """
    phase = _mask(phase)
    axis = _axis(phase, axis)
    rows = jnp.moveaxis(phase, axis, 0).reshape(phase.shape[axis], -1)
    n = len(rows)

    def longer(run: Array, row: Array) -> tuple[Array, Array]:
        run = jnp.where(row, run + 1, 0)
        return run, run

    start = jnp.zeros(rows.shape[1], jnp.int32)
    if periodic:  # what comes before the first point
        start, _ = jax.lax.scan(longer, start, rows)
    _, runs = jax.lax.scan(longer, start, rows)
    # A run of length r ends one segment of each length up to r.
    ends = jnp.zeros(n + 1, jnp.int32).at[jnp.minimum(runs, n).ravel()].add(1)
    counts = jnp.cumsum(ends[::-1])[::-1][1:].astype(float)
    segments = np.full(n, n) if periodic else n - np.arange(n)
    return counts / jnp.asarray(segments * rows.shape[1], counts.dtype)


class Shocks(NamedTuple):
    """Where a field falls steeply, in the order of position, and by how much.

    NaN and 0 after the last one.
    """

    position: Float[Array, " shock"]
    fall: Float[Array, " shock"]


@typed
def shocks(
    u: Field1 | Float[np.ndarray, " x"],
    *,
    extent: tuple[float, float] = (0.0, 1.0),
    periodic: bool = True,
    least: ScalarLike = 0.1,
    steepness: ScalarLike = 2.0,
    most: WholeLike = 8,
) -> Shocks:
    r"""The shocks of a field in one dimension: where it falls by `least` or more.

    A shock is a run of points in which every difference to the next is a fall steeper
    than `steepness` (in units of `u` a length); its `position` is the mean place of
    the fall, and its `fall` the whole of it. A scheme that smears a shock over some
    points does not move it. The points are the centres of the cells of `extent`.

    **Returns:** the positions and falls of the `most` largest. It works under
    `jax.jit` and `jax.vmap`.
    """
    require_positive(least=least)
    u = jnp.asarray(u)
    n, most = u.shape[0], whole_number("most", most)
    low, high = extent
    h = (high - low) / n
    falls = u - jnp.roll(u, -1)
    steep = falls > jnp.asarray(steepness * h, u.dtype)
    if not periodic:
        steep = steep.at[-1].set(False)
    # Begin after a point without a steep fall, so that no run is cut.
    first = jnp.argmin(steep)
    order = (first + jnp.arange(n)) % n
    steep, falls = steep[order], jnp.where(steep[order], falls[order], 0)
    begins = steep & ~jnp.roll(steep, 1)
    run = jnp.where(steep, jnp.cumsum(begins), 0)
    place = jnp.arange(1, n + 1).astype(u.dtype)  # faces above the points
    total = jnp.zeros(n + 1, u.dtype).at[run].add(falls)
    moment = jnp.zeros(n + 1, u.dtype).at[run].add(falls * place)
    some = total >= jnp.asarray(least, u.dtype)
    faces = moment / jnp.where(some, total, 1) + first.astype(u.dtype)
    where = low + h * jnp.mod(faces, n)
    where = jnp.where(some, where, jnp.nan)
    total = jnp.where(some, total, 0)
    largest = jax.lax.top_k(total, min(most, n))[1]
    where, total = where[largest], total[largest]
    rank = jnp.argsort(where)  # NaN last
    return Shocks(where[rank], total[rank])


def _dilated(
    values: Array, wraps: Sequence[bool], join: Callable[[Array, Array], Array]
) -> Array:
    """Each value joined with its neighbours' along all axes."""
    found = values
    for axis, wrap in enumerate(wraps):
        for step in (1, -1):
            moved = jnp.roll(values, step, axis)
            if not wrap:
                end = 0 if step == 1 else -1
                none = jnp.zeros((), values.dtype)
                moved = moved.at[(slice(None),) * axis + (end,)].set(none)
            found = join(found, moved)
    return found


def _fixed_point(step: Callable[[Array], Array], start: Array) -> Array:
    """Repeat until nothing changes."""

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        new = step(carry[0])
        return new, jnp.any(new != carry[0])

    found, _ = jax.lax.while_loop(lambda c: c[1], again, (start, jnp.asarray(True)))
    return found


def _mask(phase: Phase) -> Array:
    """The phase, refused if it is a field and no mask."""
    if phase.dtype != bool:
        got, cure = f"an array of {phase.dtype}", "field > threshold"
        if not is_traced(phase):
            values = np.unique(np.asarray(phase))
            got = f"{got} with {len(values)} different values"
            if len(values) == 2:
                low, high = (float(value) for value in values)
                got = f"{got}, {low:.4g} and {high:.4g}"
                cure = f"field > {(low + high) / 2:.4g} for the larger one"
        raise ValueError(
            "a phase is a mask, true where a field is of one of two materials: "
            f"expected booleans, got {got}. Pass {cure}."
        )
    return jnp.asarray(phase)


def _axis(phase: Array, axis: int) -> int:
    """An axis of the field, counted from the first."""
    require(
        None,
        -phase.ndim <= axis < phase.ndim,
        f"axis must be one of the {phase.ndim} axes of the field, got {axis}. For a "
        "batch of fields, jax.vmap.",
    )
    return axis % phase.ndim


def _sides(phase: Array, periodic: Sides) -> tuple[bool, ...]:
    """Of every axis, whether its ends are neighbours."""
    if isinstance(periodic, bool):
        return (periodic,) * phase.ndim
    require(
        None,
        len(periodic) == phase.ndim,
        f"periodic must be of all axes, or have an entry for each of {phase.ndim}, got "
        f"{tuple(periodic)}. For a batch of fields, jax.vmap.",
    )
    return tuple(periodic)
