"""A student that is asked again on the way, so that it samples in several steps."""

import itertools
from typing import Any, Protocol

import equinox as eqx
import jax.numpy as jnp

from .._checks import whole_number
from ..process import AbstractProcess
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    ScalarLike,
    Shape,
    WholeLike,
    typed,
)
from ._student import AbstractStudent


class Map(Protocol):
    """A student that maps states between two times, from its `start_times` on."""

    process: AbstractProcess

    @property
    def shape(self) -> Shape | None: ...

    @property
    def classes(self) -> int | None: ...

    @property
    def end(self) -> float: ...

    @property
    def start_times(self) -> tuple[float, ...]: ...

    def transport(
        self,
        x: SampleLike,
        s: ScalarLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample: ...


class InSteps(AbstractStudent):
    """A student that is asked again on the way: see `in_steps` of the student.

    It samples with `steps` evaluations of the network, each from the state in which the
    one before ended.
    """

    process: AbstractProcess
    student: Any  # a Map
    steps: int = eqx.field(static=True)

    def __init__(self, student: Map, steps: int):
        self.process, self.student, self.steps = student.process, student, steps

    def __repr__(self) -> str:
        return f"in {self.steps} steps: {self.student!r}"

    @property
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""
        return self.student.shape

    @property
    def classes(self) -> int | None:
        """The number of classes of the network; None without classes."""
        return self.student.classes

    @property
    def end(self) -> float:
        """`t_min`, the last time of the training."""
        return self.student.end

    @typed
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at time `t` of the trajectory that starts from `z` at `t_max`."""
        x = jnp.asarray(z)
        t = jnp.asarray(t, x.dtype)
        known = self.student.start_times
        stops = (*known[:: len(known) // self.steps], self.end)
        for s, until in itertools.pairwise(stops):
            # A step that begins after t ends where it begins, and changes nothing.
            to = jnp.clip(t, *(jnp.asarray(a, x.dtype) for a in (until, s)))
            x = self.student.transport(x, s, to, condition, key=key)
        return x


def in_steps(student: Map, steps: WholeLike) -> InSteps:
    """The student, sampling in so many steps: a divisor of its number of starts."""
    steps = whole_number("steps", steps)
    starts = len(student.start_times)
    if starts % steps:
        known = [k for k in range(1, starts + 1) if starts % k == 0]
        raise ValueError(
            f"a student with {starts} starts samples in one of {known} steps, "
            f"got steps={steps}. Make one with {steps} starts."
        )
    return InSteps(student, steps)
