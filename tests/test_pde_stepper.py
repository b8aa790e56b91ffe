"""Foreign steppers as equations, against what their steppers are known to do."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance

from pidax import pde
from pidax.constraint import Observation
from pidax.pde import Grid, Neumann, Periodic, Stepper

RING = Grid((16,), extent=(0.0, 2 * np.pi), boundary=Periodic())
BOX = Grid((6, 4), layout="cells", boundary=Neumann())
solve = eqx.filter_jit(lambda equation, *given: equation.solve(*given))


class Shift(eqx.Module):
    """u(x, t + dt) = u(x - speed dt, t): exact for waves below half the points."""

    factor: np.ndarray

    def __init__(self, speed=1.0, dt=0.1, n=16):
        self.factor = np.exp(-1j * speed * dt * np.arange(n // 2 + 1))

    def __call__(self, u):
        return jnp.fft.irfft(self.factor * jnp.fft.rfft(u), 16)


class Turn(eqx.Module):
    """Two channels that turn into each other: (a, b) by an angle a step."""

    num_channels = 2
    dt = 0.25
    angle: float = 0.3

    def __call__(self, u):
        a, b = u
        c, s = np.cos(self.angle), np.sin(self.angle)
        return jnp.stack([c * a - s * b, s * a + c * b])


def bad(argument) -> Any:
    """An argument that a type checker would refuse."""
    return argument


def hump(x):
    return np.sin(x) + np.cos(3 * x) / 2 + np.sin(5 * x + 0.3) / 5


@eqx.filter_jit
def judged(equation, given, error):
    """Solved; and the residual of the solution with an error in row 2."""
    fields = equation.solve(*given)
    name = equation.unknowns[-1]
    wrong = fields._replace(**{name: getattr(fields, name).at[2].add(error)})
    exact, moved = (equation.residual(f) for f in (fields, wrong))
    image = equation.stack(fields)
    back = equation.unstack(image)
    return fields, exact, moved, equation.scale(fields), image, back


def test_a_wave_moves_and_only_what_is_not_its_step_has_a_residual(dtype):
    equation = Stepper(Shift(), RING, 0.0, dt=0.1, steps=3, rows=4)
    x, t = np.asarray(RING.points[0], float), np.asarray(equation.times)[:, None]
    assert_close(t[:, 0], [0.0, 0.3, 0.6, 0.9], 1e-6)
    given = (jnp.asarray(hump(x), dtype),)
    fields, exact, moved, scale, image, _ = judged(equation, given, jnp.asarray(0.01))
    assert fields.solution.dtype == dtype
    assert_close(fields.solution, hump(x - t), 0.0, tolerance(dtype, 30))
    # Zero on its own output, and e / Δt of an error e, there and one row later.
    assert_close(exact, 0.0, 0.0, tolerance(dtype, 30))
    assert_close(moved[2], 0.01 / 0.3, 0.0, tolerance(dtype, 100))
    assert_close(moved[3], -0.01 / 0.3, 0.0, tolerance(dtype, 100))
    # Of no terms the scale is the change between rows, with row 0 for zero.
    change = np.diff(np.asarray(fields.solution, float), axis=0) / 0.3
    rms = np.sqrt(np.mean(change**2))
    assert_close(scale, np.sqrt(3 / 4) * rms, tolerance(dtype, 10))
    assert image.shape == equation.stacked_shape == (4, 16, 1)


def test_a_rate_needs_terms(x64):
    equation = Stepper(Shift(), RING, 0.0, dt=0.1, rows=4)
    x = np.asarray(RING.points[0])
    u = jnp.asarray(np.sin(x))
    with pytest.raises(ValueError, match=r"terms\(u\) to return them, got None. Pass"):
        equation.rate(u)
    slope = lambda u: (pde.Derivative(RING, 0, order="spectral")(-u),)
    known = Stepper(Shift(), RING, 0.0, dt=0.1, rows=4, terms=slope)
    assert_close(known.rate(u), -np.cos(x), 0.0, 1e-13)


def test_the_fields_of_several_channels_have_names(x64):
    laws = {"b": 0.0, "a": np.ones((6, 4))}
    equation = Stepper(Turn(), BOX, laws, rows=3, steps=2, names=("a", "b"))
    assert equation.names == ("initial_a", "initial_b", "a", "b")
    assert equation.given == ("initial_a", "initial_b")
    assert equation.dt == 0.25
    a, b = np.ones((6, 4)), np.zeros((6, 4))
    fields, exact, moved, _, image, back = judged(equation, (a, b), jnp.asarray(0.1))
    angle = 0.6 * np.arange(3)[:, None, None]
    assert_close(fields.a, np.cos(angle) + np.zeros((6, 4)), 1e-14)
    assert_close(fields.b, np.sin(angle) + np.zeros((6, 4)), 0.0, 1e-14)
    assert exact.shape == (3, 6, 4, 2)
    assert_close(exact, 0.0, 0.0, 1e-14)
    assert_close(moved[2], np.broadcast_to([0.0, 0.2], (6, 4, 2)), 0.0, 1e-14)
    # The rows of a sample are its channels, the fields of a row together.
    assert image.shape == equation.stacked_shape == (6, 4, 6)
    assert_close(image[0, 0], np.stack([fields.a, fields.b], -1)[:, 0, 0].ravel(), 0)
    for before, after in zip(fields, back, strict=True):
        assert_close(after, before, 0)


@pytest.mark.slow
def test_the_first_row_of_several_fields_is_given_and_seen(x64):
    laws = {"b": 0.0, "a": np.ones((6, 4))}
    equation = Stepper(Turn(), BOX, laws, rows=3, steps=2, names=("a", "b"), skip=4)
    mask = equation.given_mask
    assert mask[..., :2].all()
    assert not mask[..., 2:].any()
    seen = Observation.of(equation, initial_b=np.full((6, 4), 7.0))
    assert_close(seen.mask[0, 0], [0, 1, 0, 0, 0, 0], 0)
    assert_close(seen.values[0, 0], [0, 7, 0, 0, 0, 0], 0)
    both = Observation.of(equation, a=np.full((3, 6, 4), 7.0))
    assert_close(both.mask[0, 0], [1, 0, 1, 0, 1, 0], 0)
    # Rows that are thrown away: eight steps of 0.3.
    a, b = equation.draw(key=jax.random.key(0))
    assert_close(a, np.full((6, 4), np.cos(2.4)), 1e-13)
    assert_close(b, np.full((6, 4), np.sin(2.4)), 1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stepper(lambda u: u[1:], RING, 0.0, dt=1.0),
         r"shape of its argument, \[16\] .* got float\d\d\[15\]. It is called"),
        (lambda: Stepper(bad(lambda u: (u, u)), RING, 0.0, dt=1.0), "got tuple"),
        (lambda: Stepper(lambda u: u, RING, 0.0), "dt=None. Write dt=0.1"),
        (lambda: Stepper(Turn(), RING, 0.0, dt=0.5, names="ab"),
         "a distribution for each of a, b, got 0.0. Write dict"),
        (lambda: Stepper(Turn(), RING, (0.0, 0.0), dt=0.5, names="ab"),
         "time step of Turn, 0.25, got dt=0.5. Leave"),
        (lambda: Stepper(Turn(), RING, 0.0),
         r"for each channel of the stepper, 2 of Turn.*names=\(\). Write names="),
        (lambda: Stepper(Turn(), RING, 0.0, names=("a", "b", "c")), "2 of Turn"),
        (lambda: Stepper(Turn(), RING, 0.0, names=("a", "a")), "all different"),
        (lambda: Stepper(bad(Turn), RING, 0.0), "expected a stepper, a function"),
        (lambda: Stepper(Shift(), RING, pde.Matern(BOX), dt=0.1),
         "the law draws fields on .*, the equation is on"),
        (lambda: Stepper(Shift(), RING, 0.0, dt=0.1, steps=0), "steps must be a whole"),
        (lambda: Stepper(Known(), RING, 0.0),
         r"that of Known, \(16,\) points on 1 along every axis, got Grid.* Write Grid"),
        (lambda: Stepper(Known(), Grid((16,)), 0.0), "Known needs every axis periodic"),
        (lambda: pde.KuramotoSivashinsky(Grid((8, 8), boundary=Periodic())),
         "in one dimension, got"),
        (lambda: pde.Kolmogorov(wave=11), r"wave < 10.7 on .* got wave=11. Take at"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_is_compiled(make, message, x64):
    with pytest.raises(ValueError, match=message):
        make()


class Known(eqx.Module):
    """What a stepper of exponax says of itself."""

    num_points = 16
    num_spatial_dims = 1
    num_channels = 1
    domain_extent = 1.0
    dt = 0.1

    def __call__(self, u):
        return u


@pytest.mark.slow
def test_an_unstable_step_is_refused_with_one_that_holds(x64):
    ring = Grid((8,), boundary=Periodic())
    start = jnp.asarray(8 * np.sin(2 * np.pi * np.asarray(ring.points[0])))
    burgers = pde.Burgers(ring, 1e-4, end=2.0, rows=5, substeps=2, initial=start)
    with pytest.raises(ValueError, match=r"too long for these data: 0.25 is un.*Take"):
        burgers.sample(key=jax.random.key(0))


# The named equations.


def test_a_mixture_separates_downhill_and_keeps_its_mass(x64):
    separates(np.dtype("f8"))


@pytest.mark.slow
def test_so_does_a_mixture_in_float32(x32):
    separates(np.dtype("f4"))


def separates(dtype):
    grid = Grid((12, 8), extent=((0.0, 12.0), (0.0, 8.0)), boundary=Periodic())
    mixture = pde.CahnHilliard(grid, end=60.0, rows=7, substeps=20, skip=0)
    rng = np.random.default_rng(0)
    start = 0.1 + 0.05 * rng.normal(size=(12, 8))
    phi = solve(mixture, jnp.asarray(start, dtype)).solution
    mass = np.asarray(phi, float).mean(axis=(1, 2))
    assert_close(mass, mass[0], 0.0, tolerance(dtype, 10))
    energy = np.asarray(jax.vmap(mixture.energy)(phi))
    assert (np.diff(energy) < 0).all()
    assert energy[-1] < 0.7 * energy[0]
    assert np.abs(phi[-1]).max() > 0.8 > 0.5 > np.abs(phi[0]).max()


def test_the_energy_of_cahn_and_hilliard_has_the_potential_for_its_slope(x64):
    """And an interface of their equation is the tanh whose energy is known."""
    grid = Grid((256,), extent=(-32.0, 32.0), boundary=Periodic())
    line = pde.CahnHilliard(grid, width=1.5)

    @jax.jit
    def of(phi):
        return line.energy(phi), jax.grad(line.energy)(phi), line.potential(phi)

    x = np.asarray(grid.points[0])
    profile = jnp.asarray(
        np.tanh((np.abs(x) - 16) / (1.5 * np.sqrt(2)))  # two interfaces
    )
    energy, slope, potential = of(profile)
    inner = np.abs(np.abs(x) - 16) < 8
    assert np.abs(np.asarray(potential))[inner].max() < 1e-4
    assert_close(energy, 2 * 1.5 * 2 * np.sqrt(2) / 3, 1e-5)
    assert_close(slope / grid.spacing[0], potential, 0.0, 1e-10)


def test_the_laminar_flow_of_kolmogorov_is_steady(x64):
    grid = Grid((12, 12), extent=(0.0, 2 * np.pi), boundary=Periodic())
    flow = pde.Kolmogorov(grid, reynolds=3.0, rows=2, skip=0)
    y = np.asarray(grid.coordinates[1])
    laminar = jnp.asarray(-1.5 * np.cos(2 * y))
    assert_close(flow.laminar, laminar, 0.0, 1e-14)
    both = eqx.filter_jit(lambda flow, w: (flow.advance(w), flow.velocity(w)))
    later, (u, v) = both(flow, laminar)
    assert_close(later, laminar, 0.0, 1e-13)
    assert_close(u, 0.75 * np.sin(2 * y), 0.0, 1e-14)
    assert_close(v, 0.0, 0.0, 1e-14)


@pytest.mark.slow
def test_waves_of_kuramoto_and_sivashinsky_grow_and_decay_as_they_should(x64):
    chaos = pde.KuramotoSivashinsky(end=1.0, rows=2, skip=0)
    x, k = np.asarray(chaos.grid.points[0]), 2 * np.pi * np.array([3, 18]) / 64
    small = 1e-7 * np.sin(np.outer(k, x)).sum(0)
    grown = 1e-7 * (np.exp(k**2 - k**4)[:, None] * np.sin(np.outer(k, x))).sum(0)
    fields = solve(chaos, jnp.asarray(small))
    assert_close(fields.solution[-1], grown, 0.0, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KuramotoSivashinsky", "CahnHilliard", "Kolmogorov"])
def test_order_four_of_the_named_equations_in_their_step(name, x64):
    small = Grid((16, 16), extent=(0.0, 16.0), boundary=Periodic())
    make, grid, end = {
        "KuramotoSivashinsky": (pde.KuramotoSivashinsky, None, 4.0),
        "CahnHilliard": (pde.CahnHilliard, small, 4.0),
        "Kolmogorov": (pde.Kolmogorov, None, 0.5),
    }[name]
    where = {} if grid is None else {"grid": grid}
    one = lambda n: make(**where, rows=2, end=end, substeps=n, skip=0)
    coarse = {"Kolmogorov": 8, "KuramotoSivashinsky": 80, "CahnHilliard": 32}[name]
    start = one(1).draw(key=jax.random.key(1))[0]
    start = solve(one(64), start).solution[-1]  # smooth, and of the size of solutions
    ends = [solve(one(coarse * f), start).solution[-1] for f in (1, 2, 16)]
    errors = [np.abs(ends[i] - ends[2]).max() for i in (0, 1)]
    assert abs(np.log2(errors[0] / errors[1]) - 4) < 0.2


@pytest.mark.slow
def test_the_attractor_of_kuramoto_and_sivashinsky_is_skewed(x32):
    chaos = pde.KuramotoSivashinsky(rows=2, end=1.0)
    fields = pde.draw(chaos, 256, key=jax.random.key(0), batch_size=256)
    u = np.asarray(fields.initial, float)
    steps = np.roll(u, -1, axis=1) - u
    assert abs((steps**3).mean() / (steps**2).mean() ** 1.5 + 0.82) < 0.05
    assert_close(u.mean(axis=1), 0.0, 0.0, 1e-5)


# exponax.


def made(name, *arguments, **keywords):
    """A stepper of exponax, made in one program: each of its parts compiles alone."""
    exponax = pytest.importorskip("exponax")
    make = exponax.stepper
    for part in name.split("."):
        make = getattr(make, part)
    with jax.numpy_dtype_promotion("standard"):
        return eqx.filter_jit(lambda: make(*arguments, **keywords))()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "factor", "power"),
    [("Advection", -0.7, 1), ("Diffusion", 0.7, 2), ("Dispersion", 0.7, 3)],
)
def test_linear_steppers_of_exponax_are_exact(name, factor, power, dtype):
    """Of u_t = factor times the derivative of u of this order."""
    argument = {"Advection": "velocity", "Diffusion": "diffusivity",
                "Dispersion": "dispersivity"}[name]  # fmt: skip
    stepper = made(name, 1, 2 * np.pi, 16, 0.05, **{argument: 0.7})
    equation = Stepper(stepper, RING, 0.0, rows=3, steps=2)
    x, t = np.asarray(RING.points[0], float), 0.1 * np.arange(3)[:, None]

    def waves(t, derivatives=0):
        found = np.zeros(np.broadcast_shapes(x.shape, np.shape(t)))
        for k, size in ((1, 1.0), (2, 0.5j), (5, 0.2)):
            rate = factor * (1j * k) ** power
            found += (size * rate**derivatives * np.exp(1j * k * x + rate * t)).real
        return found

    given = (jnp.asarray(waves(0.0), dtype),)
    fields, exact, *_ = judged(equation, given, jnp.asarray(0.0))
    assert_close(fields.solution, waves(t), 0.0, tolerance(dtype, 100))
    assert_close(exact, 0.0, 0.0, tolerance(dtype, 100))
    assert_close(equation.rate(*given), waves(0.0, 1), 0.0, tolerance(dtype, 1e3))


@pytest.mark.slow
def test_a_soliton_of_exponax_travels(x64):
    """The wave u = 3c sech^2(sqrt(c)/2 (x - ct)) of u_t + u u_x + u_xxx = 0.

    exponax 0.2 takes the real parts of the coefficients of a step, so that its steps
    are of first order where the linear part is not real: 0.5% of the height here.
    """
    grid = Grid((128,), extent=(0.0, 40.0), boundary=Periodic())
    stepper = made(
        "KortewegDeVries", 1, 40.0, 128, 0.002, convection_scale=1.0,
        dispersivity=1.0, hyper_diffusivity=0.0, single_channel=True, order=4,
    )  # fmt: skip
    equation = Stepper(stepper, grid, 0.0, rows=3, steps=250)
    x, t = np.asarray(grid.points[0]), np.arange(3.0)[:, None] / 2
    wave = lambda x, t: 6 / np.cosh(np.sqrt(2) / 2 * (x - 15 - 2 * t)) ** 2
    fields = solve(equation, jnp.asarray(wave(x, 0.0)))
    assert_close(fields.solution, wave(x, t), 0.0, 0.05)


@pytest.mark.slow
def test_ours_and_those_of_exponax_are_the_same_equations(x64):
    length = 2 * np.pi
    grid = Grid((18, 18), extent=(0.0, length), boundary=Periodic())  # of equal masks
    x, y = (np.asarray(a) for a in grid.coordinates)
    w = jnp.asarray(np.sin(x) * np.cos(2 * y) + np.cos(x + y + 0.3))
    # The velocity of exponax has the curl -w: its flow is ours of the opposite sign.
    theirs = made(
        "KolmogorovFlowVorticity", 2, length, 18, 0.05, diffusivity=1 / 20, drag=0.0,
        injection_mode=2, injection_scale=-1.0, order=4,
    )  # fmt: skip
    foreign = Stepper(theirs, grid, 0.0, rows=2, steps=4)
    ours = pde.Kolmogorov(grid, 20.0, end=0.2, rows=2, substeps=4, skip=0)
    solution = solve(ours, w).solution
    assert_close(-solve(foreign, -w).solution, solution, 0.0, 1e-12)
    known = foreign.terms(-w)
    assert known is not None
    for own, other in zip(ours.terms(w), known, strict=True):
        assert_close(-other, own, 0.0, 1e-12)


@pytest.mark.slow
def test_several_species_in_two_dimensions_through_everything(x32, tmp_path):
    grid = Grid((16, 16), extent=(0.0, 1.0), boundary=Periodic())
    stepper = made("reaction.GrayScott", 2, 1.0, 16, 1.0)
    blob = pde.Lognormal(pde.Matern(grid, scale=0.3))
    equation = Stepper(
        stepper, grid, {"feed": 1.0, "eaten": blob}, rows=3, steps=5,
        names=("feed", "eaten"),
    )  # fmt: skip
    data = pde.generate(
        equation, 4, key=jax.random.key(0), path=tmp_path / "d", progress=False
    )
    assert data.channels == ("feed 0", "eaten 0", "feed 1", "eaten 1", "feed 2",
                             "eaten 2")  # fmt: skip
    assert data.residuals["solved"].max() < 1e-6
    again = pde.open(tmp_path / "d", equation)
    assert again.fields(0).eaten.shape == (3, 16, 16)
    other = Stepper(
        stepper, grid, {"feed": 0.5, "eaten": blob}, rows=3, steps=5,
        names=("feed", "eaten"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="must be a dataset of this equation"):
        pde.open(tmp_path / "d", other)


@pytest.mark.slow
def test_steppers_with_variables_of_their_own_have_no_terms(x64):
    stepper = made("Wave", 1, 2 * np.pi, 16, 0.1)
    equation = Stepper(stepper, RING, (0.0, 0.0), names=("height", "speed"), rows=3)
    assert equation.terms(jnp.zeros((16, 2))) is None
    x = np.asarray(RING.points[0])
    fields = solve(equation, jnp.asarray(np.sin(x)), jnp.zeros(16))
    t = 0.1 * np.arange(3)[:, None]
    assert_close(fields.height, np.cos(t) * np.sin(x), 0.0, 1e-12)
    assert_close(fields.speed, -np.sin(t) * np.sin(x), 0.0, 1e-12)


@pytest.mark.slow
def test_an_unstable_stepper_of_exponax_is_made_again_with_half_the_step(x64):
    stepper = made("Burgers", 1, 2 * np.pi, 16, 0.5, diffusivity=0.01, order=2)
    start = 4 * np.sin(np.asarray(RING.points[0]))
    equation = Stepper(stepper, RING, start, rows=40)
    with pytest.raises(ValueError, match=r"0.5 is unstable, 0.\d+ stays finite"):
        equation.sample(key=jax.random.key(0))


@pytest.mark.slow
def test_a_stepper_in_three_dimensions(x64):
    grid = Grid((8, 8, 8), extent=(0.0, 2 * np.pi), boundary=Periodic())
    stepper = made("Diffusion", 3, 2 * np.pi, 8, 0.1, diffusivity=0.5)
    x, y, z = (np.asarray(a) for a in grid.coordinates)
    start = np.sin(x) * np.cos(2 * y) * np.sin(z)
    fields = solve(Stepper(stepper, grid, 0.0, rows=2), jnp.asarray(start))
    assert_close(fields.solution[1], np.exp(-0.5 * 6 * 0.1) * start, 0.0, 1e-12)
