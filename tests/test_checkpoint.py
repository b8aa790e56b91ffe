"""Runs that end early and go on as if they had not; files that are damaged."""

import json
import os
import resource
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives import (
    ONE,
    LeastSquares,
    WithState,
    arrays,
    assert_same_bits,
    line,
    regression,
)

import pidax as px
from pidax.store import describe, differences, header
from pidax.train._checkpoint import Checkpoints, restore
from pidax.train._state import TrainState

KEY = jax.random.key(7)
NOISY = LeastSquares(jnp.array(0.3))


def fit(directory=None, **options: Any) -> px.Result:
    defaults: dict[str, Any] = dict(
        model=line(),
        objective=NOISY,
        steps=40,
        batch_size=8,
        key=KEY,
        data=regression(),
        optimiser=optax.adam(1e-2),
        ema=(0.9, 0.99),
        progress=False,
        devices=ONE,
        directory=directory,
        checkpoint_every=10,
        log_every=5,
    )
    return px.fit(**defaults | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and its directory."""
    directory = tmp_path_factory.mktemp("whole")
    return fit(directory), directory


def stop_at(step):
    def callback(now, terms, result):
        if now == step:
            raise px.StopTraining

    return callback


def names(directory):
    return sorted(path.name for path in (directory / "checkpoints").glob("step_*"))


# --- stopped and resumed -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 10, 35])
def test_a_stopped_run_resumes_to_the_last_bit(step, whole, tmp_path):
    part = fit(tmp_path, callback=stop_at(step))
    assert (part.step, part.finished) == (step, False)
    assert part.checkpoint is not None
    assert part.checkpoint.name == f"step_{step:09d}.pidax"
    result = fit(tmp_path)
    assert result.finished
    assert_same_bits(result.state, whole[0].state)
    np.testing.assert_array_equal(result.history["step"], whole[0].history["step"])
    np.testing.assert_array_equal(result.history["loss"], whole[0].history["loss"])


def test_a_finished_run_is_read_and_not_repeated(whole):
    result, directory = whole
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.pidax")}
    again = fit(directory)
    assert_same_bits(again.state, result.state)
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*.pidax")} == before
    assert again.checkpoint == result.checkpoint


def test_checkpoints_change_nothing(whole):
    assert_same_bits(fit().state, whole[0].state)


def test_steps_may_grow(whole, tmp_path):
    fit(tmp_path, steps=25)
    assert_same_bits(fit(tmp_path).state, whole[0].state)
    with pytest.raises(ValueError, match=r"at least the 40 .* got 30"):
        fit(tmp_path, steps=30)


@pytest.mark.slow
def test_the_objectives_state_is_resumed(tmp_path):
    """Refreshed at 5, 10, ...: stopped right after one, and between two."""
    options = dict(objective=WithState(), steps=20, log_every=2)
    whole = fit(**options)
    for step in (10, 12):
        fit(tmp_path / str(step), callback=stop_at(step), **options)
        resumed = fit(tmp_path / str(step), **options)
        assert_same_bits(resumed.state, whole.state)


def test_steps_may_grow_past_a_refresh(tmp_path):
    """Where a shorter run ends, the longer one refreshes."""
    model = lambda steps, directory=None: fit(
        directory, objective=WithState(), steps=steps, optimiser=optax.sgd(0.0)
    )
    whole = model(20)
    model(10, tmp_path)
    grown = model(20, tmp_path)
    drawn = [run.state.objective["drawn"] for run in (whole, grown)]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_an_error_of_the_callback_or_the_data_keeps_what_was_done(whole, tmp_path):
    def callback(step, terms, result):
        if step == 10:
            raise KeyError("a mistake of the user's")

    with pytest.raises(KeyError, match="mistake"):
        fit(tmp_path / "callback", callback=callback)
    assert names(tmp_path / "callback") == ["step_000000010.pidax"]
    assert_same_bits(fit(tmp_path / "callback").state, whole[0].state)
    stream = (by_step(step) for step in range(7))
    with pytest.raises(ValueError, match="ended before step 7"):
        fit(tmp_path / "data", data=stream, steps_per_dispatch=1)
    assert names(tmp_path / "data") == ["step_000000007.pidax"]


def test_a_loader_may_fill_one_buffer_again_and_again():
    def reused():
        x, y = by_step(0)
        for step in range(12):
            x[:], y[:] = by_step(step)
            yield x, y

    fresh = fit(data=by_step, steps=12, log_every=12)
    assert_same_bits(fit(data=reused(), steps=12, log_every=12).state, fresh.state)


def by_step(step):
    generator = np.random.default_rng(step)
    x = generator.normal(size=(8, 3)).astype(jnp.zeros(()).dtype)
    return x, x.sum(axis=1)


def test_functions_and_iterators_go_on_where_they_were(tmp_path):
    whole = fit(data=by_step, steps=12)
    stream = lambda: (by_step(step) for step in range(12))
    fit(tmp_path, data=stream(), steps=12, callback=stop_at(5))
    assert_same_bits(fit(tmp_path, data=stream(), steps=12).state, whole.state)
    with pytest.raises(ValueError, match="ended before step 12"):
        fit(data=stream(), steps=13)


def test_memory_mapped_files_are_arrays(whole, tmp_path):
    for name, array in zip("xy", regression(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    data = tuple(np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in "xy")
    assert_same_bits(fit(data=data).state, whole[0].state)


@pytest.mark.slow
def test_steps_may_not_grow_under_another_schedule(tmp_path):
    grow = lambda steps, length: fit(
        tmp_path, steps=steps, optimiser=optax.adam(px.warmup_cosine(1e-2, length))
    )
    grow(10, 10)
    with pytest.raises(ValueError, match=r"(?s)steps: \S+ 10.0 in .*grow keeps"):
        grow(20, 20)
    assert grow(20, 10).finished


class Rows:
    """A data set of HDF5: rows by slices, or by places that increase."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, places):
        if isinstance(places, np.ndarray):
            assert (np.diff(places) > 0).all(), "in increasing order, each once"
        return self.array[places]


def test_what_is_sliced_like_an_array_is_one(whole):
    """Also where it can be iterated over: `whole` saw the same rows in memory."""
    data = tuple(map(Rows, regression()))
    assert_same_bits(fit(data=data).state, whole[0].state)
    bad = Rows(np.where(np.arange(50)[:, None] == 33, np.nan, regression()[0]))
    with pytest.raises(ValueError, match=r"finite.*data\[0\] of steps"):
        fit(data=(bad, data[1]))
    with pytest.raises(ValueError, match=r"all of one length.*\(49,\)"):
        fit(data=(data[0], Rows(regression(49)[1])))


def test_a_run_with_a_nan_in_its_log_resumes(whole, tmp_path):
    def callback(step, terms, result):
        if step == 20:
            raise px.StopTraining
        return {"score": np.nan if step == 10 else 1.0}

    fit(tmp_path, callback=callback)
    result = fit(tmp_path)
    assert_same_bits(result.state, whole[0].state)
    np.testing.assert_array_equal(result.history["score"][:3], [1.0, np.nan, 1.0])


def test_the_first_line_of_progress_says_that_it_compiles(capsys):
    fit(steps=5, progress=True)
    said = capsys.readouterr().err
    assert said.index("compiling") < said.index("loss=")


# --- signals -------------------------------------------------------------------------


def test_ctrl_c_writes_a_checkpoint_and_returns(whole, tmp_path):
    def callback(step, terms, result):
        if step == 15:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    part = fit(tmp_path, callback=callback, steps_per_dispatch=1)
    assert 15 <= part.step <= 17
    assert not part.finished
    assert part.checkpoint is not None
    assert signal.getsignal(signal.SIGINT) is before
    assert_same_bits(fit(tmp_path).state, whole[0].state)


# --- what is kept --------------------------------------------------------------------


def test_the_last_few_and_the_best_are_kept(tmp_path):
    scores = {10: 3.0, 20: 1.0, 30: 2.0, 40: 4.0}
    callback = lambda step, terms, result: {"test": scores.get(step, 9.0)}
    options = dict(callback=callback, best="test", log_every=10)
    fit(tmp_path, keep=2, **options)
    assert names(tmp_path) == [f"step_0000000{n}.pidax" for n in (20, 30, 40)]
    best = restore(tmp_path, line(), step="best")
    assert_same_bits(best, restore(tmp_path, line(), step=20))
    last = restore(tmp_path, line())
    assert not np.array_equal(best.w, last.w)
    fit(tmp_path, keep=1, steps=50, **options)  # the best is known after a resume too
    assert names(tmp_path) == [f"step_0000000{n}.pidax" for n in (20, 50)]


def test_a_best_that_is_no_term_is_noticed(tmp_path):
    with pytest.warns(UserWarning, match=r"best='test' is not among.*'loss'"):
        fit(tmp_path, steps=10, best="test")
    with pytest.raises(ValueError, match="no checkpoint of this run has a score"):
        restore(tmp_path, line(), step="best")


def test_a_model_alone_is_exported(whole, tmp_path):
    result, directory = whole
    assert_same_bits(restore(directory, line()), result.model)
    for decay in (0.9, 0.99):
        assert_same_bits(restore(directory, line(), ema=decay), result.ema(decay))
    with pytest.raises(ValueError, match=r"\[0.9, 0.99\], which were kept, got 0.5"):
        restore(directory, line(), ema=0.5)
    with pytest.raises(ValueError, match=r"'last', 'best' or one of \[.*40\].*got 7"):
        restore(directory, line(), step=7)
    with pytest.raises(ValueError, match="none"):
        restore(tmp_path, line())
    with pytest.raises(ValueError, match=r"missing.*another model"):
        restore(directory, px.nn.MLP(2, 2, width=4, depth=1, key=KEY))


def test_a_checkpoint_says_what_it_is(whole):
    result, _ = whole
    head = header(result.checkpoint)
    about = head["tree"]["fields"]["about"]["dict"]
    config = about["config"]["dict"]
    assert about["step"] == 40
    assert config["model"] == "objectives.Line"
    assert config["model.w"] == f"{line().w.dtype}[3]"
    assert config["batch_size"] == "8"
    assert head["arrays"][".arrays['.model.w']"]["shape"] == [3]
    assert {"pidax", "jax", "equinox", "python"} <= set(head)


def test_the_lines_are_means_over_their_interval(whole, tmp_path):
    result, directory = whole
    text = (directory / "metrics.jsonl").read_text()
    lines = [json.loads(x) for x in text.splitlines()]
    assert [x["step"] for x in lines] == list(range(5, 45, 5))
    single = fit(log_every=1).history
    for i, row in enumerate(lines):
        for term in ("loss", "size", "gradient_norm"):
            mean = single[term][5 * i : 5 * i + 5].mean()
            assert row[term] == pytest.approx(mean, rel=1e-6)
            assert result.history[term][i] == row[term]


# --- files that are not what they were -----------------------------------------------


def state(step) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    weights = {"w": jnp.arange(50.0) + step}
    return TrainState(weights, (), (), (), zero + step, zero, KEY)


@pytest.fixture
def two(tmp_path):
    """A directory with two checkpoints, 1 and 2, and the bytes of the second."""
    written = Checkpoints(tmp_path, {"a": "1"}, 3, ())
    written.prepare()
    written.release()
    for step in (1, 2):
        written.write(state(step), step, None)
    return tmp_path, written.files()[2].read_bytes()


def read(directory, config=None):
    return Checkpoints(directory, config or {"a": "1"}, 3, ()).read_last(state(0))


def found_in(directory):
    found = read(directory)
    assert found is not None
    return found


def damaged(content: bytes):
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content), 50):
        yield content[:place]
    for place in generator.integers(0, len(content), 50):
        bit = 1 << int(generator.integers(8))
        yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(two):
    directory, content = two
    good, step = found_in(directory)
    assert step == 2
    assert_same_bits(good, state(2))
    last = directory / "checkpoints" / "step_000000002.pidax"
    count = 0
    for bad in damaged(content):
        last.write_bytes(bad)
        with pytest.warns(UserWarning, match="step_000000002.pidax.*expected"):
            found, step = found_in(directory)
        assert step == 1
        assert_same_bits(found, state(1))
        count += 1
    assert count == 100
    (directory / "checkpoints" / "step_000000001.pidax").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(ValueError, match=r"none of the 2 checkpoints.*can be read"),
    ):
        read(directory)


def test_what_was_just_written_is_never_removed(two):
    """Here the newest checkpoint is damaged, and only one is kept."""
    directory, _ = two
    (directory / "checkpoints" / "step_000000009.pidax").write_bytes(b"damaged")
    kept = Checkpoints(directory, {"a": "1"}, 1, ())
    with pytest.warns(UserWarning, match="000009.pidax"):
        found = kept.read_last(state(0))
    assert found is not None
    assert found[1] == 2
    path = kept.write(state(3), 3, None)
    assert path.exists()
    assert sorted(kept.files()) == [3, 9]


def test_one_run_at_a_time(tmp_path):
    first = Checkpoints(tmp_path, {}, 3, ())
    first.prepare()
    with pytest.raises(ValueError, match=r"not be in use.*Wait for it"):
        Checkpoints(tmp_path, {}, 3, ()).prepare()
    first.release()
    second = Checkpoints(tmp_path, {}, 3, ())
    second.prepare()
    second.release()


def test_leftovers_of_a_killed_writer_are_swept(two):
    directory, _ = two
    leftover = directory / "checkpoints" / ".step_000000003.pidax.0123456789abcdef.tmp"
    leftover.write_bytes(b"half")
    again = Checkpoints(directory, {"a": "1"}, 3, ())
    again.prepare()
    again.release()
    assert not leftover.exists()
    assert len(again.files()) == 2


def test_a_torn_line_of_the_log_is_dropped(tmp_path, whole):
    fit(tmp_path, callback=stop_at(20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "loss": 1.0}\n{"step": 30, "lo')
    result = fit(tmp_path)
    np.testing.assert_array_equal(result.history["loss"], whole[0].history["loss"])


def test_a_full_disk_loses_nothing(tmp_path, whole):
    """Files may not grow beyond a few bytes: training goes on, and says so."""
    fit(tmp_path, callback=stop_at(10))
    first = (tmp_path / "checkpoints" / "step_000000010.pidax").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) // 2, hard))
        with pytest.warns(UserWarning, match="not written") as caught:
            result = fit(tmp_path, steps=25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = [str(warning.message) for warning in caught]
    for step, message in zip((20, 25), said, strict=True):
        assert f"step {step} was not written" in message
        assert "saved so far: " in message
        assert "step_000000010.pidax" in message
    assert result.finished
    assert names(tmp_path) == ["step_000000010.pidax"]
    assert (tmp_path / "checkpoints" / "step_000000010.pidax").read_bytes() == first
    assert_same_bits(fit(tmp_path).state, whole[0].state)


# --- another configuration -----------------------------------------------------------


CHANGES = {
    "batch_size": (dict(batch_size=16), r"batch_size: 8 in the checkpoint, 16 now"),
    "key": (dict(key=jax.random.key(8)), "key: .* in the checkpoint"),
    "learning rate": (
        dict(optimiser=optax.adam(2e-2)),
        r"optimiser.*-0.01 .*-0.02 now",
    ),
    "clip": (dict(clip=1.0), "clip: None in the checkpoint, 1.0 now"),
    "ema": (dict(ema=(0.9,)), r"ema\[1\]: 0.99 in the checkpoint, absent now"),
    "objective": (
        dict(objective=LeastSquares(jnp.array(0.2))),
        "objective.noise: .*0.3",
    ),
    "data": (dict(data=regression(seed=1)), r"data\['content'\]"),
    "model": (
        dict(model=px.nn.MLP(2, 2, width=4, depth=1, key=KEY), data=None),
        "model: objectives.Line in the checkpoint, pidax.nn.* now",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_configuration_is_refused_with_the_difference(change, whole):
    options, message = CHANGES[change]
    if change == "model":
        options = options | dict(objective=Blind())
    with pytest.raises(ValueError, match=f"(?s)another run:.*{message}.*directory"):
        fit(whole[1], **options)


class Blind(px.distill.AbstractObjective):
    """Asks nothing of its model."""

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        leaves = [a for a in jax.tree.leaves(model) if a.ndim]
        return jnp.stack([jnp.sum(a**2) for a in leaves]).sum(), ({}, {})


def middle():
    x, y = regression()
    x[25, 1] += 1e-3
    return x, y


def test_a_change_in_the_middle_of_the_data_is_seen(whole):
    with pytest.raises(ValueError, match=r"data\['content'\]\[0\]"):
        fit(whole[1], data=middle())


DESCRIBE = """
import optax, hashlib
from pidax.store import describe
made = [optax.contrib.muon(1e-3), optax.adamw(1e-3, mask=lambda p: {"a", "b"} and [
    (lambda x: x + 1)(leaf) for leaf in p])]
text = repr([sorted(describe(m, "o", values=True).items()) for m in made])
print(" at 0x" in text, hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.mark.slow
def test_an_optimiser_is_described_alike_in_every_process():
    outputs = []
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", DESCRIBE]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("False")


@pytest.mark.slow
def test_devices_micro_batches_and_intervals_may_change(whole, tmp_path):
    fit(tmp_path, callback=stop_at(20))
    other = dict(devices=jax.devices()[:2], accumulate=2, log_every=3, keep=1)
    result = fit(tmp_path, checkpoint_every=7, steps_per_dispatch=2, **other)
    for a, b in zip(arrays(result.model), arrays(whole[0].model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_closures_are_described():
    """An optimiser is functions that close over numbers: all are told apart."""
    schedule = lambda peak: optax.adamw(px.warmup_cosine(peak, 100))
    one, other = (describe(schedule(p), "o", values=True) for p in (1e-3, 2e-3))
    assert differences(one, one) == []
    assert differences(one, other)
    for said in differences(one, other):
        assert "[] 0.001 in the file" in said
        assert "[] 0.002 now" in said
    rates = [describe(lambda s: 1e-3, "r", values=True) for _ in range(2)]
    assert rates[0] == rates[1]
    assert rates[0] != describe(lambda s: 1e-4, "r", values=True)
    given = [describe(lambda s, lr=lr: lr, "r", values=True) for lr in (1e-3, 1.0)]
    assert given[0] != given[1]
    many = [optax.MultiSteps(optax.adam(lr), 2) for lr in (1e-3, 1.0)]
    first, second = (describe(m, "o", values=True) for m in many)
    assert differences(first, second)
    mixture = px.GaussianMixture.ring()
    moved = px.GaussianMixture.ring(radius=0.8)
    found = differences(
        describe(mixture, "teacher", values=True),
        describe(moved, "teacher", values=True),
    )
    assert any(x.startswith("teacher.means: float") for x in found)
