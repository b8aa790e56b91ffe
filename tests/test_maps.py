"""Equations of flow maps: the exact map solves them, and a known error is known."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_maps import DEVIATION, MEAN, exact, law, teacher
from helpers import assert_close

import pidax as px
from pidax import distill
from pidax.distill import Eulerian, Lagrangian, Leg, Semigroup

KEY = jax.random.key(5)
RULES = {
    "Lagrangian": Lagrangian(),
    "held": Lagrangian(hold=True),
    "Eulerian": Eulerian(),
    "own": Eulerian(own=True),
    "normalised": Eulerian(normalise=0.1),
    "semigroup": Semigroup("map"),
}
TIMES = (0.9, 0.5, 0.2)
STATE = np.array([0.7, -1.1])


@pytest.fixture(scope="module")
def both_sides():
    """The two sides of every rule for VP: of the exact map, and with F shifted."""
    with jax.enable_x64(True):
        process = px.VP()
        flow = teacher(process)

        def sides(shift):
            model = exact(process, shift)
            unit = jnp.array(STATE.tolist()) / process.sigma(jnp.asarray(TIMES[0]))
            s, r, t = (jnp.asarray(t) for t in TIMES)
            leg = Leg(model, model, flow, unit, s, r, t, None, None)
            return {name: rule.sides(leg) for name, rule in RULES.items()}

        one = jnp.ones(())
        at = jax.jit(lambda shift: jax.jvp(sides, (shift,), (one,)))
        right, wrong = (
            jax.tree.map(np.asarray, at(jnp.asarray(c))) for c in (0.0, 0.1)
        )
        return process, right[0], wrong[0], right[1]


def test_the_exact_map_of_a_gaussian_solves_every_equation(both_sides):
    _, right, _, slope = both_sides
    for name, (own, target) in right.items():
        assert_close(own, target, 1e-6 if "Lagr" in name or name == "held" else 1e-9)
        # Nothing flows through a target.
        if name != "normalised":
            assert_close(slope[name][1], 0, 1e-12)
        assert np.abs(slope[name][0]).min() > 0.1


def test_a_shift_of_the_map_is_a_known_residual(both_sides):
    """F + c: what each equation then lacks, in closed form."""
    process, _, wrong, _ = both_sides
    r_s, r_r, r_t = (
        float(np.divide(*process.level(jnp.asarray(t, float)))) for t in TIMES
    )
    size = lambda r: np.hypot(DEVIATION, r)
    # unit moves by this factor from one time to another.
    factor = lambda a, b: size(b) / size(a) * a / b
    share = DEVIATION**2 / (DEVIATION**2 + r_t**2)
    lam = (1 / r_r - 1 / r_s) / (1 / r_t - 1 / r_s)
    way = 1 / r_r - 1 / r_s
    slope_after = (factor(r_r, r_t) - 1) / (1 / r_t - 1 / r_r)
    # D moves by its share of the state's shift, alpha (1 - rho_s / rho_t) c.
    moved = share * (1 - r_t / r_s)
    sine = lambda r: r / np.hypot(r, float(process.sigma_data))
    ratio = sine(r_t) / sine(r_s)
    expected = {
        "Lagrangian": 1 - moved,
        "held": 1 - moved,
        "Eulerian": ratio * np.ones(2),
        "own": ratio * (2 - factor(r_s, r_t)),
        "semigroup": -(1 - lam) * way * slope_after,
    }
    for name, known in expected.items():
        own, target = wrong[name]
        assert_close(own - target, 0.1 * known, 1e-6)
    own, target = wrong["normalised"]
    assert_close(own - target, 0.1 * ratio / (0.1 * ratio + 0.1), 1e-8)


class Euler(eqx.Module):
    """The map of DDIM from a time of a grid to its end, as a network for EDM."""

    ratios: tuple[float, ...]
    sigma_data: float
    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        r_s = jnp.exp(4 * c_noise[0])
        start = unit = x * jnp.hypot(self.sigma_data, r_s) / r_s
        for a, b in zip(self.ratios, self.ratios[1:], strict=False):
            mean, deviation = law()
            share = deviation**2 / (deviation**2 + a**2)
            clean = mean + share * (a * unit - mean)
            step = unit + (1 / b - 1 / a) * clean
            unit = jnp.where(a < r_s * (1 + 1e-9), step, unit)
        way = 1 / self.ratios[-1] - 1 / r_s
        return (unit - start) / jnp.where(way > 1e-9, way, 1.0)


@pytest.fixture(scope="module")
def consistency():
    """What consistency distillation compares at the nodes of a grid of five steps."""
    with jax.enable_x64(True):
        process = px.EDM()
        flow, grid = teacher(process), px.karras(6, process)
        network = Euler(tuple(float(t) for t in grid), float(process.sigma_data))
        model = px.FlowMap(network, process)
        end = grid[-1]

        @jax.jit
        def sides(s, r, shift):
            unit = jnp.array(STATE.tolist()) / s * 3
            moved = eqx.tree_at(lambda m: m.network, model, Shifted(network, shift))
            leg = Leg(moved, moved, flow, unit, s, r, end, None, None)
            plain, heun = (Semigroup("denoiser", heun=h) for h in (False, True))
            return plain.sides(leg), heun.sides(leg)

        nodes = [(grid[i], grid[i + 1]) for i in range(5)]
        found = [sides(s, r, jnp.asarray(0.0)) for s, r in nodes]
        wrong = sides(*nodes[-1], jnp.asarray(0.1))
        return jax.tree.map(np.asarray, (nodes, found, wrong))


class Shifted(eqx.Module):
    network: Any
    shift: jax.Array
    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        return self.network(x, c_noise, condition) + self.shift


def test_the_fixed_point_of_consistency_distillation_is_the_teachers_ddim(consistency):
    _, found, wrong = consistency
    for (own, target), _ in found:
        assert_close(own, target, 1e-9)
    # At the end nothing follows, and the map is what the denoiser says.
    own, target = wrong[0]
    assert_close(own - target, 0.1, 1e-9)


def test_the_first_leg_of_heun_is_heuns_step_in_the_angle(consistency):
    """At the last step of the grid the target is the first leg alone."""
    nodes, found, _ = consistency
    (s, r), (_, (_, target)) = nodes[-1], found[-1]
    scale = px.EDM().sigma_data
    y = STATE * 3 / np.hypot(scale, s)
    phi, psi = np.arctan2(s, scale), np.arctan2(r, scale)

    def velocity(y, phi):
        sigma = scale * np.tan(phi)
        x = y * scale / np.cos(phi)
        clean = MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (x - MEAN)
        return (y * np.cos(phi) - clean / scale) / np.sin(phi)

    first = velocity(y, phi)
    second = velocity(y + (psi - phi) * first, psi)
    end = y + (psi - phi) * (first + second) / 2
    mean = (end / np.sin(psi) - y / np.sin(phi)) / (1 / r - 1 / s)
    assert_close(target, mean, 1e-9)


def test_shares_of_the_draws(x64):
    process = px.EDM()
    chance, rule = distill.UniformAngle(), Semigroup("map")
    zero, yes = jnp.zeros(()), jnp.asarray(True)
    # On the diagonal the target is the denoiser: a shifted map is wrong by its shift.
    objective = distill.Shortcut(teacher(process), diagonal=1.0)

    @eqx.filter_jit
    def both(keys, model):
        times = jax.vmap(lambda k: rule.times(process, chance, zero, yes, key=k))(keys)
        state = objective.init(model, key=KEY)
        return times, objective.loss(model, state, None, jnp.zeros(()), key=KEY)

    (s, r, t), (_, (_, terms)) = both(jax.random.split(KEY, 64), exact(process, 0.1))
    assert_close(s, process.t_max, 0)
    assert bool(((s >= r) & (r >= t) & (t >= process.t_min)).all())
    assert float(t.std()) > 0
    assert_close(terms["residual"], 0.01, 1e-6)


def test_a_grid_doubles_in_the_course_of_training(x64):
    rule = Semigroup("denoiser", grid=px.karras(9, px.EDM()), start_steps=2)
    strides = [int(rule._stride(jnp.asarray(p))) for p in (0, 0.3, 0.4, 0.7, 1)]
    assert strides == [4, 4, 2, 1, 1]


def test_progressive_distillation_halves():
    process = px.VP()
    with jax.enable_x64(True):
        flow = teacher(process)
        objective = distill.ProgressiveDistillation(flow, 4, every=10)
        assert objective.rounds == 3
        model = exact(process)
        state = objective.init(model, key=KEY)
        data = jnp.array([0.2, -0.4])
        loss = eqx.filter_jit(
            lambda model, state, key: objective.loss(
                model, state, data, jnp.zeros(()), key=key
            )
        )
        # The first round learns two steps of DDIM, which the exact map is not.
        assert loss(model, state, KEY)[0] > 1e-5
        assert loss(model, state, KEY)[1][1]["round"] == 0
        for number in (1, 2, 2):
            state = objective.refresh(model, state, key=KEY)
            assert int(state.round) == number
            assert_close(loss(model, state, KEY)[0], 0, 1e-12)
        wrong = loss(exact(process, 0.1), state, KEY)[0]
        assert wrong > 1e-4
        # The last round is not replaced by itself.
        held = objective.refresh(exact(process, 0.1), state, key=KEY)
        assert_close(held.before.network.shift, 0, 0)


LEARN = {
    "LMD": (distill.LagrangianMap, False, 0.1),
    "BOOT": (distill.BOOT, False, 0.35),
    "CD": (lambda flow: distill.ConsistencyDistillation(flow, 8), True, 0.1),
    "CTM": (lambda flow: distill.ConsistencyTrajectory(flow, 8), True, 0.35),
}


@pytest.mark.slow  # compiles a training for each
@pytest.mark.parametrize("name", LEARN)
def test_methods_learn_the_map_of_a_gaussian(name, x32):
    """The samples have the standard deviations 0.5 and 1.2."""
    process = px.EDM()
    flow = teacher(process)
    exactly: Any = flow.denoiser
    make, needs, bound = LEARN[name]
    keys = jax.random.split(KEY, 4096)
    data = jax.vmap(lambda k: exactly.sample(key=k))(keys) if needs else None
    network = px.nn.two_times(px.nn.MLP(2, 2, width=64, depth=2, key=KEY))
    result = px.fit(
        px.FlowMap(network, process),
        make(flow),
        data=data,
        steps=600,
        batch_size=256,
        optimiser=optax.adam(optax.cosine_decay_schedule(3e-3, 600)),
        key=KEY,
        progress=False,
    )
    z = process.prior(jax.random.key(8), (512, 2))
    start, end = (process.level(t) for t in (process.t_max, process.t_min))
    known = jax.vmap(lambda z: exactly.transport(z, start, end))(z)
    made = jax.vmap(result.model.sample)(z)
    assert float(jnp.sqrt(jnp.mean((made - known) ** 2))) < bound


def test_bad_input_is_named(x64):
    process = px.EDM()
    flow = teacher(process)
    network = px.nn.MLP(2, 2, key=KEY)
    one_time = px.Student(network, process)
    model = exact(process)
    with pytest.raises(ValueError, match=r"two times: expected a FlowMap, got a Stude"):
        distill.MeanFlow(flow).check(one_time, None)
    with pytest.raises(ValueError, match=r"answers='data'.*expected data, got none"):
        distill.ConsistencyTraining(flow, 80).check(model, None)
    with pytest.raises(ValueError, match=r"at least 2, got steps=1"):
        distill.ConsistencyDistillation(flow, 1)
    with pytest.raises(ValueError, match=r"a power of two, got steps=6.*Take 4 or 8"):
        distill.ProgressiveDistillation(flow, 6, every=10)
    with pytest.raises(ValueError, match=r"expected data, got none.*px.sample"):
        distill.ProgressiveDistillation(flow, 4, every=10).check(model, None)
    with pytest.raises(ValueError, match=r"expected diagonal above 0, got 0"):
        distill.Shortcut(flow, diagonal=0)
    with pytest.raises(ValueError, match=r"expected an equation.*got a str"):
        distill.MapDistillation(flow, "Eulerian")
    with pytest.raises(ValueError, match=r"doubles to the steps of the grid, got star"):
        Semigroup("denoiser", grid=px.karras(9, process), start_steps=3)
