"""`fit`: one engine for teachers and students."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import nn
from .._checks import require, require_positive, require_whole, whole_number
from ..distill import FIXED, AbstractObjective
from ..store import describe
from ..types import Key
from ._checkpoint import Checkpoints
from ._devices import Place
from ._loop import Looks, Run
from ._programs import kept, opened
from ._sources import AbstractSource, as_source
from ._state import M, Numbers, Result, TrainState, average_of, is_key, own_copy
from ._step import RESERVED, Recipe, sample_loss, split_objective
from ._validation import Validation

if TYPE_CHECKING:
    import optax

_DISPATCH_BYTES = 2**26


def fit(
    model: M,
    objective: AbstractObjective,
    *,
    steps: int,
    batch_size: int,
    key: Key,
    data: PyTree = None,
    validation: PyTree = None,
    validate_every: int = 1000,
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
    callback: Callable[[int, dict[str, float], Result[M]], Mapping | None]
    | None = None,
    progress: bool = True,
    devices: Sequence[Any] | None = None,
    steps_per_dispatch: int | None = None,
) -> Result[M]:
    r"""Train a model on an objective: a teacher on data, a student on its teacher.

    **What is trained:**

    - `model`: any pytree that the objective understands. It is not modified.
    - `objective`: the loss; see `pidax.distill`.
    - `data`: for objectives that need it: an array with one row for each sample
      (memory-mapped ones and data sets of HDF5 are read as needed), a tuple or other
      pytree of such arrays, an iterable of batches, or a function from the step to a
      batch.
    - `steps`, `batch_size`: the batch is the whole one, over all devices and
      processes. `key` determines everything random: the order of the data, the noise.

    - `validation`: held-out samples in the form of `data`, in arrays. Every
      `validate_every` steps, and after the last, the means of the loss and its terms
      over all of them join the line as `validation_loss`, ...: computed on one device
      with the weights of that step, dropout included, and with the same noise every
      time. `best="validation_loss"` keeps the checkpoint at which it was lowest.

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
    - `callback(step, terms, result)` is called every `log_every` steps, and with every
      validation. `terms` are the numbers of the line by name, floats all but the step;
      what terms it returns join the line. It may raise `StopTraining`.

    What is compiled is kept, and serves the next call with a model, objective and
    optimiser of the same structure, whatever its data, key, `steps` and learning rate.

    Ctrl-C, once, writes a checkpoint and returns the run so far. A loss or gradient
    that is not finite raises `NonFiniteError`, and nothing is overwritten.
    """
    begun, place = time.perf_counter(), Place(devices)
    array = lambda a: jnp.asarray(a) if isinstance(a, np.ndarray | np.generic) else a
    model = jax.tree.map(array, model)
    trainable = nn.trainable(model, FIXED) if trainable is None else trainable
    steps = whole_number("steps", steps)
    batch_size = whole_number("batch_size", batch_size)
    require_whole(accumulate=accumulate, log_every=log_every, keep=keep)
    require_whole(checkpoint_every=checkpoint_every, validate_every=validate_every)
    require_whole(steps_per_dispatch=steps_per_dispatch or 1)
    check_arguments(objective, optimiser, key, clip, ema, ema_ramp)
    check_batch_size(batch_size, accumulate, place)
    if optimiser is None:
        import optax

        optimiser = optax.radam(2e-4)
    init_key, step_key, refresh_key, data_key = jax.random.split(key, 4)
    source = as_source(data, batch_size, jax.random.key_data(data_key))
    objective.check(model, source.example())
    source.check = lambda batch: objective.check(model, batch)
    own = objective.init(model, key=init_key)
    whole = model, objective, own
    static = eqx.filter(whole, eqx.is_array, inverse=True)
    loss = kept(lambda: sample_loss(*static), "loss", static)
    convolves = check_loss(whole, loss, source, trainable, step_key)
    # XLA's CPU backend is slow in convolutions inside a loop, by far (seen with jax
    # 0.10): there a loop is unrolled, or left to Python.
    slow = convolves and place.devices[0].platform == "cpu"
    learning, empty = opened(optimiser)
    recipe = Recipe(
        model=static[0],
        state=static[2],
        objective=static[1],
        trainable=trainable,
        optimiser=empty,
        loss=loss,
        batch_size=batch_size,
        accumulate=accumulate,
        per_dispatch=steps_per_dispatch or (1 if slow else dispatch_length(source)),
        unroll=slow,
    )
    decays = tuple(float(decay) for decay in ema)
    config = configuration(model, objective, optimiser, recipe, source, key)
    for name, value in dict(clip=clip, ema=decays, ema_ramp=ema_ramp).items():
        config |= describe(value, name, values=True)
    mark = hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()[:12]
    checkpoints = None
    if directory is not None:
        checkpoints = Checkpoints(Path(directory), config, keep, decays)
    looks = Looks(log_every, checkpoint_every, validate_every, best, callback, progress)
    held_out = None
    if validation is not None:
        held_out_key = jax.random.fold_in(data_key, 1)
        held_out = Validation(
            validation, model, objective, loss, held_out_key, batch_size
        )
    numbers = Numbers.of(steps, clip, decays, ema_ramp, learning)
    what = recipe, steps, decays, numbers, objective, place, source, refresh_key
    run = Run(*what, checkpoints, looks, held_out, mark, begun)
    weights = eqx.filter(model, trainable)
    helpers, _ = split_objective(objective, own)
    state = TrainState(
        model=eqx.filter(model, eqx.is_array),
        objective=eqx.filter(own, eqx.is_array),
        optimiser=optimiser.init((weights, helpers)),
        averages=tuple(average_of(weights) for _ in decays),
        step=jnp.zeros((), jnp.int32),
        failure=jnp.zeros((), jnp.int32),
        key=step_key,
    )
    state = own_copy(state)
    del own, whole  # which may be large, and are copied in the state
    return run.go(state)


def configuration(
    model: PyTree,
    objective: AbstractObjective,
    optimiser: "optax.GradientTransformation",
    recipe: Recipe,
    source: AbstractSource,
    key: Key,
) -> dict[str, str]:
    """All that makes a run what it is, in words."""
    words = describe(objective, "objective", values=True)
    words |= describe(optimiser, "optimiser", values=True)
    words |= describe(recipe.trainable, "trainable", values=True)
    words |= describe(model, "model", values=False)
    what = dict(batch_size=recipe.batch_size, data=source.describe(), key=key)
    for name, value in what.items():
        words |= describe(value, name, values=True)
    return words


def check_arguments(
    objective: Any,
    optimiser: Any,
    key: Any,
    clip: float | None,
    ema: Sequence[float],
    ramp: float | None,
) -> None:
    """An objective, an optimiser, a typed key; positive numbers, decays below one."""
    if not isinstance(objective, AbstractObjective):
        raise ValueError(
            f"objective must be an instance of AbstractObjective, got {objective!r}. "
            "For example DenoisingScoreMatching(process)."
        )
    if optimiser is not None and not hasattr(optimiser, "update"):
        raise ValueError(
            f"optimiser must be an Optax transformation, got {optimiser!r}. Call it "
            "with its learning rate: optax.adam(1e-3)."
        )
    if not eqx.is_array(key) or not is_key(key) or key.shape:
        raise ValueError(
            f"key must be one random key, got {type(key).__name__}. Make it with "
            "jax.random.key(0); jax.random.wrap_key_data converts one of PRNGKey."
        )
    if clip is not None:
        require_positive(clip=clip)
    if ramp is not None:
        require_positive(ema_ramp=ramp)
    if not isinstance(ema, Sequence):
        raise ValueError(f"ema must be a tuple of decays, got {ema}: (0.999,) or ().")
    for decay in ema:
        require(
            None,
            0 <= decay < 1,
            f"the decays in ema must be at least 0 and less than 1, got {decay}. An "
            "average over about n steps has the decay 1 - 1/n.",
        )


def check_batch_size(batch_size: int, accumulate: int, place: Place) -> None:
    """Every device gets as many samples in every micro-batch."""
    parts = place.total * accumulate
    if batch_size % parts == 0:
        return
    below = batch_size // parts * parts
    nearer = below and 2 * (batch_size - below) < parts
    micro = f" times {accumulate} micro-batches" if accumulate > 1 else ""
    devices = "1 device" if place.total == 1 else f"{place.total} devices"
    raise ValueError(
        f"batch_size must be divisible by {parts} ({devices}{micro}), got "
        f"{batch_size}. The nearest that is: {below if nearer else below + parts}."
    )


def check_loss(
    whole: tuple[PyTree, AbstractObjective, PyTree],
    loss: Any,
    source: AbstractSource,
    trainable: PyTree,
    key: Key,
) -> bool:
    """Trace the loss of one sample, and see that it is one; whether it convolves."""
    model, objective, own = whole
    if not jax.tree.leaves(eqx.filter(model, trainable)):
        raise ValueError(
            "the model must have floating-point arrays to train, got none. Check the "
            "model and `trainable`."
        )

    def abstract(leaf: Any, rows: int = 0) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype, True)
        return jax.ShapeDtypeStruct(leaf.shape[rows:], dtype)

    sample = jax.tree.map(lambda leaf: abstract(leaf, 1), source.example())
    # As the run will have them: a loss that is traced alike is not traced again.
    model, own = jax.tree.map(abstract, eqx.filter((model, own), eqx.is_array))
    arrays = model, eqx.filter(objective, eqx.is_array), own
    now = jax.ShapeDtypeStruct((), jnp.zeros(()).dtype)
    traced = loss.trace(arrays, sample, now, key)
    value, (_, terms) = traced.out_info
    name = type(objective).__name__
    several = objective.combination is not None
    if value.ndim != several or value.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"the loss of {name} must be {'a vector of' if several else 'one'} float32 "
            f"or float64 number{'s' if several else ''}, got "
            f"{value.dtype}{list(value.shape)}. Average over the components, and "
            "convert the network's output with .astype(jnp.float32) first."
        )
    wrong = {n: t for n, t in terms.items() if t.shape != ()}
    if wrong or RESERVED & set(terms):
        raise ValueError(
            f"the terms of {name} must be single numbers, under none of the names "
            f"{sorted(RESERVED)} which are the engine's; got {terms}."
        )
    return _convolves(traced.jaxpr.jaxpr)


def dispatch_length(source: AbstractSource) -> int:
    """Steps in a dispatch: few enough that their samples take little memory."""
    leaves = jax.tree.leaves(source.example())
    size = source.batch_size * sum(x[:1].nbytes for x in leaves)
    return max(1, min(16, _DISPATCH_BYTES // max(size, 1)))


def _convolves(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inside = jax.tree.leaves(list(equation.params.values()))  # of jit, scan, ...
        inner = [getattr(value, "jaxpr", value) for value in inside]
        if any(_convolves(jaxpr) for jaxpr in inner if hasattr(jaxpr, "eqns")):
            return True
    return False
