"""One function on every device of every process.

    one device           jax.jit
    one process          equinox.filter_pmap over its devices
    several processes    jax.pmap over the devices of all (after
                         jax.distributed.initialize), local ones fed from here

Replicated arguments go in and come out whole. Mapped arguments have the local devices
as their first axis. `equinox.filter_pmap` cannot be used across processes: it passes
lists where JAX needs hashable values. A pmap inside a jit would silently sum over the
local devices only, so they are never nested.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from jaxtyping import Array, ArrayLike, Int, PyTree

from ._programs import kept
from ._state import Numbers, is_key, own_copy
from ._step import Recipe, Record, dispatch

AXIS = "data"
Leaves: TypeAlias = tuple[Array, ...]


class Place:
    """The devices of a run: of this process, and their total number."""

    devices: tuple[Any, ...]
    process: int
    processes: int

    def __init__(self, devices: Sequence[Any] | None = None):
        self.processes = jax.process_count()
        self.process = jax.process_index()
        chosen = jax.local_devices() if devices is None else devices
        self.devices = tuple(chosen)
        if not self.devices:
            raise ValueError(
                "devices must name at least one device, got none. Leave devices=None "
                "to use all."
            )
        if self.processes > 1 and set(self.devices) != set(jax.local_devices()):
            raise ValueError(
                "with several processes each uses all its devices, got devices="
                f"{list(self.devices)}. Leave devices=None, and set "
                "CUDA_VISIBLE_DEVICES (or local_device_ids) to choose them."
            )

    @property
    def local(self) -> int:
        """The number of devices of this process."""
        return len(self.devices)

    @property
    def total(self) -> int:
        """The number of devices of all processes."""
        return self.local * self.processes

    @property
    def axis(self) -> str | None:
        """The name over which to sum; None on a single device."""
        return None if self.total == 1 else AXIS

    def replicate(self, tree: PyTree) -> PyTree:
        """Arrays on every local device; anything else as it is."""
        if self.processes > 1:
            return tree  # pmap places what is broadcast
        sharding = self._sharding(PartitionSpec())
        arrays, rest = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, sharding), rest)

    def split(self, tree: PyTree) -> PyTree:
        """Arrays whose first axis is the local devices, one slice on each."""
        return jax.device_put(tree, self._sharding(PartitionSpec(AXIS)))

    def share(self, tree: PyTree) -> PyTree:
        """Process 0's arrays, on every process."""
        if self.processes == 1:
            return tree
        from jax.experimental import multihost_utils

        return multihost_utils.broadcast_one_to_all(tree)

    def share_state(self, state: PyTree) -> PyTree:
        """Process 0's state, on every process; its random key as data on the way."""
        if self.processes == 1:
            return state
        bare = jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, state)

        def one(new: ArrayLike, old: Array) -> Array:
            if is_key(old):
                impl = jax.random.key_impl(old)
                return jax.random.wrap_key_data(jnp.asarray(new), impl=impl)
            return jnp.asarray(new, old.dtype)

        return jax.tree.map(one, self.share(bare), state)

    def _sharding(self, spec: PartitionSpec) -> Sharding:
        if self.local == 1:  # a mesh of one would be another type to JAX's caches
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), spec)


class Devices:
    """A run's state on its devices, and the compiled function that advances it.

    The compiled function takes tuples of arrays: the host needs a millisecond or two
    each time to flatten and rebuild a tree of modules, and nothing for a tuple. Each
    call donates the buffers of the state, and new ones replace them.
    """

    def __init__(
        self,
        recipe: Recipe,
        place: Place,
        state: PyTree,
        objective: PyTree,
        numbers: Numbers,
    ):
        # On several devices the buffers of the teacher and of a schedule are donated
        # too: pass copies.
        if place.total > 1:
            objective = own_copy(objective)
            numbers = jax.tree.map(lambda a: jnp.array(a, copy=True), numbers)
        constants = eqx.filter(objective, eqx.is_array), numbers
        leaves, shape = jax.tree.flatten(place.replicate(constants))
        self.constants = tuple(leaves)
        self.place, self.shape = place, jax.tree.structure(state)
        self.put(state)
        self.shapes: tuple[PyTree, ...] | None = None  # of the arguments of the call
        key = recipe, place.devices, place.processes, self.shape, shape
        self.call = kept(lambda: program(recipe, place, self.shape, shape), *key)

    def __call__(
        self, samples: PyTree, count: int, asked: bool, per_device: int
    ) -> dict[str, jax.Array]:
        """Take `count` steps; returns their reports, which may not be computed yet."""
        first = (self.place.process * self.place.local) * per_device
        order = [
            (first + i * per_device, count, asked) for i in range(self.place.local)
        ]
        order = self.place.split(np.array(order, np.int32))
        if self.shapes is None:
            self.shapes = _shapes((self.leaves, self.constants, samples, order))
        self.leaves, self.constants, record = self.call(
            self.leaves, self.constants, samples, order
        )
        return record

    def account(self) -> Any:
        """What the compiled function takes, by XLA's account; None if that fails."""
        try:
            lowered = self.call.lower(*self.shapes)  # type: ignore[union-attr]
            return lowered.compile().memory_analysis()
        except Exception:  # there may be no memory to compile, or no such method
            return None

    @property
    def state(self) -> PyTree:
        """The state, whose buffers the next call donates."""
        return jax.tree.unflatten(self.shape, self.leaves)

    def put(self, state: PyTree) -> None:
        """Continue from this state."""
        self.leaves = tuple(jax.tree.leaves(self.place.replicate(state)))


def program(recipe: Recipe, place: Place, shape: Any, constants: Any) -> Callable:
    """The compiled function of the leaves of a state and of the constants."""
    run = dispatch(recipe, place.total, place.axis)

    def flat(
        leaves: Leaves, others: Leaves, samples: PyTree, order: Int[Array, "3"]
    ) -> tuple[Leaves, Record]:
        objective, numbers = jax.tree.unflatten(constants, others)
        objective = eqx.combine(objective, recipe.objective)
        state = jax.tree.unflatten(shape, leaves)
        first, count, asked = order
        state, record = run(
            state, objective, numbers, samples, first, count, asked != 0
        )
        if (new := jax.tree.structure(state)) != shape:
            raise ValueError(
                f"a step must keep the structure of the state, got {new} from {shape}. "
                f"Look at advance of {type(objective).__name__}, and at the optimiser."
            )
        return tuple(jax.tree.leaves(state)), record

    return data_parallel(flat, place)


def data_parallel(run: Callable[..., Any], place: Place) -> Callable[..., Any]:
    """Compile `run(state, kept, *mapped) -> (state, record)` for a place.

    Arguments are pytrees of arrays; the mapped ones have the local devices as their
    first axis. The compiled function returns `(state, kept, record)`. It donates the
    buffers of the state and, on several devices, of `kept`.
    """
    if place.total == 1:

        def alone(state: PyTree, kept: PyTree, *mapped: PyTree) -> PyTree:
            return run(state, kept, *jax.tree.map(lambda a: a[0], mapped))

        compiled = jax.jit(alone, donate_argnums=0)
    elif place.processes == 1:
        return _one_process(run)
    else:
        compiled = jax.pmap(
            run,
            axis_name=AXIS,
            in_axes=(None, None, 0, 0),
            out_axes=(None, None),  # tuples: filter_pmap's lists cannot be hashed
            donate_argnums=(0,),
        )

    def call(state: PyTree, kept: PyTree, *mapped: PyTree) -> tuple[PyTree, ...]:
        state, record = compiled(state, kept, *mapped)
        return state, kept, record

    call.lower = compiled.lower  # type: ignore[attr-defined]
    return call


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree
    )


def _one_process(run: Callable[..., Any]) -> Callable[..., Any]:
    # filter_pmap donates all arguments or none. Kept arrays pass through, so that
    # each of its buffers is given back under the same name.
    def through(state: PyTree, kept: PyTree, *mapped: PyTree) -> tuple[PyTree, ...]:
        state, record = run(state, kept, *mapped)
        return state, kept, record

    return eqx.filter_pmap(
        through, in_axes=(None, None, 0, 0), out_axes=None, axis_name=AXIS, donate="all"
    )
