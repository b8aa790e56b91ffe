"""Objectives against closed-form expectations, optima and solved trajectories."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, tolerance
from networks import Network, Trajectory
from scipy import special, stats

import pidax as px
from pidax.denoiser import Preconditioned
from pidax.distill import (
    DenoisingScoreMatching,
    FlowMatching,
    KnowledgeDistillation,
    LogitNormal,
    LogNormal,
    Pairs,
    UniformAngle,
    UniformTime,
)
from pidax.distill._denoising import drop_condition
from pidax.student import Student

LAWS = {
    "log-normal": LogNormal(),
    "uniform time": UniformTime(),
    "logit-normal": LogitNormal(),
    "uniform angle": UniformAngle(),
}
NOW: Any = np.zeros((), np.float32)  # progress, which these objectives do not look at
SPREAD = 0.3
MANY = 20_000


def data() -> px.Gaussian:
    return px.Gaussian(jnp.array([0.7, -0.2]), SPREAD**2)


@eqx.filter_jit
def losses(objective, model, sample, keys):
    """Loss and terms of one sample each; `sample` is one, or makes one from a key."""

    def one(key):
        first, second = jax.random.split(key)
        drawn = sample.sample(key=first) if isinstance(sample, px.Gaussian) else sample
        return objective.loss(model, (), drawn, NOW, key=second)

    loss, (_, terms) = jax.vmap(one)(keys)
    return loss, terms["denoising_error"]


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def assert_mean(values, expected, errors=4.5):
    """Within so many standard errors: one in 150,000 would be further by chance."""
    values = np.asarray(values)
    error = values.std(0) / len(values) ** 0.5
    assert (np.abs(values.mean(0) - expected) < errors * error).all()


# --- laws of the training time -------------------------------------------------------


@eqx.filter_jit
def draws(laws, process, keys):
    one = lambda key: [law(process, key=key) for law in laws]
    return jax.vmap(one)(keys)


LAW_CASES = {
    "EDM's ln(sigma) ~ N(-1.2, 1.2^2)": (
        LogNormal(),
        px.EDM(),
        lambda t: np.log(t),
        stats.norm(-1.2, 1.2),
    ),
    "in units of sigma_data": (
        LogNormal(0.4, 0.5),
        px.VP(sigma_data=0.1),
        lambda t: np.log(px.VP().sigma(t) / px.VP().alpha(t) / 0.1),
        stats.norm(0.4, 0.5),
    ),
    "uniform time": (
        UniformTime(),
        px.RectifiedFlow(),
        lambda t: t,
        stats.uniform(1e-3, 0.999),
    ),
    "logit-normal": (
        LogitNormal(0.5, 1.5),
        px.RectifiedFlow(),
        lambda t: special.logit((t - 1e-3) / 0.999),
        stats.norm(0.5, 1.5),
    ),
    "uniform angle": (
        UniformAngle(),
        px.VP(),
        lambda t: px.VP().angle(t),
        stats.uniform(
            float(px.VP().angle(1e-3)),
            float(px.VP().angle(1.0)) - float(px.VP().angle(1e-3)),
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LAW_CASES)
def test_laws_are_the_distributions_they_are_named_after(case, x64):
    """A fixed seed; another law of the same mean would have p < 1e-20."""
    law, process, view, expected = LAW_CASES[case]
    (t,) = draws([law], process, keys_of(MANY))
    assert stats.kstest(np.asarray(view(t)), expected.cdf).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)
def test_laws_stay_within_the_process(make):
    process = make()
    laws = (*LAWS.values(), LogNormal(0.0, 20.0))
    for t in draws(laws, process, keys_of(100)):
        assert t.dtype == jnp.zeros(()).dtype
        slack = 1e-6 * np.array([process.t_min, process.t_max])
        assert (t >= process.t_min - slack[0]).all()
        assert (t <= process.t_max + slack[1]).all()


# --- regression on data --------------------------------------------------------------


def times_by_quantile(law, process, u):
    """The law's quantiles, written again."""
    low, high = process.t_min, process.t_max
    if isinstance(law, UniformTime):
        return low + (high - low) * u
    if isinstance(law, LogitNormal):
        return low + (high - low) * special.expit(special.ndtri(u))
    if isinstance(law, UniformAngle):
        ends = process.angle(jnp.array([low, high]))
        return process.time_of_angle(ends[0] + (ends[1] - ends[0]) * u)
    r = process.sigma_data * np.exp(law.mean + law.std * special.ndtri(u))
    return jnp.clip(process.time(r), low, high)


def weight(name, process, t):
    """As the literature writes them, in sigma/alpha where it does."""
    sigma, alpha = process.sigma(t), process.alpha(t)
    alpha_rate, sigma_rate = process.rates(t)
    r, sd = sigma / alpha, process.sigma_data
    return {
        "edm": (r**2 + sd**2) / (r * sd) ** 2,
        "data": jnp.ones_like(t),
        "noise": 1 / r**2,
        "velocity": (alpha_rate - sigma_rate * alpha / sigma) ** 2,
    }[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "law", "weighting"),
    [
        (px.EDM, "log-normal", "edm"),
        (px.VP, "uniform angle", "data"),
        (px.RectifiedFlow, "logit-normal", "velocity"),
    ],
)
def test_the_expected_loss_of_the_exact_denoiser(make, law, weighting, x64):
    """The posterior variance s^2 sigma^2 / (alpha^2 s^2 + sigma^2), integrated."""
    process, law = make(), LAWS[law]
    objective = DenoisingScoreMatching(process, law=law, weighting=weighting)
    u = (np.arange(MANY) + 0.5) / MANY  # the midpoint rule
    times = jnp.asarray(times_by_quantile(law, process, u))

    @jax.jit
    def integrals(t):
        sigma, alpha = process.sigma(t), process.alpha(t)
        variance = (SPREAD * sigma) ** 2 / ((alpha * SPREAD) ** 2 + sigma**2)
        return (weight(weighting, process, t) * variance).mean(), variance.mean()

    loss, error = losses(objective, data(), data(), keys_of(MANY))
    for values, expected in zip((loss, error), integrals(times), strict=True):
        assert_mean(values, expected)


@pytest.mark.slow
def test_an_error_of_the_denoiser_costs_its_weighted_square(x64):
    """The cross term with the exact one's error is zero in the mean."""
    exact, process = data(), px.EDM()
    delta = jnp.array([0.3, -0.1])
    shifted = px.from_function(lambda x, s, a: exact(x, s, a) + delta)
    objective = DenoisingScoreMatching(process)
    loss, error = losses(objective, exact, exact, keys_of(MANY))
    more, _ = losses(objective, shifted, exact, keys_of(MANY))
    extra = loss / error * jnp.mean(delta**2)  # w |delta|^2 with the same t
    assert (extra > 0).all()
    assert_mean(more - loss - extra, 0.0)


class Bent(px.AbstractDenoiser):
    """A linear family of denoisers around the exact one."""

    exact: px.Gaussian
    slope: jax.Array
    offset: jax.Array

    shape: Any = (2,)
    interval: Any = (0.0, float("inf"))

    def evaluations(self, condition=None):
        return 1

    def __call__(self, x, sigma, alpha=1.0, condition=None, *, augment=None, key=None):
        y = x / jnp.hypot(alpha * 0.5, sigma)
        return self.exact(x, sigma, alpha) + self.slope @ y + self.offset


@pytest.mark.slow
def test_the_gradient_vanishes_at_the_exact_denoiser(x64):
    objective, exact = FlowMatching(law=UniformAngle()), data()

    @jax.jit
    @jax.vmap
    def gradients(key):
        first, second = jax.random.split(key)
        x0 = exact.sample(key=first)

        def loss(weights):
            model = Bent(exact, *weights)
            return objective.loss(model, (), x0, NOW, key=second)[0]

        grads = jax.grad(loss)((jnp.zeros((2, 2)), jnp.zeros(2)))
        return jnp.concatenate([leaf.ravel() for leaf in grads])

    assert_mean(gradients(keys_of(MANY)), 0.0)


class Spy(px.AbstractDenoiser):
    """Remembers what the loss asked."""

    denoiser: Any
    asked: list = eqx.field(static=True)

    shape: Any = (2,)
    interval: Any = (0.0, float("inf"))

    def evaluations(self, condition=None):
        return 1

    def __call__(self, x, sigma, alpha=1.0, condition=None, *, augment=None, key=None):
        self.asked.append((x, sigma, alpha, condition, key))
        return self.denoiser(x, sigma, alpha)


@pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)
def test_weights_make_it_the_error_of_noise_and_velocity(make, x64):
    """To rounding: |eps_hat - eps|^2, |v_hat - v|^2, and the network's own error."""
    process, network = make(), Network(2)
    model = Preconditioned(network, process)
    x0 = jnp.array([0.4, -0.8])
    for weighting in ("noise", "velocity", "edm"):
        spy = Spy(model, [])
        objective = DenoisingScoreMatching(process, weighting=weighting)
        key = jax.random.key(5)
        loss, (_, terms) = objective.loss(spy, (), x0, NOW, key=key)
        x, sigma, alpha, condition, model_key = spy.asked[0]
        assert condition is None
        assert model_key is not None
        assert_close(
            terms["denoising_error"], jnp.mean((spy(x, sigma, alpha) - x0) ** 2), 1e-12
        )
        eps, t = (x - alpha * x0) / sigma, process.time(sigma, alpha)
        if weighting == "noise":
            error = model.noise(x, sigma, alpha) - eps
        elif weighting == "velocity":
            alpha_rate, sigma_rate = process.rates(t)
            error = model.velocity(x, t, process) - (alpha_rate * x0 + sigma_rate * eps)
        else:  # of F against its target, of unit variance
            c_skip, c_out, c_in, c_noise = model.coefficients(sigma, alpha, process)
            error = network(c_in * x, c_noise) - (x0 - c_skip * x) / c_out
        assert_close(loss, jnp.mean(error**2), 1e-9)


def test_flow_matching_is_denoising_with_the_velocity_weight():
    """On the linear path, at uniform times, unless others are given."""
    made = FlowMatching()
    assert (made.process, made.law) == (px.RectifiedFlow(), UniformTime())
    assert made.weighting == "velocity"
    other = FlowMatching(px.VP(), law=LogitNormal(), label_dropout=0.2)
    assert (other.process, other.law) == (px.VP(), LogitNormal())
    assert other.label_dropout == 0.2


# --- labels --------------------------------------------------------------------------


CONDITION = {
    "label": np.array(3),
    "unsigned": np.array(3, np.uint8),
    "vector": np.array([0.0, 2.0], np.float32),
    "flag": np.array(True),
}


def test_labels_are_dropped_as_often_as_asked_and_all_at_once():
    drop = lambda rate, key: drop_condition(CONDITION, rate, key=key)
    for rate in (0.0, 0.2, 1.0):
        found = jax.jit(jax.vmap(drop, (None, 0)))(rate, keys_of(2000))
        gone = np.asarray(found["label"]) == -1
        assert abs(gone.mean() - rate) <= 4.5 * (rate * (1 - rate) / 2000) ** 0.5
        np.testing.assert_array_equal(found["label"], np.where(gone, -1, 3))
        np.testing.assert_array_equal(found["unsigned"], np.where(gone, -1, 3))
        np.testing.assert_array_equal(found["vector"], np.outer(~gone, [0.0, 2.0]))
        np.testing.assert_array_equal(found["flag"], ~gone)


@pytest.mark.slow
def test_a_dropped_label_is_one_the_model_does_not_see(x32):
    model = Preconditioned(Network(2, classes=4), px.RectifiedFlow())
    x0, keys = jnp.array([0.4, -0.8]), keys_of(3)
    dropped, kept, none = (
        losses(FlowMatching(label_dropout=rate), model, (x0, label), keys)[0]
        for rate, label in ((1.0, jnp.array(2)), (0.0, jnp.array(2)), (0.0, None))
    )
    assert_close(dropped, none, 1e-6)
    assert jnp.abs(kept - none).min() > 1e-6


# --- knowledge distillation ----------------------------------------------------------


def teacher(process):
    return px.ProbabilityFlow(data(), process)


@pytest.mark.slow
def test_pairs_are_the_exact_trajectories_and_their_student_has_no_loss(x64):
    process = px.RectifiedFlow()  # which starts without signal
    objective = KnowledgeDistillation(
        teacher(process), pairs=7, times=px.karras(4, process), block=4, rtol=1e-9
    )
    student = Student(Trajectory(data(), process), process, shape=(2,))
    objective.check(student, None)
    pairs = objective.init(student, key=jax.random.key(0))
    assert (pairs.z.shape, pairs.x.shape) == ((7, 2), (7, 3, 2))
    assert pairs.condition is None
    assert_close(pairs.z.std() / process.sigma(process.t_max), 1.0, 0.6)
    start = process.level(process.t_max)
    for j, t in enumerate(objective.times[1:]):
        exact = jax.vmap(lambda z, t=t: data().transport(z, start, process.level(t)))
        assert_close(pairs.x[:, j], exact(pairs.z), 1e-7)
    assert 7 * 20 < pairs.evaluations < 8 * 2000
    loss, error = knowledge_losses(objective, student, pairs, keys_of(100))
    assert loss.max() < 1e-13
    assert error.max() < 1e-13


@eqx.filter_jit
def knowledge_losses(objective, student, pairs, keys):
    one = lambda key: objective.loss(student, pairs, None, NOW, key=key)
    loss, (_, terms) = jax.vmap(one)(keys)
    return loss, terms["endpoint_error"]


def knowledge(**options):
    """A cheap one; its solves are not what is looked at."""
    times = px.karras(4, px.EDM())
    options = {"pairs": 6, "times": times, "steps": 3, "block": 2} | options
    return KnowledgeDistillation(teacher(px.EDM()), **options)


def of_classes():
    """Of a teacher with eight classes, far apart."""
    return KnowledgeDistillation(
        px.ProbabilityFlow(px.GaussianMixture.ring(scale=0.02), px.EDM()),
        pairs=400,
        times=px.karras(3, px.EDM()),
        classes=8,
        block=200,
        refresh_fraction=0.5,
        steps=20,
    )


@pytest.mark.slow
def test_the_endpoint_is_drawn_as_often_as_asked_and_the_rest_evenly(x32):
    """A distance that tells the saved time apart, by marking the states."""
    student = Student(lambda *args, **rest: args[0] * 0, px.EDM(), shape=(2,))
    objective = knowledge(endpoint=0.3, distance=lambda x, reference: reference[0])
    marks = jnp.broadcast_to(jnp.arange(3.0)[:, None], (6, 3, 2))
    pairs = Pairs(jnp.zeros((6, 2)), marks, None, jnp.zeros(()))
    mark, _ = knowledge_losses(objective, student, pairs, keys_of(4000))
    share = np.array([(np.asarray(mark) == j).mean() for j in range(3)])
    expected = np.array([0.35, 0.35, 0.3])
    assert (np.abs(share - expected) < 4.5 * (expected / 4000) ** 0.5).all()


@pytest.mark.slow
def test_the_reported_endpoint_error_is_unbiased_and_only_ends_need_no_draw(x32):
    student = Student(Network(2), px.EDM())
    objective = knowledge()
    z, x = (jax.random.normal(jax.random.key(0), n) for n in ((6, 2), (6, 3, 2)))
    pairs = Pairs(80 * z, x, None, jnp.zeros(()))
    ends = jax.vmap(student.sample)(pairs.z)
    true = jnp.mean((ends - pairs.x[:, -1]) ** 2)
    _, error = knowledge_losses(objective, student, pairs, keys_of(4000))
    assert_mean(error, float(true))
    ends = knowledge(times=jnp.array([80.0, 0.002]))
    pairs = eqx.tree_at(lambda p: p.x, pairs, pairs.x[:, -1:])
    loss, error = knowledge_losses(ends, student, pairs, keys_of(50))
    assert_close(loss, error, 1e-6)


@pytest.mark.slow
def test_refreshing_replaces_the_oldest_pairs(x32):
    student = Student(Network(2), px.EDM())
    objective = knowledge(refresh_every=10, refresh_fraction=1 / 3)
    assert objective.refresh_every == 10
    first = objective.init(student, key=jax.random.key(0))
    second = objective.refresh(student, first, key=jax.random.key(1))
    np.testing.assert_array_equal(second.z[2:], first.z[:4])
    np.testing.assert_array_equal(second.x[2:], first.x[:4])
    assert not jnp.isin(second.z[:2], first.z).any()
    assert_close(second.evaluations, first.evaluations * 4 / 3, 1e-6)
    whole = knowledge().refresh(student, first, key=jax.random.key(1))
    assert not jnp.isin(whole.z, first.z).any()


@pytest.mark.slow
def test_labels_reach_teacher_and_student(x32):
    objective = of_classes()
    ring: Any = objective.flow.denoiser
    got = []

    def network(x, c_noise, condition=None, *, augment=None, key=None):
        got.append((condition, key))
        return ring.means[condition]

    student = Student(network, px.EDM(), shape=(2,))
    objective.check(student, None)
    pairs = objective.init(student, key=jax.random.key(0))
    assert pairs.condition is not None
    counts = np.bincount(pairs.condition, minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-3
    distance = jnp.linalg.norm(pairs.x[:, -1] - ring.means[pairs.condition], axis=1)
    assert distance.max() < 0.1  # five standard deviations
    loss, _ = knowledge_losses(objective, student, pairs, keys_of(200))
    assert loss.max() < 0.01  # the student's label is the pair's
    assert got[-1][1] is not None


# --- the contract --------------------------------------------------------------------

OBJECTIVES = {
    "denoising": lambda: DenoisingScoreMatching(px.EDM(), label_dropout=0.1),
    "flow matching": lambda: FlowMatching(law=LogitNormal()),
    "knowledge": lambda: KnowledgeDistillation(
        px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM()),
        pairs=6,
        times=px.karras(4, px.EDM()),
        steps=3,
        block=6,
        classes=8,
        refresh_fraction=0.5,
    ),
}


def case(name):
    """An objective, a model in float32, and a batch for it."""
    objective = OBJECTIVES[name]()
    network = jax.tree.map(lambda a: a.astype(np.float32), Network(2, classes=8))
    if name == "knowledge":
        return objective, Student(network, px.EDM()), None
    batch = (jnp.ones((4, 2), np.float32), jnp.arange(4))
    return objective, Preconditioned(network, objective.process), batch


def described(state):
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), state)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_the_contract(name, dtype):
    """With float64 off and on, for a model and data in float32."""
    objective, model, batch = case(name)
    objective.check(model, batch)
    state = objective.init(model, key=jax.random.key(0))
    sample = jax.tree.map(lambda a: a[1], batch)
    call: Any = lambda o, m, s, x, key: o.loss(m, s, x, NOW, key=key)
    jaxpr = eqx.filter_make_jaxpr(call)(
        objective, model, state, sample, jax.random.key(1)
    )
    assert all(np.size(c) <= 1 for c in jaxpr[0].consts)  # nothing closed over
    keys = keys_of(4)
    run = eqx.filter_jit(lambda *args: jax.vmap(lambda key: call(*args, key))(keys))
    loss, (update, terms) = run(objective, model, state, sample)
    assert loss.dtype == np.float32
    assert all(term.shape == (4,) for term in terms.values())
    assert jnp.isfinite(loss).all()
    alone, _ = eqx.filter_jit(call)(objective, model, state, sample, keys[2])
    assert alone.shape == ()
    assert_close(alone, loss[2], tolerance(alone.dtype))
    mean = jax.tree.map(lambda a: a.mean(0), update)
    for later in (
        objective.advance(model, state, mean),
        objective.refresh(model, state, key=jax.random.key(3)),
    ):
        assert eqx.tree_equal(described(later), described(state))
    assert jax.tree.leaves(objective.trainable(state)) == []
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(state))


def test_a_users_own_denoiser_needs_no_classes():
    model = px.from_function(lambda x, t, c=None: x, px.EDM())
    for batch in (jnp.ones((4, 2)), np.ones((4, 2)), (jnp.ones((4, 2)), jnp.arange(4))):
        DenoisingScoreMatching(px.EDM()).check(model, batch)
    mixture = px.GaussianMixture.ring()
    labels = jnp.array([-1, 7])
    DenoisingScoreMatching(px.EDM()).check(mixture, (jnp.ones((2, 2)), labels))
    DenoisingScoreMatching(px.EDM()).check(mixture, (jnp.ones((2, 2)), jnp.eye(8)[:2]))


def test_low_precision_data_are_noised_in_float32():
    spy = Spy(lambda x, s, a: x.astype(jnp.bfloat16), [])
    x0 = jnp.array([0.4, -0.8], jnp.bfloat16)
    loss, _ = DenoisingScoreMatching(px.EDM()).loss(
        spy, (), x0, NOW, key=jax.random.key(0)
    )
    assert loss.dtype == spy.asked[0][0].dtype == np.float32


def refuse(model=None, batch=None, objective=None):
    model = Preconditioned(Network(2, classes=3), px.EDM()) if model is None else model
    objective = DenoisingScoreMatching(px.EDM()) if objective is None else objective
    return lambda: objective.check(model, batch)


X = np.ones((4, 2), np.float32)
EDM_STUDENT = lambda **options: Student(Network(2, **options), px.EDM())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: refuse()(), "learns from data.*got None. Pass data="),
        (lambda: refuse(batch=[X, X])(), r"tuple \(samples, conditions\), got list"),
        (lambda: refuse(batch=(X, X, X))(), "got a tuple of 3. Stack"),
        (lambda: refuse(batch=np.ones((4, 3)))(), r"\('samples', 2\), got \(4, 3\)"),
        (lambda: refuse(batch=np.ones((4, 2), int))(), "floating-point.*int.*Scale"),
        (
            lambda: refuse(batch=(X, np.arange(3)))(),
            r"each of the 4 samples.*got the shape \(3,\)",
        ),
        (lambda: refuse(batch=(X, np.ones(4)))(), "3 classes are integer labels.*Cast"),
        (lambda: refuse(batch=(X, np.ones((4, 2))))(), "float vectors of length 3"),
        (
            lambda: refuse(batch=(X, np.arange(4)))(),
            "from 0 to 2.*labels from 0 to 3.*classes=4",
        ),
        (lambda: refuse(batch=(X, np.arange(4) - 2))(), "labels from -2 to 1"),
        (
            lambda: refuse(
                Preconditioned(Network(2), px.EDM()), (X, np.zeros(4, int))
            )(),
            "the model knows no classes. Make its network with classes=",
        ),
        (
            lambda: refuse(
                px.Guided(Preconditioned(Network(2), px.EDM()), 2.0),
                (X, np.zeros(4, int)),
            )(),
            "the model knows no classes",
        ),
        (lambda: refuse(Network(2), X)(), "trains a denoiser, got.*Network. Make one"),
        (
            lambda: refuse(batch=X, objective=FlowMatching(label_dropout=0.1))(),
            r"ratios sigma/alpha in \[0.001001, inf\], but the model.*same process",
        ),
        (
            lambda: refuse(
                batch=X, objective=DenoisingScoreMatching(px.EDM(), label_dropout=0.1)
            )(),
            "label_dropout=0.1 drops conditions, but the data have none",
        ),
        (
            lambda: DenoisingScoreMatching(px.EDM(), weighting="snr"),
            "weighting must be one of .*'edm'.*got 'snr'",
        ),
        (lambda: FlowMatching(label_dropout=1.5), "probability.*label_dropout=1.5"),
        (lambda: LogNormal(std=0.0), "std must be positive"),
        (lambda: LogitNormal(std=-1.0), "std must be positive"),
        (lambda: knowledge(pairs=0), "pairs must be a whole.* at least 1, got pairs=0"),
        (lambda: knowledge(refresh_every=0), "refresh_every must be a whole number of"),
        (lambda: knowledge(endpoint=0.0), r"in \(0, 1\], got endpoint=0.0"),
        (lambda: knowledge(refresh_fraction=1.5), "refresh_fraction=1.5"),
        (
            lambda: knowledge(times=px.karras(4, px.EDM(), final_zero=True)),
            "(?s)decrease from t_max to t_min.*without a final zero",
        ),
        (lambda: knowledge(times=jnp.array([80.0])), "decrease from t_max"),
        (
            lambda: refuse(Network(2), None, knowledge())(),
            "trains a student, got.*Network.*Make one",
        ),
        (
            lambda: refuse(EDM_STUDENT(), X, knowledge())(),
            "needs no data.*got data of type ndarray",
        ),
        (
            lambda: refuse(Student(Network(2), px.VP()), None, knowledge())(),
            "the same process, got VP",
        ),
        (
            lambda: refuse(Student(Network(3), px.EDM()), None, knowledge())(),
            r"shape \(2,\), the student's \(3,\)",
        ),
        (
            lambda: refuse(EDM_STUDENT(), None, knowledge(classes=3))(),
            "labels of 3 classes are drawn, but the student knows none",
        ),
        (
            lambda: refuse(EDM_STUDENT(classes=2), None, knowledge(classes=3))(),
            "the student knows 2. Pass classes=2, or make it with 3",
        ),
        (
            lambda: refuse(
                Student(lambda *a, **k: a[0], px.EDM()),
                None,
                KnowledgeDistillation(
                    px.ProbabilityFlow(
                        px.from_function(lambda x, t: x, px.EDM()), px.EDM()
                    )
                ),
            )(),
            "shape of one sample is not known",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
