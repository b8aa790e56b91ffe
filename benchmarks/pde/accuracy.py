"""How far the default steps in time are from fine ones.

Burgers and Navier-Stokes at their defaults, with one and two steps between rows,
against 32 times as many, float64: the largest and the root-mean-square error relative
to those of the solution.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from pidax import pde

from .. import bench


@dataclasses.dataclass(frozen=True, eq=False)
class InTime:
    """Draws of an equation in time, and their solution by fine steps."""

    make: Callable[..., Any]
    draws: int = 8
    fine: int = 64

    @functools.cached_property
    def given(self):
        equation, keys = self.make(), jax.random.split(jax.random.key(0), self.draws)
        return jax.vmap(lambda key: equation.draw(key=key)[0])(keys)

    def solutions(self, substeps):
        equation = self.make(substeps=substeps)
        solve = lambda field: equation.solve(field).solution
        return eqx.filter_jit(lambda given: jax.vmap(solve)(given))(self.given)

    @functools.cached_property
    def truth(self):
        return self.solutions(self.fine)


@bench.problem("pde", label="Burgers, in time", kind="time")
def burgers_in_time(quick):
    return InTime(pde.Burgers, draws=1, fine=2) if quick else InTime(pde.Burgers)


@bench.problem("pde", label="Navier-Stokes, in time", kind="time", quick=False)
def navier_stokes_in_time(quick):
    make = pde.NavierStokes
    return InTime(make, draws=1, fine=2) if quick else InTime(make)


@dataclasses.dataclass(frozen=True)
class Substeps:
    """So many steps between two rows; a method of the suite."""

    count: int

    def configuration_on(self, problem):
        return self

    def __call__(self, problem: InTime, seed, quick) -> bench.Outcome:
        rms = lambda x: jnp.sqrt(jnp.mean(jnp.square(x)))
        with jax.enable_x64(True):
            fine = problem.truth
            error = problem.solutions(self.count) - fine
            metrics = {
                "rms": float(rms(error) / rms(fine)),
                "largest": float(jnp.abs(error).max() / jnp.abs(fine).max()),
            }
        return bench.Outcome(metrics, dtype="float64")


for _count in (1, 2):
    bench.method("pde", f"substeps {_count}", on=("time",), quick=_count == 1)(
        Substeps(_count)
    )
