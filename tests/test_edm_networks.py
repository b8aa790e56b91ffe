"""EDM's networks against numbers that the published code gave, and a plain NumPy one.

`tests/data` holds small networks of random weights and what the published code makes
of them, as channels-first arrays.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from edm_reference import Reference
from helpers import assert_close

import pidax as px
from pidax.convert import read_checkpoint
from pidax.convert._edm import (
    edm_naming,
    from_state,
    network_from,
    teacher_from,
    to_state,
)
from pidax.convert._state_dict import names, structure
from pidax.nn import DhariwalUNet, SongUNet
from pidax.student import residual

DATA = Path(__file__).parent / "data"
KEY = jax.random.key(3)
NAMES = ("edm_ddpmpp_uncond", "edm_adm_small_cond", "edm_vp_ddpmpp")
every_golden = pytest.mark.parametrize("name", NAMES)


def arrays(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def last(a):
    """Channels last."""
    return np.moveaxis(np.asarray(a), -3, -1)


@functools.cache
def checkpoint(name):
    return read_checkpoint(DATA / f"{name}.pkl")


def state_of(name):
    return checkpoint(name).state


def configuration_of(name):
    made = checkpoint(name).configuration
    return {**made["init_kwargs"], "class_name": made["class_name"]}


def teacher(name, **changes):
    return teacher_from({**configuration_of(name), **changes}, state_of(name))


@eqx.filter_jit
def denoised(denoiser, x, sigma, condition, augment):
    one = lambda x, s, c, a: denoiser(x, s, 1.0, c, augment=a)
    return jax.vmap(one)(x, sigma, condition, augment)


@eqx.filter_jit
def answered(network, x, c_noise, condition=None, augment=None):
    one = lambda x, n, c, a: network(x, n, c, augment=a)
    return jax.vmap(one)(x, c_noise, condition, augment)


# --- the published numbers -----------------------------------------------------------


@pytest.mark.slow
@every_golden
def test_the_denoiser_is_the_published_one(name, x32):
    """To float32's rounding, of which the noise predictor's answers have more."""
    golden, denoiser = arrays(name), teacher(name)
    labels = golden.get("class_labels")
    assert denoiser.classes == (None if labels is None else 4)
    low, high = denoiser.interval
    assert low <= golden["sigma"].min() * 1.0001
    assert high >= golden["sigma"].max() * 0.9999
    sizes = np.abs(golden["D32"]).max((1, 2, 3))
    scale = np.maximum(sizes, 1.0)[:, None, None, None]
    augmented = [("D32", None), ("D32_aug", golden.get("augment_labels"))]
    for key, augment in augmented[: 2 if "D32_aug" in golden else 1]:
        args = last(golden["x"]), golden["sigma"], labels, augment
        found = denoised(denoiser, *args)
        assert_close(found / scale, last(golden[key]) / scale, 0, 5e-6)
        if name == "edm_ddpmpp_uncond":
            assert_close(found, last(golden[key]), 0, 5e-6)


@pytest.mark.slow
def test_in_float64_it_is_the_published_one_to_rounding(x64):
    golden, denoiser = arrays("edm_ddpmpp_uncond"), teacher("edm_ddpmpp_uncond")
    x, sigma = last(golden["x"]).astype(float), golden["sigma"].astype(float)
    found = denoised(denoiser, x, sigma, None, None)
    assert_close(found, last(golden["D64"]), 0, 1e-12)


def test_the_features_are_the_published_ones(x32):
    golden, denoiser = arrays("edm_ddpmpp_uncond"), teacher("edm_ddpmpp_uncond")
    features = denoiser.network.embedding.features
    found = jax.vmap(features)(golden["c_noise"])
    assert_close(found, golden["map_noise"], 0, 2e-7)


@pytest.mark.slow
@every_golden
def test_the_sampler_follows_the_published_trajectory(name, x32):
    """Algorithm 1 of Karras et al. 2022: the state in float64, the network in float32.

    The noise predictor's errors are multiplied by up to 79; random weights are no
    denoiser, and its trajectory stays far from the data.
    """
    golden, denoiser = arrays(name), teacher(name)
    z = last(golden["latents"]).astype(np.float64)
    count = len(z)
    labels = None
    if "class_labels" in golden:
        labels = golden["class_labels"]
    times = golden["t_steps"]
    x, found = z * times[0], []

    def slope(x, t):
        # As many as in the other tests, so that nothing is compiled anew.
        batch = np.zeros((6, *x.shape[1:]), np.float32)
        batch[:count] = x
        sigma = np.full(6, t, np.float32)
        out = denoised(denoiser, batch, sigma, labels, None)
        return (x - np.asarray(out[:count], np.float64)) / t

    for now, then in itertools.pairwise(times):
        first = slope(x, now)
        euler = x + (then - now) * first
        if then > 0:
            euler = x + (then - now) * 0.5 * (first + slope(euler, then))
        x = euler
        found.append(x)
    scale = max(1.0, np.abs(golden["heun18"]).max())
    assert_close(x / scale, last(golden["heun18"]) / scale, 0, 1e-5)
    if "heun18_traj" in golden:
        assert_close(np.stack(found), last(golden["heun18_traj"]), 0, 1e-5)


@pytest.mark.slow
def test_a_heun_solve_in_the_clock_of_time_is_the_published_sampler(x64):
    """Diffrax's Heun on `karras(18)`, the last step being the denoiser itself."""
    golden = arrays("edm_ddpmpp_uncond")
    with jax.enable_x64(False):
        denoiser = teacher("edm_ddpmpp_uncond")
    low = jnp.float32

    def rounded(x, sigma, alpha):
        return denoiser(x.astype(low), sigma.astype(low)).astype(x.dtype)

    process = denoiser.process
    model = px.from_function(rounded, shape=denoiser.shape)
    flow = px.ProbabilityFlow(model, process, clock=px.flow.TimeClock())
    z = last(golden["latents"])[0] * golden["t_steps"][0]
    steps = px.karras(18, process)
    path = px.solve(flow, z, solver=diffrax.Heun(), steps=steps, denoise=True)
    assert_close(path.end, last(golden["heun18"])[0], 0, 1e-5)
    assert int(path.stats["evaluations"]) == 35


class Given(px.AbstractProcess):
    """EDM's process with noise that is given, not drawn."""

    noise: Any
    t_min: float = 0.002
    t_max: float = 80.0
    sigma_data: float = 0.5

    def alpha(self, t):
        return px.EDM().alpha(t)

    def sigma(self, t):
        return px.EDM().sigma(t)

    def time(self, sigma, alpha=1.0):
        return px.EDM().time(sigma, alpha)

    def perturb(self, x0, t, *, key):
        return x0 + self.noise, self.noise / t


class At(px.distill.AbstractTimeLaw):
    """One time."""

    t: Any

    def __call__(self, process, *, key):
        return self.t


@pytest.mark.slow
def test_its_training_loss_is_the_published_one(x32):
    """The weight of `DenoisingScoreMatching` is EDM's, which sums; without dropout."""
    golden = arrays("edm_ddpmpp_uncond")
    denoiser = teacher("edm_ddpmpp_uncond", dropout=0.0)
    sigma = np.exp(golden["edmloss_rnd_normal"] * 1.2 - 1.2)
    y, noise = last(golden["edmloss_y"]), last(golden["edmloss_noise"] * sigma)

    def one(t, y, n):
        matching = px.DenoisingScoreMatching(Given(noise=n), law=At(t))
        now: Any = np.zeros((), np.float32)
        return matching.loss(denoiser, (), y, now, key=KEY)[0] * y.size

    found = jax.jit(jax.vmap(one))(sigma.ravel(), y, noise)
    assert_close(found, golden["edmloss_per_sample_sum"], 1e-5, 0)
    assert_close(found.mean(), golden["edmloss_total"], 1e-5, 0)


@pytest.fixture(scope="module")
def distillation():
    """`PID.authors` with teacher = student: the golden numbers, and losses by sample.

    Of given rows of its stencil, by either distance, mixed so that one compiled
    function serves both.
    """
    with jax.enable_x64(True):
        denoiser = teacher("edm_ddpmpp_uncond")
        flow = px.ProbabilityFlow(denoiser, denoiser.process)
        student = px.Student(denoiser.network, denoiser.process)
        golden = arrays("pid_loss")
        z = last(golden["z"]).astype(float)

    def losses(student, row, share):
        sides = lambda row, e: residual(student, flow, px.student.Upwind(), row, e)
        implied, clean = jax.vmap(sides)(row, z / student.process.t_max)
        clean = jax.lax.stop_gradient(clean)
        square = jax.vmap(px.distill.L2())(implied, clean)
        absolute = jax.vmap(px.distill.L1())(implied, clean)
        return share * square + (1 - share) * absolute

    def row(count):
        pid = px.PID.authors(flow, count)
        return pid, pid.stencil[jnp.asarray(golden[f"indices_N{count}"])]

    compiled = {
        "loss": eqx.filter_jit(losses),
        "gradient": eqx.filter_jit(
            eqx.filter_grad(lambda *arguments: losses(*arguments).mean())
        ),
    }
    return golden, student, row, compiled


CASES = pytest.mark.parametrize(
    ("count", "kind"), [(250, "l2"), (18, "l2"), (250, "l1")]
)


@pytest.mark.slow
@CASES
def test_the_distillation_loss_is_the_authors(distillation, count, kind, x64):
    """Tee et al. 2024, for given noise and indices."""
    golden, student, row, compiled = distillation
    pid, rows = row(count)
    if count == 250:
        assert_close(pid.times, golden["sigmas_grid_N250"], 1e-12)
    each = compiled["loss"](student, rows, jnp.asarray(float(kind == "l2")))
    key = f"teacher_init_{kind}_N{count}_f64"
    assert_close(each, golden[f"{key}_per_sample"], 5e-6, 0)
    assert_close(each.mean(), golden[f"{key}_loss"], 5e-7, 0)


@pytest.mark.slow
@CASES
def test_its_gradient_is_the_authors(distillation, count, kind, x64):
    golden, student, row, compiled = distillation
    share = jnp.asarray(float(kind == "l2"))
    gradient = compiled["gradient"](student, row(count)[1], share)
    norm = jnp.sqrt(sum((a**2).sum() for a in jax.tree.leaves(gradient.network)))
    key = f"teacher_init_{kind}_N{count}_f64"
    assert_close(norm, golden[f"{key}_gradnorm"], 5e-7, 0)


# --- the state dict -------------------------------------------------------------------


@every_golden
def test_the_state_dict_comes_back_as_it_was(name, x32):
    state = state_of(name)
    network = teacher(name).network
    back = to_state(network)
    assert {f"model.{key}" for key in back} == set(state)
    for key, array in back.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[f"model.{key}"])
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(network))


def test_what_does_not_fit_is_named(x32):
    state = state_of("edm_vp_ddpmpp")
    configuration = configuration_of("edm_vp_ddpmpp")
    first = "model.enc.16x16_conv.weight"
    less = {k: v for k, v in state.items() if k != first}
    cases: list[tuple[Any, Any, str]] = [
        (configuration, less, r"1 missing:\s+enc.16x16_conv.weight"),
        (configuration, {**state, "model.more": 0}, r"1 unexpected:\s+more"),
        (
            configuration,
            {**state, first: state[first][:, :2]},
            r"enc.16x16_conv.weight: found \(16, 2, 3, 3\), expected \(16, 3, 3, 3\)",
        ),
        ({**configuration, "resample_filter": [1, 3, 3, 1]}, state, "of another shape"),
        ({**configuration, "resample_filter": [1, 2]}, state, "Make the network"),
        ({**configuration, "depth": 3}, state, "got also depth"),
        ({**configuration, "class_name": "Other"}, state, "class_name must be one of"),
        ({**configuration, "model_type": "Net"}, state, "model_type must be one of"),
        (configuration, {**state, "u": np.ones(3)}, "belongs to iDDPMPrecond"),
        ({**configuration, "class_name": "iDDPMPrecond"}, state, "table `u`"),
    ]
    for given, arrays_, message in cases:
        if "table `u`" in message:
            given = {**given, "img_channels": 3}
            arrays_ = _with_variance(arrays_)
        with pytest.raises(ValueError, match=message):
            teacher_from(given, arrays_)


def _with_variance(state):
    """The state of a network with twice the channels of output."""
    double = lambda k, v: np.concatenate([v, v]) if "aux_conv" in k else v
    return {k: double(k, v) for k, v in state.items()}


@pytest.mark.slow
def test_an_iddpm_checkpoint_brings_its_levels(x32):
    state = _with_variance(state_of("edm_vp_ddpmpp"))
    levels = np.asarray(px.denoiser.iddpm_levels(50), np.float32)
    configuration = {**configuration_of("edm_vp_ddpmpp"), "class_name": "iDDPMPrecond"}
    denoiser = teacher_from(configuration, {**state, "u": levels})
    coefficients: Any = denoiser.coefficients
    assert coefficients.levels == tuple(levels.tolist())
    assert denoiser.interval == pytest.approx((levels[-2], levels[0]))
    x = jnp.full((16, 16, 3), 0.3)
    first = denoised(denoiser, x[None], jnp.array([levels[20]]), None, None)[0]
    c_in, c_noise = 1 / np.hypot(levels[20], 1), jnp.array([29.0])
    noise = answered(denoiser.network, c_in * x[None], c_noise)[0, ..., :3]
    assert_close(first, x - levels[20] * noise, 1e-5)


def test_a_students_checkpoint_has_no_prefix_and_no_augmentation(x32):
    state = state_of("edm_ddpmpp_uncond")
    bare = {
        key.removeprefix("model."): array
        for key, array in state.items()
        if "map_augment" not in key
    }
    network = network_from(configuration_of("edm_ddpmpp_uncond"), bare)
    full = teacher("edm_ddpmpp_uncond").network
    assert network.embedding.augment is None
    left_out = set(names(full, edm_naming)) - set(names(network, edm_naming))
    assert left_out == {"map_augment.weight"}
    assert teacher_from(configuration_of("edm_ddpmpp_uncond"), bare).classes is None


# --- every kind, against plain loops in NumPy ----------------------------------------

SMALL: dict[str, Any] = dict(resolution=8, width=8, multipliers=(1, 2), blocks=1)
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ncsnpp": (
        SongUNet.ncsnpp,
        dict(SMALL, attention=(4,), classes=3, augments=2, blocks=2),
    ),
    "skips": (
        SongUNet,
        dict(SMALL, encoder="skip", decoder="skip", taps=(1, 3, 3, 1), attention=()),
    ),
    "three levels": (
        SongUNet,
        dict(SMALL, encoder="residual", decoder="skip", multipliers=(1, 1, 2)),
    ),
    "adm": (
        DhariwalUNet,
        dict(SMALL, width=64, attention=(4,), classes=3, augments=2),
    ),
}


def filled(make, options, seed=5):
    """A network with weights that let every part be heard."""
    network = structure(make, 3, 4, **options)
    rng = np.random.default_rng(seed)
    own, state = (
        {e.name: e.fixed for e in edm_naming(network) if e.fixed is not None},
        {},
    )
    for name, shape in names(network, edm_naming).items():
        spread = 0.3 if len(shape) < 2 else 1 / np.sqrt(np.prod(shape[1:]))
        base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = own.get(name, base + spread * rng.normal(size=shape))
    return from_state(network, state), state


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_plain_one(kind, x64):
    make, options = KINDS[kind]
    network, state = filled(make, options)
    rng = np.random.default_rng(6)
    x, c_noise = rng.normal(size=(2, 3, 8, 8)), np.array([-0.4, 0.7])
    labels = augment = None
    if "classes" in options:
        labels, augment = np.eye(3)[[2, 0]], rng.normal(size=(2, 2))
    found = answered(network, last(x), c_noise, labels, augment)
    taps = (1, 3, 3, 1) if kind == "ncsnpp" else options.get("taps", (1, 1))
    encoder = "residual" if kind == "ncsnpp" else options.get("encoder", "standard")
    family = "adm" if kind == "adm" else "song"
    size = len(options["multipliers"]), options["blocks"]
    plain = Reference(state, family, taps, encoder, size=size)
    for i in range(2):
        extra = () if labels is None or augment is None else (labels[i], augment[i])
        expected = plain(x[i], c_noise[i], *extra)
        # The plain one has its positional frequencies in float64.
        assert_close(found[i], last(expected), 0, 3e-7 if kind != "ncsnpp" else 1e-11)
    if labels is None or augment is None:
        return
    none = answered(network, last(x), c_noise, jnp.zeros((2, 3)))
    assert_close(none[0], last(plain(x[0], c_noise[0], np.zeros(3))), 0, 3e-7)
    assert np.abs(none - found).max() > 1e-3
    moved = answered(network, last(x), c_noise, labels, augment + 1)
    assert np.abs(moved - found).max() > 1e-3
