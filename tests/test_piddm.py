"""PIDDM and its relatives: losses by hand, gradients, precision, and a short run."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pidax as px
from pidax import pde
from pidax.constraint import Residual
from pidax.distill import (
    PIDM,
    ConFIG,
    KnowledgeDistillation,
    PIDDMState,
    Ramp,
    Sum,
)
from pidax.distill._row_sampling import RunningMeans

KEY = jax.random.key(5)
HALF: Any = np.float32(0.5)
GRID = pde.Grid((5, 5))
DARCY = pde.Darcy.lognormal(GRID)
NORMALISER = pde.Normaliser(mean=(1.0, 0.04), std=(0.8, 0.03))
EDM = px.EDM(sigma_data=1.0)
SHAPE = (5, 5, 2)


def flow():
    variances = np.linspace(0.5, 1.5, 50, dtype=np.float32).reshape(SHAPE)
    return px.ProbabilityFlow(px.Gaussian(jnp.zeros(SHAPE), variances), EDM)


def constraint(**options):
    return Residual(DARCY, NORMALISER, **options)


def pairs(**options) -> Any:
    return dict(pairs=8, block=8, rtol=1e-3, atol=1e-3, **options)


class Scaled(eqx.Module):
    """A network with one weight: F = w x."""

    w: jax.Array
    classes: None = None
    shape: tuple = eqx.field(static=True, default=SHAPE)

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        return self.w.astype(x.dtype) * x


def student(w=0.7, dtype=jnp.float32):
    return px.Student(Scaled(jnp.asarray(w, dtype)), EDM)


def darcy_by_hand(y):
    """Mean (R / 1)^2 of -div(a grad u) = 1 in flux form on nodes, with loops."""
    a, u = np.moveaxis(np.asarray(y, float) * [0.8, 0.03] + [1.0, 0.04], -1, 0)
    u = np.pad(u[1:-1, 1:-1], 1)  # the operator knows the boundary values
    h, r = 0.25, np.zeros((5, 5))
    for i in range(1, 4):
        for j in range(1, 4):
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                face = (a[i, j] + a[i + di, j + dj]) / 2
                r[i, j] -= face * (u[i + di, j + dj] - u[i, j]) / h**2
            r[i, j] -= 1.0
    return r


@eqx.filter_jit
def evaluate(objective, model, state, key):
    return objective.loss(model, state, None, HALF, key=key)


def around(state, sensitivity=1.0):
    """PIDDM's state around that of its distillation."""
    mean = RunningMeans(jnp.full(1, sensitivity), jnp.ones(1))
    return PIDDMState(state, mean)


@pytest.fixture(scope="module")
def solved():
    """One state of eight pairs, shared."""
    kd = KnowledgeDistillation(flow(), times=jnp.array([80.0, 0.002]), **pairs())
    return kd, kd.init(student(), key=KEY)


def test_the_loss_is_the_pairs_and_the_residual_of_the_clean_sample(solved):
    kd, state = solved
    model = student()
    objective = px.PIDDM(flow(), constraint(), weight=0.3, distillation=kd)
    loss, (_, terms) = evaluate(objective, model, around(state), KEY)
    own = jax.random.split(KEY, 3)[0]  # of the distillation
    i = jax.random.randint(jax.random.split(own, 3)[0], (), 0, 8)
    x = np.asarray(model.sample(state.z[i]))
    residual, scale = darcy_by_hand(x), np.sqrt(9 / 25)  # rms of f at unknowns, else 0
    physics = np.mean((residual / scale) ** 2)
    error = np.mean((x - np.asarray(state.x[i, -1])) ** 2)
    np.testing.assert_allclose(terms["physics"], physics, rtol=1e-4)
    np.testing.assert_allclose(terms["endpoint_error"], error, rtol=1e-4)
    np.testing.assert_allclose(loss, error + 0.3 * physics, rtol=1e-4)


def test_the_default_weight_makes_an_error_cost_alike_in_both_losses(solved, x32):
    """1 / E |J eta|^2 over m entries, J by differences; the mean of many draws."""
    kd, state = solved
    objective = px.PIDDM(flow(), constraint(), distillation=kd, fresh=True)
    start = objective.init(student(), key=KEY)
    assert float(start.sensitivity.means()[0]) == 1
    loss, ((_, seen), terms) = evaluate(objective, student(), around(state, 0.25), KEY)
    assert terms["weight"] == 4
    expected = terms["endpoint_error"] + 4 * terms["physics"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    keys = jax.random.split(KEY, 3)
    x = student().sample(EDM.prior(jax.random.split(keys[1])[0], SHAPE))
    eta, h = np.asarray(jax.random.normal(keys[2], SHAPE), float), 1e-5
    up, down = (darcy_by_hand(np.asarray(x, float) + s * h * eta) for s in (1, -1))
    np.testing.assert_allclose(
        seen[0], np.mean(((up - down) / (2 * h)) ** 2) * 25 / 9, rtol=1e-3
    )
    later = objective.advance(student(), around(state, 0.25), ((), (seen[0], seen[1])))
    mean = (0.99 * 0.25 + seen[0]) / 1.99
    np.testing.assert_allclose(later.sensitivity.means(), mean, rtol=1e-5)
    anew = objective.refresh(student(), around(state, 0.25), key=jax.random.key(1))
    assert jnp.abs(anew.distillation.z - state.z).min() > 0
    assert anew.sensitivity.means() == 0.25
    given = px.PIDDM(flow(), constraint(), distillation=kd, weight=1.0)
    kept = given.advance(student(), around(state, 0.25), ((), ()))
    assert kept.sensitivity.means() == 0.25
    # Where nothing that moves changes the residual, it is left out.
    still = evaluate(objective, student(), around(state, 0.0), KEY)[1][1]
    assert still["weight"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["absolute", "relative", 2.0])
def test_scalings_of_the_residual(scaling):
    x = jax.random.normal(KEY, SHAPE)
    size = {"absolute": 1.0, "relative": np.sqrt(9 / 25), 2.0: 2.0}[scaling]
    expected = np.mean((darcy_by_hand(x) / size) ** 2)
    cost = constraint(scaling=scaling).cost(x)
    np.testing.assert_allclose(cost, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_gradient_is_that_of_both_terms(solved, x64):
    """Against central differences in the one weight, in float64."""
    kd, state = solved
    state = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), state)
    objective = px.PIDDM(kd.flow, constraint(), weight=0.3, distillation=kd)

    @jax.jit
    def loss(w):
        return objective.loss(
            student(w, w.dtype), around(state), None, jnp.ones(()) / 2, key=KEY
        )[0]

    w = jnp.asarray(0.7)
    slope = (loss(w + 1e-5) - loss(w - 1e-5)) / 2e-5
    assert abs(slope) > 0.1
    np.testing.assert_allclose(jax.grad(loss)(w), slope, rtol=1e-6)


def test_fresh_noise_and_noise_of_pairs(solved):
    """A PID needs fresh noise; pairs of endpoints may have it."""
    kd, state = solved
    model = student()
    fresh = px.PIDDM(flow(), constraint(), distillation=kd, fresh=True)
    _, (_, terms) = evaluate(fresh, model, around(state), KEY)
    own = jax.random.split(jax.random.split(KEY, 3)[1])[0]
    x = model.sample(EDM.prior(own, SHAPE))
    expected = np.mean(darcy_by_hand(x) ** 2) * 25 / 9
    np.testing.assert_allclose(terms["physics"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="options of the pairs"):
        px.PIDDM(flow(), constraint(), distillation=kd, pairs=4)


@pytest.mark.slow
@pytest.mark.parametrize("process", [px.VP, px.RectifiedFlow], ids=lambda p: p.__name__)
def test_every_process_has_its_clean_samples(process):
    """The residual is on x(z, t_min) of the process's own prior draw."""
    process = process(sigma_data=1.0)
    law = px.Gaussian(jnp.zeros(SHAPE), jnp.ones(SHAPE))
    pid = px.PID.paper(px.ProbabilityFlow(law, process), 6)
    objective = px.PIDDM(pid.flow, constraint(), distillation=pid)
    model = px.Student(Scaled(jnp.array(0.7)), process)
    state = objective.init(model, key=KEY)
    _, (_, terms) = evaluate(objective, model, state, KEY)
    own = jax.random.split(jax.random.split(KEY, 3)[1])[0]
    x = model(process.prior(own, SHAPE), process.t_min)
    expected = np.mean(darcy_by_hand(x) ** 2) * 25 / 9
    np.testing.assert_allclose(terms["physics"], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_combination_gets_the_two_losses(solved):
    kd, state = solved
    options: Any = dict(weight=0.3, distillation=kd)
    added = px.PIDDM(flow(), constraint(), **options)
    apart = px.PIDDM(flow(), constraint(), combination=ConFIG(), **options)
    total, (_, terms) = evaluate(added, student(), around(state), KEY)
    losses, _ = evaluate(apart, student(), around(state), KEY)
    np.testing.assert_allclose(losses[1], 0.3 * terms["physics"], rtol=1e-6)
    np.testing.assert_allclose(losses.sum(), total, rtol=1e-6)


@pytest.mark.slow
def test_the_residual_is_formed_in_float32_under_bfloat16():
    """A residual of bfloat16 fields would be off by a percent and more."""
    x = jax.random.normal(KEY, SHAPE, jnp.bfloat16)
    expected = np.mean((darcy_by_hand(np.asarray(x, np.float32))) ** 2) * 25 / 9
    cost = constraint().cost(x)
    assert cost.dtype == jnp.float32
    np.testing.assert_allclose(cost, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_scale_is_held_fixed():
    """A larger source makes a residual relatively smaller, and must not be sought."""
    poisson = pde.Poisson(GRID)
    own = Residual(poisson, pde.Normaliser((0.0, 0.0), (1.0, 1.0)))
    x = jax.random.normal(KEY, SHAPE)
    size = own.scale_of(x)
    fixed = Residual(poisson, own.normaliser, scaling=float(size))
    found, expected = jax.grad(own.cost)(x), jax.grad(fixed.cost)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_weights_may_follow_the_progress(solved):
    kd, state = solved
    ramp = Ramp(0.4, start=0.25, end=0.75)
    assert [float(ramp(jnp.float32(p))) for p in (0.0, 0.25, 0.75, 1.0)] == [
        0.0, 0.0, np.float32(0.4), np.float32(0.4),
    ]  # fmt: skip
    rising = px.PIDDM(flow(), constraint(), weight=ramp, distillation=kd)
    fixed = px.PIDDM(flow(), constraint(), weight=0.2, distillation=kd)
    a, b = (evaluate(o, student(), around(state), KEY)[0] for o in (rising, fixed))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    with pytest.raises(ValueError, match="start < end"):
        Ramp(1.0, start=0.5, end=0.5)
    with pytest.raises(ValueError, match="weight must be"):
        px.PIDDM(flow(), constraint(), weight=-1.0, distillation=kd)


@pytest.mark.slow
def test_a_sum_is_the_sum(solved, x32):
    kd, state = solved
    pid = px.PID.paper(flow(), 6)
    both = Sum([(pid, 2.0), (kd, Ramp(1.0))])
    model = student()
    own = (pid.init(model, key=KEY), state)
    total, (_, terms) = evaluate(both, model, own, KEY)
    keys = jax.random.split(KEY)
    first, _ = evaluate(pid, model, own[0], keys[0])
    second, _ = evaluate(kd, model, own[1], keys[1])
    np.testing.assert_allclose(total, 2 * first + 1.0 * second, rtol=1e-6)
    assert set(terms) == {"residual", "endpoint_error"}
    refreshed = [KnowledgeDistillation(flow(), refresh_every=n) for n in (2, 3)]
    with pytest.raises(ValueError, match="at most one objective"):
        Sum([(kd, 1.0) for kd in refreshed])
    with pytest.raises(ValueError, match="at least one"):
        Sum([])
    with pytest.raises(ValueError, match=r"teaches a student.*got a DenoisingScore"):
        Sum([(px.DenoisingScoreMatching(EDM), 1.0)])  # type: ignore[list-item]


@pytest.mark.slow
def test_a_distillation_of_another_flow_is_refused():
    own = flow()
    same = px.PID(flow())  # made anew, and equal
    px.PIDDM(own, constraint(), distillation=same)
    wider = px.ProbabilityFlow(own.denoiser, px.EDM(sigma_max=40.0, sigma_data=1.0))
    law = px.Gaussian(jnp.zeros(SHAPE), jnp.ones(SHAPE))
    other = px.ProbabilityFlow(law, EDM)
    for distillation, what in ((px.PID(wider), "process"), (px.PID(other), "denoiser")):
        with pytest.raises(ValueError, match=f"same {what}.*one object"):
            px.PIDDM(own, constraint(), distillation=distillation)
    with pytest.raises(ValueError, match=r"same denoiser.*one object"):
        Sum([(same, 1.0), (px.PID(other), 1.0)])


@pytest.mark.slow
def test_all_parts_draw_the_same_labels():
    law = px.GaussianMixture(
        jnp.zeros((2, *SHAPE)), jnp.ones(2), jnp.ones(2) / 2, labels=jnp.arange(2)
    )
    own = px.ProbabilityFlow(law, EDM)
    labelled = px.PIDDM(own, constraint(), classes=2)
    assert labelled.classes == 2
    assert Sum([(labelled, 1.0), (px.PID(own, classes=2), 1.0)]).classes == 2
    none = px.PIDDM(own, constraint(), condition=lambda key: -1)
    assert none.classes is None
    assert none.condition is not None
    for other in (px.PID(own), px.PID(own, classes=1), none):
        with pytest.raises(ValueError, match="the same classes in all"):
            Sum([(labelled, 1.0), (other, 1.0)])
    # Samples of the residual have labels drawn like those of the distillation.
    seen = []

    class Labelled(eqx.Module):
        classes: int = 2
        shape: tuple = eqx.field(static=True, default=SHAPE)

        def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
            seen.append(condition)
            return 0.1 * x

    nested = px.PIDDM(own, constraint(), distillation=labelled)
    nested._sample(px.Student(Labelled(), EDM), KEY)
    assert int(seen[-1]) in (0, 1)


@pytest.mark.slow
def test_pidm_asks_the_posterior_mean(x32):
    """The residual of D(x_t), with the weight sigma_data^2 / v(t)."""
    model = px.Preconditioned(Scaled(jnp.array(0.3)), EDM)
    x0 = jax.random.normal(jax.random.key(9), SHAPE)
    objective = PIDM(EDM, constraint(), weight=0.01)
    loss, (_, terms) = objective.loss(model, (), x0, HALF, key=KEY)
    time_key, noise_key = jax.random.split(KEY, 4)[:2]
    t = objective.matching.law(EDM, key=time_key)
    x, _ = EDM.perturb(x0, t, key=noise_key)
    answer = model(x, EDM.sigma(t))
    physics = np.mean(darcy_by_hand(answer) ** 2) * 25 / 9
    alone, _ = objective.matching.loss(model, (), x0, HALF, key=KEY)
    np.testing.assert_allclose(terms["physics"], physics, rtol=1e-4)
    weight = 0.01 * (1 + float(t) ** 2) / float(t) ** 2
    np.testing.assert_allclose(loss, alone + weight * physics, rtol=1e-4)


def test_a_constraint_of_another_grid_is_refused_before_training(solved):
    kd, _ = solved
    other = pde.Darcy.lognormal(pde.Grid((6, 6)))
    wrong = Residual(other, NORMALISER)
    with pytest.raises(ValueError, match=r"6, 6"):
        px.PIDDM(flow(), wrong, distillation=kd).check(student(), None)
    model = px.Preconditioned(Scaled(jnp.array(0.3)), EDM)
    with pytest.raises(ValueError, match=r"6, 6"):
        PIDM(EDM, wrong).check(model, np.zeros((4, *SHAPE), np.float32))


@pytest.mark.slow
def test_a_residual_that_is_not_finite_at_the_start_is_named(solved):
    kd, _ = solved
    with pytest.raises(ValueError, match="expected finite samples"):
        px.PIDDM(flow(), constraint(), distillation=kd).check(student(np.nan), None)
    # The fields are numbers, the squares of their residuals are not.
    with pytest.raises(ValueError, match=r"finite residuals.*is not the one"):
        px.PIDDM(flow(), constraint(), distillation=kd).check(student(1e12), None)


@pytest.mark.slow
def test_pidm_asks_at_the_start_as_well(x32):
    data = np.asarray(jax.random.normal(KEY, (20, *SHAPE)))
    model = lambda w: px.Preconditioned(Scaled(jnp.array(w)), EDM)
    objective = PIDM(EDM, constraint())
    objective.check(model(0.3), data)
    with pytest.raises(ValueError, match="finite samples, got 16 of 16"):
        objective.check(model(np.nan), data)
    with pytest.raises(ValueError, match=r"finite residuals.*is not the one"):
        objective.check(model(1e25), data)


@pytest.mark.slow
def test_training_lowers_the_residual_and_not_by_moving_the_coefficient():
    """Pairs of a teacher that knows nothing of Darcy, in coordinates of a, then u.

    With the given fields held, the network that makes them learns the pairs alone: the
    coefficients are those of a training without physics, to rounding.
    """
    fields = np.asarray(jax.vmap(DARCY.stack)(pde.draw(DARCY, 64, key=KEY)))
    chart = pde.Whitened.fit(fields, positive=[0], given=DARCY.given_mask, damping=0.1)
    (size,) = chart.shape
    own = px.ProbabilityFlow(px.Gaussian(jnp.zeros(size), jnp.ones(size)), EDM)
    network = px.nn.blockwise(chart.blocks, width=32, depth=1, key=KEY)

    def trained(adjust, **weight):
        physics = Residual(DARCY, chart, adjust=adjust)
        objective = px.PIDDM(own, physics, **weight, pairs=64, block=64)
        run = px.fit(
            px.Student(network, EDM), objective, steps=200, batch_size=32, key=KEY,
            optimiser=optax.adam(3e-3), progress=False, log_every=200,
        )  # fmt: skip
        return judged(run.model)

    @eqx.filter_jit
    def judged(model):
        x = jax.vmap(model.sample)(EDM.prior(jax.random.key(8), (64, size)))
        cost = jax.vmap(Residual(DARCY, chart).cost)(x).mean()
        return cost, jnp.log(chart.restore(x)[..., 0])

    alone, before = trained("unknowns", weight=0.0)
    held, after = trained("unknowns", weight=1e3)
    both, moved = trained("all", weight=1e3)
    default, _ = trained("unknowns")
    # By the order in which the pairs are drawn: 0.60 and 0.66 were seen.
    assert held < 0.7 * alone
    assert both < 0.5 * alone
    assert default < 0.7 * alone  # by a weight of 0.1 it is not lowered at all
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert jnp.abs(moved - before).max() > 0.05


@pytest.mark.slow
def test_given_fields_are_held_only_in_a_chart_that_can():
    """A coordinate of a joint direction moves coefficient and solution together."""
    fields = np.asarray(jax.vmap(DARCY.stack)(pde.draw(DARCY, 64, key=KEY)))
    fit = lambda **options: pde.Whitened.fit(fields, positive=[0], **options)
    free = GRID.with_boundary(pde.Neumann())
    for chart in (fit(), fit(form="grid")):
        Residual(DARCY, chart)
        with pytest.raises(ValueError, match=r"got \d+ of \d+ that move both"):
            Residual(DARCY, chart, adjust="unknowns")
    for chart in (
        fit(given=DARCY.given_mask),
        fit(given=[0], rough={1: GRID}),
        fit(basis=pde.Spectral([free, GRID])),
        fit(basis=pde.Spectral([free, GRID]), form="grid"),
    ):
        held = Residual(DARCY, chart, adjust="unknowns")
        y = chart.normalise(fields[0]) + 0.1
        slope = jax.grad(held.cost)(y)
        step = -1e-3 * slope / jnp.abs(slope).max()
        before, after = chart.restore(y), chart.restore(y + step)
        np.testing.assert_allclose(after[..., 0], before[..., 0], rtol=1e-6)
        assert jnp.abs(after - before)[..., 1].max() > 0


def test_given_fields_may_be_held():
    """The same residual; the gradient of the coefficient is zero, of u the same."""
    x = jax.random.normal(KEY, SHAPE)
    free, held = (
        jax.jit(jax.value_and_grad(constraint(adjust=adjust).cost))(x)
        for adjust in ("all", "unknowns")
    )
    assert free[0] == held[0]
    all_of_it, part = free[1], held[1]
    assert jnp.abs(all_of_it[..., 0]).max() > 0
    np.testing.assert_array_equal(part[..., 0], 0)
    np.testing.assert_allclose(part[..., 1], all_of_it[..., 1], rtol=1e-6)
    with pytest.raises(ValueError, match="adjust must be"):
        constraint(adjust="u")


@pytest.mark.slow
def test_coordinates_of_what_is_given_are_held_too():
    """Of u, too, which they make by the regression; the gradient of the rest stays."""
    fields = np.asarray(jax.vmap(DARCY.stack)(pde.draw(DARCY, 80, key=KEY)))
    chart = pde.Whitened.fit(fields, positive=[0], given=[0])
    y = chart.normalise(fields[0]) + 0.3
    free, held = (
        jax.grad(Residual(DARCY, chart, adjust=a).cost)(y) for a in ("all", "unknowns")
    )
    here, there = chart.basis.blocks(y.size)
    assert jnp.abs(free[here]).max() > 0
    np.testing.assert_array_equal(held[here], 0)
    np.testing.assert_allclose(held[there], free[there], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_first_row_in_time_may_be_held():
    grid = pde.Grid((8,), boundary=pde.Periodic())
    burgers = pde.Burgers(grid, rows=4, end=0.1)
    normaliser = pde.Normaliser((0.0,), (1.0,))
    x = jax.random.normal(KEY, (4, 8, 1))
    free, held = (
        jax.grad(Residual(burgers, normaliser, adjust=a).cost)(x)
        for a in ("all", "unknowns")
    )
    assert jnp.abs(free[0]).max() > 0
    np.testing.assert_array_equal(held[0], 0)
    np.testing.assert_allclose(held[1:], free[1:], rtol=1e-5)
