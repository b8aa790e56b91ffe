r"""The quality of generated fields: physics, distribution, and simple baselines.

    relative residual ‖R‖/s,   re-solve error ‖u - S(a)‖/‖S(a)‖,   boundary error,
    amplitude ratio,           MMSE, SMSE, sliced Wasserstein,     radial spectrum

with S the equation's own solver. No single number is enough: zero fields have no
residual in a linear equation, a residual does not see a wrong distribution, and a
distance of distributions does not see wrong physics. So the report always adds the rows

    held-out data             the score of perfect samples, for this number of them
    u = 0                     the given fields of the samples, and a zero solution
    generate a, then solve    the same given fields, with the solver's solution
"""

import dataclasses
import json
import os
import textwrap
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._batches import batch_length, batch_rows
from .._checks import require
from .._files import write_whole
from .._progress import advance, progress_bar
from .._table import number, row
from ..metrics import (
    Interval,
    bootstrap,
    directions,
    radial_spectrum,
    wasserstein_1d,
)
from ..types import Key
from ._dataset import Dataset, channel_names
from ._equation import AbstractEquation, Values, ratio
from ._float64 import in_double
from ._normaliser import Normaliser

COLUMNS = {
    "residual": "residual",
    "resolve": "re-solve",
    "boundary": "boundary",
    "amplitude": "amplitude",
    "mean_error": "MMSE",
    "spread_error": "SMSE",
    "sliced_wasserstein": "sliced W",
}
WIDTHS = {"amplitude": 10}  # of its column in the table; all others have 9
HELD_OUT, ZERO, SOLVED = "held-out data", "u = 0", "generate a, then solve"
PerSample: TypeAlias = Float[np.ndarray, " sample"]
Stacks: TypeAlias = Float[np.ndarray, "sample *grid channel"]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One set of fields, and its scores.

    Numbers are `(estimate, low, high)`, with the ends of the bootstrap interval; NaN if
    no sample is left.

    - `count`: the number of samples; `unsolved` of them have given fields that the
      solver refuses, for the `reason`.
    - `residual`, `resolve`, `boundary`: medians over the samples.
    - `amplitude`: the root mean square of the solution, divided by the reference's.
    - `mean_error`, `spread_error`: MMSE and SMSE; `sliced_wasserstein`: of order 2. All
      three in units of the reference's standard deviation of each channel.
    - `by_channel`: MMSE and SMSE of each channel, in the same units.
    - `per_sample`: residual, re-solve and boundary error of every sample.
    - `spectra`: the mean radial spectrum of each unknown, and its interval.
    """

    label: str
    count: int
    unsolved: int
    reason: str
    residual: Interval | None
    resolve: Interval | None
    boundary: Interval | None
    amplitude: Interval | None
    mean_error: Interval | None
    spread_error: Interval | None
    sliced_wasserstein: Interval | None
    by_channel: dict[str, dict[str, float]]
    per_sample: dict[str, PerSample]
    spectra: dict[str, Interval]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The result of `report`. `print(report)` is a table, `report.save(path)` is JSON.

    - `rows`: by label, such as `report["samples"]`.
    - `wavenumbers`: of the shells of all spectra, in radians per unit of length.
    - `reference_spectra`: of the part of the reference that all rows are compared with.
    - `settings`: equation, sizes, options and versions, in words.
    """

    rows: Mapping[str, Row]
    wavenumbers: Float[np.ndarray, " shell"]
    reference_spectra: Mapping[str, Interval]
    settings: dict[str, Any]

    def __getitem__(self, label: str) -> Row:
        if label not in self.rows:
            raise KeyError(f"{label!r} is not one of the rows {list(self.rows)}.")
        return self.rows[label]

    def as_dict(self) -> dict[str, Any]:
        """All numbers except values of single samples, as in the JSON file."""
        return {
            "settings": self.settings,
            "rows": {label: _as_json(row) for label, row in self.rows.items()},
            "wavenumbers": self.wavenumbers.tolist(),
            "reference_spectra": _spectra(self.reference_spectra),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `as_dict()` to a JSON file."""
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(path, [text.encode()], "report.save")

    def __str__(self) -> str:
        return _table(self.as_dict())


class Judged(NamedTuple):
    r"""The scores of each sample of a set.

    - `residual`: $\lVert R \rVert / s$, 0 where $R = 0$ for any scale $s$.
    - `resolve`: $\lVert u - S(a) \rVert / \lVert S(a) \rVert$; NaN where `a` cannot be
      solved for. Over several unknowns, the root mean square.
    - `boundary`: the largest deviation from prescribed values.
    - `squares`: the mean square of each unknown.
    - `energy`: the radial spectrum of each unknown that is a field on the grid.
    """

    residual: PerSample
    resolve: PerSample
    boundary: PerSample
    squares: Float[np.ndarray, "sample unknown"]
    energy: dict[str, Float[np.ndarray, "sample shell"]]


def report(
    equation: AbstractEquation[Any],
    samples: Any,
    reference: Any,
    *,
    key: Key,
    resamples: int = 200,
    level: float = 0.95,
    projections: int = 128,
    batch_size: int = 64,
    progress: bool = True,
) -> Report:
    """Compare generated fields with the equation and with held-out fields.

    **Arguments:**

    - `samples`: fields of `equation` in physical units (`normaliser.restore`), the
      samples first: its `Fields`, one stacked array or a `Dataset`; or several such
      sets in a dictionary by name.
    - `reference`: true samples that no model was trained on, in any of these forms.
      The last ones, as many as there are samples but at most half, make the row
      "held-out data". Every row is compared with the rest.
    - `key`: of the directions of the sliced Wasserstein distance and the resamples.
    - `resamples`, `level`: of the bootstrap; `projections`: of the distance.
    - `batch_size`: samples that are solved together; the last batch is filled up, so
      that another number of samples does not compile the solver anew.
    - `progress`: show a bar of the rows, which says "compiling" until the first is
      done.

    **Returns:** a `Report`; `print` it, `save` it.

    **Cost:** every sample is solved for once, in float64. A given field that cannot be
    solved for (a coefficient that is not positive) is counted, and left out of scores
    that need a solution; its batch is then solved one by one.
    """
    with jax.enable_x64(True):
        sets = samples if isinstance(samples, Mapping) else {"samples": samples}
        named = {name: _fields(equation, some, name) for name, some in sets.items()}
        require(
            None,
            bool(named) and not {HELD_OUT, ZERO, SOLVED} & set(named),
            f"samples must be a set or sets by name, none of them {HELD_OUT!r}, "
            f"{ZERO!r} or {SOLVED!r}, got {list(named)}. Call it otherwise.",
        )
        truth = _fields(equation, reference, "reference")
        total, most = _count(truth), max(map(_count, named.values()))
        require(
            None,
            total >= 4,
            f"the reference must hold at least 4 samples, half of them held out, got "
            f"{total}. Generate some: px.pde.draw(equation, 256, key=key).",
        )
        held = min(most, total // 2)
        with progress_bar(3 * len(named) + 1, "report", "row", progress) as bar:
            table = _Rows(
                equation,
                _take(truth, slice(0, total - held)),
                key,
                dict(resamples=resamples, level=level),
                projections,
                batch_length(max(most, held), batch_size),
                bar,
            )
            rows = table.of(named, _take(truth, slice(total - held, total)))
        settings = {
            "equation": type(equation).__name__,
            "kind": equation.kind,
            "fields": list(equation.names),
            "given": list(equation.given),
            "grid": repr(equation.grid),
            "compared": total - held,
            "held_out": held,
            "resamples": resamples,
            "level": level,
            "projections": projections,
            "versions": {name: version(name) for name in ("pidax", "jax")},
        }
        return Report(rows, table.wavenumbers, table.spectra(table.judged), settings)


class _Rows:
    """Makes rows that are all compared with one set of true fields."""

    def __init__(
        self,
        equation: AbstractEquation[Any],
        truth: Values,
        key: Key,
        options: dict[str, Any],
        projections: int,
        batch_size: int,
        bar: Any,
    ):
        self.equation, self.batch_size, self.bar = equation, batch_size, bar
        self.laws, self.physics = jax.random.split(key)
        self.options, self.projections = options, projections
        stacked = _stacked(equation, truth)
        self.channels = channel_names(equation, stacked.shape[-1])
        self.normaliser = Normaliser.fit(stacked, channels=len(self.channels))
        self.reference = np.asarray(self.normaliser.normalise(stacked))
        self.judged = _judge(equation, truth, truth, batch_size)
        shells = radial_spectrum(np.zeros(equation.grid.shape), **_axes(equation))
        self.wavenumbers = np.asarray(shells.wavenumber)

    def of(self, named: Mapping[str, Values], held: Values) -> dict[str, Row]:
        """The sets, the held-out data, and the two baselines of each set."""
        again = lambda fields: _solve_again(self.equation, fields, self.batch_size)
        found = {name: again(fields) for name, fields in named.items()}
        several = len(named) > 1
        rows = [self._row(n, f, *found[n]) for n, f in named.items()]
        solved, reason = again(held)
        if reason:
            raise ValueError(
                "the reference must be fields that the equation's solver can solve "
                f"for, got {reason!r}. Draw it from the equation: px.pde.draw."
            )
        rows.append(self._row(HELD_OUT, held, solved, ""))
        for name, fields in named.items():
            label = f"{ZERO}, of {name}" if several else ZERO
            zero = jax.vmap(self.equation.without)(jax.tree.map(jnp.asarray, fields))
            rows.append(self._row(label, zero, *found[name]))
        for name in named:
            label = f"{SOLVED}, of {name}" if several else SOLVED
            solved, reason = found[name]
            rows.append(self._row(label, solved, solved, reason))
        return {row.label: row for row in rows}

    def spectra(self, judged: Judged) -> dict[str, Interval]:
        """The mean energy of each shell, with its interval."""
        options = {"key": self.physics, **self.options}
        found = {n: bootstrap(_mean, e, **options) for n, e in judged.energy.items()}
        # NumPy arrays: a report is data, and outlives a precision.
        return jax.tree.map(np.asarray, found)

    def _row(self, label: str, fields: Values, solved: Values, reason: str) -> Row:
        """One row; samples with non-finite fields or without a solution
        are left out.
        """
        count = _count(fields)
        unsolved = int((~_finite_rows(solved)).sum())
        here = _finite_rows(fields)
        physics = {"key": self.physics, **self.options}
        numbers: dict[str, Any] = dict.fromkeys(COLUMNS)
        by_channel, per_sample, spectra = {}, {}, {}
        if here.sum() >= 2:
            fields, solved = _take(fields, here), _take(solved, here)
            judged = _judge(self.equation, fields, solved, self.batch_size)
            for name in ("residual", "resolve", "boundary"):
                values = per_sample[name] = getattr(judged, name)
                if np.isfinite(values).sum() >= 2:
                    numbers[name] = _median(values, **physics)
            true = self.judged.squares
            numbers["amplitude"] = _amplitude(judged.squares, true, **physics)
            by_channel = self._compare(fields, numbers)
            spectra = self.spectra(judged)
        advance(self.bar, 1)
        some = {n: _not_negative(x) for n, x in numbers.items()}
        return Row(
            label, count, unsolved, reason, **some, by_channel=by_channel,
            per_sample=per_sample, spectra=spectra,
        )  # fmt: skip

    def _compare(self, fields: Values, numbers: dict[str, Any]) -> dict[str, Any]:
        """The distances of the laws, into `numbers`; what is by channel is returned."""
        stacked = self.normaliser.normalise(_stacked(self.equation, fields))
        x, y = np.asarray(stacked), self.reference
        options = {"key": self.laws, **self.options}
        mean, spread, parts = _mean_and_spread(x, y, **options)
        numbers["mean_error"], numbers["spread_error"] = mean, spread
        numbers["sliced_wasserstein"] = _transport(
            x, y, projections=self.projections, **options
        )
        return {
            name: {"mean_error": float(m), "spread_error": float(s)}
            for name, m, s in zip(self.channels, *parts, strict=True)
        }


def _fields(equation: AbstractEquation, some: Any, name: str) -> Values:
    """A batch of finite fields by name, from any form in which they come."""
    if isinstance(some, Dataset):
        some = some[:]
    if isinstance(some, tuple | list) and not hasattr(some, "_fields"):
        equation.check_fields(some)
    if isinstance(some, tuple) and hasattr(some, "_fields"):
        require(
            None,
            some._fields == equation.names,  # type: ignore[attr-defined]
            f"{name} must have the fields {', '.join(equation.names)}, got "
            f"{', '.join(some._fields)}. Pass fields of this equation.",  # type: ignore[attr-defined]
        )
        found = equation.Fields(*map(np.asarray, some))
    else:
        found = jax.vmap(equation.unstack)(jnp.asarray(some))
        found = jax.tree.map(np.asarray, found)
    bad = int((~_finite_rows(found)).sum())
    require(
        None,
        _count(found) >= 2 and not bad,
        f"{name} must hold at least two samples, all finite, got {_count(found)} with "
        f"NaN or infinite entries in {bad}. Leave failed samples out, and say how many "
        "they were.",
    )
    return found


def _stacked(equation: AbstractEquation, fields: Values) -> np.ndarray:
    default = jnp.zeros(()).dtype
    wide = jax.tree.map(lambda a: jnp.asarray(a, default), fields)
    return np.asarray(jax.vmap(equation.stack)(wide))


def _take(fields: Values, rows: Any) -> Values:
    return jax.tree.map(lambda a: np.asarray(a)[rows], fields)


def _finite_rows(fields: Values) -> np.ndarray:
    """Which samples are finite in all their fields."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(fields)]
    rows = [np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in leaves]
    return np.logical_and.reduce(rows)


def _count(fields: Values) -> int:
    return len(jax.tree.leaves(fields)[0])


def _mean(energy: jax.Array) -> jax.Array:
    return energy.mean(axis=0)


def _not_negative(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    estimate, low, high = map(float, interval)
    return Interval(estimate, max(low, 0.0), max(high, 0.0))  # type: ignore[arg-type]


def _judge(
    equation: AbstractEquation, fields: Values, solved: Values, batch_size: int
) -> Judged:
    """The scores of each sample, with the solver's solution for its given fields."""
    return Judged(*_by_batch(_judged, equation, (fields, solved), batch_size))


def _solve_again(
    equation: AbstractEquation, fields: Values, batch_size: int
) -> tuple[Values, str]:
    """The solver's answers to the given fields; NaN where it has none, and why.

    One sample that cannot be solved for fails its batch, which is then done one by one.
    """
    parts, reason = [], ""
    for start in range(0, _count(fields), batch_size):
        some = jax.tree.map(lambda a: a[start : start + batch_size], fields)  # noqa: B023
        try:
            parts.append(_by_batch(_solved, equation, (some,), batch_size))
        except (ValueError, RuntimeError) as error:
            reason = reason or _first_words(error)
            parts += [_one_or_none(equation, some, i) for i in range(_count(some))]
    found = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    finite = _finite_rows(found)
    if not finite.all():
        reason = reason or "the solution is not finite"
    for leaf in jax.tree.leaves(found):
        leaf[~finite] = np.nan
    return found, reason


def _axes(equation: AbstractEquation) -> dict[str, Any]:
    """The arguments of `radial_spectrum` for fields on the equation's grid."""
    grid = equation.grid
    lengths = [n * h for n, h in zip(grid.shape, grid.spacing, strict=True)]
    return {"lengths": lengths, "periodic": grid.periodic}


@in_double
def _judged(
    equation: AbstractEquation, fields: Values, solved: Values
) -> tuple[Any, ...]:
    def one(fields: Values, solved: Values) -> tuple[Any, ...]:
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

    # The unknowns with a value at each point, and of each time if they have some.
    grid = equation.grid
    shapes = {n: np.shape(getattr(fields, n))[1:] for n in equation.unknowns}
    names = [n for n, shape in shapes.items() if shape[-grid.ndim :] == grid.shape]
    return jax.vmap(one)(fields, solved)


@in_double
def _solved(equation: AbstractEquation, fields: Values) -> Values:
    given = [getattr(fields, name) for name in equation.given]
    return jax.vmap(equation.solve)(*given)


def _energy(equation: AbstractEquation, fields: Values, name: str) -> Array:
    """Shell by shell; the mean over rows of time, if there are any."""
    rows = getattr(fields, name).reshape(-1, *equation.grid.shape)
    axes = _axes(equation)
    return jax.vmap(lambda u: radial_spectrum(u, **axes).energy)(rows).mean(axis=0)


def _square(u: Array) -> Array:
    return jnp.mean(jnp.square(u))


def _by_batch(fn: Any, equation: AbstractEquation, sets: tuple, size: int) -> Any:
    """`fn(equation, *sets)`, `size` samples at a time, the last batch filled up."""
    count, parts = _count(sets), []
    for rows in batch_rows(count, size):
        found = fn(equation, *jax.tree.map(lambda a: np.asarray(a)[rows], sets))  # noqa: B023
        parts.append(jax.tree.map(np.array, found))
    return jax.tree.map(lambda *some: np.concatenate(some)[:count], *parts)


def _one_or_none(equation: AbstractEquation, fields: Values, i: int) -> Values:
    one = jax.tree.map(lambda a: np.asarray(a)[i : i + 1], fields)
    try:
        return _by_batch(_solved, equation, (one,), 1)
    except (ValueError, RuntimeError):
        return jax.tree.map(lambda a: np.full(a.shape, np.nan, a.dtype), one)


def _first_words(error: Exception) -> str:
    """The message, without the stack that a compiled program puts before it."""
    text = str(error).rsplit("RuntimeError: ", 1)[-1].split("\n-----")[0]
    return " ".join(text.split())[:200] or type(error).__name__


def _amplitude(
    squares: Float[np.ndarray, "sample unknown"],
    reference: Float[np.ndarray, "reference unknown"],
    **options: Any,
) -> Interval:
    """The root mean square of the unknowns in units of the reference's."""
    size = reference.mean(axis=0)
    unit = np.where(size > 0, size, 1.0)
    return bootstrap(_relative_size, squares / unit, reference / unit, **options)


def _median(values: Float[np.ndarray, " sample"], **options: Any) -> Interval:
    """The median of the finite values."""
    return bootstrap(jnp.median, values[np.isfinite(values)], **options)


def _mean_and_spread(
    samples: Stacks, reference: Stacks, *, key: Key, resamples: int, level: float
) -> tuple[Interval, Interval, Float[np.ndarray, "2 channel"]]:
    """MMSE and SMSE over all channels, and both of each channel."""
    channels = samples.shape[-1]
    centre = reference.mean(axis=0)
    x, y = (jnp.asarray((s - centre).reshape(len(s), -1)) for s in (samples, reference))
    found, values = _moments(x, y, key, resamples, channels)
    total, spread = found.mean(axis=1), values.mean(axis=2)
    both = [Interval.of(total[i], spread[:, i], level) for i in range(2)]
    return both[0], both[1], np.asarray(found)


def _transport(
    samples: Stacks, reference: Stacks, *, projections: int, key: Key, **options: Any
) -> Interval:
    """The sliced Wasserstein distance of order 2; each direction is drawn once."""
    x, y = (jnp.asarray(s.reshape(len(s), -1)) for s in (samples, reference))
    first, second = jax.random.split(key)
    thetas = directions(first, projections, x.shape[1], x.dtype)
    project = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    u, v = project(x, thetas.T), project(y, thetas.T)
    return bootstrap(_sliced, u, v, key=second, **options)


def _relative_size(squares: Array, reference: Array) -> Array:
    return jnp.sqrt(jnp.mean(squares.mean(axis=0)) / jnp.mean(reference.mean(axis=0)))


def _sliced(u: Array, v: Array) -> Array:
    lines = jax.vmap(wasserstein_1d, in_axes=(1, 1))(u, v)
    return jnp.sqrt(jnp.mean(jnp.square(lines)))


@partial(jax.jit, static_argnames=("resamples", "channels"))
def _moments(
    x: Float[Array, "sample d"],
    y: Float[Array, "reference d"],
    key: Key,
    resamples: int,
    channels: int,
) -> tuple[Float[Array, "2 channel"], Float[Array, "resample 2 channel"]]:
    """The mean squares by channel, of the sets and of their resamples."""

    def errors(a: Array, b: Array) -> Array:
        """Weighted sums of the rows: means and mean squares, by two products."""
        product = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
        mean, other = product(a, x), product(b, y)
        spread = product(a, jnp.square(x)) - jnp.square(mean)
        theirs = product(b, jnp.square(y)) - jnp.square(other)
        root = lambda square: jnp.sqrt(jnp.maximum(square, 0))
        both = jnp.stack([mean - other, root(spread) - root(theirs)])
        return jnp.square(both).reshape(2, -1, channels).mean(axis=1)

    def weights(key: Key, n: int) -> Array:
        rows = jax.random.randint(key, (n,), 0, n)
        return jnp.zeros(n, x.dtype).at[rows].add(1 / n)

    def one(keys: Array) -> Array:
        return errors(weights(keys[0], len(x)), weights(keys[1], len(y)))

    keys = jax.random.split(key, (resamples, 2))
    flat = jnp.full(len(x), 1 / len(x), x.dtype), jnp.full(len(y), 1 / len(y), x.dtype)
    return errors(*flat), jax.lax.map(one, keys, batch_size=16)


def _as_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "count": row.count,
        "unsolved": row.unsolved,
        "reason": row.reason,
    }
    for name in COLUMNS:
        interval = getattr(row, name)
        found[name] = None if interval is None else [_finite(x) for x in interval]
    found["by_channel"] = {
        name: {kind: _finite(x) for kind, x in some.items()}
        for name, some in row.by_channel.items()
    }
    found["spectra"] = _spectra(row.spectra)
    return found


def _spectra(spectra: Mapping[str, Interval]) -> dict[str, Any]:
    kinds = ("energy", "low", "high")
    return {
        name: {k: list(map(_finite, x)) for k, x in zip(kinds, band, strict=True)}
        for name, band in spectra.items()
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _table(found: dict[str, Any]) -> str:
    """The text of `Report.as_dict()`: aligned, of at most 88 columns."""
    said, rows = found["settings"], found["rows"]
    labels = {name: name.partition(", of ") for name in rows}
    label = max(len(part) for parts in labels.values() for part in parts) + 1
    widths = tuple(WIDTHS.get(name, 9) for name in COLUMNS)
    lines = [
        f"{said['equation']}, {said['kind']} in {', '.join(said['fields'])}",
        said["grid"],
        "",
        row("", *COLUMNS.values(), widths=widths, label=label),
    ]
    for name, some in rows.items():
        cells = [some[column] for column in COLUMNS]
        values = [_value(c, x) for c, x in zip(COLUMNS, cells, strict=True)]
        lines.append(row(labels[name][0], *values, widths=widths, label=label))
        margins = [_margin(c, x) for c, x in zip(COLUMNS, cells, strict=True)]
        tail = f" of {labels[name][2]}" if labels[name][1] else ""
        lines.append(row(tail, *margins, widths=widths, label=label))
    return "\n".join([*lines, "", *_notes(said, rows)])


def _value(column: str, cell: list[float] | None) -> str:
    if cell is None or cell[0] is None:
        return "-"
    return f"{cell[0]:.3f}" if column == "amplitude" else number(cell[0])


def _margin(column: str, cell: list[float] | None) -> str:
    if cell is None or None in cell:
        return ""
    half = (cell[2] - cell[1]) / 2
    if half == 0:
        return ""
    return f"±{half:.3f}" if column == "amplitude" else f"±{half:.0e}"


def _notes(said: dict[str, Any], rows: dict[str, Any]) -> list[str]:
    """The meaning of the numbers, and the samples that were left out."""
    given = ", ".join(said["given"])
    notes = [
        f"residual |R|/scale, re-solve |u - S({given})|/|S({given})| and boundary "
        f"error are medians; ± is half of a {said['level']:.0%} bootstrap interval. "
        "MMSE, SMSE and sliced W2 are in units of the reference's standard deviation "
        f"of each channel. All rows are compared with the first {said['compared']} of "
        f"the reference; the held-out data are its last {said['held_out']}."
    ]
    told = set()
    for name, some in rows.items():
        why = some["unsolved"], some["count"], some["reason"]
        if some["unsolved"] and why not in told:  # the rows of one set share it
            told.add(why)
            notes.append(
                f"{name}: {some['unsolved']} of {some['count']} cannot be solved for "
                f"({given}) and are left out of what needs a solution: {some['reason']}"
            )
    return [line for note in notes for line in textwrap.wrap(note, 88)]
