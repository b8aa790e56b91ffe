"""The loop around the compiled function: launch, read, record.

A dispatch is launched before the results of the previous one are read, so that devices
do not wait for the host, except when the state itself is needed: for a checkpoint, a
refresh, a callback.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..distill import AbstractObjective
from ..types import Key
from ._checkpoint import Checkpoints, to_arrays
from ._devices import Devices, Place
from ._interrupt import Interrupt, StopTraining, listening
from ._log import Log
from ._memory import advice, memory_of, out_of_memory
from ._sources import AbstractSource, Dispatch, batches, plan, prefetched
from ._state import NonFiniteError, Numbers, Result, TrainState, gathered
from ._step import LOSS_FAILED, RESERVED, UPDATE_FAILED, Recipe, Record
from ._validation import Validation


class DisagreementError(RuntimeError):
    """Replicas that should have the same weights differ."""


@dataclasses.dataclass(frozen=True)
class Looks:
    """When a run is inspected, and by which functions."""

    log_every: int
    checkpoint_every: int
    validate_every: int
    best: str
    callback: Callable[..., Any] | None
    progress: bool


@dataclasses.dataclass
class Run:
    """One call of `fit`, with everything checked."""

    recipe: Recipe
    steps: int
    decays: tuple[float, ...]
    numbers: Numbers
    objective: AbstractObjective
    place: Place
    source: AbstractSource
    refresh_key: Key
    checkpoints: Checkpoints | None
    looks: Looks
    validation: Validation | None
    configuration: str  # a hash of all that makes the run what it is
    begun: float  # by the clock
    asked: bool = False  # by the callback, to stop

    def go(self, state: TrainState) -> Result:
        """Resume or start, train, and return the result."""
        recipe, looks = self.recipe, self.looks
        numbers = [self.steps, recipe.batch_size, recipe.accumulate]
        numbers += [recipe.per_dispatch, looks.log_every, looks.checkpoint_every]
        numbers += [looks.validate_every, self.validation is not None]
        config = self.checkpoints and sorted(self.checkpoints.config.items())
        same_everywhere(self.place, (numbers, config))
        try:
            state, start = self._resume(state)
            lines = None
            if self.checkpoints is not None and self.writes:
                lines = self.checkpoints.directory / "metrics.jsonl"
            progress = looks.progress and self.writes
            with Log(self.steps, lines, self.place.total, progress) as self.log:
                self.log.resume(start)
                if start < self.steps:
                    with listening() as interrupt:
                        state = self._train(state, start, interrupt)
            return self._result(state)
        finally:
            if self.checkpoints is not None:
                self.checkpoints.release()

    @property
    def writes(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.place.process == 0

    def _resume(self, state: TrainState) -> tuple[TrainState, int]:
        if self.checkpoints is None:
            return state, 0
        found, error = None, None
        if self.writes:
            try:
                self.checkpoints.prepare()
                found = self.checkpoints.read_last(state)
            except ValueError as caught:
                error = caught
        # All processes must fail if one does: it would be waited for.
        failed = bool(self.place.share(np.bool_(error is not None)))
        if failed:
            raise error or ValueError("process 0 could not resume: see its error.")
        start = int(self.place.share(np.int32(-1 if found is None else found[1])))
        if start < 0:
            return state, 0
        if start > self.steps:
            raise ValueError(
                f"steps must be at least the {start} that this run has already taken, "
                f"got {self.steps}. Raise it, or choose another directory."
            )
        return self.place.share_state(state if found is None else found[0]), start

    def _train(self, state: TrainState, start: int, interrupt: Interrupt) -> TrainState:
        recipe, place = self.recipe, self.place
        devices = Devices(recipe, place, state, self.objective, self.numbers)
        size, most = recipe.batch_size, recipe.per_dispatch
        steps = plan(start, self.steps, most, self._intervals())
        stopping = lambda: place.processes == 1 and interrupt.signal is not None
        self.pending: deque[tuple[Dispatch, Record]] = deque()
        self.end = start
        feed = batches(self.source, place, size, most, steps)
        try:
            with prefetched(feed, stopping) as received:
                for now in received:
                    if self._advance(devices, now, interrupt) or stopping():
                        break
        except (NonFiniteError, DisagreementError):
            raise
        except jax.errors.JaxRuntimeError as error:  # the state is lost, if donated
            if not out_of_memory(error):
                raise
            device, here = place.devices[0], size // place.total
            limit, parts = memory_of(device), recipe.accumulate
            words = advice(devices.account(), limit, device, here, parts)
            raise MemoryError(words) from error
        except Exception:  # of the data or the callback: keep the finished steps
            if place.processes == 1 and self.end > start:
                with contextlib.suppress(Exception):
                    self._finish(devices)
            raise
        self._finish(devices)
        return devices.state

    def _advance(self, devices: Devices, now: Dispatch, interrupt: Interrupt) -> bool:
        """Launch one dispatch and read the one before; whether all should stop."""
        renew, size = self.objective.refresh_every, self.recipe.batch_size
        if renew and now.first and now.first % renew == 0:
            devices.put(self._refresh(devices.state, now.first))
        asked = interrupt.signal is not None or self.asked
        record = devices(now.samples, now.count, asked, size // self.place.total)
        self.pending.append((now, record))
        self.end = now.first + now.count
        stop, wanted = False, self._state_is_wanted(self.end)
        while len(self.pending) > (0 if wanted else 1):
            stop |= self._absorb(*self.pending.popleft(), devices)
        if wanted and self._look(devices, self.end):
            # One process may stop at once; several agree on it in the next dispatch.
            self.asked = True
            stop |= self.place.processes == 1
        return stop

    def _finish(self, devices: Devices) -> None:
        """Read the last dispatch, and record it."""
        while self.pending:
            self._absorb(*self.pending.popleft(), devices)
        self._write_line(self.end)
        last = self.checkpoints.last_good if self.checkpoints else None
        require_finite_state(devices.state, self.end, last, self._result)
        self._checkpoint(devices.state, self.end)

    def _intervals(self) -> list[int]:
        """Numbers of steps of which no dispatch crosses a multiple."""
        intervals = [self.looks.log_every, self.objective.refresh_every]
        if self.checkpoints is not None:
            intervals.append(self.looks.checkpoint_every)
        if self.validation is not None:
            intervals.append(self.looks.validate_every)
        return [n for n in intervals if n is not None]

    def _state_is_wanted(self, end: int) -> bool:
        """Whether the state itself is needed after this step."""
        due = [self.objective.refresh_every]
        due.append(self.looks.checkpoint_every if self.checkpoints else None)
        due.append(self.looks.log_every if self.looks.callback else None)
        due.append(self.looks.validate_every if self.validation else None)
        return end == self.steps or any(n and end % n == 0 for n in due)

    def _validates(self, end: int) -> bool:
        """Whether the loss on held-out data is asked for after this step."""
        due = end % self.looks.validate_every == 0 or end == self.steps
        return self.validation is not None and due

    def _calls_back(self, end: int) -> bool:
        due = end % self.looks.log_every == 0 or self._validates(end)
        return self.looks.callback is not None and due

    def _absorb(self, sent: Dispatch, record: Record, devices: Devices) -> bool:
        """Wait for a dispatch's record and read it; whether a process asks to stop."""
        values = {name: np.asarray(value) for name, value in record.items()}
        asked = bool(values.pop("interrupt"))
        failures = values.pop("failure")[: sent.count]
        end = sent.first + sent.count
        if not values.pop("agree", True):
            raise DisagreementError(
                f"expected the same weights on all {self.place.total} devices after "
                f"{end} steps, got different ones. Give every process the same model, "
                "key and arguments."
            )
        good = int(np.argmax(failures != 0)) if failures.any() else sent.count
        self.log.take(values, good)
        if good < sent.count:
            code, state = int(failures[good]), devices.state
            self._fail(sent.first + good, code, values, good, state)
        awaited = self._calls_back(end) or self._validates(end)
        if end % self.looks.log_every == 0 and not awaited:
            self._write_line(end)
        return asked

    def _fail(
        self,
        step: int,
        code: int,
        values: Mapping[str, np.ndarray],
        i: int,
        state: TrainState,
    ) -> None:
        terms = {name: np.asarray(value[i]) for name, value in values.items()}
        model = eqx.combine(state.model, self.recipe.model)
        trained = eqx.filter(model, self.recipe.trainable)
        last = self.checkpoints.last_good if self.checkpoints else None
        term = failed_term(code, terms, trained)
        self._write_line(step)
        raise NonFiniteError(step, term, last, self._result(state))

    def _look(self, devices: Devices, end: int) -> bool:
        """Validation, callback, checkpoint; whether the callback asked to stop."""
        stop = False
        if self._calls_back(end) or self._validates(end):
            stop = self._line_of_state(devices.state, end)
        if end % self.looks.checkpoint_every == 0:
            self._checkpoint(devices.state, end)
        return stop

    def _line_of_state(self, state: TrainState, end: int) -> bool:
        """Write the line for which the state is needed; whether to stop."""
        line, stop, extra = self.log.line(end), False, None
        result = self._result(state)
        if self.validation is not None and self._validates(end):
            own = eqx.combine(result.state.objective, self.recipe.state)
            line |= self.validation(result.model, own, end / self.steps)
        try:
            if self._calls_back(end):
                assert self.looks.callback is not None
                extra = self.looks.callback(end, dict(line), result)
        except StopTraining:
            stop = True
        finally:
            if extra is None:
                self.log.write(line)
        if extra is None:
            return stop
        if not isinstance(extra, Mapping) or RESERVED & set(extra):
            raise ValueError(
                "callback must return None or a dict of numbers, under none of the "
                f"names {sorted(RESERVED)}, got {extra!r}."
            )
        self.log.write(line | {name: float(value) for name, value in extra.items()})
        return stop

    def _write_line(self, end: int) -> None:
        if self.log.count:
            self.log.write(self.log.line(end))

    def _checkpoint(self, state: TrainState, end: int) -> None:
        if self.checkpoints is None or not self.writes:
            return
        if self.checkpoints.last_step == end:
            return
        self._write_line(end)
        require_finite_state(state, end, self.checkpoints.last_good, self._result)
        self.checkpoints.write_or_warn(state, end, self.log.score(self.looks.best))

    def _refresh(self, state: TrainState, end: int) -> TrainState:
        # On one device and free to be moved, as the teacher's arrays may not be.
        model = eqx.combine(gathered(state.model), self.recipe.model)
        own = eqx.combine(gathered(state.objective), self.recipe.state)
        key = jax.random.fold_in(self.refresh_key, end)
        arrays = eqx.filter(self.objective.refresh(model, own, key=key), eqx.is_array)
        new, old = (jax.tree.structure(t) for t in (arrays, state.objective))
        if new != old:
            raise ValueError(
                f"refresh of {type(self.objective).__name__} must return a state of "
                f"the structure of the one it was given, {old}, got {new}."
            )
        return dataclasses.replace(state, objective=gathered(arrays))

    def _result(self, state: TrainState) -> Result:
        state = gathered(state)
        step = int(state.step)
        return Result(
            model=eqx.combine(state.model, self.recipe.model),
            step=step,
            finished=step >= self.steps,
            history=self.log.history(),
            state=state,
            decays=self.decays,
            checkpoint=self.checkpoints.last_good if self.checkpoints else None,
            steps=self.steps,
            seconds=time.perf_counter() - self.begun,
            configuration=self.configuration,
        )


def failed_term(code: int, terms: Mapping[str, np.ndarray], trained: PyTree) -> str:
    """The name of the value that was not finite."""
    if code == UPDATE_FAILED:
        return "an update of the objective's state that is not finite"
    if code == LOSS_FAILED:
        bad = [n for n, value in terms.items() if not np.isfinite(value).all()]
        bad = [n for n in bad if n not in ("loss", "gradient_norm")]
        which = f", with {', '.join(bad)} not finite" if bad else ""
        return f"a loss of {float(terms['loss'])}{which}"
    paths = [path for path, _ in jax.tree.leaves_with_path(trained)]
    leaf = code - LOSS_FAILED - 1
    where = "the objective's own network"
    if leaf < len(paths):
        where = f"model{jax.tree_util.keystr(paths[leaf])}"
    return f"a gradient that is not finite in {where}"


def require_finite_state(
    state: TrainState, step: int, last: Path | None, result: Callable[..., Result]
) -> None:
    """Weights that an optimiser has made non-finite are neither saved nor returned."""
    for name, array in to_arrays((state.model, state.averages)).items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            what = f"weights that are not finite ({name})"
            raise NonFiniteError(step - 1, what, last, result(state), intact=False)


def same_everywhere(place: Place, configuration: Any) -> None:
    """Check that every process has the same configuration."""
    if place.processes == 1:
        return
    from jax.experimental import multihost_utils

    text = repr(configuration).encode()
    mark = np.frombuffer(hashlib.sha256(text).digest()[:8], np.int32)
    marks: Any = np.asarray(multihost_utils.process_allgather(mark))
    other = [i for i, m in enumerate(marks) if (m != marks[0]).any()]
    if other:
        raise ValueError(
            "every process must call fit with the same arguments, got others on "
            f"processes {other} than on process 0."
        )
