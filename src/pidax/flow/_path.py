"""What a solve returns: the trajectory, how it was found, and what it cost."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import is_traced, require, show
from ..process import AbstractProcess
from ..types import Elementwise, Flag, Sample, ScalarLike, typed
from ._clock import AbstractClock, magnification


class DensePath(eqx.Module):
    """A trajectory known at every time between its ends."""

    clock: AbstractClock
    process: AbstractProcess
    interpolation: diffrax.DenseInterpolation
    ends: Float[Array, "2"]
    successful: Flag


class Path(eqx.Module):
    """A solved trajectory.

    - `ts`: the process times, as asked;
    - `xs`: the states there, `xs[i]` at `ts[i]` (`xs[:, i]` of a batch);
    - `end`: where the solve ended, by itself: the sample (after the step to zero noise
      if `denoise` asked for it), or the latent of `encode`;
    - `stats`: Diffrax's statistics and `"evaluations"`, the calls of the denoiser
      (None for a solver whose calls cannot be counted);
    - `result`: Diffrax's result; of a failed solve all states are NaN.
    """

    ts: Float[Array, "*batch time"]
    xs: Any
    end: Float[Array, "..."]
    stats: dict[str, Any]
    result: diffrax.RESULTS
    dense: DensePath | None = None

    @typed
    def evaluate(self, t: ScalarLike) -> Sample:
        """The state at any process time between the ends; needs `dense=True`."""
        if self.dense is None:
            raise ValueError(
                "this path was saved at its times only. Solve with dense=True to "
                "evaluate it anywhere, or pass the times you want as times=."
            )
        clock, process = self.dense.clock, self.dense.process
        at, ends = jnp.asarray(t, self.end.dtype), jnp.sort(self.dense.ends)
        at = require(
            at,
            (at >= ends[0]) & (at <= ends[1]),
            f"t must lie between the ends {show(ends[0])} and {show(ends[1])} of the "
            f"path, got {show(at)}. Solve over a longer interval.",
        )
        u = self.dense.interpolation.evaluate(clock.reading(process, at))
        x = u / magnification(clock, process, at)
        return jnp.where(self.dense.successful, x, jnp.nan)

    def evaluations(self) -> tuple[float, int]:
        """Mean and maximum of the denoiser evaluations over the samples solved.

        They differ under `jax.vmap`, where every sample has its own steps while the
        compiled loop runs until the last of them is done.
        """
        count: Elementwise | None = self.stats["evaluations"]
        if count is None:
            raise ValueError(
                "the calls of this solver cannot be counted. Give it an attribute "
                "`evaluations = (calls at the start, calls a step)` if you know them."
            )
        return float(jnp.mean(count)), int(jnp.max(count))

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        ok = jnp.all(diffrax.is_successful(self.result))
        shapes = jax.tree.map(jnp.shape, self.xs)
        text = f"Path of shape {shapes}, {'solved' if ok else 'FAILED'}"
        if self.stats["evaluations"] is not None:
            mean, most = self.evaluations()
            text += f", evaluations: mean {mean:.1f}, max {most}"
        return text
