"""The family of multistep samplers: published formulas, orders, signs, the ledger."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from stepping import (
    Levels,
    data_multistep,
    pndm,
    points_flow,
    published_2m,
    published_3m,
    solved,
    two_points,
    unipc,
    walk,
)

import pidax as px
from pidax.solver import (
    DDIM,
    GHVB,
    IPNDM,
    LMS,
    Adams,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPP3MCode,
    Momentum,
    Multistep,
    UniPC,
    Weights,
)

SLOW = pytest.mark.slow

# --- published formulas --------------------------------------------------------------


LATE = {"lower_order_final": False}
PUBLISHED = {
    "2m": DPMSolverPP(2, **LATE),
    "3m code": DPMSolverPP3MCode(**LATE),
    "unipc3 bh1": UniPC(3, "bh1"),
    "momentum": GHVB(4, 0.7),
    "lms": LMS(),
    "ddim": DDIM(),
    "ddim, noise": Multistep(1, "noise", "log_snr"),
    "3m": DPMSolverPP(3, **LATE),
    "unipc2 bh1": UniPC(2, "bh1"),
    "unipc2 bh2": UniPC(2, "bh2"),
    "unipc3 bh2": UniPC(3, "bh2"),
    "unipc3": UniPC(3, "exact"),
    "ipndm": IPNDM(),
    "momentum 1": GHVB(4, 1.0),
    "even": Multistep(2, "noise", "index"),
}
QUICK_ONES = tuple(PUBLISHED)[:5]


@pytest.fixture(scope="module", params=["quick", pytest.param("all", marks=SLOW)])
def published(request):
    """All on one uneven grid of VP, from one start; the grid and the start."""
    with jax.enable_x64(True):
        process = px.VP()
        times = jnp.array([1.0, 0.8, 0.65, 0.4, 0.3, 0.12, 0.04])
        z = jnp.array([0.83])
        flow = points_flow(process)
        signal = points_flow(process, px.flow.UnitSignalClock())
        names = QUICK_ONES if request.param == "quick" else tuple(PUBLISHED)
        made = {n: PUBLISHED[n].prepare(flow, times, 6, None) for n in names}
        table = Weights(made["3m code"].weights_on(flow, times))
        made["3m table"] = Multistep(3, "data", "log_snr", rule=table)
        if request.param == "all":
            even = Weights([[1.0, 0.0], [1.5, -0.5]])
            made["given"] = Multistep(2, "noise", "index", rule=even)

        @jax.jit
        def ends(z):
            found = {name: solved(s, flow, z, times) for name, s in made.items()}
            found["adams"] = solved(Multistep(4, "slope", "clock"), signal, z, times)
            return found

        return jax.tree.map(np.asarray, ends(z)), Levels(process, times), np.asarray(z)


def test_the_published_formulas(published):
    found, levels, z = published
    double = lambda *args: published_3m(*args, factor=2.0)
    data = lambda rule: data_multistep(levels, z, two_points, rule)
    predicted = lambda *args: unipc(levels, z, two_points, *args)
    expected = {
        "ddim": lambda: data(lambda *_: 0.0),
        "2m": lambda: data(published_2m),
        "3m code": lambda: data(published_3m),
        "3m": lambda: data(double),
        "unipc2 bh1": lambda: predicted(2, lambda hh: hh),
        "unipc2 bh2": lambda: predicted(2, np.expm1),
        "unipc3 bh1": lambda: predicted(3, lambda hh: hh),
        "unipc3 bh2": lambda: predicted(3, np.expm1),
        # B(h) cancels without the coefficient one half: the exact integral.
        "unipc3": lambda: predicted(3, np.expm1, False),
        "ipndm": lambda: pndm(levels, z, two_points),
        "momentum": lambda: pndm(levels, z, two_points, 0.7),
    }
    compared = [name for name in expected if name in found]
    assert len(compared) >= 4
    for name in compared:
        assert_close(found[name], expected[name](), 1e-12)
    exact = [predicted(3, b, False) for b in (lambda hh: hh, np.expm1)]
    assert_close(exact[0], exact[1], 1e-12)


def test_methods_that_are_one(published):
    found, *_ = published
    equal = (
        ("lms", "adams"),
        ("3m code", "3m table"),
        ("ddim", "ddim, noise"),
        ("ipndm", "momentum 1"),
        ("even", "given"),
    )
    pairs = [(a, b) for a, b in equal if a in found]
    for one, other in pairs:
        assert_close(found[one], found[other], 1e-12)
    # And the others are not.
    distinct = {round(end.item(), 6) for end in found.values()}
    assert len(distinct) == len(found) - len(pairs)


# --- orders --------------------------------------------------------------------------

MEAN, VARIANCE = 0.3, 0.6
FAMILY = {
    "data": Multistep(2, "data", "log_snr"),
    "noise": Multistep(3, "noise", "log_snr"),
    "angle": Multistep(3, "velocity", "angle"),
    "corrected": Multistep(2, "velocity", "angle", True),
    "code": DPMSolverPP3MCode(),
    "ratio": Multistep(4, "noise", "noise_ratio"),
    "time": Multistep(3, "noise", "time"),
    "data in the angle": Multistep(4, "data", "angle"),
    "UniPC": UniPC(2, "exact"),
    "slope": Multistep(3, "slope", "clock"),
    "half": DPMSolver(2),
    "noise, corrected": Multistep(2, "noise", "log_snr", True),
}
ORDERS = {"code": 2, "corrected": 3, "UniPC": 3, "noise, corrected": 3}
QUICK = ("noise", "corrected")
every_method = pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILY
    ],
)


@every_method
def test_the_order_with_an_exact_history(name, x64):
    """On a Gaussian, whose trajectories are known; the first steps start from them."""
    solver = FAMILY[name]
    process = px.EDM(0.7, 2.5, sigma_data=0.5)
    teacher = px.Gaussian(jnp.array([MEAN]), VARIANCE)
    flow = px.ProbabilityFlow(teacher, process)
    most = 256

    @jax.jit
    def error(count):
        first, last = process.angle(jnp.array([2.5, 0.7]))
        shares = jnp.minimum(jnp.arange(most + 1.0) / count, 1.0)
        taus = first + (last - first) * shares
        sigma, alpha = flow.clock.level(process, taus)
        spread = jnp.sqrt(alpha**2 * VARIANCE + sigma**2)
        exact = (alpha * MEAN + 0.5 * spread)[:, None]
        end = walk(solver, flow, taus, exact[0], count, exact, early=solver.order_)
        return jnp.abs(end - exact[count])[0]

    errors = np.array([error(n) for n in (64, 128, 256)])
    coarse, fine = np.log2(errors[:-1] / errors[1:])
    observed = 2 * fine - coarse  # the observed order itself converges like the step
    assert_close(observed, ORDERS.get(name, solver.order_), 0, 0.15)


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        pytest.param("data", "log_snr", id="data-log_snr"),
        pytest.param("noise", "log_snr", id="noise-log_snr", marks=pytest.mark.slow),
        pytest.param("data", "angle", id="data-angle", marks=pytest.mark.slow),
    ],
)
def test_a_polynomial_is_integrated_exactly(target, variable, x64):
    """A denoiser of time alone, quadratic in the variable: any start, order three."""
    process = px.EDM(0.1, 8.0, sigma_data=0.5)
    read = {"log_snr": lambda r: -jnp.log(r), "angle": lambda r: jnp.arctan(r / 0.5)}

    def known(r):
        s = read[variable](r)
        return 0.3 - 0.7 * s + 0.2 * s**2

    def denoise(x, sigma, alpha):
        value = known(sigma / alpha)
        given = jnp.full_like(x, value)
        return given if target == "data" else (x - sigma * given) / alpha

    flow = px.ProbabilityFlow(px.from_function(denoise, shape=(1,)), process)
    times = jnp.array([8.0, 5.0, 4.0, 1.5, 0.6, 0.1])
    measure = (lambda r: -1 / r**2) if target == "data" else lambda r: jnp.ones_like(r)
    nodes, weights = np.polynomial.legendre.leggauss(60)

    @jax.jit
    def both(z):
        def exact(t):  # of x / sigma by rho, or of x by r
            r = jnp.exp(jnp.log(t / 8) * (nodes + 1) / 2) * 8
            steps = weights / 2 * jnp.log(t / 8) * r
            sum_ = jnp.sum(steps * measure(r) * known(r))
            return (t * (z / 8 + sum_)) if target == "data" else z + sum_

        truth = jax.vmap(exact)(times)
        sizes = jax.vmap(flow.magnification)(times)[:, None]
        solver = Multistep(3, target, variable)
        taus = flow.clock.reading(process, times)
        end = walk(solver, flow, taus, sizes[0] * z, exact=sizes * truth, early=2)
        return end / sizes[-1], truth[-1]

    found, exact = both(jnp.array([3.0]))
    assert_close(found, exact, 1e-11)


# --- through Diffrax -----------------------------------------------------------------


def counted(calls):
    """The denoiser of two points, which counts its calls when it runs."""

    def denoise(x, sigma, alpha):
        jax.debug.callback(lambda: calls.append(None))
        return two_points(x, sigma, alpha)

    return px.from_function(denoise, shape=(1,))


def test_diffrax_steps_backwards_with_the_same_sign(x64):
    """Diffrax steps -t. A slope of the wrong sign would lead away from the data."""
    process, calls, z = px.EDM(), [], jnp.array([37.0])
    flow = px.ProbabilityFlow(counted(calls), process)
    solver = Multistep(3, "slope", "clock", True)
    steps = px.uniform_angle(13, process)
    path = px.solve(flow, z, solver=solver, steps=steps)
    jax.effects_barrier()
    assert len(calls) == path.stats["evaluations"] == 12
    expected = jax.jit(lambda z: solved(solver, flow, z, steps))(z)
    assert_close(path.end, expected, 1e-12)
    # All trajectories from above zero end at 1 and its rest of noise.
    assert abs(path.end.item() - 1) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [Multistep(3, "noise", "log_snr"), Adams(3)], ids=["noise", "angle"]
)
def test_encode_then_solve(solver, x64):
    """The start is a tenth of the noise range: near zero noise the points are steep."""
    process = px.VP()
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    x0, times = jnp.array([0.4, 0.31]), jnp.array([0.2, 1.0])
    grid = px.uniform_log_snr(1001, px.VP(t_min=0.2))
    latent = px.encode(flow, x0, times=times, solver=solver, steps=grid[::-1])
    back = px.solve(flow, latent.end, times=times[::-1], solver=solver, steps=grid)
    assert_close(back.end, x0, 1e-4)
    exact = px.encode(flow, x0, times=times, rtol=1e-10).end
    assert_close(latent.end, exact, 1e-4)


@pytest.mark.slow
def test_error_control_meets_its_tolerance(x64):
    process, calls = px.EDM(), []
    z = jnp.array([37.0, 21.0])
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    exact = px.solve(flow, z, rtol=1e-11).end
    for solver in (
        Multistep(3, "velocity", "angle", True),
        DPMSolverPP(3, lower_order_final=False),
    ):
        loose, tight = (px.solve(flow, z, solver=solver, rtol=r) for r in (1e-4, 1e-6))
        assert jnp.abs(loose.end - exact).max() < 3e-3
        assert jnp.abs(tight.end - exact).max() < 5e-5
        assert tight.stats["evaluations"] > loose.stats["evaluations"]
    few = px.ProbabilityFlow(counted(calls), process)
    path = px.solve(few, z[:1], solver=Adams(4, False), rtol=1e-5, dt0=1.5)
    jax.effects_barrier()
    assert path.stats["num_rejected_steps"] > 0
    assert len(calls) == path.stats["evaluations"]


@pytest.mark.slow
@pytest.mark.parametrize("solver", [DPMSolver(3), Adams(3, False)], ids=["eps", "v"])
def test_states_between_the_steps_have_the_order_of_the_method(solver, x64):
    """Of a straight line between the nodes the error falls like the square only."""
    process = px.EDM(0.1, 3.0, sigma_data=0.5)
    teacher = px.Gaussian(jnp.array([MEAN]), VARIANCE)
    flow = px.ProbabilityFlow(teacher, process)
    z = jnp.array([2.0])

    def error(count):
        steps = px.uniform_angle(count + 1, process)
        middle = process.time_of_angle(process.angle(steps[-4:-2]).mean())
        path = px.solve(flow, z, solver=solver, steps=steps, dense=True)
        exact = teacher.transport(z, (3.0, 1.0), (middle, 1.0))
        last = teacher.transport(z, (3.0, 1.0), (steps[-4], 1.0))
        return (
            jnp.abs(path.evaluate(middle) - exact)
            / jnp.abs(path.evaluate(steps[-4]) - last)
        ).item()

    # As small as the error of the nodes beside it, for coarse and for fine steps.
    assert max(error(20), error(80)) < 1.5


@pytest.mark.slow
def test_transformations(x64):
    """vmap, a batch and single samples; the derivative against differences."""
    process = px.VP()
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    z = process.prior(jax.random.key(1), (3, 2))
    options = {"solver": UniPC(2), "steps": px.uniform_log_snr(7, process)}
    one = jax.jit(lambda z: px.solve(flow, z, **options).end)
    apart = jnp.stack([one(s) for s in z])
    assert_close(px.solve_batch(flow, z, **options).end, apart, 1e-12)
    assert_close(jax.vmap(one)(z), apart, 1e-12)
    slope = jax.grad(lambda s: one(s).sum())(z[0])
    moved = [
        one(z[0] + 1e-5 * d).sum() - one(z[0] - 1e-5 * d).sum() for d in jnp.eye(2)
    ]
    assert_close(slope, jnp.stack(moved) / 2e-5, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("make", [px.EDM, px.VP, px.RectifiedFlow])
def test_float32_is_near_float64(make):
    """Sixteen steps from pure noise."""
    solvers = [UniPC(3), IPNDM(), Adams(4), Multistep(3, "noise", "angle")]
    if make is px.RectifiedFlow:
        solvers[0] = Multistep(3, "data", "angle", True)

    def ends():
        process = make()
        flow = px.ProbabilityFlow(px.GaussianMixture.two_moons(), process)
        times = px.uniform_angle(17, process)
        z = process.sigma(process.t_max) * jnp.array([0.4, -0.9])
        made = [s.prepare(flow, times, 16, None) for s in solvers]
        run = jax.jit(lambda z: [solved(s, flow, z, times) for s in made])
        return np.asarray(run(z), np.float64)

    with jax.enable_x64(False):
        rough = ends()
    with jax.enable_x64(True):
        assert_close(rough, ends(), 0, 1e-4)


@pytest.mark.slow
def test_the_density_by_a_history_of_slopes(x64):
    teacher = px.Gaussian(jnp.array([0.7, -0.2]), 0.09)
    flow = px.ProbabilityFlow(teacher, px.EDM())
    x0, solver = jnp.array([0.5, 0.1]), Multistep(4, "slope", "clock")
    found = px.log_density(
        flow, x0, solver=solver, steps=400, terminal=teacher.log_density
    )
    expected = teacher.log_density(x0, 0.002, 1.0)
    assert_close(found.value, expected, 0, 1e-3)
    with pytest.raises(ValueError, match=r"field of a ProbabilityFlow.*'slope', 'clo"):
        px.log_density(flow, x0, solver=DPMSolverPP(2), steps=20)


# --- bad input -----------------------------------------------------------------------

GAUSSIAN = px.Gaussian(np.zeros(2, np.float32), 0.25)


def run(solver, process=None, **options):
    flow = px.ProbabilityFlow(GAUSSIAN, px.EDM() if process is None else process)
    return px.solve(flow, jnp.array([3.0, 4.0]), solver=solver, **options)


BAD = {
    "the history never rises so high": (
        lambda: run(IPNDM(), steps=3),
        "order 4 needs at least as many steps, got 3.*lower_order_final=True",
    ),
    "an order without a history": (
        lambda: Multistep(2, orders=[1, 3]),
        r"from 1 to the order 2 .* got \[1 3\]",
    ),
    "orders of another solve": (
        lambda: run(Multistep(2, orders=[1, 2]), steps=3),
        "orders holds one entry for each of the 3 steps, got 2",
    ),
    "no signal": (
        lambda: run(DPMSolverPP(2), px.RectifiedFlow(), steps=8),
        "the variable 'log_snr' needs a signal.*variable='angle'",
    ),
    "noise without a key": (lambda: Multistep(1, noise=1.0), "no key. Pass key="),
    "noise below zero": (
        lambda: Multistep(1, noise=-1.0, key=jax.random.key(0)),
        "tau >= 0, got noise=-1.0",
    ),
    "noise with error control": (
        lambda: run(Multistep(2, noise=1.0, key=jax.random.key(0))),
        "takes fixed steps here, got error control with noise. Pass steps=",
    ),
    "noise of a velocity": (
        lambda: Multistep(2, "velocity", "angle", noise=1.0, key=jax.random.key(0)),
        "got target='velocity'. Take target='data'",
    ),
    "no estimate": (lambda: run(DDIM()), "order 1, which has no estimate"),
    "another adjoint": (
        lambda: run(DPMSolverPP(2), steps=9, adjoint=diffrax.BacksolveAdjoint()),
        "BacksolveAdjoint solves another equation.*RecursiveCheckpointAdjoint",
    ),
    "a slope in another variable": (
        lambda: Multistep(2, "slope", "angle"),
        "goes with the variable 'clock'.*'velocity', 'angle'",
    ),
    "an unknown target": (
        lambda: Multistep(2, "eps"),  # type: ignore[arg-type]
        r"target is one of \('data', .* got 'eps'",
    ),
    "momentum of even steps": (
        lambda: Multistep(2, "noise", "log_snr", rule=Momentum(0.5)),
        "variable='log_snr'. Take order=4 and variable='index'",
    ),
    "inside a derivative": (
        lambda: px.student.SolverStep(DPMSolverPP(2)),
        "explicit one-step solver of Diffrax.*got Multistep.*keeps a history",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_its_cure(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_ddim_multiplies_a_gaussian_by_a_product_of_cosines(x64):
    """Of the steps of the data's own angle; the exact factor is one."""
    process, variance = px.VP(), 0.04
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(1), variance), process)
    times = jnp.array([1.0, 0.7, 0.4, 0.1])
    sigma, alpha = map(np.asarray, process.level(times))
    angle = np.arctan2(sigma, alpha * variance**0.5)
    size = np.hypot(sigma, alpha * variance**0.5)
    z = jnp.array([1.3])
    end = jax.jit(lambda z: solved(DDIM(), flow, z, times))(z)
    gain = np.cos(np.diff(angle)).prod()
    assert_close(end, gain * size[-1] / size[0] * z, 1e-12)
    assert gain < 0.95  # which is far from the exact one
