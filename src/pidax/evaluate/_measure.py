"""The methods that are compared: their errors, times and distances of distributions.

A method returns states at several times, for errors, and the sample alone, compiled,
for timing. Every method starts from the same noise, one block at a time.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._batches import batch_length, batch_rows
from .._checks import require
from .._progress import advance
from ..denoiser import AbstractDenoiser, AbstractExactDenoiser
from ..flow import AbstractClock, ProbabilityFlow, solve_batch
from ..metrics import median_bandwidth, mmd, sample_errors, sliced_wasserstein
from ..student import AbstractNetworkStudent, FlowMap, IntegralStudent
from ..types import Batch, BatchLike, Condition, Key, Sample, Scalar, Times
from ._report import FirstAnswer, Floor, Solution

REFERENCE = "reference"
# Tolerance of the reference by the bytes of a float. With Dopri8, whose error a step
# is far below it, 1e-5 is already near the rounding of float32.
_ACCURATE = {4: 1e-5, 8: 1e-8}
_MOST = 8192  # samples of each set: the cost of pairs grows with the square


class Way(NamedTuple):
    """A method that leads from `z` to states.

    - `states(z, times, condition)`: `(xs, evaluations)`, states with the sample first,
      then the times; evaluations of one sample, None if they cannot be counted;
    - `end(z, condition)`: the states at `t_min` alone, compiled.
    """

    label: str
    states: Callable[[Batch, Times, Condition], tuple[Batch, float | None]]
    end: Callable[[Batch, Condition], Batch]


class Along(NamedTuple):
    """The draws that are followed, the times of comparison, and what is kept."""

    z: Batch
    times: Times
    condition: Condition
    block: int
    per_component: bool
    paths: int

    @property
    def batch(self) -> int:
        """How many samples are solved at once: blocks of one size compile once."""
        return batch_length(len(self.z), self.block)

    def blocks(self) -> list[tuple[Batch, Condition]]:
        """All of `z` and its conditions; the last block is filled up."""
        take = lambda rows: jax.tree.map(lambda a: a[rows], (self.z, self.condition))
        return [take(rows) for rows in batch_rows(len(self.z), self.batch)]

    def errors(self, x: Batch, reference: Batch) -> np.ndarray:
        """The distance of each state to the reference: sample by time."""
        each = lambda a: a.reshape(-1, *self.z.shape[1:])
        found = sample_errors(
            each(x), each(reference), per_component=self.per_component
        )
        return np.asarray(found, np.float64).reshape(x.shape[:2])


class Sets(NamedTuple):
    """Two sets of clean samples of one size, and their source."""

    first: Float[Array, "sample *event"]
    second: Float[Array, "sample *event"]
    source: str


def make_ways(
    flow: ProbabilityFlow,
    student: Any,
    grid: Times,
    clock: AbstractClock,
    options: dict[str, Any],
    solvers: Mapping[str, Any],
) -> dict[str, Way]:
    """The reference, and the methods that are compared with it.

    A student with several starts is compared in each of its numbers of steps, and a
    solver by name on the grid or with its own steps.
    """
    own = ProbabilityFlow(
        flow.denoiser,
        flow.process,
        clock=clock,
        shape=flow.shape,
        extrapolate=flow.extrapolate,
    )
    steps = "1 step" if len(grid) == 2 else f"{len(grid) - 1} steps"
    on_grid = lambda solver: {"steps": grid, "solver": solver}
    return {
        REFERENCE: solver_way("reference", flow, options),
        "student": student_way(student),
        **{
            f"student_in_{k}": student_way(student.in_steps(k), k)
            for k in more_steps(student)
        },
        "adaptive": solver_way("teacher, default solve", flow, {}),
        "euler": solver_way(f"teacher, Euler, {steps}", own, on_grid(diffrax.Euler())),
        "heun": solver_way(f"teacher, Heun, {steps}", own, on_grid(diffrax.Heun())),
        **{
            solver_name(name): solver_way(f"teacher, {name}", own, _steps_of(one, grid))
            for name, one in solvers.items()
        },
    }


def solver_name(name: str) -> str:
    """The key of a solver's row, which is no other row's."""
    return f"solver_{name}"


def _steps_of(solver: Any, grid: Times) -> dict[str, Any]:
    """The options of a solver, or of a pair of a solver and its steps."""
    solver, steps = solver if isinstance(solver, tuple) else (solver, grid)
    if not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(
            "solvers maps names to solvers, or to pairs (solver, steps), got "
            f"{type(solver).__name__}. Pass solvers={{'UniPC': pidax.solver.UniPC(2)}}."
        )
    return {"steps": steps, "solver": solver}


def accurate(options: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """The options of the reference, with accurate defaults."""
    own = ("rtol", "atol", "steps", "stepsize_controller")
    if any(options.get(name) is not None for name in own):
        return options
    rtol = _ACCURATE.get(dtype.itemsize, _ACCURATE[4])
    solver = options.get("solver") or diffrax.Dopri8()
    return {**options, "rtol": rtol, "solver": solver}


def solver_way(label: str, flow: ProbabilityFlow, options: dict[str, Any]) -> Way:
    """The teacher's ODE by `solve_batch` with these options."""

    def states(
        z: Batch, times: Times, condition: Condition
    ) -> tuple[Batch, float | None]:
        path = solve_batch(flow, z, times=times, condition=condition, **options)
        calls = path.stats["evaluations"]
        return path.xs, None if calls is None else float(calls)

    return Way(label, states, lambda z, c: _solved_end(flow, z, c, options))


@eqx.filter_jit
def _solved_end(
    flow: ProbabilityFlow, z: Batch, condition: Condition, options: dict[str, Any]
) -> Batch:
    # The solve is known to succeed, so only the solve is timed.
    options = {**options, "throw": False}
    return solve_batch(flow, z, condition=condition, **options).end


def more_steps(student: Any) -> list[int]:
    """The numbers of steps, beyond one, in which a student samples."""
    starts = getattr(student, "starts", 1)
    return [k for k in range(2, starts + 1) if starts % k == 0]


def student_way(student: Any, steps: int = 1) -> Way:
    """The student, time after time: one compilation, and memory for one time."""
    counted: Any = getattr(student, "evaluations", lambda condition: steps)

    def states(z: Batch, times: Times, condition: Condition) -> tuple[Batch, float]:
        xs = [_at(student, z, t, condition) for t in times]
        for t, x in zip(times, xs, strict=True):
            _require_states(x, float(t))
        return jnp.stack(xs, axis=1), float(counted(condition))

    last = student.process.t_min
    end = lambda z, c: _at(student, z, jnp.asarray(last, z.dtype), c)
    label = "student" if steps == 1 else f"student, {steps} steps"
    return Way(label, states, end)


@eqx.filter_jit
def _at(student: Any, z: Batch, t: Scalar, condition: Condition) -> Batch:
    return jax.vmap(lambda z, c: student(z, t, c))(z, condition).astype(z.dtype)


def _require_states(x: Batch, t: float) -> None:
    bad = ~np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1)
    require(
        None,
        not bad.any(),
        f"the student's states must be finite, got NaN or infinity at t={t:.6g} in "
        f"{int(bad.sum())} of {len(x)} samples, the first at index {int(bad.argmax())} "
        "of its block. Look at student(z, t) there; a run that diverged has its last "
        "good weights in its checkpoint.",
    )


def follow(
    ways: Mapping[str, Way], along: Along, bar: Any
) -> tuple[dict[str, Solution], dict[str, np.ndarray]]:
    """The solution of each method, and the student's distances to Euler and Heun."""
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
        advance(bar, min(len(z), len(along.z) - bar.n))
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


def first_answers(
    flow: ProbabilityFlow, student: Any, along: Along
) -> list[FirstAnswer] | None:
    """The student's clean sample where it is asked, against the teacher's there.

    With no way to go the mean clean sample of a way is the denoised one, at any start:
    a student can be wrong there for want of learning only. None for what is not a
    student of a network.
    """
    if not isinstance(student, AbstractNetworkStudent):
        return None
    times = getattr(student, "start_times", (student.process.t_max,))
    found = [
        [np.asarray(_first_answer(flow, student, z, k, c)) for z, c in along.blocks()]
        for k in range(len(times))
    ]
    count = len(along.z)
    mean = lambda parts, i: float(np.sqrt(np.concatenate(parts)[:count, i].mean()))
    return [
        FirstAnswer(float(t), mean(parts, 0), mean(parts, 1))
        for t, parts in zip(times, found, strict=True)
    ]


@eqx.filter_jit
def _first_answer(
    flow: ProbabilityFlow,
    student: Any,
    z: Batch,
    k: int,
    condition: Condition,
) -> Float[Array, "sample 2"]:
    """Mean squares of the difference and of the teacher's answer, for each draw."""
    times = getattr(student, "start_times", (student.process.t_max,))
    t = jnp.asarray(times[k], z.dtype)
    sigma, alpha = student.process.level(t)

    def one(z: Sample, condition: Condition) -> Array:
        x = student(z, t, condition)
        if isinstance(student, IntegralStudent):
            answers = student.predicted(x / sigma, condition, start=k)
            own = answers[student.start_nodes[k]]
        elif isinstance(student, FlowMap):
            own = student.mean(x / sigma, t, t, condition)
        else:
            own = student.clean(x / sigma, t, condition)
        wanted = flow.denoiser(x, sigma, alpha, condition)
        return jnp.stack([jnp.mean((own - wanted) ** 2), jnp.mean(wanted**2)])

    return jax.vmap(one)(z, condition)


def with_seconds(
    solved: Mapping[str, Solution], ways: Mapping[str, Way], along: Along, repeats: int
) -> dict[str, Solution]:
    """Each method but the reference timed on one block: compiled, in turns, the
    median.
    """
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


def two_sets(
    teacher: AbstractDenoiser,
    samples: BatchLike | None,
    condition: Condition,
    count: int,
    *,
    key: Key,
) -> Sets | None:
    """Halves of the held-out data, or exact draws; None if there are neither."""
    most = min(count, _MOST)
    if most < 2:
        return None
    if samples is not None:
        size = min(most, len(samples) // 2)
        order = np.asarray(jax.random.permutation(key, len(samples)))
        first, second = (jnp.asarray(samples)[order[i::2][:size]] for i in (0, 1))
        return Sets(first, second, "held-out samples")
    if not isinstance(teacher, AbstractExactDenoiser):
        return None
    condition = jax.tree.map(lambda leaf: leaf[:most], condition)
    draw = jax.jit(jax.vmap(lambda k, c: teacher.sample(key=k, condition=c)))
    keys = jax.random.split(key, (2, most))
    return Sets(draw(keys[0], condition), draw(keys[1], condition), "exact samples")


def with_distances(
    solved: Mapping[str, Solution], sets: Sets, *, key: Key
) -> tuple[dict[str, Solution], Floor]:
    """Each solution with its distances to the first set, and the distances of the
    second.
    """
    bandwidth = median_bandwidth(sets.first)

    def distances(samples: BatchLike) -> tuple[float, float]:
        sliced = sliced_wasserstein(samples, sets.first, key=key)
        return float(sliced), float(mmd(samples, sets.first, bandwidth=bandwidth))

    size = len(sets.first)
    found = {}
    for name, solution in solved.items():
        sliced, squared = distances(solution.end[:size])
        found[name] = dataclasses.replace(
            solution, sliced_wasserstein=sliced, mmd=squared
        )
    floor = Floor(
        sets.source, np.asarray(sets.first), float(bandwidth), *distances(sets.second)
    )
    return found, floor
