r"""What a student is: the solution $x(z, t)$ of the probability-flow ODE as a function.

$$ x(z, t_{max}) = z, \qquad z \sim N(0, \sigma_T^2 I), $$

so that `sample(z)`, its value at the end of the trajectory, is a sample. Whoever only
draws samples, compares them or moves their `z` needs no more than this.
"""

import abc

import equinox as eqx
from equinox import AbstractVar

from ..process import AbstractProcess
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, Shape, typed


class AbstractStudent(eqx.Module):
    """The trajectory from a prior draw as a function of the draw and the time.

    A final class says `process`, `shape`, `classes`, the time `end` at which its
    samples are, and `__call__`.
    """

    process: AbstractVar[AbstractProcess]

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""

    @property
    @abc.abstractmethod
    def classes(self) -> int | None:
        """The number of classes it knows; None for none."""

    @property
    @abc.abstractmethod
    def end(self) -> float:
        """The process time of its samples."""

    @abc.abstractmethod
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at time `t` of the trajectory that starts from `z` at `t_max`."""

    @typed
    def sample(self, z: SampleLike, condition: Condition = None) -> Sample:
        """The sample at the end of the trajectory from `z`."""
        return self(z, self.end, condition)
