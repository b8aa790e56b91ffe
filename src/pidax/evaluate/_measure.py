"""Every way from the same noise, a block at a time: errors, ends, paths, seconds."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from ..metrics import sample_errors
from ..types import Batch, Condition, Times
from ._report import Solution
from ._ways import REFERENCE, Way


class Along(NamedTuple):
    """What is followed, where it is looked at, and what is kept of it."""

    z: Batch
    times: Times
    condition: Condition
    block: int
    per_component: bool
    paths: int

    @property
    def batch(self) -> int:
        """How many samples are solved at once: blocks of one size compile once."""
        return math.ceil(len(self.z) / math.ceil(len(self.z) / self.block))

    def blocks(self) -> list[tuple[Batch, Condition]]:
        """All of `z` and its conditions; the last block is filled from the first."""
        count, size = len(self.z), self.batch
        where = np.arange(math.ceil(count / size) * size).reshape(-1, size) % count
        take = lambda rows: jax.tree.map(lambda a: a[rows], (self.z, self.condition))
        return [take(rows) for rows in where]

    def errors(self, x: Batch, reference: Batch) -> np.ndarray:
        """The distance of each state from the reference: sample by time."""
        each = lambda a: a.reshape(-1, *self.z.shape[1:])
        found = sample_errors(
            each(x), each(reference), per_component=self.per_component
        )
        return np.asarray(found, np.float64).reshape(x.shape[:2])


def follow(
    ways: Mapping[str, Way], along: Along
) -> tuple[dict[str, Solution], dict[str, np.ndarray]]:
    """Each way's solution; and the student's distances from Euler's and Heun's."""
    parts: dict[str, list] = {name: [] for name in ways}
    apart: dict[str, list] = {"euler": [], "heun": []}
    for z, condition in along.blocks():
        states, calls = {}, {}
        for name, way in ways.items():
            states[name], calls[name] = way.states(z, along.times, condition)
        for name, x in states.items():
            errors = along.errors(x, states[REFERENCE])
            kept = max(0, along.paths - sum(len(p[2]) for p in parts[name]))
            end, paths = np.asarray(x[:, -1]), np.asarray(x[:kept])
            parts[name].append((errors, end, paths, calls[name]))
        for name, some in apart.items():
            some.append(along.errors(states["student"], states[name]))
    count = len(along.z)
    whole = lambda some: np.concatenate(some)[:count]
    solutions = {}
    for name, way in ways.items():
        errors, ends, paths, calls = zip(*parts[name], strict=True)
        solutions[name] = Solution(
            label=way.label,
            evaluations=None if None in calls else float(np.mean(calls)),
            errors=whole(errors),
            end=whole(ends),
            paths=np.concatenate(paths)[: along.paths],
        )
    return solutions, {name: whole(some) for name, some in apart.items()}


def with_seconds(
    solved: Mapping[str, Solution], ways: Mapping[str, Way], along: Along, repeats: int
) -> dict[str, Solution]:
    """Each but the reference timed on one block: compiled, in turn, the median."""
    z, condition = along.blocks()[0]
    timed = {name: way for name, way in ways.items() if name != REFERENCE}
    jax.block_until_ready([way.end(z, condition) for way in timed.values()])
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, way in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(way.end(z, condition))
            spent[name].append(time.perf_counter() - start)
    seconds = {name: float(np.median(each)) for name, each in spent.items()}
    return {
        name: dataclasses.replace(solution, seconds=seconds.get(name))
        for name, solution in solved.items()
    }
