"""Figures of fields against what they were given: values, axes, titles, spectra."""

from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

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
    assert first.figure.get_suptitle() == "number = 1"
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


class Spectra:
    """What is drawn of a report: two sets, a set of zeros, and the reference."""

    wavenumbers = np.arange(5.0)
    energy: ClassVar[Any] = 10.0 ** -np.arange(5.0)
    rows = dict.fromkeys(("samples", "held-out data", "zeros"))
    reference_spectra: ClassVar = {"solution": Interval(energy, energy, energy)}

    def __getitem__(self, label):
        size = {"samples": 2.0, "held-out data": 1.0, "zeros": 0.0}[label] * self.energy
        band = Interval(size, 0.5 * size, 3 * size)
        return SimpleNamespace(spectra={"solution": band})


def test_spectra_are_those_of_the_report():
    report: Any = Spectra()
    ax = px.plot.spectra(report)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["samples", "held-out data", "reference"]
    for line, size in zip(ax.lines, (2.0, 1.0, 1.0), strict=True):
        drawn = np.asarray(line.get_xydata())
        np.testing.assert_allclose(drawn[:, 0], [1, 2, 3, 4])
        np.testing.assert_allclose(drawn[:, 1], size * report.energy[1:])
    box = ax.collections[0].get_paths()[0].get_extents()  # the samples' band
    np.testing.assert_allclose([box.y0, box.y1], [1e-4, 0.6])
    with pytest.raises(ValueError, match=r"spectra \['solution'\], got 'source'"):
        px.plot.spectra(report, field="source")
