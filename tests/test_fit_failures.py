"""What training refuses, and how it stops: each with its reason and its cure."""

import os
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives import (
    KEY,
    ONE,
    LeastSquares,
    WithState,
    assert_same_bits,
    fit,
    line,
    regression,
)

import pidax as px
from pidax.train._memory import advice
from pidax.train._step import fingerprint

TWO = jax.devices()[:2]


# --- numbers that are not finite -----------------------------------------------------


@jax.custom_jvp
def cliff(x, now):
    """Zero, with an infinite slope now."""
    return jnp.zeros_like(x)


@cliff.defjvp
def _(primals, tangents):
    x, now = primals
    return jnp.zeros_like(x), jnp.where(now, jnp.inf, 0.0) * tangents[0]


class Trap(px.distill.AbstractObjective):
    """Least squares that goes wrong at one step of twelve, in one way."""

    step: jax.Array
    way: str
    inner: LeastSquares = LeastSquares()

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        now = jnp.abs(progress * 12 - self.step) < 0.5
        loss, (_, terms) = self.inner.loss(model, state, sample, progress, key=key)
        if self.way == "loss":
            terms = {**terms, "residual": jnp.where(now, jnp.nan, 1.0)}
            loss = jnp.where(now, jnp.nan, loss)
        else:
            loss = loss + cliff(model.b, now)
        return loss, ({}, terms)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])
@pytest.mark.parametrize("step", [0, 7])
def test_a_nan_stops_at_its_step_with_the_weights_before_it(step, devices, tmp_path):
    options: dict[str, Any] = dict(
        directory=tmp_path, checkpoint_every=3, steps_per_dispatch=5, devices=devices
    )
    with pytest.raises(px.NonFiniteError) as caught:
        fit(objective=Trap(jnp.array(float(step)), "loss"), **options)
    error = caught.value
    assert error.step == step
    assert f"a loss of nan, with residual not finite at step {step}." in str(error)
    if step:
        assert error.checkpoint == tmp_path / "checkpoints" / "step_000000006.pidax"
        assert str(error.checkpoint) in str(error)
        clean = fit(steps=step, devices=devices)
        assert_same_bits(error.result.model, clean.model)
        assert_same_bits(error.result.ema(), clean.ema())
        assert_same_bits(error.result.state.optimiser, clean.state.optimiser)
    else:
        assert error.checkpoint is None
        assert "does not exist" in str(error)
        assert_same_bits(error.result.model, line())
    assert error.result.step == step
    kept = sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*"))
    assert kept == [f"step_00000000{n}.pidax" for n in (3, 6) if n <= step]


def test_a_gradient_that_is_not_finite_is_named():
    message = r"gradient that is not finite in model\.b at step 4\."
    with pytest.raises(px.NonFiniteError, match=message) as caught:
        fit(objective=Trap(jnp.array(4.0), "gradient"))
    assert_same_bits(caught.value.result.model, fit(steps=4).model)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """An optimiser can spoil them by itself: the gradients were fine."""

    def update(gradient, state, weights=None):
        spoil = jnp.where(state == 5, jnp.inf, 0.0)
        return jax.tree.map(lambda g: g * 0 + spoil, gradient), state + 1

    start: Any = lambda weights: jnp.array(0)
    change: Any = update
    bad = optax.GradientTransformation(start, change)
    with pytest.raises(px.NonFiniteError, match=r"weights.*\.w.*step_000000005.pidax"):
        fit(optimiser=bad, directory=tmp_path, checkpoint_every=5, steps=6)
    with pytest.raises(px.NonFiniteError, match=r"weights .*not to be used"):
        fit(optimiser=bad, steps=6)  # nothing to save, and nothing to return
    kept = [p.name for p in (tmp_path / "checkpoints").glob("step_*")]
    assert kept == ["step_000000005.pidax"]


# --- bad input, before anything is compiled ------------------------------------------


def with_nan():
    x, y = regression()
    x[17, 2] = np.nan
    return x, y


class Odd(px.distill.AbstractObjective):
    """A loss that is not one number, or has terms that are not."""

    way: str

    def check(self, model, data):
        if self.way == "check":
            raise ValueError("labels must lie in 0..9, got 12. Map them.")

    def loss(self, model, state, sample, progress, *, key):
        x, _ = sample
        ways = {
            "vector": (model.w * x, {}),
            "bfloat16": ((model.w @ x).astype(jnp.bfloat16), {}),
            "term": (model.w @ x, {"parts": model.w * x}),
            "name": (model.w @ x, {"loss": model.b}),
        }
        loss, terms = ways[self.way]
        return loss, ({}, terms)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": (
        dict(steps=0),
        "steps must be a whole number of at least 1, got steps=0",
    ),
    "half a step": (dict(steps=2.5), r"steps must be a whole number.*2\.5"),
    "batch and devices": (
        dict(batch_size=9, devices=TWO),
        r"batch_size must be divisible by 2 \(2 devices\), got 9.*nearest.*10",
    ),
    "batch and micro-batches": (
        dict(batch_size=9, accumulate=4),
        r"divisible by 4 \(1 device times 4 micro-batches\), got 9.*nearest.*8",
    ),
    "a tiny batch": (dict(batch_size=1, accumulate=4), "got 1. The nearest that is: 4"),
    "an old key": (
        dict(key=jax.random.PRNGKey(0)),
        r"key must be one random key.*jax\.random\.key\(0\)",
    ),
    "no key": (dict(key=0), "key must be one random key, got int"),
    "clip": (dict(clip=0.0), "clip must be positive"),
    "decay": (dict(ema=(1.0,)), r"less than 1, got 1.0.*1 - 1/n"),
    "one decay": (dict(ema=0.999), r"tuple of decays, got 0.999: \(0\.999,\)"),
    "NaN": (dict(data=with_nan()), r"finite.*1 of 150.*first at \(17, 2\).*data\[0\]"),
    "empty": (
        dict(data=(np.zeros((0, 3)), np.zeros(0))),
        r"at least one sample, got shapes \[\(0, 3\), \(0,\)\]",
    ),
    "uneven": (dict(data=(np.zeros((4, 3)), np.zeros(5))), "all of one length"),
    "a scalar": (dict(data=np.array(1.0)), r"first axis is the samples.*\[\(\)\]"),
    "a number": (dict(data=3), "data must be an array.*got int"),
    "a list of numbers": (dict(data=[1.0, 2.0]), r"got a list of \['float'\]"),
    "no device": (dict(devices=[]), "at least one device"),
    "nothing to train": (dict(model=jax.nn.relu), "floating-point arrays to train"),
    "batch of the wrong size": (
        dict(data=lambda step: regression(9)),
        r"step 0 must have 8 \(batch_size\) samples.*got \(9, 3\) at data\[0\]",
    ),
    "vector loss": (dict(objective=Odd("vector")), r"one float32.*\[3\]"),
    "low precision loss": (dict(objective=Odd("bfloat16")), r"got bfloat16.*astype"),
    "vector term": (dict(objective=Odd("term")), "terms of Odd must be single numbers"),
    "taken name": (dict(objective=Odd("name")), "none of the names .*'step'"),
    "a name for an optimiser": (dict(optimiser=optax.adam), r"optax\.adam\(1e-3\)"),
    "a class for an objective": (dict(objective=Odd), "must be an instance"),
    "no decays": (dict(ema=None), "ema must be a tuple of decays, got None"),
    "the objective's own check": (dict(objective=Odd("check")), "0..9, got 12"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_is_compiled(case, monkeypatch):
    options, message = BAD[case]
    monkeypatch.setattr("pidax.train._loop.Devices", None)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(**options)


def test_a_directory_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"can be written, got .*file.*Choose another"):
        fit(directory=file)
    if os.geteuid() == 0:  # root writes anywhere but here
        with pytest.raises(ValueError, match=r"can be written, got /proc/run"):
            fit(directory="/proc/run")
        return
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="permissions"):
        fit(directory=tmp_path / "run")


@pytest.mark.slow
def test_bad_numbers_later_in_a_stream_are_named():
    def data(step):
        return with_nan() if step == 5 else regression()

    with pytest.raises(ValueError, match=r"finite.*data\[0\] of steps 5"):
        fit(data=data, batch_size=50, steps_per_dispatch=1)


@pytest.mark.slow
def test_every_batch_of_a_stream_is_checked():
    def data(step):
        labels = np.full(8, 57 if step == 3 else 1)
        return regression(8)[0].astype(jnp.zeros(()).dtype), labels

    process = px.EDM()
    net = px.nn.MLP(3, 3, width=4, depth=1, classes=10, key=KEY)
    model = px.Preconditioned(net, process)
    options = dict(steps_per_dispatch=1, steps=6)
    with pytest.raises(ValueError, match=r"labels must run from 0 to 9.*57"):
        fit(model, px.DenoisingScoreMatching(process), data=data, **options)

    def turned(step):
        x, y = regression(8)
        return (x.T if step == 3 else x), y

    with pytest.raises(
        ValueError, match=r"of the first.*\(8, 3\).*at step 3|first axis"
    ):
        fit(data=turned, **options)


def test_what_a_callback_returns_is_checked():
    for wrong in (0.5, {"step": 3}):
        with pytest.raises(ValueError, match="callback must return None or a dict"):
            fit(callback=lambda *_, wrong=wrong: wrong, log_every=2)


def test_an_update_that_is_not_finite_stops_too():
    """It would live on in the objective's state, where no one looks."""

    class Spoilt(px.distill.AbstractObjective):
        inner: WithState = WithState()

        def check(self, model, data):
            pass

        def init(self, model, *, key):
            return self.inner.init(model, key=key)

        def trainable(self, state):
            return ()

        def advance(self, model, state, update):
            return self.inner.advance(model, state, update)

        @property
        def refresh_every(self):
            return None

        def refresh(self, model, state, *, key):
            return state

        def loss(self, model, state, sample, progress, *, key):
            loss, _ = self.inner.loss(model, state, sample, progress, key=key)
            late = jnp.where(progress > 0.3, jnp.nan, 1.0)
            return loss, ({"size": late}, {})

    with pytest.raises(px.NonFiniteError, match=r"update of the objective's state.*4"):
        fit(objective=Spoilt())


def test_a_refresh_must_keep_the_structure():
    class Forgetful(px.distill.AbstractObjective):
        def check(self, model, data):
            pass

        def init(self, model, *, key):
            return (jnp.zeros(()),)

        def loss(self, model, state, sample, progress, *, key):
            return model.b**2, ({}, {})

        def trainable(self, state):
            return ()

        def advance(self, model, state, update):
            return state

        @property
        def refresh_every(self):
            return 2

        def refresh(self, model, state, *, key):
            return ()

    with pytest.raises(ValueError, match="refresh of Forgetful must return"):
        fit(objective=Forgetful())


class Local(px.distill.AbstractObjective):
    """Its state depends on the device it is on."""

    def check(self, model, data):
        pass

    def init(self, model, *, key):
        return jnp.zeros(3)

    def loss(self, model, state, sample, progress, *, key):
        return model.b**2, ({}, {})

    def trainable(self, state):
        return ()

    def advance(self, model, state, update):
        return state + jax.lax.axis_index("data").astype(state.dtype)

    @property
    def refresh_every(self):
        return None

    def refresh(self, model, state, *, key):
        return state


def test_replicas_that_differ_are_noticed():
    with pytest.raises(RuntimeError, match=r"same weights on all 2 devices after 12"):
        fit(objective=Local(), devices=TWO)


@pytest.mark.slow
def test_a_fingerprint_sees_one_bit_and_a_permutation(dtype):
    x = jnp.array([1.0, 2.0, 3.0])
    tree = lambda x: {"w": x, "n": jnp.arange(3)}
    marks = [x, x.at[1].set(jnp.nextafter(x[1], 9.0)), x[::-1], x.astype(jnp.bfloat16)]
    assert fingerprint(tree(x)) == fingerprint(tree(x + 0))
    assert len({int(fingerprint(tree(mark))) for mark in marks}) == 4


# --- out of memory -------------------------------------------------------------------


class Huge(LeastSquares):
    """Sorts so many numbers for every sample that no machine has room for them."""

    def loss(self, model, state, sample, progress, *, key):
        many = jax.random.normal(key, (2**38,), jnp.float32)
        loss, more = super().loss(model, state, sample, progress, key=key)
        return loss + 0 * jnp.sort(many)[3].astype(loss.dtype), more


def test_out_of_memory_says_what_the_step_takes():
    """Eight samples of two arrays of 2^38 floats: 17.6 TB at least."""
    with pytest.raises(MemoryError, match="Not one sample fits") as caught:
        fit(objective=Huge(), steps=1)
    taken = re.search(r"got one that takes (\S+) GB by XLA's", str(caught.value))
    assert taken is not None
    assert float(taken[1]) > 8 * 2 * 4 * 2**38 / 1e9


def test_out_of_memory_names_the_batch_that_fits():
    """Of 10 GB, 2 are kept; 64 samples at a time take 32: 16 fit."""
    account = types.SimpleNamespace(
        argument_size_in_bytes=2 * 10**9, output_size_in_bytes=15 * 10**8,
        alias_size_in_bytes=15 * 10**8, temp_size_in_bytes=32 * 10**9,
    )  # fmt: skip
    said = advice(account, 10 * 10**9, "GPU 0", 128, 2)
    assert "the memory of a device, 10 GB (GPU 0), got one that takes 34 GB" in said
    assert "2 GB for weights" in said
    assert "32 GB for 64 samples at a time. 16 at a time would fit" in said
    assert said.endswith("pass accumulate=8.")
    # Fragmented memory: what should have fitted did not.
    assert "pass accumulate=4." in advice(account, 10**12, "GPU 0", 128, 2)
    assert "a larger accumulate than 2" in advice(None, 10**9, "GPU 0", 128, 2)
