r"""Samples of a student or of a flow, in batches.

The unit latent of sample $i$ is drawn with `fold_in(fold_in(key, 0), i)`: the same for
any number of samples, size of a batch or number of devices, and the same from which
`refine` starts with that key.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Int

from .._batches import batch_length, batch_rows
from .._checks import check_condition, whole_number
from .._progress import advance, progress_bar
from ..flow import ProbabilityFlow, SolveOptions, solve_batch
from ..types import Batch, Condition, Key, Sample, WholeLike, typed
from ._flow_map import FlowMap
from ._integral_student import IntegralStudent
from ._student import AbstractStudent

_PILOT = 32  # draws by which a solver is chosen
_BATCH = 256  # samples of a student that are computed at once


@typed
def sample(
    model: Any,
    count: WholeLike,
    *,
    key: Key,
    condition: Condition = None,
    batch_size: WholeLike | None = None,
    devices: Sequence[Any] | None = None,
    progress: bool = False,
    denoise: bool = False,
    evaluations: WholeLike | None = None,
    **options: Unpack[SolveOptions],
) -> Batch:
    """Draw `count` samples of a student, or of a teacher's flow.

        samples = px.sample(student, 500, key=key)
        samples = px.sample(px.ProbabilityFlow(teacher, process), 500, key=key)

    **Arguments:**

    - `model`: a student, which makes a sample in one evaluation, or a
      `ProbabilityFlow`, which is solved from draws of the prior by `solve_batch`.
    - `condition`: passed to the model; arrays have the sample as their first axis,
      scalars are shared by all samples.
    - `batch_size`: the number of samples computed at once, which limits the memory; by
      default 256 for a student, and all for a flow. It does not change the draws. The
      last batch is filled up, so that another `count` compiles nothing new.
    - `devices`: for a student, the devices among which each batch is divided; by
      default all of this process.
    - `progress`: show a bar.
    - `denoise`, `options`: for the solve of a flow; see `solve_batch`. A `FlowMap` and
      an `IntegralStudent` with several `starts` take `steps=`, too: the number of
      evaluations for a sample, by default one.
    """
    count = whole_number("count", count)
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size)
    condition = check_condition(condition, count)
    if isinstance(model, ProbabilityFlow):
        if evaluations is not None:
            given = {**options, "denoise": denoise}
            options = _chosen(model, evaluations, key, condition, count, given)
        return _of_flow(
            model, count, key, condition, batch_size, devices, progress,
            {"denoise": denoise, **options},
        )  # fmt: skip
    if not isinstance(model, AbstractStudent):
        raise ValueError(
            "expected a student or a ProbabilityFlow to sample, got "
            f"{type(model).__name__}. {_cure(model)}"
        )
    if isinstance(model, FlowMap | IntegralStudent) and "steps" in options:
        model = model.in_steps(whole_number("steps", options.pop("steps")))
    given = sorted(options) + ["denoise"] * denoise
    given += ["evaluations"] * (evaluations is not None)
    if given:
        raise ValueError(
            f"a student is evaluated and not solved: expected no options of a solve, "
            f"got {', '.join(given)}. Leave them out. An IntegralStudent with several "
            "starts takes steps=, and a FlowMap."
        )
    return _of_student(model, count, key, condition, batch_size, devices, progress)


def _cure(model: Any) -> str:
    """Advice for a user who passed another model."""
    if hasattr(model, "ema"):
        return "Of what fit returns pass result.ema() or result.model."
    if hasattr(model, "interval"):
        return "Make a flow of a denoiser: px.ProbabilityFlow(denoiser, process)."
    return "Make a student with px.Student(network, process)."


def _chosen(
    flow: ProbabilityFlow,
    evaluations: WholeLike,
    key: Key,
    condition: Condition,
    count: int,
    options: Any,
) -> Any:
    """The solver and the steps with so many evaluations, by a pilot solve."""
    from ..solver import choose

    denoise = options.pop("denoise")
    if options:
        raise ValueError(
            "evaluations= chooses the solver and its steps: expected no other options "
            f"of the solve, got {', '.join(sorted(options))}. Leave one of them out."
        )
    last = flow.denoiser.evaluations(condition) if denoise else 0
    rows = np.arange(_PILOT) % count
    some = jax.tree.map(lambda a: a[rows], condition)
    total = whole_number("evaluations", evaluations) - last
    if total < 1:
        raise ValueError(
            f"the step to zero noise takes {last} evaluations: expected more, got "
            f"evaluations={evaluations}. Raise them, or leave denoise out."
        )
    own = jax.random.fold_in(key, 1)
    return choose(flow, total, key=own, draws=_PILOT, condition=some).options


def _of_flow(
    flow: ProbabilityFlow,
    count: int,
    key: Key,
    condition: Condition,
    batch_size: int | None,
    devices: Sequence[Any] | None,
    progress: bool,
    options: dict[str, Any],
) -> Batch:
    if flow.shape is None:
        raise ValueError(
            "the shape of one sample is not known. Pass shape= to ProbabilityFlow or "
            "to the wrapper of your model."
        )
    if devices is not None:
        raise ValueError(
            "a flow is solved on the device of its arrays: expected devices=None, got "
            f"{list(devices)}. Leave devices out, or sample a student."
        )
    z = flow.process.prior(key, (count, *flow.shape))
    rows = batch_rows(count, batch_size or count)
    parts = []
    with progress_bar(count, "sample", "sample", progress) as bar:
        for some in rows:
            own, given = z, condition
            if len(rows) > 1:
                own, given = jax.tree.map(lambda a: a[some], (z, condition))  # noqa: B023
            parts.append(solve_batch(flow, own, condition=given, **options).end)
            advance(bar, min(len(some), count - bar.n))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)[:count]


def _of_student(
    student: AbstractStudent,
    count: int,
    key: Key,
    condition: Condition,
    batch_size: int | None,
    devices: Sequence[Any] | None,
    progress: bool,
) -> Batch:
    if student.shape is None:
        raise ValueError(
            "the shape of one sample is not known. Pass shape= to Student, or use "
            "jax.vmap(student.sample)(z) with draws z of the prior."
        )
    devices = jax.local_devices() if devices is None else list(devices)
    length = batch_length(count, batch_size or _BATCH)
    length = -(-length // len(devices)) * len(devices)  # as many on each device
    one, split = _shardings(devices)
    arrays, rest = eqx.partition((student, key), eqx.is_array)
    student, key = eqx.combine(jax.device_put(arrays, one), rest)
    host = jax.tree.map(np.asarray, condition)
    parts = []
    with progress_bar(count, "sample", "sample", progress) as bar:
        for rows in batch_rows(count, length):
            some = jax.tree.map(lambda a: a[rows], host)  # noqa: B023
            own = jax.device_put((rows.astype(np.int32), some), split)
            parts.append(np.asarray(_samples(student, key, *own)))
            advance(bar, min(length, count - bar.n))
    return jnp.asarray(np.concatenate(parts)[:count])


def _shardings(devices: Sequence[Any]) -> tuple[Any, Any]:
    """Where what all devices need goes, and where what is divided among them."""
    if len(devices) == 1:
        alone = SingleDeviceSharding(devices[0])
        return alone, alone
    mesh = Mesh(np.array(devices), ("sample",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(
        mesh, PartitionSpec("sample")
    )


@eqx.filter_jit
def _samples(
    student: AbstractStudent,
    key: Key,
    rows: Int[Array, " sample"],
    condition: Condition,
) -> Batch:
    process, shape = student.process, student.shape
    assert shape is not None
    keys = sample_keys(key, rows, 0)

    def one(key: Key, condition: Condition) -> Sample:
        unit = jax.random.normal(key, shape)
        last = jnp.asarray(process.t_max, unit.dtype)
        return student.sample(process.sigma(last) * unit, condition)

    return jax.vmap(one)(keys, condition)


@eqx.filter_jit
def sample_keys(key: Key, rows: Int[Array, " sample"], purpose: int) -> Array:
    """The key of each sample, which depends on its number only."""
    own = jax.random.fold_in(key, purpose)
    return jax.vmap(lambda i: jax.random.fold_in(own, i))(rows)
