"""Maps between any two times: exact ones, their residual, their loss, bad input."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_maps import DEVIATION, exact, teacher
from helpers import assert_close

import pidax as px
from pidax.student import lagrangian_residual, through

KEY = jax.random.key(3)
PROCESSES = {"EDM": px.EDM, "VP": px.VP, "VE": px.VE}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "VP")) for n in PROCESSES]
)
def test_of_a_gaussian_it_is_the_known_map_with_residual_zero(name, x64):
    process = PROCESSES[name]()
    flow = teacher(process)
    law: Any = flow.denoiser
    times = np.asarray(px.uniform_angle(6, process))
    x = np.array([0.7, -2.0])

    @jax.jit
    def all_of(s, t, shift):
        model = exact(process, shift)
        unit = x / process.sigma(s)
        sides = lagrangian_residual(model, flow, unit, s, t)
        known = law.transport(jnp.asarray(x), process.level(s), process.level(t))
        return model.transport(x, s, t), known, *sides

    for s, t in [(times[0], times[3]), (times[1], times[2]), (times[2], times[5])]:
        moved, known, implied, denoised = all_of(s, t, 0.0)
        assert_close(moved, known, 1e-9)
        assert_close(implied, denoised, 1e-6)
        # A constant in F is one in the implied sample, and moves the state.
        _, _, implied, denoised = all_of(s, t, 0.1)
        (sigma, alpha), (noise, signal) = process.level(t), process.level(s)
        gap = alpha - sigma * signal / noise
        share = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        assert_close(implied - denoised, 0.1 * (1 - share * gap), 1e-6)


def test_two_maps_are_one_and_several_steps_are_the_trajectory(x64):
    process = px.EDM()
    student = exact(process)
    z = process.prior(KEY, (2,))
    direct = student.sample(z)
    for steps in (1, 2, 4):
        assert_close(student.in_steps(steps).sample(z), direct, 1e-9)
    s, t = jnp.array(3.0), jnp.array(0.2)
    unit, first = z / 80.0, student.clean(z / 80.0, s, None)
    assert_close(
        through(student, unit, first, s, t), student.clean(unit, t, None), 1e-9
    )
    # A constant in F of the second map only counts with its share of the way.
    other = exact(process, 0.1)
    share = (1 / t - 1 / s) / (1 / t - 1 / 80.0)
    wanted = student.clean(unit, t, None) + 0.1 * share
    assert_close(through(other, unit, first, s, t), wanted, 1e-9)


def test_it_does_not_move_where_it_does_not_go():
    student = exact(px.EDM(), 0.3)
    x = np.asarray(jnp.array([0.3, -1.0]))
    still = jax.jit(lambda s: student.transport(x, s, s))
    for s in (80.0, 1.0, 0.002):
        np.testing.assert_array_equal(still(jnp.asarray(s)), x)


class FromTheStart(eqx.Module):
    """The network of a `Student`, of the network of a flow map: its first time is T."""

    network: Any
    first: float

    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        both = jnp.stack([jnp.asarray(self.first, c_noise.dtype), c_noise])
        return self.network(x, both, condition, key=key)


def test_without_later_starts_the_loss_is_that_of_a_student_to_the_last_bit():
    process = px.EDM()
    network = px.nn.two_times(px.nn.MLP(2, 2, width=8, depth=1, key=KEY))
    network = eqx.tree_at(
        lambda n: n.embedding.second.weight, network, jnp.full((32, 8), 0.03)
    )
    first = float(0.25 * jnp.log(jnp.array(80.0)))
    objective = px.PID(teacher(process), legs=0)
    found = []
    for model in (
        px.Student(FromTheStart(network, first), process),
        px.FlowMap(network, process),
    ):
        state = objective.init(model, key=KEY)
        loss = lambda m, s=state: objective.answer(m, s, jnp.zeros(()), key=KEY)[0]
        value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(model)
        found.append((value, jax.tree.leaves(gradient)))
    assert found[0][0] > 0
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_loss_has_the_shares_it_says(x64):
    """Zero for exact maps. With a constant in F every part is known: 0.1^2 times the
    factors of the test above, and zero for the semigroup.
    """
    process = px.EDM()
    flow, progress = teacher(process), jnp.zeros(())
    at = jnp.array([80.0, 5.0, 0.5, 0.002])

    def loss(model, **choices):
        objective = px.PID(
            flow, times=at, derivative=px.student.Autodiff(), **choices
        )  # fmt: skip
        state = objective.init(model, key=KEY)
        one = lambda key: objective.answer(model, state, progress, key=key)[0]
        return jax.jit(jax.vmap(one))(jax.random.split(KEY, 400))

    right = loss(exact(process), legs=0.5, semigroup=0.3)
    assert abs(right).max() < 1e-8

    def part(s, t):  # per component, the mean over both
        share = DEVIATION**2 / (DEVIATION**2 + t**2)
        return 0.01 * np.mean((1 - share * (1 - t / s)) ** 2)

    wrong = np.asarray(loss(exact(process, 0.1), legs=0.25))
    times = np.asarray(at)
    firsts = [0.75 * part(times[0], t) for t in times]
    seconds = [
        0.25 * part(s, t) for i, s in enumerate(times) for t in times[i:] if i > 0
    ]
    possible = np.add.outer(firsts, seconds).ravel()
    nearest = abs(wrong[:, None] - possible).min(1)
    assert nearest.max() < 1e-7
    assert len(np.unique(wrong.round(9))) >= 15  # of 24: the draws reach all pairs


@pytest.mark.parametrize(
    "make",
    [
        lambda: px.nn.MLP(2, 2, width=8, depth=1, classes=3, key=KEY),
        pytest.param(
            lambda: px.nn.UNet(1, 1, width=8, multipliers=(1,), key=KEY),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_second_noise_level_is_not_used_at_first(make):
    network = make()
    both = px.nn.two_times(network)
    x = jax.random.normal(KEY, network.shape or (4, 4, 1))
    alone = eqx.filter_jit(network)(x, 0.3)
    for second in (-1.0, 0.7):
        told = jnp.array([0.3, second])
        np.testing.assert_array_equal(eqx.filter_jit(both)(x, told), alone)
    assert both.classes == network.classes


@pytest.mark.slow
def test_from_a_teacher_it_begins_as_ddim(x64):
    process = px.EDM()
    network = px.nn.MLP(2, 2, width=8, depth=1, key=KEY)
    network = eqx.tree_at(lambda n: n.out.weight, network, jnp.full((8, 2), 0.2))
    denoiser = px.Preconditioned(network, process)
    student = px.FlowMap.from_teacher(denoiser, process, stops=[80.0, 2.0])
    z = process.prior(KEY, (2,))
    middle = z + (2.0 - 80.0) / 80.0 * (z - denoiser(z, 80.0, 1.0))
    end = middle + (0.002 - 2.0) / 2.0 * (middle - denoiser(middle, 2.0, 1.0))
    assert_close(student.in_steps(2).sample(z), end, 1e-9)
    drawn = px.sample(student, 3, key=KEY, steps=2)
    assert_close(drawn, px.sample(student.in_steps(2), 3, key=KEY), 1e-12)


@pytest.mark.slow
def test_trained_on_a_gaussian_two_steps_are_better_than_one():
    """After 600 steps; at the start the error is about the deviation itself."""
    process = px.EDM()
    flow = teacher(process)
    network = px.nn.two_times(px.nn.MLP(2, 2, width=32, depth=2, key=KEY))
    stops = px.uniform_angle(3, process)[:-1]
    result = px.fit(
        px.FlowMap(network, process, stops=stops),
        px.PID(flow, semigroup=0.2, slow=0.95),
        steps=600,
        batch_size=128,
        optimiser=optax.adam(px.warmup_cosine(3e-3, 600), b2=0.99),
        key=KEY,
        progress=False,
    )
    student = result.ema()
    report = px.compare(flow, student, key=KEY, count=128, repeats=0)
    one, two = report.student.endpoint_rms, report.in_steps[2].endpoint_rms
    assert one < 0.1, (one, two)
    assert two < one


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: exact(px.EDM()).transport(jnp.ones(2), 1.0, 2.0),
            "t must not be larger than s: .* got t=2.0 for s=1.0. Start at a larger s",
        ),
        (lambda: exact(px.EDM()).in_steps(3), r"one of \[1, 2, 4\] steps, got steps=3"),
        (lambda: exact(px.EDM()).in_steps(0), "steps must be"),
        (
            lambda: px.FlowMap(exact(px.EDM()).network, px.EDM(), stops=[10.0, 1.0]),
            "decrease from t_max to t_min, here from 80.0 to 0.002, got .1.e.01",
        ),
        (
            lambda: exact(px.EDM()).transport(jnp.ones(2), 100.0, 2.0),
            "process's interval",
        ),
        (
            lambda: px.FlowMap(px.nn.MLP(2, 2, width=4, depth=1, key=KEY), px.EDM()),
            r"MLP that is told one. Pass px.nn.two_times\(network\)",
        ),
        (
            lambda: px.Student(
                px.nn.two_times(px.nn.MLP(2, 2, width=4, depth=1, key=KEY)), px.EDM()
            )(jnp.ones(2), 1.0),
            r"told two noise levels, expected c_noise of the shape \(2,\), got \(\)",
        ),
        (
            lambda: px.nn.two_times(exact(px.EDM()).network),
            "Exact that has no embedding",
        ),
        (
            lambda: px.nn.two_times(
                px.nn.two_times(px.nn.MLP(2, 2, width=4, depth=1, key=KEY))
            ),
            "MLP that is told two noise levels already",
        ),
    ],
)
def test_bad_input_is_named(make, text):
    with pytest.raises(Exception, match=text):
        make()
