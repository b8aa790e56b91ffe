"""The figure of a posterior: its panels against samples whose moments are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pidax as px
from pidax.constraint import Affine, box_averages, interpolated
from pidax.pde import Grid, Heat, Matern, Periodic, Poisson

GRID = Grid((6, 5), extent=((0.0, 2.0), (0.0, 1.0)))
EQUATION = Poisson(GRID, Matern(GRID, modes=4))
RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(6, 5, 2))
SIZE = 0.1 + RNG.random((6, 5, 2))
GRADES = np.arange(-50, 51) / 10.0  # of the samples: mean 0, and quantiles by hand
SAMPLES = BASE + SIZE * GRADES[:, None, None, None]
SPREAD = np.sqrt(np.mean(GRADES**2))


@pytest.fixture(autouse=True)
def plt():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def image_of(ax):
    return np.asarray(ax.images[0].get_array()).T


def truth_outside(*, channel):
    """Inside at 4.49 steps of the size, outside at 4.51: the 90% interval is +-4.5."""
    truth = BASE + 4.49 * SIZE
    truth[1:3, 2, channel] = (BASE - 4.51 * SIZE)[1:3, 2, channel]
    return truth


def test_the_panels_are_truth_mean_spread_and_where_the_truth_is_outside():
    truth = truth_outside(channel=1)
    axes = px.plot.posterior(EQUATION, SAMPLES, truth=truth)
    assert len(axes) == 8
    for channel in (0, 1):
        true, mean, spread, off = axes[4 * channel :][:4]
        np.testing.assert_allclose(image_of(true), truth[..., channel], rtol=1e-5)
        np.testing.assert_allclose(image_of(mean), BASE[..., channel], rtol=1e-5)
        expected = SPREAD * SIZE[..., channel]
        np.testing.assert_allclose(image_of(spread), expected, rtol=1e-5)
        assert true.images[0].get_clim() == mean.images[0].get_clim()
        assert spread.images[0].get_clim()[0] == 0
        away = np.full((6, 5), 4.49 / SPREAD)
        away[1:3, 2] = -4.51 / SPREAD if channel else away[1:3, 2]
        np.testing.assert_allclose(image_of(off), away, rtol=1e-4)
        full = np.asarray(off.images[0].get_alpha()).T == 1
        assert full.sum() == 2 * channel
        assert full[1:3, 2].all() == bool(channel)
    assert axes[3].get_title() == "source, 100% inside the 90% intervals"
    assert axes[7].get_title() == "solution, 93% inside the 90% intervals"  # 28 of 30
    titles = [ax.get_title() for ax in axes[4:7]]
    assert titles == [f"solution, {s}" for s in ("truth", "mean", "standard deviation")]
    half = px.plot.posterior(EQUATION, SAMPLES, truth=truth, level=0.5)
    assert half[3].get_title() == "source, 0% inside the 50% intervals"


def test_prescribed_values_do_not_count():
    samples = SAMPLES.copy()
    samples[:, 0], samples[:, -1] = BASE[0], BASE[-1] * (1 + 1e-15)
    truth = truth_outside(channel=0) * (1 + 1e-12)
    axes = px.plot.posterior(EQUATION, samples, truth=truth)
    assert axes[3].get_title() == "source, 90% inside the 90% intervals"  # 18 of 20
    np.testing.assert_array_equal(image_of(axes[3])[[0, -1]], 0)


@pytest.mark.slow
def test_weights_and_the_verdict_are_those_of_the_result():
    weights = np.where(GRADES > 0, 0.02, 0.0)
    result = SimpleNamespace(fields=SAMPLES, weights=weights)
    mean, spread, *_ = px.plot.posterior(EQUATION, result)
    positive = GRADES[GRADES > 0]
    np.testing.assert_allclose(
        image_of(mean), (BASE + positive.mean() * SIZE)[..., 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        image_of(spread), positive.std() * SIZE[..., 0], rtol=1e-5
    )
    # The 5% quantile of the weights is 0.3: without them the truth would be inside.
    axes = px.plot.posterior(EQUATION, result, truth=BASE + 0.2 * SIZE)
    assert axes[3].get_title().startswith("source, 0% inside")
    assert mean.figure.get_suptitle() == ""

    class Judged(SimpleNamespace):
        def __str__(self):
            return "do not believe these samples yet: no\nmore"

    judged = Judged(fields=SAMPLES, weights=None, method="PCN")
    ax = px.plot.posterior(EQUATION, judged)[0]
    assert ax.figure.get_suptitle() == "do not believe these samples yet: no"


@pytest.mark.slow
def test_sensors_are_marked_where_they_are_on_the_field_they_measure():
    points = np.array([[0.33, 0.81], [1.7, 0.1]])
    wells = interpolated(GRID, points)
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    off_grid = Affine.of(EQUATION, solution=(wells, np.ones(2)), covariance=covariance)
    box = box_averages(GRID, [[0.5, 0.2]], [[1.5, 0.8]])
    on_grid = px.Observation.at_points(
        EQUATION, np.array([[0.4, 0.75]]), np.ones(1), name="source", noise=0.1
    )
    several = off_grid & on_grid & Affine.of(EQUATION, solution=(box, np.ones(1)))
    axes: Any = px.plot.posterior(EQUATION, SAMPLES, observation=several)
    for ax in axes[:2]:
        [dots] = ax.lines
        np.testing.assert_allclose(dots.get_xydata(), [[0.4, 0.75]], rtol=1e-6)
        assert not ax.collections
    for ax in axes[2:]:
        [dots] = ax.lines
        np.testing.assert_allclose(dots.get_xydata(), points, rtol=1e-5)
        (x0, y0), (x1, y1) = ax.collections[0].get_datalim(ax.transData).get_points()
        np.testing.assert_allclose([x0, x1, y0, y1], [0.3, 1.7, 0.1, 0.9], atol=0.2)


def test_a_solution_in_time_has_its_initial_curve_and_time_upwards():
    ring = Grid((8,), boundary=Periodic())
    heat = Heat(ring, rows=4, end=3.0)
    base = RNG.normal(size=(4, 8, 1))
    samples = base + GRADES[:, None, None, None]
    truth = base + 4.49
    truth[2, 5] -= 9.0
    seen = np.zeros((4, 8), bool)
    seen[1, 3] = True
    observation = px.Observation.of(heat, solution=(seen, base[..., 0]), noise=0.1)
    axes: Any = px.plot.posterior(heat, samples, truth=truth, observation=observation)
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), base[0, :, 0], rtol=1e-5)
    np.testing.assert_allclose(axes[1].lines[1].get_ydata(), truth[0, :, 0], rtol=1e-5)
    assert axes[3].get_title() == "initial, 100% inside the 90% intervals"
    np.testing.assert_allclose(image_of(axes[5]).T, base[..., 0], rtol=1e-5)
    np.testing.assert_allclose(axes[5].lines[0].get_xydata(), [[3 / 8, 1.0]])
    assert axes[7].get_title() == "solution, 97% inside the 90% intervals"  # 31 of 32
    x, y = axes[7].collections[0].get_datalim(axes[7].transData).get_points().T
    np.testing.assert_allclose(x, [4.5 / 8, 5.5 / 8], atol=0.02)
    np.testing.assert_allclose(y, [1.5, 2.5], atol=0.15)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match=r"\(sample, 6, 5, 2\), got shape \(6, 5, 2\)"):
        px.plot.posterior(EQUATION, BASE)
    with pytest.raises(ValueError, match="level is between 0 and 1, got 90"):
        px.plot.posterior(EQUATION, SAMPLES, level=90)
    bad = SAMPLES.copy()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="samples must hold finite samples"):
        px.plot.posterior(EQUATION, bad)
    other = px.Observation(np.arange(6) < 2, np.zeros(6), 0.1)
    with pytest.raises(ValueError, match=r"shape \(6, 5, 2\), got shape \(6,\)"):
        px.plot.posterior(EQUATION, SAMPLES, observation=other)


# --- quantities of interest ----------------------------------------------------------


def test_quantities_are_densities_over_the_same_bins():
    """Weighted halves: 3/4 of the weight at -1, 1/4 at +1; the reference even."""
    x = np.repeat([-1.0, 1.0], 50)
    weights = np.repeat([3.0, 1.0], 50)
    (ax,) = px.plot.quantities(
        {"q": x}, weights=weights, reference={"q": x}, truth={"q": 0.5}, bins=4
    )
    stairs: list[Any] = list(ax.patches)
    samples, reference = (p.get_data() for p in stairs)
    width = np.diff(samples.edges)
    np.testing.assert_allclose(samples.values * width, [0.75, 0, 0, 0.25])
    np.testing.assert_allclose(reference.values * width, [0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(samples.edges, reference.edges)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata(), float), 0.5)
    legend = ax.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["samples", "reference", "truth"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"values": {}}, "maps names to numbers of samples, got none"),
        ({"values": {"q": np.ones((3, 2))}}, r"one number for each .* shape \(3, 2\)"),
        ({"truth": {"p": 1.0}}, r"truth has the names \['p'\], which values has not"),
        (
            {"weights": np.ones(2)},
            r"each of the 3 samples of 'q', got the shape \(2,\)",
        ),
        ({"values": {"q": np.array([1.0, np.nan])}}, "finite samples to be drawn"),
    ],
)
def test_bad_quantities_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        px.plot.quantities(**{"values": {"q": np.arange(3.0)}, **options})
