"""A report in words: an aligned table of at most 88 columns."""

import textwrap
from collections.abc import Mapping
from typing import Any

from .._table import number, row

_WIDTHS = {"amplitude": 10}  # of its column; all others are
_CELL = 9


def table(found: dict[str, Any], columns: Mapping[str, str]) -> str:
    """The text of `Report.as_dict()`."""
    said, rows = found["settings"], found["rows"]
    labels = {name: name.partition(", of ") for name in rows}
    label = max(len(part) for parts in labels.values() for part in parts) + 1
    widths = tuple(_WIDTHS.get(name, _CELL) for name in columns)
    lines = [
        f"{said['equation']}, {said['kind']} in {', '.join(said['fields'])}",
        said["grid"],
        "",
        row("", *columns.values(), widths=widths, label=label),
    ]
    for name, some in rows.items():
        cells = [some[column] for column in columns]
        values = [_value(c, x) for c, x in zip(columns, cells, strict=True)]
        lines.append(row(labels[name][0], *values, widths=widths, label=label))
        margins = [_margin(c, x) for c, x in zip(columns, cells, strict=True)]
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
    """What the numbers mean, and which samples are not among them."""
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
