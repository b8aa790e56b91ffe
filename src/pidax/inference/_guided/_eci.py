r"""ECI: extrapolate, correct, interpolate.

$$ u' = C(D(u, r)) + r'\,\epsilon $$

with $C$ the nearest fields that satisfy the conditions, and $\epsilon$ a noise. Mixing
repeats a level. Cheng, Han, Maddix, Ansari, Stuart, Mahoney & Wang 2025, "Gradient-free
generation for hard-constrained systems".
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import whole_number
from ...process import karras
from ...types import Key, Sample, Scalar, Stacked
from .._problem import Problem
from ._contract import BATCH, CLOSED, EXACT, AbstractGuided
from ._levels import Grid, Now, check_noise, onward
from ._projection import conditions, in_closed_form, worst
from ._target import Spent, Target


class ECI(AbstractGuided):
    r"""The clean sample is projected in closed form in every step.

    $$ u' = C(D(u, r)) + r'\,\epsilon $$

    Use it for exact values and exact linear conditions: boundary and initial values,
    sensors, conserved means. The samples satisfy them to rounding.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `mixing`: how often a level is corrected before the next one.
    - `noise`: `"own"` is $(u - D)/r$, with which the method without conditions is DDIM.
      `"first"` is the paper's, the noise of the first state; `"fresh"` a new one.
    - `resample`: with the first noise, draw it again after so many corrections; 0 never
      does.

    **Cost:** $N$ times `mixing` evaluations.

    **Bias:** the correction moves the conditioned entries only; the others follow by
    the denoiser's answer to the corrected state, not by Bayes' rule. With the first or
    a fresh noise samples are not the teacher's even without conditions.
    """

    steps: int = 100
    mixing: int = eqx.field(static=True, default=1)
    resample: int = eqx.field(static=True, default=0)
    noise: str = eqx.field(static=True, default="own")
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({EXACT, CLOSED})

    def __check_init__(self):
        whole_number("mixing", self.mixing)
        whole_number("resample", self.resample, least=0)
        check_noise(self.noise)
        if self.resample and self.noise != "first":
            raise ValueError(
                f'resample draws the first noise again: expected noise="first", got '
                f'{self.noise!r}. Leave resample out, or take noise="fresh".'
            )

    @property
    def bias(self) -> str:
        return "a projected clean sample is not a sample of the posterior"

    def check(self, problem: Problem) -> None:
        if (hard := conditions(problem)) is not None and hard.shape is not None:
            hard.project_fields(jnp.zeros(hard.shape))  # contradictions are named

    def begin(self, target: Target, u: Sample, level: Scalar) -> Any:
        return u, u / level

    def step(self, target: Target, state: Any, now: Now, key: Key) -> tuple[Any, Spent]:
        def mix(number: Any, state: Any) -> Any:
            u, noise = state
            clean = target.clean(u, now.level)
            to = jnp.where(number < self.mixing - 1, now.level, now.after)
            fixed = in_closed_form(target, clean)
            own = jax.random.fold_in(key, number)
            if self.resample:
                due = (now.number * self.mixing + number + 1) % self.resample == 0
                fresh = jax.random.normal(own, u.shape, u.dtype)
                noise = jnp.where(due, fresh, noise)
            return onward(fixed, u, clean, noise, to, now, self.noise, own), noise

        state = jax.lax.fori_loop(0, self.mixing, mix, state)
        return state, Spent(self.mixing)

    def end(self, target: Target, state: Any, key: Key) -> tuple[Sample, Spent]:
        return state[0], Spent()

    def seal(self, target: Target, fields: Stacked) -> Stacked:
        hard = conditions(target.problem)
        return fields if hard is None else hard.project_fields(fields)

    def left(self, target: Target, fields: Stacked) -> Scalar:
        return worst(target.violations_of(fields))
