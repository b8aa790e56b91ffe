"""Batches on their way to the devices while these compute.

A run is cut into dispatches that end where something is to be looked at (a line of the
log, a checkpoint, a refresh). A thread prepares the batches of the next two.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._data import AbstractSource, require_finite_data
from ._parallel import Place


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps `first` to `first + count - 1`, and their samples on the devices."""

    first: int
    count: int
    samples: PyTree


def plan(
    start: int, stop: int, most: int, every: Sequence[int | None]
) -> Iterator[tuple[int, int]]:
    """(first step, count) of each dispatch; none runs across a multiple of `every`."""
    step = start
    while step < stop:
        ends = [step + most, stop]
        ends += [(step // n + 1) * n for n in every if n]
        yield step, min(ends) - step
        step = min(ends)


def batches(
    source: AbstractSource,
    place: Place,
    batch_size: int,
    most: int,
    steps: Iterator[tuple[int, int]],
) -> Iterator[Dispatch]:
    """The dispatches of a plan, of one shape whatever their count."""
    share = batch_size // place.processes
    part = slice(place.process * share, (place.process + 1) * share)

    def buffer(row: np.ndarray) -> np.ndarray:
        per_device = (place.local, most, share // place.local, *row.shape[1:])
        return np.zeros(per_device, jax.dtypes.canonicalize_dtype(row.dtype))

    for first, count in steps:
        rows = [source.rows(first + i, part) for i in range(count)]
        samples = jax.tree.map(buffer, rows[0])
        for i, row in enumerate(rows):
            jax.tree.map(lambda b, r, i=i: _fill(b, r, i), samples, row)
        for path, leaf in jax.tree.leaves_with_path(samples):
            name = (
                f"{jax.tree_util.keystr(path)} of steps {first} to {first + count - 1}"
            )
            require_finite_data(leaf, name, "data")
        yield Dispatch(first, count, place.split(samples))


def _fill(buffer: np.ndarray, row: np.ndarray, i: int) -> None:
    buffer[:, i] = np.asarray(row).reshape(buffer[:, i].shape)


@contextlib.contextmanager
def prefetched(
    dispatches: Iterator[Dispatch], stopping: Callable[[], bool], ahead: int = 2
):
    """The same dispatches, prepared by a thread up to `ahead` of their use.

    They end early when `stopping()`, even if the data keep one waiting.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    closed = threading.Event()
    x64 = jnp.zeros(()).dtype == jnp.float64  # a thread starts with JAX's defaults

    def put(item) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            with jax.enable_x64(x64):
                for dispatch in dispatches:
                    if not put(dispatch):
                        return
            put(None)
        except BaseException as error:
            put(error)

    def received() -> Iterator[Dispatch]:
        while not stopping():
            with contextlib.suppress(queue.Empty):
                item = ready.get(timeout=0.2)
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield item

    thread = threading.Thread(target=work, name="pidax data", daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        closed.set()
        thread.join(timeout=1)  # it may be waiting for the data, and dies with us
