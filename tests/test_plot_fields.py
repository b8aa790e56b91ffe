"""Figures of fields against what they were given: values, axes, titles, spectra."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from rods import Rod

import pidax as px
from pidax.metrics import Interval
from pidax.pde import AbstractEquation, Grid, Neumann


@pytest.fixture(autouse=True)
def plt():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


class Pair(AbstractEquation):
    """Two fields and a number that must be equal and one: enough to be drawn."""

    class Fields(NamedTuple):
        """What is given, and what is not."""

        given_field: Array
        number: Array
        solution: Array

    given = ("given_field", "number")
    kind = "linear"
    grid: Grid

    def draw(self, *, key):
        return jnp.zeros(self.grid.shape), jnp.ones(())

    def solve(self, given_field, number):
        return self.Fields(given_field, number, given_field)

    def residual(self, fields):
        return fields.solution - fields.given_field

    def scale(self, fields):
        return jnp.ones(())


def image_of(ax):
    return np.asarray(ax.images[0].get_array())


def test_an_image_has_x_across_and_y_up_in_the_domain():
    equation = Pair(Grid((4, 6), extent=((0.0, 3.0), (-1.0, 1.0))))
    x, y = equation.grid.coordinates
    first, second = px.plot.fields(equation, Pair.Fields(x, jnp.ones(()), x + 10 * y))
    np.testing.assert_allclose(image_of(second), np.asarray(x + 10 * y).T, rtol=1e-6)
    assert second.images[0].origin == "lower"
    np.testing.assert_allclose(second.images[0].get_extent(), [-0.5, 3.5, -1.2, 1.2])
    assert (second.get_xlim(), second.get_ylim()) == ((0.0, 3.0), (-1.0, 1.0))
    assert (first.get_title(), second.get_title()) == ("given_field", "solution")
    assert first.figure.get_suptitle() == "number = 1"  # type: ignore[union-attr]
    # The residual is 10 y: symmetric about zero, with its size in the title.
    (ax,) = px.plot.residuals(equation, Pair.Fields(x, jnp.ones(()), x + 10 * y))
    np.testing.assert_allclose(image_of(ax), np.asarray(10 * y).T, atol=1e-5)
    np.testing.assert_allclose(ax.images[0].get_clim(), (-10, 10), rtol=1e-6)
    assert ax.get_title() == "residual, relative 6.8e+00"


def test_a_curve_space_and_time_and_rows_of_time():
    line = Pair(Grid((5,), layout="cells", boundary=Neumann()))
    (x,) = line.grid.points
    rows = jnp.arange(3.0)[:, None] * x
    curve, image = px.plot.fields(line, Pair.Fields(x, jnp.ones(()), rows))
    np.testing.assert_allclose(
        np.asarray(curve.lines[0].get_xydata()), np.stack([x, x], axis=1)
    )
    np.testing.assert_allclose(image_of(image), rows)
    assert image.get_ylabel() == "row of time"
    square = Pair(Grid((4, 3)))
    film = jnp.arange(9.0)[:, None, None] * jnp.ones((4, 3))
    zero = jnp.zeros((4, 3))
    panels = px.plot.fields(square, Pair.Fields(zero, jnp.ones(()), film))
    assert [ax.get_title() for ax in panels[1:]] == [
        f"solution, row {i}" for i in (0, 3, 5, 8)
    ]
    assert [image_of(ax)[0, 0] for ax in panels[1:]] == [0, 3, 5, 8]
    assert {ax.images[0].get_clim() for ax in panels[1:]} == {(0.0, 8.0)}
    batch = Pair.Fields(jnp.zeros((2, 2, 4, 3)), jnp.ones(()), zero)
    with pytest.raises(ValueError, match="given_field must be one sample on the grid"):
        px.plot.fields(square, batch)
    with pytest.raises(ValueError, match="axes must hold one for each panel, 2 in"):
        px.plot.fields(square, Pair.Fields(zero, jnp.ones(()), zero), axes=panels[:1])


def test_spectra_are_those_of_the_report(x64):
    rod = Rod(Grid((13,)))
    batch = jax.tree.map(np.asarray, px.pde.draw(rod, 16, key=jax.random.key(0)))
    options: Any = dict(key=jax.random.key(1), resamples=20, projections=4)
    report = px.pde.report(rod, batch, batch, **options)
    ax = px.plot.spectra(report)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["samples", "held-out data", "generate a, then solve", "reference"]
    band = report["samples"].spectra["solution"]
    assert isinstance(band, Interval)
    drawn = np.asarray(ax.lines[0].get_xydata())
    np.testing.assert_allclose(drawn[:, 0], report.wavenumbers[1:])
    np.testing.assert_allclose(drawn[:, 1], np.asarray(band.estimate)[1:])
    with pytest.raises(ValueError, match=r"spectra \['solution'\], got 'source'"):
        px.plot.spectra(report, field="source")
