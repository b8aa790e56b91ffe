"""Published residual metrics beside ours, on sets whose worth is known beforehand.

Every set is made of samples of our own generators: true ones, ones that are zero, ones
spoilt a little. A metric is worth as much as it orders them. The published ones are
written down here from the papers and the code published with them:

- Bastek et al. 2025 (PIDM, ICLR), Darcy: mean |r| over pixels and three channels;
- Huang et al. 2024 (DiffusionPDE, NeurIPS): Darcy without 1/h, Burgers in units of
  pixels, Navier-Stokes as the sum of two derivatives;
- the residual in its own units, which shrinking all fields makes smaller.

Ours are those of `px.pde.report`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax import pde

from .. import bench
from . import generate

KEY = 0


# Published metrics: NumPy, fields with the samples first.


def pidm_darcy(equation, fields):
    """PIDM: mean |r| over pixels and channels; two channels are zero inside.

    By differences on n points of h = 1/(n - 1), one-sided at the walls; the other two
    channels hold the slope of p across the walls.
    """
    p, a = fields.solution, fields.coefficient
    h = 1 / (p.shape[1] - 1)
    px_, py = (np.gradient(p, h, axis=i, edge_order=2) for i in (1, 2))
    ax, ay = (np.gradient(a, h, axis=i, edge_order=2) for i in (1, 2))
    flow = a * (second(p, h, 1) + second(p, h, 2)) + ax * px_ + ay * py
    walls = np.zeros((2, *p.shape))
    walls[0][:, [0, -1]] = px_[:, [0, -1]]
    walls[1][:, :, [0, -1]] = py[:, :, [0, -1]]
    channels = np.stack([-flow - np.asarray(equation.source), *walls])
    return float(np.abs(channels).mean())


def second(u, h, axis):
    """Second differences; one-sided at the ends."""
    u = np.moveaxis(u, axis, 0)
    found = np.empty_like(u)
    found[1:-1] = u[2:] - 2 * u[1:-1] + u[:-2]
    found[0] = 2 * u[0] - 5 * u[1] + 4 * u[2] - u[3]
    found[-1] = 2 * u[-1] - 5 * u[-2] + 4 * u[-3] - u[-4]
    return np.moveaxis(found, 0, axis) / h**2


def wide(u, axis):
    """(u[i+1] - u[i-1]) / 2 with zeros beyond the ends: a padded convolution."""
    pad = [(0, 0)] * u.ndim
    pad[axis] = (1, 1)
    v = np.moveaxis(np.pad(u, pad), axis, 0)
    return np.moveaxis((v[2:] - v[:-2]) / 2, 0, axis)


def diffusionpde_darcy(equation, fields, h=1.0, inner=0):
    """DiffusionPDE: ||div(a grad u) + 1|| / ||1|| by central differences twice.

    As published h is 1: the differences are not divided by it. `inner` leaves out so
    many points at the walls.
    """
    a, u = fields.coefficient, fields.solution
    flow = (wide(a * wide(u, 1), 1) + wide(a * wide(u, 2), 2)) / h**2
    cut = slice(inner, -inner or None)
    return root_mean_square((flow + 1.0)[:, cut, cut])


def diffusionpde_burgers(equation, fields):
    """DiffusionPDE: ||u_t + u u_x - 0.01 u_xx|| / ||u_t||, all in units of pixels.

    The published differences are u[i-1] - u[i+1], so that against the first two terms
    the viscosity has the other sign.
    """
    u = fields.solution
    slope = -wide(u, 2)
    terms = -wide(u, 1), u * slope, 0.01 * wide(slope, 2)
    return relative(terms)


def scaled_burgers(equation, fields):
    """The same equation with its units, by central differences, inside."""
    u, (h,) = fields.solution, equation.grid.spacing
    dx = lambda v: (np.roll(v, -1, 2) - np.roll(v, 1, 2)) / (2 * h)
    laplacian = (np.roll(u, -1, 2) - 2 * u + np.roll(u, 1, 2)) / h**2
    change = (u[:, 2:] - u[:, :-2]) / (2 * equation.interval)
    inner = lambda v: v[:, 1:-1]
    return relative((change, inner(u * dx(u)), inner(-equation.viscosity * laplacian)))


def diffusionpde_navier_stokes(equation, fields):
    """DiffusionPDE: the root mean square of w_x + w_y, in pixels."""
    w = fields.solution[:, -1]
    return root_mean_square((wide(w, 1) + wide(w, 2))[:, 1:-1, 1:-1])


def absolute(equation, fields):
    """The root mean square of the residual, in its own units."""
    norm = jax.jit(jax.vmap(equation.residual_norm))
    return float(np.sqrt(np.mean(np.square(norm(jax.tree.map(jnp.asarray, fields))))))


def root_mean_square(values):
    return float(np.sqrt(np.mean(np.square(values))))


def relative(terms):
    """The norm of the sum over that of the first term; 0 where there is nothing."""
    size = root_mean_square(terms[0])
    return root_mean_square(sum(terms)) / size if size else 0.0


# Sets.


def later(equation, change):
    """A change of the solution; the row of time that is given stays."""
    evolves = isinstance(equation, pde.AbstractEvolution)

    def changed(fields):
        u = fields.solution
        v = change(u)
        if evolves:
            v = np.concatenate([u[:, :1], v[:, 1:]], axis=1)
        return fields._replace(solution=v)

    return changed


def blurred(u, axes, periodic):
    """The weights 1, 2, 1 along each axis."""
    for axis in axes:
        pad = [(0, 0)] * u.ndim
        pad[axis] = (1, 1)
        v = np.moveaxis(np.pad(u, pad, mode="wrap" if periodic else "edge"), axis, 0)
        u = np.moveaxis((v[:-2] + 2 * v[1:-1] + v[2:]) / 4, 0, axis)
    return u


def sets_of(equation, true):
    """Sets by name, from true samples."""
    grid, rng = equation.grid, np.random.default_rng(KEY)
    axes = range(-grid.ndim, 0)
    size = true.solution.std()
    noise = rng.normal(size=true.solution.shape) * size
    change = lambda function: later(equation, function)(true)
    return {
        "solution zero": change(np.zeros_like),
        "all fields zero": jax.tree.map(np.zeros_like, true),
        "0.1% white noise": change(lambda u: u + 1e-3 * noise),
        "1% white noise": change(lambda u: u + 1e-2 * noise),
        "half the solution": change(lambda u: u / 2),
        "blurred once": change(lambda u: blurred(u, axes, all(grid.periodic))),
    }


def shrunk(equation, true):
    """One spoilt set, and the same set times smaller and smaller numbers."""
    spoilt = sets_of(equation, true)["1% white noise"]
    scaled = lambda s: jax.tree.map(lambda a: s * a, spoilt)
    names = {1.0: "1% white noise", 0.1: "that times 0.1", 0.01: "that times 0.01"}
    zero = {"all fields zero": jax.tree.map(np.zeros_like, true)}
    return {name: scaled(s) for s, name in names.items()} | zero


def with_wave(equation, true):
    """Also vorticity that is a function of x - y, which solves nothing."""
    x, y = map(np.asarray, equation.grid.coordinates)
    wave = np.broadcast_to(np.sin(2 * np.pi * (x - y)), true.solution.shape)
    wave = later(equation, lambda u: wave)(true)
    return sets_of(equation, true) | {r"$\sin 2\pi(x - y)$": wave}


# Problems and methods.


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """An equation, a published metric, and sets of samples whose worth is known."""

    equation: Callable[[int], Any]
    metric: Callable[..., float]
    sets: Callable[..., dict[str, Any]] = sets_of
    n: int = 64
    samples: int = 32
    true: int = 64


def source_sink(n):
    return pde.Darcy.source_sink((n, n))


def burgers(n):
    return pde.Burgers(pde.Grid((n,), boundary=pde.Periodic()), rows=n)


JUDGED = {
    "PIDM's Darcy": Judged(source_sink, pidm_darcy),
    "DiffusionPDE's Darcy": Judged(generate.darcy, diffusionpde_darcy),
    "DiffusionPDE's Burgers": Judged(burgers, diffusionpde_burgers),
    "DiffusionPDE's Navier-Stokes": Judged(
        generate.navier_stokes, diffusionpde_navier_stokes, with_wave
    ),
    "an absolute residual": Judged(generate.poisson, absolute, shrunk),
}


def _problem(name):
    @bench.problem("pde", name, kind="judged", quick="absolute" in name)
    def problem(quick):
        small = {"n": 16, "samples": 4, "true": 8}
        return dataclasses.replace(JUDGED[name], **(small if quick else {}))


for _name in JUDGED:
    _problem(_name)


@bench.method("pde", "published metric", on=("judged",))
def published(problem: Judged, seed, quick):
    """One metric and our report, on every set."""
    with jax.enable_x64(True):
        key, equation = jax.random.key(KEY), problem.equation(problem.n)
        drawn = pde.draw(equation, problem.samples + problem.true, key=key)
        drawn = jax.tree.map(np.asarray, drawn)
        held = jax.tree.map(lambda a: a[problem.true :], drawn)
        sets = problem.sets(equation, held)
        options = {"resamples": 4 if quick else 100, "progress": False}
        found = px.pde.report(equation, sets, drawn, key=key, **options)
        rows = []
        for label, fields in {"held-out data": held, **sets}.items():
            row = found[label]
            columns = ("residual", "resolve", "amplitude", "sliced_wasserstein")
            numbers = {column: getattr(row, column) for column in columns}
            ours = {
                c: None if x is None else float(x.estimate) for c, x in numbers.items()
            }
            judged = problem.metric(equation, fields)
            rows.append({"set": label, "published": judged, **ours})
    definition = " ".join(str(problem.metric.__doc__).split())
    return bench.Outcome({"metric": definition, "rows": rows}, dtype="float64")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Points an axis of true data of Darcy and of Burgers."""

    square: tuple[int, ...] = (64, 128)
    line: tuple[int, ...] = (32, 64, 128)


@bench.problem("pde", "several resolutions", kind="resolutions", quick=False)
def several(quick):
    return Sizes((16,), (16,)) if quick else Sizes()


@bench.method("pde", "true data", on=("resolutions",))
def resolutions(problem: Sizes, seed, quick):
    """True data by differences of the right unit: not zero, and how far from it."""
    key, rows = jax.random.key(KEY + 1), []
    with jax.enable_x64(True):
        for n in problem.square:
            for name, make in {
                "Darcy, two materials": generate.darcy,
                "Darcy, lognormal": generate.darcy_lognormal,
            }.items():
                equation = make(n)
                fields = jax.tree.map(np.asarray, pde.draw(equation, 8, key=key))
                h = 1 / (n - 1)
                numbers = {
                    "pixels": diffusionpde_darcy(equation, fields),
                    "wide": diffusionpde_darcy(equation, fields, h=h),
                    "wide_inside": diffusionpde_darcy(equation, fields, h, 2),
                    "own": own(equation, fields),
                }
                rows.append({"data": name, "n": n, **numbers})
        for n in problem.line:
            equation = burgers(n)
            fields = jax.tree.map(np.asarray, pde.draw(equation, 16, key=key))
            pixels = diffusionpde_burgers(equation, fields)
            numbers = {"pixels": pixels, "wide": scaled_burgers(equation, fields)}
            numbers["own"] = own(equation, fields)
            rows.append({"data": "Burgers", "n": n, **numbers})
    return bench.Outcome({"rows": rows}, dtype="float64")


def own(equation, fields):
    """The largest relative residual of the equation itself."""
    each = jax.jit(jax.vmap(equation.relative_residual))
    return float(each(jax.tree.map(jnp.asarray, fields)).max())
