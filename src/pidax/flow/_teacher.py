"""A published diffusion model: all that its file says, in one object."""

from typing import Any

import equinox as eqx

from ..denoiser import Preconditioned
from ..process import AbstractProcess
from ..types import Shape
from ._flow import ProbabilityFlow


class Teacher(eqx.Module):
    """A published diffusion model: its denoiser, its process and its classes.

    `shape` is that of one image, channels last; `classes` the number of class labels,
    None if there are none. `teacher.flow()` is its ODE.
    """

    denoiser: Preconditioned
    process: AbstractProcess
    classes: int | None = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def flow(self, **options: Any) -> ProbabilityFlow:
        """The ODE of this teacher; `options` are those of `ProbabilityFlow`."""
        return ProbabilityFlow(
            self.denoiser, self.process, **{"shape": self.shape, **options}
        )
