"""Errors against hand arithmetic; figures against what they were given."""

import jax.numpy as jnp
import numpy as np
import pytest

import pidax as px


def test_rms_error_by_hand():
    x = np.zeros((2, 2, 1))
    y = np.array([[[3.0], [4.0]], [[0.0], [1.0]]])
    assert float(px.metrics.rms_error(x, y)) == pytest.approx(np.sqrt((25 + 1) / 2))
    by_component = px.metrics.rms_error(x, y, per_component=True)
    assert float(by_component) == pytest.approx(np.sqrt(26 / 4))


@pytest.fixture
def ax():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_trajectories_are_drawn_in_units_of_their_scale(ax):
    ts, scale = jnp.array([2.0, 1.0, 0.5]), jnp.array([2.0, 1.0, 0.5])
    xs = jnp.arange(12.0).reshape(2, 3, 2)
    px.plot.trajectories(ts, xs, scale=scale, exact=xs, ax=ax)
    first, second, noise, data, exact = ax.lines
    np.testing.assert_allclose(first.get_xydata(), xs[0] / scale[:, None])
    np.testing.assert_allclose(second.get_xydata(), xs[1] / scale[:, None])
    np.testing.assert_allclose(noise.get_xydata(), xs[:, 0] / 2)
    np.testing.assert_allclose(data.get_xydata(), xs[:, -1] / 0.5)
    assert exact.get_xydata().shape == (2, 2)


def test_errors_and_work_precision_are_logarithmic(ax):
    ts = jnp.array([2.0, 1.0])
    px.plot.error_along_path(ts, {"a": jnp.array([1e-3, 1e-2])}, ax=ax)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.xaxis_inverted()
    ax.clear()
    rows = [
        {"evaluations": 20, "rms": 1e-2, "label": "one"},
        {"evaluations": 10, "rms": 1e-1, "label": "one"},
        {"evaluations": 10, "rms": None, "label": "one"},
    ]
    px.plot.work_precision(rows, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[10, 1e-1], [20, 1e-2]])
    many = [{"evaluations": 1, "rms": 1.0, "label": str(i)} for i in range(8)]
    with pytest.raises(ValueError, match="at most 7 lines"):
        px.plot.work_precision(many, ax=ax)
