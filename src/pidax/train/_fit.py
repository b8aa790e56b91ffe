"""`fit`: one engine for teachers and students."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..distill import AbstractObjective
from ..store import describe
from ..types import Key
from ._arguments import check_arguments, check_batch_size, check_counts
from ._checkpoint import checkpoints_in
from ._data import AbstractSource, as_source
from ._loop import Looks, Run
from ._parallel import Place
from ._result import Result
from ._schedule import default_optimiser
from ._start import (
    as_jax,
    check_loss,
    dispatch_length,
    first_state,
    loops_are_slow,
    trainable_or_default,
)
from ._step import Recipe

if TYPE_CHECKING:
    import optax


def fit(
    model: PyTree,
    objective: AbstractObjective,
    *,
    steps: int,
    batch_size: int,
    key: Key,
    data: PyTree = None,
    optimiser: "optax.GradientTransformation | None" = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: Sequence[float] = (0.999,),
    ema_ramp: float | None = 0.05,
    trainable: PyTree = None,
    directory: str | Path | None = None,
    checkpoint_every: int = 1000,
    keep: int = 3,
    best: str = "loss",
    log_every: int = 100,
    callback: Callable[[int, dict[str, float], Result], Mapping | None] | None = None,
    progress: bool = True,
    devices: Sequence[Any] | None = None,
    steps_per_dispatch: int | None = None,
) -> Result:
    r"""Train a model on an objective: a teacher on data, a student on its teacher.

    **What is trained:**

    - `model`: any pytree that the objective understands. It is not modified.
    - `objective`: the loss; see `pidax.distill`.
    - `data`: for objectives that need it: an array with one row for each sample
      (memory-mapped ones are read as needed), a tuple or other pytree of such arrays,
      an iterable of batches, or a function from the step to a batch.
    - `steps`, `batch_size`: the batch is the whole one, over all devices and
      processes. `key` determines everything random: the order of the data, the noise.

    **How:**

    - `optimiser`: any of Optax; default `optax.radam(2e-4)` (as Tee et al. 2024). See
      `warmup_cosine` for a schedule.
    - `clip`: the largest norm of the whole gradient.
    - `accumulate`: micro-batches in a step, one after the other, for memory.
    - `ema`: decays of the averages of the weights to keep; `result.ema(0.999)`
      chooses one. `ema_ramp` shortens them in the first steps; None does not.
    - `trainable`: a filter specification of what to train, as `equinox.partition`
      takes it; default all floating-point arrays of the networks, and none of their
      frequencies or of a process.
    - `devices`: default all. `steps_per_dispatch`: steps for each call of the compiled
      function; more hide the time between them, and make Ctrl-C wait.

    **What is kept:**

    - `directory`: where to write checkpoints, every `checkpoint_every` steps, and
      `metrics.jsonl`, every `log_every`. If it holds a run with these very arguments,
      that is resumed, on the CPU to the last bit; `steps` may grow, and devices,
      accumulation and intervals may change. The last `keep` checkpoints are kept and
      the one in whose interval the mean of the term `best` was lowest.
    - `callback(step, terms, result)` is called every `log_every` steps; what terms it
      returns join the line. It may raise `StopTraining`.

    Ctrl-C, once, writes a checkpoint and returns what there is. A loss or gradient that
    is not finite raises `NonFiniteError`, and nothing is overwritten.
    """
    place = Place(devices)
    model, trainable = as_jax(model), trainable_or_default(model, trainable)
    numbers = dict(steps=steps, batch_size=batch_size, accumulate=accumulate)
    numbers |= dict(checkpoint_every=checkpoint_every, keep=keep, log_every=log_every)
    check_counts(**numbers, steps_per_dispatch=steps_per_dispatch or 1)
    check_arguments(objective, optimiser, key, clip, ema, ema_ramp)
    check_batch_size(batch_size, accumulate, place)
    init_key, step_key, refresh_key, data_key = jax.random.split(key, 4)
    source = as_source(data, batch_size, jax.random.key_data(data_key))
    objective.check(model, source.example())
    source.check = lambda batch: objective.check(model, batch)
    own = objective.init(model, key=init_key)
    convolves = check_loss(model, objective, own, source, trainable)
    slow = convolves and loops_are_slow(place)
    recipe = Recipe(
        model=eqx.filter(model, eqx.is_array, inverse=True),
        objective=eqx.filter(own, eqx.is_array, inverse=True),
        trainable=trainable,
        optimiser=optimiser or default_optimiser(),
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        per_dispatch=min(steps, steps_per_dispatch or dispatch_length(source, slow)),
        unroll=slow,
        clip=clip,
        decays=tuple(float(decay) for decay in ema),
        ramp=ema_ramp,
    )
    config = lambda: configuration(model, objective, recipe, source, key)
    checkpoints = checkpoints_in(directory, config, keep, recipe.decays)
    looks = Looks(log_every, checkpoint_every, best, callback, progress)
    run = Run(recipe, objective, place, source, refresh_key, checkpoints, looks)
    state = first_state(model, own, objective, recipe, key=step_key)
    del own  # which may be large, and is copied in the state
    return run.go(state)


def configuration(
    model: PyTree,
    objective: AbstractObjective,
    recipe: Recipe,
    source: AbstractSource,
    key: Key,
) -> dict[str, str]:
    """All that makes a run what it is, in words."""
    what = {
        "batch_size": recipe.batch_size,
        "clip": recipe.clip,
        "ema": recipe.decays,
        "ema_ramp": recipe.ramp,
        "data": source.describe(),
        "key": key,
    }
    words = describe(objective, "objective", values=True)
    words |= describe(recipe.optimiser, "optimiser", values=True)
    words |= describe(recipe.trainable, "trainable", values=True)
    words |= describe(model, "model", values=False)
    for name, value in what.items():
        words |= describe(value, name, values=True)
    return words
