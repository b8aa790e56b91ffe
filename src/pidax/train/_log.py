"""The reports of a run: a progress bar, lines of JSON, and a history."""

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._progress import progress_bar


class Log:
    """Means of each term over the last interval: shown, written and kept."""

    def __init__(self, steps: int, file: Path | None, devices: int, progress: bool):
        self.file = file
        self.lines: list[dict[str, Any]] = []
        self.since_checkpoint: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.count = 0  # steps in the sums
        self.clock = time.perf_counter()
        label = "1 device" if devices == 1 else f"{devices} devices"
        self.bar = progress_bar(steps, label, "step", progress)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def resume(self, step: int) -> None:
        """Start from `step`, and forget what an earlier run wrote about later steps."""
        self.bar.update(step - self.bar.n)
        self.bar.unpause()
        if self.file is not None and self.file.exists():
            self.lines = [x for x in read_lines(self.file) if x["step"] <= step]
            text = "".join(map(_json, self.lines))
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(text)
            os.replace(temporary, self.file)

    def take(self, terms: Mapping[str, np.ndarray], count: int) -> None:
        """Add the terms of `count` steps."""
        if count == 0:
            return
        for name, values in terms.items():
            total = float(np.sum(values[:count], dtype=np.float64))
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.count += count
        self.bar.set_postfix(loss=f"{terms['loss'][count - 1]:.3g}", refresh=False)
        self.bar.update(count)

    def line(self, step: int) -> dict[str, Any]:
        """Close the interval that ends with `step`: the mean of each term."""
        now = time.perf_counter()
        line = {name: total / self.count for name, total in self.sums.items()}
        rate = self.count / max(now - self.clock, 1e-9)
        self.sums, self.count, self.clock = {}, 0, now
        return {"step": step, **line, "steps_per_second": rate}

    def write(self, line: dict[str, Any]) -> None:
        """Keep a line, and append it to the file."""
        self.lines.append(line)
        self.since_checkpoint.append(line)
        if self.file is None:
            return
        try:
            with open(self.file, "a") as file:
                file.write(_json(line))
        except OSError as error:
            message = f"a line of {self.file} was not written: {error}"
            warnings.warn(message, stacklevel=4)

    def score(self, name: str) -> float | None:
        """The mean of a term over the lines since the last checkpoint."""
        lines, self.since_checkpoint = self.since_checkpoint, []
        values = [line[name] for line in lines if name in line]
        if lines and not any(name in line for line in self.lines):
            warnings.warn(
                f"best={name!r} is not among the terms {sorted(lines[-1])}: this "
                "checkpoint has no score. Choose one of them, or let the callback "
                "return it.",
                stacklevel=5,
            )
        if not values or not np.isfinite(values).all():
            return None
        return float(np.mean(values))

    def history(self) -> dict[str, np.ndarray]:
        """Every term as an array over the lines; NaN where a line lacks it."""
        names = list(dict.fromkeys(name for line in self.lines for name in line))
        return {
            name: np.array([line.get(name, np.nan) for line in self.lines])
            for name in names
        }


def _json(line: Mapping[str, Any]) -> str:
    """One line of JSON, which has no NaN."""
    finite = {n: x if np.isfinite(x) else None for n, x in line.items()}
    return json.dumps(finite) + "\n"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; a run may have been killed while it wrote the
    last.
    """
    lines = []
    for text in file.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append({n: np.nan if x is None else x for n, x in line.items()})
    return lines
