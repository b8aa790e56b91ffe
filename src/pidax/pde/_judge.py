"""Samples judged one by one: residual, distance from a re-solve, size, spectrum.

All in float64 when called from Python, so that a residual says what the stored fields
are, and not how they were added up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..metrics import radial_spectrum
from ._equation import AbstractEquation, Values, ratio
from ._precision import in_double

PerSample = Float[np.ndarray, " sample"]


class Judged(NamedTuple):
    r"""What is known of each sample of a set.

    - `residual`: $\lVert R \rVert / s$, 0 where $R = 0$ whatever the scale $s$.
    - `resolve`: $\lVert u - S(a) \rVert / \lVert S(a) \rVert$; NaN where `a` cannot be
      solved for. Over several unknowns, the root mean square.
    - `boundary`: the largest distance from what is prescribed.
    - `squares`: the mean square of each unknown.
    - `energy`: the radial spectrum of each unknown that is a field on the grid.
    """

    residual: PerSample
    resolve: PerSample
    boundary: PerSample
    squares: Float[np.ndarray, "sample unknown"]
    energy: dict[str, Float[np.ndarray, "sample shell"]]


def judge(
    equation: AbstractEquation, fields: Values, solved: Values, batch_size: int
) -> Judged:
    """Each sample, beside what the equation's solver makes of its given fields."""
    return Judged(*_by_batch(_judged, equation, (fields, solved), batch_size))


def solve_again(
    equation: AbstractEquation, fields: Values, batch_size: int
) -> tuple[Values, str]:
    """The solver's answers to the given fields; NaN where it has none, and why.

    One sample that cannot be solved for fails its batch, which is then done one by one.
    """
    parts, reason = [], ""
    count = len(jax.tree.leaves(fields)[0])
    for start in range(0, count, batch_size):
        some = jax.tree.map(lambda a: a[start : start + batch_size], fields)  # noqa: B023
        try:
            parts.append(_by_batch(_solved, equation, (some,), batch_size))
        except (ValueError, RuntimeError) as error:
            reason = reason or _first_words(error)
            parts += [_one_or_none(equation, some, i) for i in range(_count(some))]
    found = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    finite = np.all([_finite(leaf) for leaf in jax.tree.leaves(found)], axis=0)
    if not finite.all():
        reason = reason or "the solution is not finite"
    for leaf in jax.tree.leaves(found):
        leaf[~finite] = np.nan
    return found, reason


def spectrum_axes(equation: AbstractEquation) -> dict[str, Any]:
    """The arguments of `radial_spectrum` for fields on the equation's grid."""
    grid = equation.grid
    lengths = [n * h for n, h in zip(grid.shape, grid.spacing, strict=True)]
    return {"lengths": lengths, "periodic": grid.periodic}


def on_grid(equation: AbstractEquation, fields: Values, lead: int = 0) -> list[str]:
    """The unknowns with a value at each point, and of each time if they have some."""
    ndim, shape = equation.grid.ndim, equation.grid.shape
    shapes = {name: np.shape(getattr(fields, name)) for name in equation.unknowns}
    return [n for n, s in shapes.items() if s[lead:][-ndim:] == shape]


@in_double
def _judged(equation: AbstractEquation, fields: Values, solved: Values):
    def one(fields, solved):
        both = [(getattr(fields, n), getattr(solved, n)) for n in equation.unknowns]
        apart = [ratio(_square(u - s), _square(s)) for u, s in both]
        energy = {name: _energy(equation, fields, name) for name in names}
        return (
            equation.relative_residual(fields),
            jnp.sqrt(sum(apart) / len(apart)),
            equation.boundary_error(fields),
            jnp.stack([_square(u) for u, _ in both]),
            energy,
        )

    names = on_grid(equation, fields, lead=1)
    return jax.vmap(one)(fields, solved)


@in_double
def _solved(equation: AbstractEquation, fields: Values) -> Values:
    given = [getattr(fields, name) for name in equation.given]
    return jax.vmap(equation.solve)(*given)


def _energy(equation: AbstractEquation, fields: Values, name: str) -> Array:
    """Shell by shell; the mean over rows of time, if there are any."""
    rows = getattr(fields, name).reshape(-1, *equation.grid.shape)
    axes = spectrum_axes(equation)
    return jax.vmap(lambda u: radial_spectrum(u, **axes).energy)(rows).mean(axis=0)


def _square(u: Array) -> Array:
    return jnp.mean(jnp.square(u))


def _by_batch(fn: Any, equation: AbstractEquation, sets: tuple, size: int) -> Any:
    """`fn(equation, *sets)`, `size` samples at a time, the last batch filled up."""
    count, parts = _count(sets), []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        found = fn(equation, *jax.tree.map(lambda a: np.asarray(a)[rows], sets))  # noqa: B023
        keep = min(size, count - start)
        parts.append(jax.tree.map(lambda a: np.array(a)[:keep], found))  # noqa: B023
    return jax.tree.map(lambda *some: np.concatenate(some), *parts)


def _one_or_none(equation: AbstractEquation, fields: Values, i: int) -> Values:
    one = jax.tree.map(lambda a: np.asarray(a)[i : i + 1], fields)
    try:
        return _by_batch(_solved, equation, (one,), 1)
    except (ValueError, RuntimeError):
        return jax.tree.map(lambda a: np.full(a.shape, np.nan, a.dtype), one)


def _count(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])


def _finite(leaf: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(leaf).reshape(len(leaf), -1), axis=1)


def _first_words(error: Exception) -> str:
    """The message, without the stack that a compiled program puts before it."""
    text = str(error).rsplit("RuntimeError: ", 1)[-1].split("\n-----")[0]
    return " ".join(text.split())[:200] or type(error).__name__
