"""One function on every device of every process.

    one device           equinox.filter_jit
    one process          equinox.filter_pmap over its devices
    several processes    jax.pmap over the devices of all (after
                         jax.distributed.initialize), local ones fed from here

What is replicated goes in and comes out whole; what is mapped has the local devices as
its first axis. `equinox.filter_pmap` cannot be used across processes: it passes lists
where JAX wants something hashable. A pmap inside a jit would sum over the local devices
only, silently, so the two are never nested.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._state import is_key

AXIS = "data"


class Place:
    """The devices that a run uses: this process's, and how many there are in all."""

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
        sharding = NamedSharding(self._mesh(), PartitionSpec())
        arrays, rest = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, sharding), rest)

    def split(self, tree: PyTree) -> PyTree:
        """Arrays whose first axis is the local devices, one slice on each."""
        sharding = NamedSharding(self._mesh(), PartitionSpec(AXIS))
        return jax.device_put(tree, sharding)

    def every(self, value: Any, dtype: Any) -> PyTree:
        """One number, as an array with an entry on each local device."""
        return self.split(np.full(self.local, value, dtype))

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

        def one(new, old):
            if is_key(old):
                impl = jax.random.key_impl(old)
                return jax.random.wrap_key_data(jnp.asarray(new), impl=impl)
            return jnp.asarray(new, old.dtype)

        return jax.tree.map(one, self.share(bare), state)

    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))


def data_parallel(run: Callable[..., Any], place: Place) -> Callable[..., Any]:
    """Compile `run(state, objective, *mapped) -> (state, record)` for a place.

    The result is called as `(state, objective, *mapped)`, its mapped arguments being
    arrays with the local devices first, and returns `(state, objective, record)`. The
    state's buffers, and on several devices the objective's, are used up: go on with
    what is returned.
    """
    if place.total == 1:
        return _one_device(run)
    if place.processes == 1:
        return _one_process(run)
    return _several_processes(run)


def _one_device(run: Callable[..., Any]) -> Callable[..., Any]:
    @eqx.filter_jit(donate="all-except-first")
    def compiled(kept, state):
        objective, mapped = kept
        return run(state, objective, *jax.tree.map(lambda a: a[0], mapped))

    def call(state, objective, *mapped):
        state, record = compiled((objective, mapped), state)
        return state, objective, record

    return call


def _one_process(run: Callable[..., Any]) -> Callable[..., Any]:
    # filter_pmap donates all arguments or none. The objective passes through, so that
    # each of its buffers is given back under the same name.
    def through(state, objective, *mapped):
        state, record = run(state, objective, *mapped)
        return state, objective, record

    def call(state, objective, *mapped):
        axes = (None, None, *(0 for _ in mapped))
        compiled = eqx.filter_pmap(
            through, in_axes=axes, out_axes=None, axis_name=AXIS, donate="all"
        )
        return compiled(state, objective, *mapped)

    return call


def _several_processes(run: Callable[..., Any]) -> Callable[..., Any]:
    compiled = None

    def call(state, objective, *mapped):
        nonlocal compiled
        teacher, rest = eqx.partition(objective, eqx.is_array)
        if compiled is None:  # the static parts are those of the whole run

            def arrays_only(state, teacher, *mapped):
                return run(state, eqx.combine(teacher, rest), *mapped)

            compiled = jax.pmap(
                arrays_only,
                axis_name=AXIS,
                in_axes=(None, None, *(0 for _ in mapped)),
                out_axes=(None, None),
                donate_argnums=(0,),
            )
        state, record = compiled(state, teacher, *mapped)
        return state, objective, record

    return call
