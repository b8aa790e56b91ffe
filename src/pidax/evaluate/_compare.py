r"""A student compared with the solved ODE, from the same draws of the prior.

The error of a student that was trained on a grid of times has two sources: the grid and
the network. Euler's and Heun's method with the teacher on the same grid show the error
of the grid. The student's distance to them, and to an accurate solve, shows the error
of the network.
"""

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_condition, require, require_finite, whole_number
from .._compatibility import (
    check_classes,
    check_grid,
    check_output,
    check_same_process,
    check_same_shape,
)
from .._progress import progress_bar
from ..denoiser import GaussianMixture
from ..flow import AbstractClock, ProbabilityFlow, SolveOptions, TimeClock
from ..process import AbstractProcess, karras
from ..types import (
    Batch,
    BatchLike,
    Condition,
    Key,
    Shape,
    Times,
    TimesLike,
    WholeLike,
    typed,
)
from ._measure import (
    Along,
    accurate,
    first_answers,
    follow,
    make_ways,
    more_steps,
    solver_name,
    two_sets,
    with_distances,
    with_seconds,
)
from ._report import Report

_TIMES = 18  # times of the default grid, EDM's number for small images
_PACKAGES = ("pidax", "jax", "jaxlib", "equinox", "diffrax")


@typed
def compare(
    flow: ProbabilityFlow,
    student: Any,
    *,
    key: Key,
    count: WholeLike = 4096,
    z: BatchLike | None = None,
    times: TimesLike | None = None,
    grid: TimesLike | None = None,
    clock: AbstractClock | None = None,
    solvers: Mapping[str, Any] | None = None,
    condition: Condition = None,
    classes: WholeLike | None = None,
    samples: Float[Array | np.ndarray, "held_out ..."] | None = None,
    per_component: bool = False,
    paths: WholeLike = 64,
    block: WholeLike = 1024,
    repeats: WholeLike = 5,
    progress: bool = True,
    **options: Unpack[SolveOptions],
) -> Report:
    r"""Compare a student with the solved ODE of its teacher, from the same noise.

    Every draw `z` is followed by an accurate adaptive solve (the reference), by the
    student, by the teacher's default solve, and by Euler's and Heun's method with the
    teacher on the student's grid. The four are compared with the reference, along the
    path and at its end. $|\Delta x|$ is the 2-norm over all components. `print(report)`
    shows tables, `report.save(path)` writes JSON. A student that samples in several
    steps is a row for each number of them.

    **Arguments:**

    - `flow`: the teacher's ODE. The reference and the default solve use its clock.
    - `student`: a `Student`, or anything that is called as `student(z, t, condition)`
      on one sample and has the flow's `process`.
    - `key`: draws `z`, the labels, the exact samples and the slices.
    - `count`: the number of prior draws, unless `z` is passed.
    - `times`: decreasing process times from `t_max` to `t_min` at which paths are
      compared; by default `karras(18, process)`.
    - `grid`: the times on which the student was trained, and on which Euler and Heun
      step; by default `times`. Between them paths are interpolated.
    - `clock`: for Euler and Heun. By default `TimeClock()`, the process's own $(x, t)$:
      for `EDM` this is DDIM and EDM's sampler, and the steps of PID's Lemma 1. If the
      student's residual uses another clock, pass it.
    - `solvers`: more rows of the teacher, by name: a solver such as
      `pidax.solver.UniPC(2)`, which steps on `grid`, or a pair of a solver and its own
      `steps`. They also step in `clock`.
    - `condition`: passed to teacher and student; arrays have the sample as their first
      axis. `classes`: draw labels from `0..classes-1` instead. An exact teacher draws
      its samples with the same labels.
    - `samples`: held-out data to compare distributions with; see below. By default
      exact samples if the flow's denoiser is an `AbstractExactDenoiser`; otherwise
      distributions are not compared.
    - `per_component`: divide errors by the root of the number of components.
    - `paths`: the number of samples whose whole paths are kept, for figures. Errors and
      ends are of all samples.
    - `block`: the number of samples that are solved and timed at once. It limits the
      memory.
    - `repeats`: the number of timings, of which the median is reported; 0 for none.
    - `progress`: show a bar, which says what is being compiled.
    - `options`: for the reference, see `pidax.flow.SolveOptions`. The default is Dopri8
      with `rtol` 1e-5 in float32 and 1e-8 in float64.

    **Error of the reference.** It should be a tenth of the measured errors or less. It
    is well below the error of the default solve (Tsit5 at 1e-4), which the report
    shows. If the student comes near that, compare in float64 with a smaller `rtol`.

    **Distributions.** Sliced Wasserstein distance (order 2) and squared maximum mean
    discrepancy (unbiased, one bandwidth for all) of each method's samples at `t_min` to
    one set of clean samples; and, as the floor, of a second such set to the first. All
    sets have the same size, at most 8192. Held-out data are split into two halves.

    **Cost:** for every sample the reference, the default solve, $N - 1$ evaluations of
    Euler and $2(N - 1)$ of Heun on a grid of $N$ times. For the timing, each of them
    but the reference `repeats + 1` times more on one block.

    Tee, Zhang et al. 2024, "Physics informed distillation for diffusion models": by
    Lemma 1 a student with zero residual is Euler's path on its grid.
    """
    given = dict(options)
    count, block = whole_number("count", count), whole_number("block", block)
    paths = whole_number("paths", paths, least=0)
    repeats = whole_number("repeats", repeats, least=0)
    classes = None if classes is None else whole_number("classes", classes)
    check_options(given)
    shape = check_student(student, flow)
    check_classes(classes, condition, flow.denoiser, student)
    z_key, label_key, set_key, slice_key = jax.random.split(key, 4)
    z = check_z(z, z_key, count, shape, flow.process)
    count = len(z)
    if classes is not None:
        condition = jax.random.randint(label_key, (count,), 0, classes)
    condition = check_condition(condition, count)
    times = karras(_TIMES, flow.process) if times is None else times
    times = check_ends("times", times, flow.process, z.dtype)
    grid = times if grid is None else check_ends("grid", grid, flow.process, z.dtype)
    check_samples(samples, z.shape[1:])
    check_output(student, z, times[0], condition)

    clock = TimeClock() if clock is None else clock
    given = accurate(given, z.dtype)
    ways = make_ways(flow, student, grid, clock, given, solvers or {})
    along = Along(z, times, condition, block, per_component, min(paths, count))
    floor = None
    with progress_bar(count, "compare", "draw", progress) as bar:
        solved, beside = follow(ways, along, bar)
        if repeats:
            bar.set_postfix_str("compiling for the timings")
            solved = with_seconds(solved, ways, along, repeats)
        bar.set_postfix_str("comparing the laws")
        sets = two_sets(flow.denoiser, samples, condition, count, key=set_key)
        if sets is not None:
            solved, floor = with_distances(solved, sets, key=slice_key)
        answers = first_answers(flow, student, along)
        bar.set_postfix_str("")
    more = {k: solved.pop(f"student_in_{k}") for k in more_steps(student)}
    rows = {name: solved.pop(solver_name(name)) for name in solvers or {}}
    return Report(
        **solved,
        in_steps=more,
        solvers=rows,
        first_answers=answers,
        student_to_euler=beside["euler"],
        student_to_heun=beside["heun"],
        z=np.asarray(z),
        condition=jax.tree.map(np.asarray, condition),
        times=np.asarray(times),
        grid=np.asarray(grid),
        scale=np.asarray(flow.process.scale(times)),
        floor=floor,
        settings={
            **_settings(flow.process, along, clock, given, repeats),
            "half_distance": half_distance(flow.denoiser, per_component),
        },
    )


def half_distance(denoiser: Any, per_component: bool) -> float | None:
    """Half the least distance of two modes of an exact mixture; None for others."""
    if not isinstance(denoiser, GaussianMixture) or len(denoiser.means) < 2:
        return None
    means = np.asarray(denoiser.means, np.float64).reshape(len(denoiser.means), -1)
    apart = np.linalg.norm(means[:, None] - means, axis=-1)
    least = apart[~np.eye(len(means), dtype=bool)].min() / 2
    return float(least / math.sqrt(means.shape[1]) if per_component else least)


def _settings(
    process: AbstractProcess,
    along: Along,
    clock: AbstractClock,
    options: dict[str, Any],
    repeats: int,
) -> dict[str, Any]:
    """How the numbers were made, as JSON."""
    z = along.z
    return {
        "process": {
            "name": type(process).__name__,
            **{n: float(getattr(process, n)) for n in ("t_min", "t_max", "sigma_data")},
        },
        "count": len(z),
        "shape": list(z.shape[1:]),
        "dtype": str(z.dtype),
        "per_component": along.per_component,
        "conditional": along.condition is not None,
        "clock": type(clock).__name__,
        "options": {name: _plain(value) for name, value in options.items()},
        "batch": along.batch,
        "repeats": repeats,
        "device": next(iter(z.devices())).device_kind,
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _plain(value: Any) -> Any:
    """A number as it is, a grid as a list, anything else by name."""
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, jax.Array | np.ndarray):
        return value.tolist()
    return type(value).__name__


def check_options(options: dict[str, Any]) -> None:
    """The options are options of a solve that says when it fails."""
    known = set(SolveOptions.__annotations__)
    unknown = set(options) - known
    if unknown:
        raise TypeError(
            f"unknown option {sorted(unknown)} of the reference solve; expected some "
            f"of {sorted(known)}."
        )
    if options.get("throw") is False:
        raise ValueError(
            "the reference is what all else is measured against: expected a solve that "
            "raises if it fails, got throw=False. Leave throw= out."
        )


def check_student(student: Any, flow: ProbabilityFlow) -> Shape | None:
    """It is a student of this flow; returns the shape of one sample, if known."""
    process = getattr(student, "process", None)
    if not callable(student) or process is None:
        raise ValueError(
            "compare expects a student, called as student(z, t, condition) and with "
            f"the flow's process, got {type(student).__name__}. Make one with "
            "Student(network, process); of what fit returns pass result.model or "
            "result.ema()."
        )
    check_same_process(process, flow)
    shape = getattr(student, "shape", None)
    check_same_shape(shape, flow.shape)
    return shape if flow.shape is None else flow.shape


def check_z(
    z: BatchLike | None,
    key: Key,
    count: int,
    shape: Shape | None,
    process: AbstractProcess,
) -> Batch:
    """The prior draws: the ones passed, of the right shape, or new ones."""
    if z is None:
        if shape is None:
            raise ValueError(
                "the shape of one sample is not known, got None from student and flow. "
                "Pass z=, or shape= to ProbabilityFlow or to Student."
            )
        return process.prior(key, (count, *shape))
    z = jnp.asarray(z)
    if z.shape[0] < 1 or (shape is not None and z.shape[1:] != shape):
        raise ValueError(
            f"z must be at least one draw of the prior, (sample, ...) with samples of "
            f"{'any shape' if shape is None else shape}, got {z.shape}. Draw them with "
            f"process.prior(key, (count, ...)), or leave z out."
        )
    return require_finite("z", z, "Check how it was made.")


def check_ends(
    name: str, times: TimesLike, process: AbstractProcess, dtype: np.dtype
) -> Times:
    """Times that fall from `t_max` to `t_min`, their ends to the last bit."""
    times = check_grid(jnp.asarray(times, dtype), process, name)
    ends = jnp.array([process.t_max, process.t_min], dtype)
    return times.at[jnp.array([0, -1])].set(ends)


def check_samples(samples: BatchLike | None, shape: Shape) -> None:
    """Held-out data have the student's shape, and are enough for two sets."""
    if samples is None:
        return
    require(
        None,
        samples.shape[1:] == shape and len(samples) >= 4,
        "samples must be held-out data, at least 4 samples of the shape "
        f"{shape} with the sample as the first axis, got {samples.shape}. Leave "
        "samples out to compare paths alone.",
    )
    require_finite("samples", jnp.asarray(samples), "Check how they were made.")
