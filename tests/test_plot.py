"""Figures against what they were given: lines, images, limits, labels, panels."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import pidax as px
from pidax.evaluate import Floor, Report, Solution


@pytest.fixture(autouse=True)
def plt():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def ax(plt):
    return plt.subplots()[1]


# --- solutions -----------------------------------------------------------------------


def test_paths_are_drawn_in_units_of_their_scale(ax):
    ts, scale = jnp.array([2.0, 1.0, 0.5]), jnp.array([2.0, 1.0, 0.5])
    xs = jnp.arange(12.0).reshape(2, 3, 2)
    px.plot.paths(ts, xs, scale=scale, exact=xs, ax=ax)
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


# --- comparisons ---------------------------------------------------------------------

COUNT, TIMES = 6, np.array([8.0, 2.0, 0.5, 0.1])


def solution(label, event, seed, **distances):
    """Four of six paths, errors that grow, the first of them zero."""
    rng = np.random.default_rng(seed)
    errors = np.linspace(0, 1, 4) * rng.uniform(0.01, 1, size=(COUNT, 4))
    end, paths = rng.normal(size=(COUNT, *event)), rng.normal(size=(4, 4, *event))
    return Solution(label, 1.0, errors, end, paths, **distances)


def comparison(*event, clean=True):
    names = ("student", "adaptive", "euler", "heun", "reference")
    solutions: dict[str, Any] = {
        name: solution(name, event, seed) for seed, name in enumerate(names)
    }
    samples = np.random.default_rng(9).normal(size=(COUNT, *event))
    none = np.zeros((COUNT, 4))
    return Report(
        **solutions,
        student_to_euler=none,
        student_to_heun=none,
        z=np.zeros((COUNT, *event)),
        condition=None,
        times=TIMES,
        grid=TIMES,
        scale=np.hypot(0.5, TIMES),
        floor=Floor("exact samples", samples, 1.0, 0.1, 0.0) if clean else None,
        settings={"per_component": False, "half_distance": None},
    )


def test_the_teachers_trajectories_lie_over_the_students(ax):
    report = comparison(2)
    assert px.plot.trajectories(report, count=3, ax=ax) is ax
    scale = report.scale[:, None]
    student, teacher = ax.lines[:3], ax.lines[3:6]
    for lines, some in ((student, report.student), (teacher, report.reference)):
        for line, path in zip(lines, some.paths, strict=False):
            np.testing.assert_allclose(line.get_xydata(), path / scale)
    blue, orange = px.plot.COLOURS[:2]
    assert {line.get_color() for line in teacher} == {blue}
    assert {line.get_color() for line in student} == {orange}
    zorders = [max(line.get_zorder() for line in some) for some in (student, teacher)]
    assert zorders[0] < zorders[1]
    noise, off, end = ax.lines[6:9]
    starts, ends = report.reference.paths[:3, 0], report.student.paths[:3, -1]
    np.testing.assert_allclose(noise.get_xydata(), starts / scale[0])
    np.testing.assert_allclose(off.get_xydata(), ends / scale[-1])
    last = report.reference.paths[:3, -1]
    np.testing.assert_allclose(end.get_xydata(), last / scale[-1])
    assert texts(ax) == ["noise, t = 8", "teacher, to t = 0.1", "student"]
    assert ax.get_xlabel() == "$y_1$"


def test_errors_of_student_and_solvers_are_relative_to_the_state(ax):
    report = comparison(3)
    assert px.plot.errors(report, ax=ax) is ax
    size = np.sqrt(3) * report.scale
    names = ["adaptive", "student", "euler", "heun"]
    for line, name in zip(ax.lines, names, strict=True):
        rms = np.sqrt(np.mean(report.solutions[name].errors ** 2, axis=0)) / size
        np.testing.assert_allclose(line.get_xydata(), np.stack([TIMES, rms], 1)[1:])
    assert ax.lines[1].get_color() == px.plot.COLOURS[1]
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices[:, 1]
    expected = [
        np.quantile(report.student.errors, q, axis=0) / size for q in (0.5, 0.99)
    ]
    assert {float(f"{e:.6g}") for e in edges} == {
        float(f"{e:.6g}") for e in np.concatenate(expected) if e > 0
    }
    assert texts(ax) == [*names, "student, median to 99th percentile"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.xaxis_inverted()
    same = comparison(3)
    same.adaptive.errors[:] = 0
    ax.clear()
    px.plot.errors(same, ax=ax)
    assert np.isnan(ax.lines[0].get_ydata()).all()


def test_samples_of_the_same_noise_are_points_side_by_side(plt):
    report = comparison(2)
    panels: Any = px.plot.side_by_side(report, count=5)
    assert [ax.get_title() for ax in panels] == [
        "exact samples",
        "teacher",
        "student",
        "teacher to student",
    ]
    assert report.floor is not None
    teacher, student = report.reference.end[:5], report.student.end[:5]
    for ax, some in zip(panels, (report.floor.samples[:5], teacher, student)):  # noqa: B905
        np.testing.assert_allclose(ax.lines[0].get_xydata(), some)
        assert ax.get_xlim() == panels[-1].get_xlim()
        assert ax.get_ylim() == panels[-1].get_ylim()
    segments = panels[-1].collections[0].get_segments()
    np.testing.assert_allclose(segments, np.stack([teacher, student], axis=1))
    assert len(px.plot.side_by_side(comparison(2, clean=False))) == 3


def test_images_of_the_same_noise_are_in_two_rows(plt):
    report = comparison(3, 4, 1)
    (ax,) = px.plot.side_by_side(report, count=4, cmap="viridis")
    drawn = [np.asarray(image.get_array()) for image in ax.images]
    expected = np.concatenate([report.reference.end[:4], report.student.end[:4]])
    np.testing.assert_allclose(drawn, expected[..., 0])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["teacher", "student"]
    left, _, _, _ = corners(ax)
    assert len(np.unique(left)) == 4


def test_more_components_than_two_are_drawn_by_two_and_said(ax):
    report = comparison(3, 4, 1)
    px.plot.trajectories(report, ax=ax)
    first = report.student.paths[0].reshape(4, -1)[:, :2] / report.scale[:, None]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), first)
    assert ax.get_xlabel() == "$y_1$, of 12 components"
    panels = px.plot.side_by_side(comparison(5))
    assert panels[0].get_ylabel() == "$x_2$, of 5 components"


def test_comparisons_that_cannot_be_drawn_are_refused(ax):
    with pytest.raises(ValueError, match=r"at least two components, got .* \(1,\)"):
        px.plot.trajectories(comparison(1), ax=ax)
    with pytest.raises(ValueError, match="count must be at least 1, got count=0"):
        px.plot.side_by_side(comparison(2), count=0)
    report, none = comparison(2), np.zeros((0, 4, 2))
    bare = {
        name: dataclasses.replace(getattr(report, name), paths=none)
        for name in ("student", "reference")
    }
    with pytest.raises(ValueError, match="got a report made with paths=0"):
        px.plot.trajectories(dataclasses.replace(report, **bare), ax=ax)
    assert not ax.lines


# --- loss curves ---------------------------------------------------------------------


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_short_histories_are_drawn_as_they_are(ax):
    histories = {
        "a": {"step": np.array([1, 2, 3]), "loss": jnp.array([3.0, 1.0, 2.0])},
        "b": {"step": [10, 20], "loss": [0.5, 0.25], "other": [-1.0, -2.0]},
    }
    assert px.plot.loss_curves(histories, ax=ax) is ax
    first, second = ax.lines
    np.testing.assert_allclose(first.get_xydata(), [[1, 3], [2, 1], [3, 2]])
    np.testing.assert_allclose(second.get_xydata(), [[10, 0.5], [20, 0.25]])
    assert [line.get_color() for line in ax.lines] == list(px.plot.COLOURS[:2])
    assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == (
        "log",
        "step",
        "loss",
    )
    assert texts(ax) == ["a", "b"]


def test_another_term_of_any_sign_has_a_linear_axis(plt):
    history = {"step": [0, 1], "gain": [-1.0, 2.0]}
    ax = px.plot.loss_curves({"a": history}, term="gain")
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "gain")
    assert plt.get_fignums() == [1]


def test_long_histories_are_smoothed_over_their_raw_curve(ax):
    step = np.arange(300)
    loss = np.exp(np.random.default_rng(0).normal(size=300))
    px.plot.loss_curves({"run": {"step": step, "loss": loss}}, ax=ax)
    raw, smooth = ax.lines
    np.testing.assert_allclose(raw.get_ydata(), loss)
    expected = [loss[max(i - 2, 0) : i + 3].mean() for i in range(300)]  # 300/50: 5
    np.testing.assert_allclose(smooth.get_xydata(), np.stack([step, expected], 1))
    assert raw.get_alpha() < 0.5
    assert texts(ax) == ["run"]
    ax.clear()
    px.plot.loss_curves({"run": {"step": step, "loss": loss}}, smooth=1, ax=ax)
    assert len(ax.lines) == 1


def test_smoothing_is_no_wider_than_the_curve_and_skips_what_is_not_finite(ax):
    history = {"step": np.arange(4), "loss": [1.0, np.nan, 3.0, 5.0]}
    px.plot.loss_curves({"run": history}, smooth=100, ax=ax)  # 100 -> 4 -> 3
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1, np.nan, 4, 4])
    assert ax.get_yscale() == "log"


def test_a_history_is_read_from_a_file_and_a_resumed_run_continues(ax, tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [
        {"step": 0, "loss": 4.0},
        {"step": 10, "loss": 3.0},
        {"step": 10, "time": 1.5},
        {"step": 20, "loss": 9.0},
        {"step": 20, "loss": 2.0, "grad": 1.0},
        {"step": 15, "loss": 2.5},
        {"note": "the end"},
    ]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines[:3], "", *lines[3:]]) + '\n{"step": 30, "lo')
    px.plot.loss_curves({"a": path, "b": str(path)}, ax=ax)
    for line in ax.lines:
        expected = [[0, 4], [10, 3], [15, 2.5], [20, 2]]
        np.testing.assert_allclose(line.get_xydata(), expected)
    with pytest.raises(ValueError, match=r"'a' lacks \['nothing'\]. It has .*'loss'"):
        px.plot.loss_curves({"a": path}, term="nothing", ax=ax)
    path.write_text('{"step": 0, "loss": 1.0}\nEpoch 1\n')
    with pytest.raises(ValueError, match=r"got 'Epoch 1.*line 2 of .*Remove"):
        px.plot.loss_curves({"a": path}, ax=ax)


def test_bad_histories_are_refused(ax):
    ragged = {"step": [1, 2], "loss": [1.0]}
    with pytest.raises(ValueError, match=r"of shape \(2,\) .* of shape \(1,\) in 'a'"):
        px.plot.loss_curves({"a": ragged}, ax=ax)
    good = {"step": [1], "loss": [1.0]}
    with pytest.raises(ValueError, match=r"smooth must be .* got smooth=0"):
        px.plot.loss_curves({"a": good}, smooth=0, ax=ax)
    with pytest.raises(ValueError, match="at most 7 lines"):
        px.plot.loss_curves({str(i): good for i in range(8)}, ax=ax)
    assert not ax.lines


# --- grids of images and fields ------------------------------------------------------


def fields(count, *shape, channels=1):
    values = np.random.default_rng(0).normal(size=(count, *shape, channels))
    return values.astype(np.float32)


def corners(ax):
    """The left and the top of every image, and the size of the first."""
    extents = np.array([image.get_extent() for image in ax.images])
    left, right, bottom, top = extents.T
    return left, top, (right - left)[0], (bottom - top)[0]


def test_fields_are_drawn_by_rows_on_one_scale(plt):
    x = fields(7, 4, 8)
    ax: Any = px.plot.sample_grid(jnp.asarray(x), columns=3, cmap="RdBu_r")
    assert len(ax.images) == 7
    for image, sample in zip(ax.images, x, strict=True):
        np.testing.assert_allclose(image.get_array(), sample[..., 0])
        assert image.get_cmap().name == "RdBu_r"
        np.testing.assert_allclose(image.get_clim(), (x.min(), x.max()))
    left, top, width, height = corners(ax)
    assert height / width == pytest.approx(0.5)
    np.testing.assert_allclose(left, 1.05 * np.array([0, 1, 2, 0, 1, 2, 0]))
    np.testing.assert_allclose(top, 0.55 * np.array([0, 0, 0, 1, 1, 1, 2]))
    # The first row of a sample is at its top, and nothing but samples is in the axes.
    np.testing.assert_allclose(ax.get_xlim(), (0, 3.1))
    np.testing.assert_allclose(ax.get_ylim(), (1.6, 0))
    bar = ax.images[-1].colorbar
    assert bar is not None
    np.testing.assert_allclose(bar.get_ticks()[[0, -1]], (x.min(), x.max()))
    assert bar.extend == "neither"
    assert len(plt.gcf().axes) == 2


@pytest.mark.parametrize(
    ("limits", "extend"),
    [((-9, 9), "neither"), ((0, 9), "min"), ((-9, 0), "max"), ((-1, 1), "both")],
)
def test_the_bar_says_what_is_clipped(ax, limits, extend):
    px.plot.sample_grid(fields(4, 3, 3), limits=limits, ax=ax)
    assert ax.images[0].get_clim() == limits
    assert ax.images[-1].colorbar.extend == extend


def test_three_channels_are_colours_between_the_limits(ax):
    x = fields(2, 5, 4, channels=3)
    assert px.plot.sample_grid(x, limits=(-1, 1), ax=ax) is ax
    for image, sample in zip(ax.images, x, strict=True):
        np.testing.assert_allclose(image.get_array(), np.clip((sample + 1) / 2, 0, 1))
    clipped = f"{(np.abs(x) > 1).mean():.2g}"
    assert (
        ax.get_xlabel() == f"black is -1, white is 1, {clipped} of all values clipped"
    )
    assert len(ax.figure.axes) == 1
    px.plot.sample_grid(x, ax=ax)
    assert ax.get_xlabel() == f"black is {x.min():.3g}, white is {x.max():.3g}"


def test_samples_and_rows_are_labelled(plt):
    labels = [f"sample {i}" for i in range(5)]
    ax = px.plot.sample_grid(fields(5, 4, 4), labels=labels, rows=["a", "b"])
    assert [text.get_text() for text in ax.texts] == labels
    left, top, _, _ = corners(ax)
    np.testing.assert_allclose(left, 1.05 * np.array([0, 1, 2, 0, 1]))  # 5 in 2 rows
    positions = np.array([text.get_position() for text in ax.texts])
    np.testing.assert_allclose(positions[:, 0], left + 0.5)
    assert ((positions[:, 1] <= top) & (positions[:, 1] > top - 0.1)).all()
    assert top[0] > 0.1  # room for the labels of the first row
    np.testing.assert_allclose(ax.get_yticks(), top[[0, 3]] + 0.5)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    plt.gcf().canvas.draw()
    inside = plt.gcf().bbox
    for text in [*ax.texts, *ax.get_yticklabels()]:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1


@pytest.mark.parametrize(
    ("count", "shape", "columns"),
    [
        (16, (4, 4), 4),
        (10, (4, 4), 4),
        (4, (4, 16), 1),
        (4, (16, 4), 4),
        (1, (4, 4), 1),
    ],
)
def test_the_grid_is_nearly_square(count, shape, columns):
    left, _, _, _ = corners(px.plot.sample_grid(fields(count, *shape)))
    assert len(np.unique(left)) == columns


def test_a_constant_field_has_a_scale(ax):
    px.plot.sample_grid(np.full((1, 2, 2, 1), 3.0), ax=ax)
    assert ax.images[0].get_clim() == (2.5, 3.5)


def test_bad_grids_are_refused(ax):
    x = fields(4, 3, 3)
    grid = px.plot.sample_grid
    with pytest.raises(ValueError, match=r"expects 1 channel .* Draw one channel"):
        grid(fields(2, 3, 3, channels=2), ax=ax)
    with pytest.raises(
        ValueError, match=r"labels must hold .* 4 in all, got 3. Use ''"
    ):
        grid(x, labels=list("abc"), ax=ax)
    with pytest.raises(ValueError, match="rows must hold a text for each row, 2 in al"):
        grid(x, columns=2, rows=["a"], ax=ax)
    with pytest.raises(ValueError, match=r"low < high, got limits=\(1, 0\)"):
        grid(x, limits=(1, 0), ax=ax)
    with pytest.raises(ValueError, match="columns must be at least 1, got columns=0"):
        grid(x, columns=0, ax=ax)
    with pytest.raises(ValueError, match=r"finite samples .* 36 NaN or infinite"):
        grid(x * np.nan, ax=ax)
    with pytest.raises(ValueError, match=r"got shape \(0, 3, 3, 1\)"):
        grid(x[:0], ax=ax)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'samples'"):
        grid(x[..., 0], ax=ax)
    assert not ax.images


# --- points of the plane -------------------------------------------------------------


def test_sets_are_drawn_side_by_side_on_the_same_limits(plt):
    rng = np.random.default_rng(0)
    sets = {
        "data": rng.normal(size=(50, 2)) * [1, 3],
        "student": jnp.asarray(rng.normal(size=(20, 2))),
    }
    panels: Any = px.plot.samples(sets)
    assert len(panels) == len(plt.gcf().axes) == 2
    pool = np.concatenate([np.asarray(some) for some in sets.values()])
    margin = 0.04 * np.ptp(pool, axis=0).max()
    for ax, (label, some) in zip(panels, sets.items(), strict=True):
        (line,) = ax.lines
        np.testing.assert_allclose(line.get_xydata(), some)
        assert line.get_linestyle() == "None"
        assert ax.get_title() == label
        assert ax.get_aspect() == 1
        for component, limits in enumerate((ax.get_xlim(), ax.get_ylim())):
            low, high = pool[:, component].min(), pool[:, component].max()
            np.testing.assert_allclose(limits, (low - margin, high + margin), rtol=1e-6)
        assert not ax.texts


def test_samples_outside_the_limits_are_counted(plt):
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, -3.0]])
    first, second = plt.subplots(1, 2)[1]
    given = px.plot.samples({"a": x, "b": x / 4}, limits=(-1, 1), axes=[first, second])
    assert given == [first, second]
    assert (first.get_xlim(), first.get_ylim()) == ((-1, 1), (-1, 1))
    assert [text.get_text() for text in first.texts] == ["2 of 3 outside"]
    assert not second.texts


def test_panels_fill_rows_and_none_is_left_empty(plt):
    x = np.zeros((1, 2))
    panels: Any = px.plot.samples({str(i): x for i in range(6)})
    assert len(plt.gcf().axes) == 6
    places = [ax.get_subplotspec().get_geometry()[:2] for ax in panels]
    assert set(places) == {(2, 4)}
    panels = px.plot.samples({str(i): x for i in range(6)}, columns=3)
    assert panels[0].get_subplotspec().get_geometry()[:2] == (2, 3)
    assert panels[0].get_xlim() == (-0.5, 0.5)  # one point, and room about it


def test_bad_sets_are_refused(plt):
    x = np.zeros((3, 2))
    draw = px.plot.samples
    with pytest.raises(ValueError, match=r"at least one set .* got none"):
        draw({})
    with pytest.raises(
        (ValueError, jaxtyping.TypeCheckError), match=r"sets|in the plane"
    ):
        draw({"a": np.zeros((3, 3))})
    with pytest.raises(ValueError, match=r"'a' must hold finite .* 6 NaN"):
        draw({"a": x * np.nan})
    with pytest.raises(ValueError, match="axes must hold one for each set, 2 in all"):
        draw({"a": x, "b": x}, axes=[plt.subplots()[1]])
    with pytest.raises(ValueError, match="columns must be at least 1"):
        draw({"a": x}, columns=0)
