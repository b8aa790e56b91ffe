r"""What a set of generated fields is worth: physics, law and cost of being trivial.

    relative residual ‖R‖/s,   re-solve error ‖u - S(a)‖/‖S(a)‖,   boundary error,
    amplitude ratio,           MMSE, SMSE, sliced Wasserstein,     radial spectrum

with S the equation's own solver. No single one of them will do: zero fields have no
residual in a linear equation, a residual is blind to a wrong law, and a distance of
laws to wrong physics. So beside the samples there are always the rows

    held-out data             what perfect samples would score, at this number of them
    u = 0                     the given fields of the samples, and nothing solved
    generate a, then solve    the same given fields with the solver's own answer
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from .._files import write_whole
from ..metrics import Interval
from ._report_table import table

COLUMNS = {
    "residual": "residual",
    "resolve": "re-solve",
    "boundary": "boundary",
    "amplitude": "amplitude",
    "mean_error": "MMSE",
    "spread_error": "SMSE",
    "sliced_wasserstein": "sliced W",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    r"""One set of fields, and how it fared.

    Numbers are `(estimate, low, high)`, with the ends of the bootstrap interval; None
    where no sample is left to speak of.

    - `count`: of the samples; `unsolved` of them have given fields that the solver
      refuses, for the `reason`.
    - `residual`, `resolve`, `boundary`: medians over the samples.
    - `amplitude`: the root mean square of the solution, in units of the reference's.
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
    per_sample: dict[str, Float[np.ndarray, " sample"]]
    spectra: dict[str, Interval]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `report` found. `print(report)` is a table, `report.save(path)` is JSON.

    - `rows`: by label; `report["samples"]` is one.
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
        """All numbers but those of single samples, as JSON holds them."""
        return {
            "settings": self.settings,
            "rows": {label: _row(row) for label, row in self.rows.items()},
            "wavenumbers": self.wavenumbers.tolist(),
            "reference_spectra": _spectra(self.reference_spectra),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `as_dict()` to a JSON file."""
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(path, [text.encode()], "report.save")

    def __str__(self) -> str:
        return table(self.as_dict(), COLUMNS)


def _row(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "count": row.count,
        "unsolved": row.unsolved,
        "reason": row.reason,
    }
    for name in COLUMNS:
        interval = getattr(row, name)
        found[name] = None if interval is None else [_finite(x) for x in interval]
    found["by_channel"] = row.by_channel
    found["spectra"] = _spectra(row.spectra)
    return found


def _spectra(spectra: Mapping[str, Interval]) -> dict[str, Any]:
    kinds = ("energy", "low", "high")
    return {
        name: {k: np.asarray(x).tolist() for k, x in zip(kinds, band, strict=True)}
        for name, band in spectra.items()
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def describe_versions() -> dict[str, str]:
    """What computed the report."""
    from importlib.metadata import version

    return {"pidax": version("pidax"), "jax": jax.__version__}
