"""The engine against training by hand; one meaning on any number of devices."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, tolerance
from objectives import (
    KEY,
    ONE,
    LeastSquares,
    Line,
    WithState,
    Witness,
    arrays,
    assert_same_bits,
    fit,
    line,
    regression,
)

import pidax as px
from pidax.train._sources import ArrayData
from pidax.train._state import Numbers

TWO = jax.devices()[:2]


def batches(data, steps, batch_size):
    """The batches of a run with `KEY`, in order."""
    seed = jax.random.key_data(jax.random.split(KEY, 4)[3])
    source = ArrayData(data, batch_size, seed)
    return [source.rows(step, slice(None)) for step in range(steps)]


def by_hand(optimiser_step, steps=12, batch_size=8, clip=None):
    """Least squares in NumPy, float64: weights, norms and losses after every step."""
    w, b = np.array([0.5, -0.3, 0.2]), 0.1
    trail, losses, norms = [], [], []
    for x, y in batches(regression(), steps, batch_size):
        error = x.astype(float) @ w + b - y
        gradient = np.append(error @ x / batch_size, error.mean())
        losses.append((error**2).mean() / 2)
        norms.append(np.linalg.norm(gradient))
        if clip is not None:
            gradient *= min(1.0, clip / norms[-1])
        step = optimiser_step(gradient)
        w, b = w + step[:3], b + step[3]
        trail.append(np.append(w, b))
    return np.array(trail), np.array(losses), np.array(norms)


def weights(model) -> np.ndarray:
    return np.append(model.w, model.b)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 0.7])
def test_gradient_descent_is_that_of_numpy(clip):
    trail, losses, norms = by_hand(lambda g: -0.1 * g, clip=clip)
    result = fit(optimiser=optax.sgd(0.1), clip=clip, log_every=1, ema=(0.9,))
    eps = tolerance(np.asarray(result.model.w).dtype)
    assert_close(weights(result.model), trail[-1], eps)
    assert_close(result.history["loss"], losses, eps)
    assert_close(result.history["gradient_norm"], norms, 2 * eps)
    assert list(result.history["step"]) == list(range(1, 13))
    assert result.finished
    assert result.step == 12
    if clip is not None:
        assert (norms > clip).any()
        assert (norms < clip).any()


def test_averages_follow_their_formula():
    trail, _, _ = by_hand(lambda g: -0.1 * g)
    decays = (0.0, 0.5, 0.99)
    fixed = fit(optimiser=optax.sgd(0.1), ema=decays, ema_ramp=None)
    for decay in decays:
        mean = weights(line())
        for point in trail:
            mean = decay * mean + (1 - decay) * point
        eps = tolerance(np.asarray(fixed.model.w).dtype)
        assert_close(weights(fixed.ema(decay)), mean, eps)
    ramped = fit(optimiser=optax.sgd(0.1), ema=(0.9,), ema_ramp=0.2).ema()
    mean = weights(line())
    for t, point in enumerate(trail):
        half_life = min(-np.log(2) / np.log(0.9), 0.2 * t)
        decay = 0.5 ** (1 / half_life) if t else 0.0
        mean = decay * mean + (1 - decay) * point
    assert_close(weights(ramped), mean, tolerance(ramped.w.dtype))
    for decay in (0.9, 0.99999):
        late = float(Numbers.of(1, None, [decay], 0.2).rate(0, jnp.array(10_000_000)))
        assert late == pytest.approx(1 - decay, rel=1e-6)


def test_an_average_is_asked_for_by_its_decay():
    result = fit(steps=1, ema=(0.9, 0.5, 0.99), ema_ramp=None)
    with pytest.raises(ValueError, match=r"\[0.9, 0.5, 0.99\], got None"):
        result.ema()
    with pytest.raises(ValueError, match=r"got 0.7.*ema="):
        result.ema(0.7)


@pytest.mark.slow
@pytest.mark.parametrize("make", [None, lambda: optax.chain(optax.adamw(3e-3))])
def test_any_optimiser_and_the_default(make):
    """Against a loop over Optax; None is RAdam at 2e-4."""
    optimiser = make() if make else optax.radam(2e-4)
    model: Any = line()
    state = optimiser.init(model)

    @jax.jit
    def one(model, state, x, y):
        loss = lambda m: jnp.mean((x @ m.w + m.b - y) ** 2) / 2
        with jax.numpy_dtype_promotion("standard"):
            step, state = optimiser.update(jax.grad(loss)(model), state, model)
        return eqx.apply_updates(model, step), state

    for x, y in batches(regression(), 12, 8):
        model, state = one(model, state, x, y)
    result = fit(optimiser=make() if make else None)
    assert_close(weights(result.model), weights(model), tolerance(model.w.dtype))
    assert not np.allclose(weights(model), weights(line()), rtol=1e-4)


# --- one meaning ---------------------------------------------------------------------


NOISY = LeastSquares(jnp.array(0.3))
WAYS: dict[str, dict[str, Any]] = {
    "two devices": dict(devices=TWO),
    "micro-batches": dict(accumulate=4),
    "both": dict(devices=TWO, accumulate=2),
    "one step for each dispatch": dict(steps_per_dispatch=1),
    "dispatches of five": dict(steps_per_dispatch=5),
}


@pytest.fixture(scope="module")
def plain():
    return fit(objective=NOISY, optimiser=optax.sgd(0.1), clip=1.0, log_every=1)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_devices_micro_batches_and_dispatches_change_nothing(way, plain):
    options = dict(optimiser=optax.sgd(0.1), clip=1.0, log_every=1)
    result = fit(objective=NOISY, **options, **WAYS[way])
    assert_close(weights(result.model), weights(plain.model), 1e-5)
    assert_close(weights(result.ema()), weights(plain.ema()), 1e-5)
    for term in ("loss", "size", "gradient_norm"):
        assert_close(result.history[term], plain.history[term], 1e-5)


def test_the_noise_matters(plain):
    quiet = fit(optimiser=optax.sgd(0.1), clip=1.0)
    assert abs(weights(quiet.model) - weights(plain.model)).max() > 1e-3


@pytest.mark.slow
def test_no_two_samples_share_noise_on_any_number_of_devices():
    steps, count = 6, 16
    run = lambda **options: fit(
        objective=Witness(steps, count),
        data=lambda step: np.arange(count),
        steps=steps,
        batch_size=count,
        **options,
    )
    table = np.asarray(run().state.objective[0])
    assert (table >= 1).all()
    assert len(np.unique(table)) == steps * count
    for options in (dict(devices=TWO, accumulate=2), dict(steps_per_dispatch=1)):
        np.testing.assert_array_equal(run(**options).state.objective[0], table)
    other = run(key=jax.random.key(8)).state.objective[0]
    assert not np.isin(np.asarray(other), table).any()


# --- one compilation, no waiting, nothing taken --------------------------------------


class Counted(px.distill.AbstractObjective):
    """Counts how often Python runs its loss, which is when it is traced."""

    traces: list = eqx.field(static=True)
    inner: LeastSquares = LeastSquares()

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        self.traces.append(1)
        return self.inner.loss(model, state, sample, progress, key=key)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])
def test_one_compilation_for_a_whole_run(devices, tmp_path):
    """Dispatches of every length, lines, checkpoints, callbacks: compiled once."""
    compiled: list[str] = []
    note: Any = lambda name, seconds, **more: compiled.append(name)
    jax.monitoring.register_event_duration_secs_listener(note)
    traces, seen = [], []

    def callback(step, terms, result):
        count = sum("backend_compile" in name for name in compiled)
        seen.append((len(traces), count))

    try:
        fit(
            objective=Counted(traces),
            steps=60,
            steps_per_dispatch=7,
            log_every=10,
            checkpoint_every=15,
            directory=tmp_path,
            callback=callback,
            devices=devices,
        )
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(seen) == 6
    assert 0 < seen[0][0] <= 6
    assert {traced for traced, _ in seen} == {seen[0][0]}
    assert seen[0][1] > 0
    assert seen[-1][1] == seen[2][1]  # after the first checkpoint too


TRACES = []


class Noticed(px.distill.AbstractObjective):
    """Least squares, noticing every time that Python runs its loss."""

    inner: LeastSquares

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        TRACES.append(1)
        return self.inner.loss(model, state, sample, progress, key=key)


@pytest.mark.slow
def test_one_program_serves_every_run_of_one_structure(monkeypatch):
    """Traced once; other weights, data, key, steps and decays are its arguments."""

    def run(noise=0.3, **options):
        TRACES.clear()
        result = fit(
            objective=Noticed(LeastSquares(jnp.array(noise))),
            optimiser=optax.sgd(0.1),
            **options,
        )
        return len(TRACES), result

    traces, first = run()
    assert traces == 1
    another: dict[str, Any] = dict(
        noise=0.1,
        model=Line(jnp.ones(3), jnp.ones(())),
        steps=29,
        key=jax.random.key(8),
        data=regression(33, seed=4),
        ema=(0.7,),
    )
    traces, found = run(**another)
    assert traces == 0
    jax.clear_caches()  # the bits are those of a program that was just compiled
    traces, fresh = run(**another)
    assert traces == 1
    assert_same_bits(fresh.state, found.state)
    traces, again = run()
    assert traces == 0
    assert_same_bits(again.state, first.state)
    monkeypatch.setattr("pidax.train._loop.Devices", None)  # traced is enough
    x, y = regression()
    with pytest.raises(TypeError, match="NoneType"):  # another structure
        run(model=Line(jnp.ones(5), jnp.ones(())), data=(np.tile(x, 2)[:, :5], y))
    assert len(TRACES) == 1


def test_optimisers_are_compared_by_what_they_close_over():
    from pidax.train._programs import mark

    rate: Any = lambda: px.warmup_cosine(1e-3, 100)
    make: dict[str, Any] = {
        "adam": lambda: optax.adam(1e-3),
        "another rate": lambda: optax.adam(2e-3),
        "integer rate": lambda: optax.sgd(1),
        "float rate": lambda: optax.sgd(1.0),
        "array": lambda: optax.sgd(jnp.array(1.0)),
        "schedule": lambda: optax.adamw(rate()),
        "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.radam(1e-3)),
    }
    marks = {name: mark(one()) for name, one in make.items()}
    assert len(set(marks.values())) == len(marks)
    assert marks == {name: mark(one()) for name, one in make.items()}
    # What a function of the user's reads is not known: it is only equal to itself.
    one, other = (lambda step: 1e-3 * (step + 1) for _ in range(2))
    assert mark(optax.sgd(one)) == mark(optax.sgd(one)) != mark(optax.sgd(other))


@pytest.mark.slow
def test_the_callers_arrays_stay_alive():
    model, objective = line(), LeastSquares(jnp.array(0.3))
    for devices in (ONE, TWO):
        result = fit(model, objective, devices=devices, steps=3)
        again = fit(result.model, objective, devices=devices, steps=3)
        for tree in (model, objective, KEY, result.model, result.ema(), again.model):
            jax.block_until_ready(eqx.filter(tree, eqx.is_array))
            assert all(np.isfinite(a).all() for a in arrays(tree))
    assert_close(weights(model), weights(line()), 0.0)


@pytest.mark.slow
def test_a_dispatch_never_calls_the_host(monkeypatch):
    from pidax.train import _devices

    texts, data_parallel = [], _devices.data_parallel

    def seen(run, place):
        def note(*args):
            texts.append(str(jax.make_jaxpr(run)(*args)))
            return run(*args)

        return data_parallel(note, place)

    monkeypatch.setattr(_devices, "data_parallel", seen)
    fit(objective=NOISY, accumulate=2, clip=1.0, steps=2, ema=(0.7, 0.8, 0.9))
    assert "callback" not in texts[0]
    assert "while" in texts[0]


# --- the objective's own state -------------------------------------------------------


@pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])
def test_the_objectives_state_is_trained_advanced_and_refreshed(devices):
    x, y = regression(8)
    result = fit(
        objective=WithState(), data=(x, y), optimiser=optax.sgd(0.5), devices=devices
    )
    own, eps = result.state.objective, 2e-6
    assert_close(own["aim"], y.mean() * (1 - 0.5**12), eps)
    assert_close(own["size"], (y**2).mean(), eps)
    b, slow = 0.1, 0.1
    for step in range(12):
        b += -0.5 * (b - step / 12)
        slow = 0.5 * slow + 0.5 * b
    assert_close(result.model.b, b, eps)
    assert_close(own["slow"].b, slow, eps)
    refresh_key = jax.random.split(KEY, 4)[2]
    draws = [jax.random.uniform(jax.random.fold_in(refresh_key, s)) for s in (5, 10)]
    assert_close(own["drawn"], 2 + sum(map(float, draws)), eps)


@pytest.mark.slow
def test_a_teacher_from_one_device_teaches_on_two():
    """Its arrays are bound to a device, the state's are on both, pairs are on none."""
    arrays_, rest = eqx.partition(px.GaussianMixture.ring(), eqx.is_array)
    teacher = eqx.combine(jax.device_put(arrays_, ONE[0]), rest)
    flow = px.ProbabilityFlow(teacher, px.EDM())
    pairs = px.KnowledgeDistillation(
        flow, pairs=8, times=jnp.array([80.0, 0.002]), refresh_every=2, steps=4
    )
    student = px.Student(px.nn.MLP(2, 2, width=4, depth=1, key=KEY), px.EDM())
    one, two = (
        fit(student, pairs, data=None, steps=4, devices=devices)
        for devices in (ONE, TWO)
    )
    for a, b in zip(arrays(one.state), arrays(two.state), strict=True):
        assert_close(a, b, 1e-5)
    z = jax.device_put(jnp.ones(2), TWO[1])  # the result is bound to no device
    assert np.isfinite(two.model.sample(z)).all()


def test_a_part_of_the_model_can_be_trained():
    spec = Line(False, True)  # type: ignore[arg-type]
    result = fit(optimiser=optax.sgd(0.1), trainable=spec)
    assert_same_bits(result.model.w, line().w)
    assert result.model.b != line().b
    assert_same_bits(result.ema().w, line().w)


DECAY = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))


class Still(px.distill.AbstractObjective):
    """Has no gradient: what moves is moved by the optimiser alone."""

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        return 0 * jnp.sum(model(sample[0], progress)), ({}, {})


@pytest.mark.slow
def test_weight_decay_spares_what_is_no_weight():
    """Frequencies are drawn once; RAdam's decay must not move what has no gradient."""
    net = px.nn.MLP(3, 3, width=4, depth=1, key=KEY)
    trained = fit(net, Still(), optimiser=DECAY).model
    moved = [not np.array_equal(a, b) for a, b in zip(arrays(trained), arrays(net))]  # noqa: B905
    frequencies = jax.tree.leaves(jax.tree.map(lambda on: not on, px.nn.trainable(net)))
    biases = [bool((a == 0).all()) for a in arrays(net)]  # zero stays zero
    expected = [not f and not b for f, b in zip(frequencies, biases, strict=True)]
    assert moved == expected
    assert sum(frequencies) == 1


class Linear(eqx.Module):
    """A network of one matrix."""

    w: Any

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        return self.w @ x


NUMPY = np.dtype(jnp.zeros(()).dtype).type  # promotion is strict in this session


@pytest.mark.parametrize("number", [float, NUMPY, jnp.asarray])
def test_a_process_is_no_weight_however_it_was_made(number):
    model = px.Preconditioned(Linear(jnp.eye(3)), px.EDM(sigma_data=number(0.5)))
    result = fit(model, Still(), optimiser=DECAY, steps=3)
    for model in (result.model, result.ema()):
        assert float(model.process.sigma_data) == 0.5
    assert_close(result.model.network.w, (1 - 0.1 * 0.5) ** 3 * np.eye(3), 1e-6)


@pytest.mark.slow
def test_low_precision_networks_keep_float32_weights(x32):
    net = px.nn.LowPrecision(px.nn.MLP(3, 3, width=16, depth=2, key=KEY))

    class Fit(px.distill.AbstractObjective):
        def check(self, model, data):
            pass

        def loss(self, model, state, sample, progress, *, key):
            out = model(sample, jnp.zeros(()))
            return jnp.mean((out - sample) ** 2), ({}, {})

    x = regression(64)[0].astype(np.float32)
    result = fit(
        net, Fit(), data=x, steps=100, log_every=50, optimiser=optax.adam(1e-2)
    )
    types = {leaf.dtype for leaf in arrays(result.state) if leaf.dtype.kind == "f"}
    assert types == {np.dtype(np.float32)}
    assert result.history["loss"][-1] < 0.5 * result.history["loss"][0]


# --- schedules -----------------------------------------------------------------------


def test_edms_ramp_and_half_life():
    rate: Any = px.train.ramp(1e-3, 200)
    assert [float(rate(k)) for k in (0, 50, 200, 5000)] == pytest.approx(
        [0, 2.5e-4, 1e-3, 1e-3]
    )
    decay = px.train.half_life(5120, 512)
    assert decay**10 == pytest.approx(0.5)
    with pytest.raises(ValueError, match="samples must be positive"):
        px.train.half_life(0, 512)


def test_warmup_and_cosine():
    schedule: Any = px.warmup_cosine(1e-3, 1000, warmup=100, end=1e-5)
    long: Any = px.warmup_cosine(1e-3, 100_000)
    short: Any = px.warmup_cosine(1e-3, 10)
    expected = {0: 0, 50: 5e-4, 100: 1e-3, 550: 5.05e-4, 1000: 1e-5}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)
    assert float(long(1000)) == pytest.approx(1e-3)
    assert float(short(0)) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="warmup=10, steps=10"):
        px.warmup_cosine(1e-3, 10, warmup=10)
