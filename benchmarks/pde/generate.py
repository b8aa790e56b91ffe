"""What a sample of each equation costs, beside SciPy and NumPy, and with the grid.

Milliseconds a sample in a batch, compiled, float64: drawing and solving as `generate`
does, and solving alone beside the same discretisation in SciPy (sparse direct for
Darcy, sine transforms for Poisson and Helmholtz) and NumPy (Navier-Stokes), in turns;
the largest difference of the two solutions; the relative residual; float32 beside
float64. Let nothing else run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pidax import pde

from .. import bench
from . import _reference

SIZES = (64, 16, 32, 128, 256)
BATCH = {16: 64, 32: 64, 64: 64, 128: 16, 256: 4}


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """An equation, a solve of one sample to compare with, and how it is timed."""

    equation: Callable[[], Any]
    reference: Callable[..., Any] | None
    batch: int
    repeats: int = 5


def poisson(n):
    return pde.Poisson(pde.Grid((n, n)))


def helmholtz(n):
    return pde.Helmholtz(pde.Grid((n, n)))


def darcy_lognormal(n):
    return pde.Darcy.lognormal(pde.Grid((n, n)))


def darcy(n):
    return pde.Darcy(pde.Grid((n, n)), mean="arithmetic")  # as Li et al. 2021


def navier_stokes(n):
    return pde.NavierStokes(pde.Grid((n, n), boundary=pde.Periodic()))


def source_sink():
    return pde.Darcy.source_sink((64, 64))


def burgers():
    return pde.Burgers(pde.Grid((128,), boundary=pde.Periodic()))


def poisson_each(equation, given):
    return np.stack([_reference.poisson(f) for f in given])


def helmholtz_each(equation, given):
    return np.stack([_reference.poisson(f, 1.0) for f in given])


def darcy_each(equation, given):
    return np.stack([_reference.darcy(f) for f in given])


def navier_stokes_all(equation, given):
    """The same scheme to T = 1."""
    step = float(equation.interval / equation.substeps)
    steps = (equation.rows - 1) * equation.substeps
    scheme = _reference.NavierStokes(
        equation.grid.shape, equation.viscosity, np.asarray(equation.forcing), step
    )
    return scheme.solve(given, steps)


SQUARE = {
    "Poisson": (poisson, poisson_each),
    "Helmholtz": (helmholtz, helmholtz_each),
    "Darcy, lognormal": (darcy_lognormal, darcy_each),
    "Darcy, two materials": (darcy, darcy_each),
    "Navier-Stokes": (navier_stokes, navier_stokes_all),
}
OTHERS = {  # those without a counterpart, at the size of their recipe
    "Darcy, source and sink": source_sink,
    "Burgers": burgers,
    "Burgers, inviscid": pde.InviscidBurgers,
    "Heat": pde.Heat,
}


def _square(name, n):
    make, reference = SQUARE[name]
    batch = min(BATCH[n], 32) if name == "Navier-Stokes" else BATCH[n]
    title = f"{name}, {n} x {n}"

    small = n == 16 and name in ("Poisson", "Darcy, lognormal", "Navier-Stokes")

    @bench.problem("pde", title, kind="sampled", quick=small)
    def problem(quick):
        equation = functools.partial(make, 16 if quick else n)
        return Sampled(equation, reference, *((2, 1) if quick else (batch,)))


def _other(name):
    @bench.problem("pde", name, kind="sampled", quick=False)
    def problem(quick):
        return Sampled(OTHERS[name], None, *((2, 1) if quick else (32,)))


for _n in SIZES:
    for _name in SQUARE:
        _square(_name, _n)
for _name in OTHERS:
    _other(_name)


def compiled(equation):
    """Drawing, solving what is drawn, and residuals, each over a batch."""
    draw = lambda keys: jax.vmap(lambda key: equation.draw(key=key))(keys)
    solve = lambda given: jax.vmap(lambda given: equation.solve(*given))(given)
    residual = lambda fields: jax.vmap(lambda f: equation.relative_residual(f))(fields)
    return eqx.filter_jit(draw), eqx.filter_jit(solve), eqx.filter_jit(residual)


def ms(seconds, batch):
    each = sorted(1e3 * s / batch for s in seconds)
    return {"median": float(np.median(each)), "all": each}


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a sample; a method of the suite."""

    def configuration_on(self, problem):
        return {"cost": "of drawing and solving"}

    def __call__(self, problem: Sampled, seed, quick) -> bench.Outcome:
        with jax.enable_x64(True):
            return bench.Outcome(self.metrics(problem), dtype="float64")

    def metrics(self, problem: Sampled) -> dict[str, Any]:
        batch, repeats = problem.batch, problem.repeats
        equation = problem.equation()
        draw, solve, residual = compiled(equation)
        keys = jax.random.split(jax.random.key(0), batch)
        given = draw(keys)
        fields = solve(given)
        row: dict[str, Any] = {"grid": list(equation.grid.shape), "batch": batch}
        row["relative_residual"] = float(jnp.max(residual(fields)))
        both = bench.seconds(lambda: solve(draw(keys)), repeats)
        row["draw_and_solve_ms"] = ms(both, batch)
        if problem.reference is None:
            alone = bench.seconds(lambda: solve(given), repeats)
            row["solve_ms"] = ms(alone, batch)
        else:
            row |= beside(problem, equation, solve, given, fields)
        with jax.enable_x64(False):
            row["float32"] = in_float32(problem, equation, given, fields)
        return row


def beside(problem, equation, solve, given, fields):
    """The same solves by the reference, in turns, and how far the two are apart."""
    first, own = np.asarray(given[0]), np.asarray(fields[-1])
    reference = functools.partial(problem.reference, equation)
    theirs = reference(first)
    last = own if own.ndim == theirs.ndim else own[:, -1]
    us, them, ratio = bench.paired_ratio(
        lambda: solve(given), lambda: reference(first), problem.repeats
    )
    return {
        "largest_difference": float(np.abs(last - theirs).max()),
        "size_of_solution": float(np.abs(theirs).max()),
        "solve_ms": ms(us, problem.batch),
        "reference_ms": ms(them, problem.batch),
        "times_faster": ratio,
    }


def in_float32(problem, equation, given, fields):
    """Error, residual and time of the same solves in single precision."""
    single = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float32), given)
    _, again, floor = compiled(equation)
    found = again(single)
    error = np.asarray(found[-1], float) - np.asarray(fields[-1])
    size = np.sqrt(np.mean(np.square(np.asarray(fields[-1]))))
    seconds = bench.seconds(lambda: again(single), problem.repeats)
    return {
        "relative_error": float(np.sqrt(np.mean(error**2)) / size),
        "relative_residual": float(jnp.max(floor(found))),
        "solve_ms": ms(seconds, problem.batch),
    }


bench.method("pde", "cost", label="cost of a sample", on=("sampled",))(Cost())
