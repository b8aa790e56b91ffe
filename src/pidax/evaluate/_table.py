"""A comparison in words: aligned tables of at most 88 columns."""

from functools import partial
from typing import Any

from .._table import number, row

_NAMES = ("student", "adaptive", "euler", "heun")
_ERRORS = ("rms", "median", "p99", "max")
_LABEL = 34  # columns of a row's name
_MOST_TIMES = 10  # lines of the table along the path
_row = partial(row, label=_LABEL)


def table(found: dict[str, Any]) -> str:
    """The text of `Report.as_dict()`."""
    parts = [_title(found), _endpoint(found), _cost(found), _laws(found), _along(found)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _title(found: dict[str, Any]) -> list[str]:
    said, process = found["settings"], found["settings"]["process"]
    return [
        f"Student and teacher from the same {said['count']} draws of noise",
        f"{process['name']}, samples of shape {tuple(said['shape'])}, {said['dtype']}",
    ]


def _endpoint(found: dict[str, Any]) -> list[str]:
    said, reference = found["settings"], found["reference"]
    norm = "root mean square" if said["per_component"] else "2-norm"
    options = ", ".join(f"{k}={_option(v)}" for k, v in said["options"].items())
    lines = [
        f"Error at the end, t = {found['times'][-1]:.4g}: |x - x_ref|, {norm} over "
        "the components",
        _row("", "evaluations", *_ERRORS, widths=(12, 10, 10, 10, 10)),
    ]
    for name in _NAMES:
        some = found[name]
        cells = [_calls(some["evaluations"])]
        cells += [number(some["endpoint"][kind]) for kind in _ERRORS]
        lines.append(_row(some["label"], *cells, widths=(12, 10, 10, 10, 10)))
    for name in ("euler", "heun"):
        apart = found[f"student_to_{name}"]
        cells = [number(apart[kind][-1]) for kind in _ERRORS]
        label = f"student, from {name.capitalize()}'s end"
        lines.append(_row(label, "", *cells, widths=(12, 10, 10, 10, 10)))
    calls = reference["evaluations"]
    many = "" if calls is None else f", {_calls(calls)} evaluations"
    return [*lines, f"x_ref: the teacher's solve with {options or 'defaults'}{many}"]


def _cost(found: dict[str, Any]) -> list[str]:
    said, widths = found["settings"], (12, 14, 20)
    if found["student"]["seconds_per_batch"] is None:
        return []
    lines = [
        f"Time of a batch of {said['batch']} on {said['device']}: compiled, median of "
        f"{said['repeats']}",
        _row("", "ms", "samples/s", "student is faster", widths=widths),
    ]
    for name in _NAMES:
        some = found[name]
        cells = [
            f"{1e3 * some['seconds_per_batch']:.3g}",
            f"{some['samples_per_second']:,.0f}",
            "" if name == "student" else f"{some['student_speed_up']:.3g} times",
        ]
        lines.append(_row(some["label"], *cells, widths=widths))
    return lines


def _laws(found: dict[str, Any]) -> list[str]:
    floor, widths = found["floor"], (20, 22)
    if floor is None:
        return []
    lines = [
        f"Distance of the samples from {floor['size']} {floor['source']}, as many each",
        _row("", "sliced Wasserstein-2", "squared MMD", widths=widths),
    ]
    rows = [(f"floor: other {floor['source']}", floor)]
    rows += [(found[n]["label"], found[n]) for n in ("reference", *_NAMES)]
    for label, some in rows:
        cells = number(some["sliced_wasserstein"]), number(some["mmd"])
        lines.append(_row(label, *cells, widths=widths))
    width = f"{floor['bandwidth']:.3g}"
    return [*lines, f"MMD: Gaussian kernel of width {width}, unbiased: it may be < 0"]


def _along(found: dict[str, Any]) -> list[str]:
    times = found["times"]
    count = min(len(times), _MOST_TIMES)
    chosen = [round(i * (len(times) - 1) / (count - 1)) for i in range(count)]
    some = "" if count == len(times) else f" ({count} of {len(times)} times)"
    heads = ("student", "default", "Euler", "Heun")
    lines = [
        f"Errors along the path{some}: the student's, and in units of the state's size",
        f"{'':<12}{'student':^36}{'RMS / size of the state':^36}".rstrip(),
        f"{'t':>10}  " + _row("", *_ERRORS, *heads, widths=(9,) * 8, label=0),
    ]
    for i in chosen:
        cells = [number(found["student"]["along"][kind][i]) for kind in _ERRORS]
        cells += [number(found[name]["along"]["relative_rms"][i]) for name in _NAMES]
        text = "".join(f"{cell:>9}" for cell in cells)
        lines.append(f"{times[i]:>10.4g}  {text}")
    return lines


def _option(value: Any) -> str:
    return f"{len(value)} times" if isinstance(value, list) else str(value)


def _calls(number: float | None) -> str:
    if number is None:
        return "unknown"
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"
