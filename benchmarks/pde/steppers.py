"""ETDRK4 of pidax beside exponax's, on the same equations with the same steps.

Milliseconds a step of a sample in a batch, compiled, one state for both; the error in
time of each at the end, against its own steps 16 times as fine in float64, relative to
the root mean square of the solution; in float32 and float64, in turns. (How far the two
fine solutions are apart says that their dealiasing differs by one mode.) exponax is
measured as it is called, from field to field in every step, and with all steps in
Fourier space. Let nothing else run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import exponax
import jax
import jax.numpy as jnp
import numpy as np

from pidax import pde

from .. import bench

FINER = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Stepped:
    """An equation of pidax and the stepper of exponax for it.

    `ours(step, count)` advances a row by `count` steps, `theirs(step)` is a stepper;
    `sign` is the factor between the two states.
    """

    ours: Callable[[float, int], Any]
    theirs: Callable[[float], Any]
    step: float
    count: int
    batch: int
    repeats: int = 9
    sign: float = 1.0

    @functools.cached_property
    def start(self):
        keys = jax.random.split(jax.random.key(0), self.batch)
        equation = self.ours(self.step, self.count)
        draw = jax.vmap(lambda key: equation.draw(key=key)[0])
        return np.asarray(eqx.filter_jit(draw)(keys))


class KortewegDeVries(pde.AbstractSemilinear):
    """u_t + u u_x + u_xxx = 0 from a soliton: the linear part is imaginary."""

    grid: pde.Grid
    end: float = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    initial: Any
    rows: int = eqx.field(static=True, default=2)
    skip: int = eqx.field(static=True, default=0)
    kind = "nonlinear"

    @property
    def eigenvalues(self):
        return 1j * pde.wavenumbers(self.grid)[0] ** 3

    def nonlinear(self, c):
        n = self.grid.shape[0]
        k, kept = pde.wavenumbers(self.grid)[0], 3 * np.arange(n // 2 + 1) < n
        u = jnp.fft.irfft(jnp.asarray(kept, c.dtype) * c, n)
        return jnp.asarray(-0.5j * k * kept, c.dtype) * jnp.fft.rfft(u**2)


def our_soliton(step, count):
    grid = pde.Grid((128,), extent=(0.0, 40.0), boundary=pde.Periodic())
    soliton = 6 / np.cosh(np.sqrt(2) / 2 * (np.asarray(grid.points[0]) - 15)) ** 2
    law = pde.Fixed(grid, soliton)
    return KortewegDeVries(grid, end=step * count, substeps=count, initial=law)


def their_soliton(step):
    return exponax.stepper.KortewegDeVries(
        1, 40.0, 128, step, convection_scale=1.0, dispersivity=1.0,
        hyper_diffusivity=0.0, single_channel=True, conservative=True, order=4,
    )  # fmt: skip


def our_burgers(n, step, count):
    grid = pde.Grid((n,), boundary=pde.Periodic())
    return pde.Burgers(grid, rows=2, end=step * count, substeps=count)


def their_burgers(n, step):
    return exponax.stepper.Burgers(1, 1.0, n, step, diffusivity=0.01, order=4)


def our_kuramoto(step, count):
    grid = pde.Grid((64,), extent=(0.0, 64.0), boundary=pde.Periodic())
    return pde.KuramotoSivashinsky(
        grid, rows=2, end=step * count, substeps=count, skip=0
    )


def their_kuramoto(step):
    conservative = exponax.stepper.KuramotoSivashinskyConservative
    return conservative(1, 64.0, 64, step, single_channel=True, order=4)


def our_vorticity(step, count):
    grid, still = pde.Grid((64, 64), boundary=pde.Periodic()), np.zeros((64, 64))
    return pde.NavierStokes(
        grid, forcing=still, rows=2, end=step * count, substeps=count
    )


def their_vorticity(step):
    vorticity = exponax.stepper.NavierStokesVorticity
    return vorticity(2, 1.0, 64, step, diffusivity=1e-3, order=4)


@bench.problem("pde", "Burgers, stepper", kind="stepped")
def burgers(quick):
    n, *sizes = (32, 4, 2, 1) if quick else (128, 64, 32, 9)
    ours = functools.partial(our_burgers, n)
    return Stepped(ours, functools.partial(their_burgers, n), 1 / 254, *sizes)


@bench.problem("pde", "Kuramoto-Sivashinsky, stepper", kind="stepped", quick=False)
def kuramoto_sivashinsky(quick):
    return Stepped(our_kuramoto, their_kuramoto, 0.25, 80, 32)


@bench.problem("pde", "Korteweg-de Vries, stepper", kind="stepped", quick=False)
def korteweg_de_vries(quick):
    return Stepped(our_soliton, their_soliton, 0.01, 100, 32)


@bench.problem("pde", "Navier-Stokes, stepper", kind="stepped", quick=False)
def navier_stokes(quick):
    """The velocity of exponax has the curl minus its vorticity: the sign differs."""
    return Stepped(our_vorticity, their_vorticity, 0.05, 20, 16, sign=-1.0)


def compiled(problem: Stepped, finer: int = 1):
    """Ours, theirs on fields, theirs on coefficients: states after `count` steps."""
    step, count = problem.step / finer, problem.count * finer
    equation = problem.ours(step, count)
    ours = eqx.filter_jit(jax.vmap(equation.advance))
    stepper = eqx.filter_jit(problem.theirs)(step)
    axes = tuple(range(1, equation.grid.ndim + 1))

    def fields(stepper, u):
        one = lambda _, u: problem.sign * stepper(problem.sign * u[None])[0]
        return jax.lax.fori_loop(0, count, one, u)

    def waves(stepper, u):
        hat = jnp.fft.rfftn(problem.sign * u[None], axes=axes)
        one = lambda _, hat: stepper.step_fourier(hat)
        hat = jax.lax.fori_loop(0, count, one, hat)
        return problem.sign * jnp.fft.irfftn(hat, u.shape, axes=axes)[0]

    batch = lambda fn: eqx.filter_jit(jax.vmap(fn, in_axes=(None, 0)))
    on_fields, on_waves = batch(fields), batch(waves)
    return (
        ours,
        functools.partial(on_fields, stepper),
        functools.partial(on_waves, stepper),
    )


@dataclasses.dataclass(frozen=True)
class Beside:
    """Both steppers in turns; a method of the suite."""

    def configuration_on(self, problem):
        return {"steps": "ours, exponax on fields, exponax on coefficients"}

    def __call__(self, problem: Stepped, seed, quick) -> bench.Outcome:
        with jax.enable_x64(True):
            start = problem.start
            own, other, _ = (np.asarray(f(start)) for f in compiled(problem, FINER))
            size = np.sqrt(np.mean(own**2))
        truths = (own, other, other)
        row: dict[str, Any] = {
            str(np.dtype(d)): self.one(problem, d, start, truths) for d in "fd"
        }
        row["apart"] = float(np.sqrt(np.mean((own - other) ** 2)) / size)
        return bench.Outcome(row, dtype="float32 and float64")

    def one(self, problem, dtype, start, truths):
        with jax.enable_x64(dtype == "d"):
            u = jnp.asarray(start, dtype)
            ours, fields, waves = compiled(problem)
            rms = lambda x: np.sqrt(np.mean(np.square(x)))
            error = lambda fn, truth: float(
                rms(np.asarray(fn(u), float) - truth) / rms(truth)
            )
            each = 1e3 / (problem.count * problem.batch)
            mean = lambda seconds: each * float(np.median(seconds))
            us, them, ratio = bench.paired_ratio(
                lambda: ours(u), lambda: fields(u), problem.repeats
            )
            again, hats, other = bench.paired_ratio(
                lambda: ours(u), lambda: waves(u), problem.repeats
            )
            return {
                "ours_ms": mean([*us, *again]),
                "exponax_ms": mean(them),
                "exponax_in_waves_ms": mean(hats),
                "times_faster": ratio,
                "times_faster_than_in_waves": other,
                "ours_error": error(ours, truths[0]),
                "exponax_error": error(fields, truths[1]),
                "exponax_in_waves_error": error(waves, truths[2]),
            }


bench.method("pde", "beside exponax", on=("stepped",))(Beside())
