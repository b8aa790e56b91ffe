"""`report`: the sets side by side, each judged by physics and by law."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import require
from ..metrics import Interval, bootstrap, radial_spectrum
from ..types import Key
from ._dataset import Dataset, channel_names
from ._equation import AbstractEquation, Values
from ._judge import Judged, judge, solve_again, spectrum_axes
from ._laws import amplitude, mean_and_spread, medians, transport
from ._normaliser import Normaliser
from ._report import Report, Row, describe_versions

HELD_OUT, ZERO, SOLVED = "held-out data", "u = 0", "generate a, then solve"


def report(
    equation: AbstractEquation,
    samples: Any,
    reference: Any,
    *,
    key: Key,
    resamples: int = 200,
    level: float = 0.95,
    projections: int = 128,
    batch_size: int = 64,
) -> Report:
    """Judge generated fields by the equation and by the law of held-out ones.

    **Arguments:**

    - `samples`: fields of `equation` in physical units (`normaliser.restore`), the
      samples first: its `Fields`, one stacked array or a `Dataset`; or several such
      sets in a dictionary by name.
    - `reference`: true samples that no model was trained on, in any of these forms.
      Its last ones, as many as there are samples but at most half, are the row
      "held-out data"; every row is compared with the others.
    - `key`: of the directions of the sliced Wasserstein distance and the resamples.
    - `resamples`, `level`: of the bootstrap; `projections`: of the distance.
    - `batch_size`: samples that are solved together.

    **Returns:** a `Report`; `print` it, `save` it.

    **Cost:** every sample is solved for once, in float64. A given field that cannot be
    solved for (a coefficient that is not positive) is counted and left out of what
    needs a solution; its batch is then done one by one.
    """
    sets = samples if isinstance(samples, Mapping) else {"samples": samples}
    named = {name: _fields(equation, some, name) for name, some in sets.items()}
    require(
        None,
        bool(named) and not {HELD_OUT, ZERO, SOLVED} & set(named),
        f"samples must be a set or sets by name, none of them {HELD_OUT!r}, {ZERO!r} "
        f"or {SOLVED!r}, got {list(named)}. Call it otherwise.",
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
    table = _Rows(
        equation,
        _take(truth, slice(0, total - held)),
        key,
        dict(resamples=resamples, level=level),
        projections,
        min(batch_size, max(most, held)),
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
        "versions": describe_versions(),
    }
    return Report(rows, table.wavenumbers, table.spectra(table.judged), settings)


class _Rows:
    """Makes rows that are all compared with one set of true fields."""

    def __init__(self, equation, truth, key, options, projections, batch_size):
        self.equation, self.batch_size = equation, batch_size
        self.laws, self.physics = jax.random.split(key)
        self.options, self.projections = options, projections
        stacked = _stacked(equation, truth)
        self.channels = channel_names(equation, stacked.shape[-1])
        self.normaliser = Normaliser.fit(stacked)
        self.reference = np.asarray(self.normaliser.normalise(stacked))
        self.judged = judge(equation, truth, truth, batch_size)
        axes = spectrum_axes(equation)
        shells = radial_spectrum(np.zeros(equation.grid.shape), **axes)
        self.wavenumbers = np.asarray(shells.wavenumber)

    def of(self, named: Mapping[str, Values], held: Values) -> dict[str, Row]:
        """The sets, the held-out data, and the two trivial answers to each set."""
        found = {name: self._solved(fields) for name, fields in named.items()}
        several = len(named) > 1
        rows = [self._row(n, f, *found[n]) for n, f in named.items()]
        solved, reason = self._solved(held)
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
        return {n: jax.tree.map(np.asarray, band) for n, band in found.items()}

    def _solved(self, fields: Values) -> tuple[Values, str]:
        return solve_again(self.equation, fields, self.batch_size)

    def _row(self, label: str, fields: Values, solved: Values, reason: str) -> Row:
        """What is itself not finite, a solution that is none, is left out."""
        count = _count(fields)
        unsolved = int((~_finite(solved)).sum())
        here = _finite(fields)
        physics = {"key": self.physics, **self.options}
        numbers: dict[str, Any] = dict.fromkeys(_NUMBERS)
        by_channel, per_sample, spectra = {}, {}, {}
        if here.sum() >= 2:
            fields, solved = _take(fields, here), _take(solved, here)
            judged = judge(self.equation, fields, solved, self.batch_size)
            for name in ("residual", "resolve", "boundary"):
                values = per_sample[name] = getattr(judged, name)
                if np.isfinite(values).sum() >= 2:
                    numbers[name] = medians(values, **physics)
            true = self.judged.squares
            numbers["amplitude"] = amplitude(judged.squares, true, **physics)
            by_channel = self._compare(fields, numbers)
            spectra = self.spectra(judged)
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
        mean, spread, parts = mean_and_spread(x, y, **options)
        numbers["mean_error"], numbers["spread_error"] = mean, spread
        numbers["sliced_wasserstein"] = transport(
            x, y, projections=self.projections, **options
        )
        return {
            name: {"mean_error": float(m), "spread_error": float(s)}
            for name, m, s in zip(self.channels, *parts, strict=True)
        }


_NUMBERS = (
    "residual",
    "resolve",
    "boundary",
    "amplitude",
    "mean_error",
    "spread_error",
    "sliced_wasserstein",
)


def _fields(equation: AbstractEquation, some: Any, name: str) -> Values:
    """A batch of finite fields by name, from any form in which they come."""
    if isinstance(some, Dataset):
        some = some[:]
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
    bad = int((~_finite(found)).sum())
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


def _finite(fields: Values) -> np.ndarray:
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
