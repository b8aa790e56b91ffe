"""The result of a comparison, as data, a table and JSON."""

import dataclasses
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from .._table import number, row

_ELSEWHERE = ("elsewhere", "rms_of_others")
_ERRORS = ("rms", "median", "p99", "max")
_LABEL = 34  # columns of a row's name
_MOST_TIMES = 10  # lines of the table along the path
_MEDIANS = 10  # times the median error is elsewhere, where no modes are known
_row = partial(row, label=_LABEL)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    r"""The result of one method, compared with the reference.

    - `label`: the method in words.
    - `evaluations`: of the network, for one sample (the mean over blocks for an
      adaptive solve; None if the solver's calls cannot be counted).
    - `errors`: $|\Delta x|$ of every sample at every time.
    - `end`: the states at `t_min`: the samples.
    - `paths`: the states at all times, for the first samples.
    - `seconds`: for one batch, compiled, the median; None if not timed.
    - `sliced_wasserstein`, `mmd`: distances of `end` to clean samples; None without
      any. `mmd` is the square, unbiased: it scatters around zero if the distributions
      agree.
    """

    label: str
    evaluations: float | None
    errors: Float[np.ndarray, "sample time"]
    end: Float[np.ndarray, "sample *event"]
    paths: Float[np.ndarray, "path time *event"]
    seconds: float | None = None
    sliced_wasserstein: float | None = None
    mmd: float | None = None

    @property
    def along(self) -> dict[str, Float[np.ndarray, " time"]]:
        """`rms`, `median`, `p99` and `max` of the error, each at every time."""
        return summary(self.errors)

    @property
    def endpoint(self) -> dict[str, float]:
        """`rms`, `median`, `p99` and `max` of the error at `t_min`."""
        return {name: float(value[-1]) for name, value in self.along.items()}

    @property
    def endpoint_rms(self) -> float:
        """The root mean square error at `t_min`."""
        return self.endpoint["rms"]

    def elsewhere(self, limit: float | None = None) -> tuple[float, float]:
        """The share of samples that end elsewhere, and the RMS error of the others.

        A sample ends elsewhere if its error at `t_min` is above `limit`; by default
        above ten times the median error.
        """
        end = np.asarray(self.errors[:, -1], np.float64)
        wrong = end > (_MEDIANS * np.median(end) if limit is None else limit)
        others = end[~wrong]
        rms = math.sqrt(np.mean(others**2)) if others.size else math.nan
        return float(wrong.mean()), rms


@dataclasses.dataclass(frozen=True)
class FirstAnswer:
    r"""What a student answers about the very state from which it is asked.

    - `time` $s$ from which the network is asked.
    - `error`: the root mean square, per component, of the student's clean sample at $s$
      less the teacher's $D(x_s, s)$, in the student's own states $x_s$. It is zero for
      an exact student, however far it has to go from there.
    - `size`: the root mean square of $D(x_s, s)$.
    """

    time: float
    error: float
    size: float


@dataclasses.dataclass(frozen=True, eq=False)
class Floor:
    """Clean samples, and the distance of a second set to the first.

    - `source`: `"exact samples"` or `"held-out samples"`.
    - `samples`: the set to which all distances are measured.
    - `bandwidth`: of the kernel of every `mmd`: the median distance within the set.
    - `sliced_wasserstein`, `mmd`: of the second set, of the same size.
    """

    source: str
    samples: Float[np.ndarray, "sample *event"]
    bandwidth: float
    sliced_wasserstein: float
    mmd: float


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    r"""What `compare` found. `print(report)` is a table, `report.save(path)` is JSON.

    - `student`, `adaptive`, `euler`, `heun`: a `Solution` each: the student, the
      teacher's default solve, and its Euler and Heun steps on the student's grid.
    - `in_steps`: a `Solution` of the student for each number of steps, beyond one, in
      which it samples.
    - `solvers`: a `Solution` of the teacher for each solver that was passed by name.
    - `first_answers`: a `FirstAnswer` for each time from which the student is asked;
      None if it is not a student of a network.
    - `reference`: the `Solution` that errors are measured from.
    - `student_to_euler`, `student_to_heun`: $|\Delta x|$ of the student from the
      states of Euler and of Heun, for every sample at every time: what a student that
      was taught one of them has not learned.
    - `z`, `condition`: the prior draws and their conditions, all of them.
    - `times`: where the paths were compared; `grid`: where Euler and Heun stepped.
    - `scale`: the size of one component of the state at those times,
      $\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$.
    - `floor`: the clean samples that laws were compared with, or None.
    - `settings`: process, precision, options, device and versions, in words.
    """

    student: Solution
    adaptive: Solution
    euler: Solution
    heun: Solution
    reference: Solution
    student_to_euler: Float[np.ndarray, "sample time"]
    student_to_heun: Float[np.ndarray, "sample time"]
    z: Float[np.ndarray, "sample *event"]
    condition: PyTree
    times: Float[np.ndarray, " time"]
    grid: Float[np.ndarray, " node"]
    scale: Float[np.ndarray, " time"]
    floor: Floor | None
    settings: dict[str, Any]
    in_steps: dict[int, Solution] = dataclasses.field(default_factory=dict)
    solvers: dict[str, Solution] = dataclasses.field(default_factory=dict)
    first_answers: list[FirstAnswer] | None = None

    @property
    def solutions(self) -> dict[str, Solution]:
        """The solutions that are compared with the reference, by name."""
        more = {f"student_in_{k}": solution for k, solution in self.in_steps.items()}
        names = ("adaptive", "euler", "heun")
        teacher = {name: getattr(self, name) for name in names}
        rows = {f"solver_{name}": solution for name, solution in self.solvers.items()}
        return {"student": self.student, **more, **teacher, **rows}

    @property
    def endpoint(self) -> dict[str, float]:
        """The student's `rms`, `median`, `p99` and `max` error at `t_min`."""
        return self.student.endpoint

    @property
    def endpoint_rms(self) -> float:
        """The student's root mean square error at `t_min`."""
        return self.student.endpoint_rms

    def relative(
        self, errors: Float[np.ndarray, "*sample time"]
    ) -> Float[np.ndarray, "*sample time"]:
        r"""Errors at the times, in units of the size of the state.

        $|\Delta x|$ over $\sqrt{d}$ times `scale`, with $d$ components: relative to the
        root mean square of $|x|$, whether errors are per component or not.
        """
        size = 1 if self.settings["per_component"] else self.z[0].size
        return errors / (np.sqrt(size) * self.scale)

    def elsewhere(self, name: str) -> tuple[float, float]:
        """The share of this solution's samples that end elsewhere, and the RMS error of
        the others.

        An RMS error alone does not tell a few samples near another mode from a small
        error of all. Elsewhere is an error above half the least distance of two modes
        of an exact mixture, and otherwise above ten times this solution's median error.
        """
        return self.solutions[name].elsewhere(self.settings["half_distance"])

    def speed_up(self, name: str) -> float | None:
        """How many times faster the student is than this solution; None if untimed."""
        ours, theirs = self.student.seconds, self.solutions[name].seconds
        return None if ours is None or theirs is None else theirs / ours

    def samples_per_second(self, name: str) -> float | None:
        """Samples a second of this solution, on this device; None if not timed."""
        seconds = self.solutions[name].seconds
        return None if seconds is None else self.settings["batch"] / seconds

    def as_dict(self) -> dict[str, Any]:
        """All numbers except values of single samples, as in the JSON file."""
        found: dict[str, Any] = {"settings": self.settings}
        found["times"], found["grid"] = self.times.tolist(), self.grid.tolist()
        found["scale"] = self.scale.tolist()
        for name, solution in self.solutions.items():
            along = solution.along
            along["relative_rms"] = self.relative(along["rms"])
            found[name] = {
                **_numbers(solution),
                "endpoint": solution.endpoint,
                **dict(zip(_ELSEWHERE, self.elsewhere(name), strict=True)),
                "along": {key: value.tolist() for key, value in along.items()},
                "seconds_per_batch": solution.seconds,
                "samples_per_second": self.samples_per_second(name),
                "student_speed_up": self.speed_up(name),
            }
        for name in ("student_to_euler", "student_to_heun"):
            apart = summary(getattr(self, name))
            found[name] = {key: value.tolist() for key, value in apart.items()}
        answers = self.first_answers
        found["first_answers"] = answers and [dataclasses.asdict(a) for a in answers]
        found["reference"] = _numbers(self.reference)
        found["floor"] = None
        if self.floor is not None:
            found["floor"] = {
                "source": self.floor.source,
                "size": len(self.floor.samples),
                "bandwidth": self.floor.bandwidth,
                "sliced_wasserstein": self.floor.sliced_wasserstein,
                "mmd": self.floor.mmd,
            }
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `as_dict()` to a JSON file, with null for values that
        are not finite.
        """
        text = json.dumps(_finite(self.as_dict()), indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        return table(self.as_dict())


def _finite(value: Any) -> Any:
    """Without NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(solution: Solution) -> dict[str, Any]:
    """The numbers that every solution has, including the reference."""
    return {
        "label": solution.label,
        "evaluations": solution.evaluations,
        "sliced_wasserstein": solution.sliced_wasserstein,
        "mmd": solution.mmd,
    }


def summary(errors: Float[np.ndarray, "sample ..."]) -> dict[str, np.ndarray]:
    """Root mean square, median, 99th percentile and maximum over the samples."""
    return {
        "rms": np.sqrt(np.square(errors).mean(axis=0)),
        "median": np.median(errors, axis=0),
        "p99": np.quantile(errors, 0.99, axis=0),
        "max": errors.max(axis=0),
    }


def table(found: dict[str, Any]) -> str:
    """The text of `Report.as_dict()`."""
    sections = (_title, _endpoint, _elsewhere, _answers, _cost, _laws, _along)
    parts = [section(found) for section in sections]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _names(found: dict[str, Any]) -> list[str]:
    """The solutions that are compared with the reference."""
    return [name for name, some in found.items() if "endpoint" in (some or ())]


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
    for name in _names(found):
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


def _elsewhere(found: dict[str, Any]) -> list[str]:
    half, widths = found["settings"]["half_distance"], (14, 20)
    limit = f"{_MEDIANS} medians" if half is None else f"{half:.3g}, half the least "
    limit += "" if half is None else "distance of two modes"
    lines = [
        f"Samples that end elsewhere: an error above {limit}",
        _row("", "elsewhere", "RMS of the others", widths=widths),
    ]
    for name in _names(found):
        some = found[name]
        cells = f"{100 * some['elsewhere']:.2f}%", number(some["rms_of_others"])
        lines.append(_row(some["label"], *cells, widths=widths))
    return lines


def _answers(found: dict[str, Any]) -> list[str]:
    if not found["first_answers"]:
        return []
    lines = [
        "The clean sample at the time where the student is asked: RMS per component",
        _row("", "less the teacher's", "the teacher's", widths=(20, 16)),
    ]
    for some in found["first_answers"]:
        cells = number(some["error"]), number(some["size"])
        lines.append(_row(f"asked at t = {some['time']:.4g}", *cells, widths=(20, 16)))
    return lines


def _cost(found: dict[str, Any]) -> list[str]:
    said, widths = found["settings"], (12, 14, 20)
    if found["student"]["seconds_per_batch"] is None:
        return []
    lines = [
        f"Time of a batch of {said['batch']} on {said['device']}: compiled, median of "
        f"{said['repeats']}",
        _row("", "ms", "samples/s", "student is faster", widths=widths),
    ]
    for name in _names(found):
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
    rows += [(found[n]["label"], found[n]) for n in ("reference", *_names(found))]
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
    paths = ("student", "adaptive", "euler", "heun")
    for i in chosen:
        cells = [number(found["student"]["along"][kind][i]) for kind in _ERRORS]
        cells += [number(found[name]["along"]["relative_rms"][i]) for name in paths]
        text = "".join(f"{cell:>9}" for cell in cells)
        lines.append(f"{times[i]:>10.4g}  {text}")
    return lines


def _option(value: Any) -> str:
    return f"{len(value)} times" if isinstance(value, list) else str(value)


def _calls(number: float | None) -> str:
    if number is None:
        return "unknown"
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"
