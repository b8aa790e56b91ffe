"""The loss on held-out data: its value, its steps, and where it is written."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from objectives import LeastSquares, fit, line, regression

import pidax as px


def mean_loss(model, data):
    """(w . x + b - y)^2 / 2, by NumPy."""
    x, y = (np.asarray(a, np.float64) for a in data)
    error = x @ np.asarray(model.w, np.float64) + float(model.b) - y
    return np.mean(error**2 / 2), np.mean(np.abs(error))


def test_it_is_the_mean_over_the_held_out_samples(tmp_path):
    """Of weights that the callback sees: 11 samples in batches of 8, one filled up."""
    held_out, seen = regression(11, seed=1), {}

    def callback(step, terms, result):
        assert type(terms) is dict
        assert {type(value) for name, value in terms.items() if name != "step"} == {
            float
        }
        if "validation_loss" in terms:
            seen[step] = terms["validation_loss"], result.model

    run = fit(
        validation=held_out,
        validate_every=5,
        log_every=4,
        callback=callback,
        directory=tmp_path,
    )
    assert list(seen) == [5, 10, 12]  # the last one too
    for found, model in seen.values():
        np.testing.assert_allclose(found, mean_loss(model, held_out)[0], rtol=1e-5)
    assert seen[12][0] < 0.7 * mean_loss(line(), held_out)[0]
    # In the history and in the file, at the steps of the lines of either kind.
    file = tmp_path / "metrics.jsonl"
    lines = [json.loads(x) for x in file.read_text().splitlines()]
    assert [x["step"] for x in lines] == [4, 5, 8, 10, 12]
    values = [x.get("validation_loss", np.nan) for x in lines]
    np.testing.assert_array_equal(run.history["validation_loss"], values)
    assert np.isfinite(values).tolist() == [False, True, False, True, True]
    expected = mean_loss(run.model, held_out)[1]
    found = run.history["validation_size"][-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_changes_nothing_and_needs_no_callback():
    held_out = regression(11, seed=1)
    plain, run = fit(log_every=5), fit(validation=held_out, log_every=5)
    np.testing.assert_array_equal(run.model.w, plain.model.w)
    assert run.history["step"].tolist() == plain.history["step"].tolist() == [5, 10, 12]
    np.testing.assert_array_equal(run.history["loss"], plain.history["loss"])
    last = mean_loss(run.model, held_out)[0]
    np.testing.assert_allclose(run.history["validation_loss"][-1], last, rtol=1e-5)


def test_its_noise_is_the_same_every_time():
    """Of weights that do not move."""
    import optax

    run = fit(
        objective=LeastSquares(jnp.asarray(2.0)),
        optimiser=optax.sgd(0.0),
        validation=regression(9, seed=1),
        validate_every=4,
    )
    values = run.history["validation_loss"][np.isfinite(run.history["validation_loss"])]
    assert len(values) == 3
    assert len(set(values)) == 1
    quiet = mean_loss(line(), regression(9, seed=1))[0]
    assert abs(values[0] - quiet) > 0.1  # there is noise


def test_the_best_checkpoint_may_be_of_the_held_out_loss(tmp_path):
    """Downhill for eight steps, and up again for four."""
    import optax

    turning: Any = lambda step: jnp.where(step < 8, 0.1, -0.1)
    held_out = regression(50)
    fit(
        optimiser=optax.sgd(turning),
        validation=held_out,
        validate_every=4,
        checkpoint_every=4,
        keep=3,
        best="validation_loss",
        directory=tmp_path,
    )
    losses = {
        step: mean_loss(px.restore(tmp_path, line(), step=step), held_out)[0]
        for step in (4, 8, 12)
    }
    assert min(losses, key=lambda step: losses[step]) == 8
    best = px.restore(tmp_path, line(), step="best")
    assert mean_loss(best, held_out)[0] == losses[8]


def test_what_is_not_held_out_data_is_named():
    with pytest.raises(ValueError, match="validation must be arrays of held-out"):
        fit(validation=lambda step: regression(8))
