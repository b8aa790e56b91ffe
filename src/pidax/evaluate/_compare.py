r"""A student beside the ODE that it is to solve, from the same draws of the prior.

The error of a student taught on a grid of times has two sources that one number
hides: what the grid can say, and what the network has learned. The teacher's own
Euler and Heun steps on that grid show the first; the student's distance to them, and
to an accurate solve, the second.
"""

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
    follow,
    make_ways,
    two_sets,
    with_distances,
    with_seconds,
)
from ._report import Report

_TIMES = 18  # nodes of the default grid, EDM's own number for small images
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
    grid: Float[Array | np.ndarray, " node"] | None = None,
    clock: AbstractClock | None = None,
    condition: Condition = None,
    classes: WholeLike | None = None,
    samples: Float[Array | np.ndarray, "held_out ..."] | None = None,
    per_component: bool = False,
    paths: WholeLike = 64,
    block: WholeLike = 1024,
    repeats: WholeLike = 5,
    **options: Unpack[SolveOptions],
) -> Report:
    r"""How a student fares beside its teacher's ODE, from the same noise.

    Every draw `z` is followed by an accurate adaptive solve, the reference; by the
    student; by the teacher's default solve; and by the teacher's Euler and Heun steps
    on the student's grid. The four are measured against the reference, along the path
    and at its end. $|\Delta x|$ is the 2-norm over all components. `print(report)`
    shows all of it as tables, `report.save(path)` writes it as JSON.

    **Arguments:**

    - `flow`: the teacher's ODE. The reference and the default solve run in its clock.
    - `student`: a `Student`, or whatever is called as `student(z, t, condition)` on
      one sample and has the flow's `process`.
    - `key`: draws `z`, the labels, the exact samples and the slices.
    - `count`: how many draws of the prior, unless `z` are given.
    - `times`: decreasing process times from `t_max` to `t_min` at which the paths are
      compared; by default `karras(18, process)`.
    - `grid`: the times on which the student was trained, where Euler and Heun step; by
      default `times`. Between its nodes their paths are interpolated.
    - `clock`: of Euler and Heun. By default `TimeClock()`, the process's own $(x, t)$:
      for `EDM`, DDIM and EDM's sampler, and the steps of PID's Lemma 1. Give the clock
      in which the student's residual was written, if it is another.
    - `condition`: handed to teacher and student; arrays carry the sample as their
      first axis. `classes`: draw labels from `0..classes-1` instead. A teacher that is
      exact draws its samples with the same ones.
    - `samples`: held-out data to compare laws with; see below. By default exact
      samples, if the flow's denoiser is an `AbstractExactDenoiser`; otherwise laws are
      not compared.
    - `per_component`: divide errors by the root of the number of components.
    - `paths`: of how many samples whole paths are kept, for figures. Errors and ends
      are of all.
    - `block`: samples solved, and timed, at once; what bounds the device's memory.
    - `repeats`: timings of each, of which the median is reported; 0 for none.
    - `options`: of the reference, see `pidax.flow.SolveOptions`. Unless they say
      otherwise it is Dopri8 with `rtol` 1e-5 in float32 and 1e-8 in float64.

    **The reference's own error** should be a tenth of what is measured or less: it is
    well below that of the default solve (Tsit5 at 1e-4), which the report shows. Where
    the student comes near that, compare in float64 with a smaller `rtol`.

    **Laws.** Sliced Wasserstein distance (order 2) and squared maximum mean
    discrepancy (unbiased, one bandwidth for all) of each way's samples at `t_min` to
    one set of clean samples; and, as the floor, of a second such set to the first. All
    sets have one size, at most 8192: of held-out data each takes a half.

    **Cost:** the reference, the default solve, $N - 1$ evaluations of Euler and
    $2(N - 1)$ of Heun on a grid of $N$ times, for every sample; for the timing each
    but the reference `repeats + 1` times on one block more.

    Tee, Zhang et al. 2024, "Physics informed distillation for diffusion models": by
    their Lemma 1 a student without residual is the Euler path of its grid.
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
    ways = make_ways(flow, student, grid, clock, given)
    along = Along(z, times, condition, block, per_component, min(paths, count))
    solved, beside = follow(ways, along)
    if repeats:
        solved = with_seconds(solved, ways, along, repeats)
    sets = two_sets(flow.denoiser, samples, condition, count, key=set_key)
    floor = None
    if sets is not None:
        solved, floor = with_distances(solved, sets, key=slice_key)
    return Report(
        **solved,
        student_to_euler=beside["euler"],
        student_to_heun=beside["heun"],
        z=np.asarray(z),
        condition=jax.tree.map(np.asarray, condition),
        times=np.asarray(times),
        grid=np.asarray(grid),
        scale=np.asarray(flow.process.scale(times)),
        floor=floor,
        settings=_settings(flow.process, along, clock, given, repeats),
    )


def _settings(
    process: AbstractProcess,
    along: Along,
    clock: AbstractClock,
    options: dict[str, Any],
    repeats: int,
) -> dict[str, Any]:
    """How the numbers came about, as JSON holds it."""
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
    """A number as it is, a grid as a list, and of anything else its name."""
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, jax.Array | np.ndarray):
        return value.tolist()
    return type(value).__name__


def check_options(options: dict[str, Any]) -> None:
    """They are a solve's, and of one that says when it fails."""
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
    """The prior draws: those given, of the right shape, or new ones."""
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
    """Held-out data are samples like the student's, enough for two sets."""
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
