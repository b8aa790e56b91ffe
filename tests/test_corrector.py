"""The corrector: its pull in closed form, its auxiliary denoiser, its bad input."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close

import pidax as px
from pidax.distill import PID, Corrector, LogNormal, Ramp, Sum
from pidax.train._step import split_objective

EDM = px.EDM()
KEY = jax.random.key(3)
NOW: Any = np.ones((), np.float32)  # at the end of a run
MEAN, SCALE, SHIFT = np.array([0.3, -0.2]), 0.4, np.array([0.25, 0.1])


class Affine(eqx.Module):
    """A "network" whose clean sample is `scale * unit + mean`, at any time."""

    mean: jax.Array
    scale: jax.Array

    classes = None
    shape = (2,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        # c_in z of `CleanCoefficients` at t_max, where the noise is all but everything.
        return self.mean + self.scale * x


def student(shift=SHIFT, scale=SCALE):
    network = Affine(jnp.asarray(MEAN + shift), jnp.asarray(scale))
    return px.Student(network, EDM)


def exact(mean=MEAN, scale=SCALE):
    return px.Gaussian(jnp.asarray(mean), scale**2)


def flow():
    return px.ProbabilityFlow(exact(), EDM)


def gradients(corrector, model, count=4000):
    """Of the loss in the student and in the auxiliary denoiser: means, and errors."""
    state = corrector.init(model, key=KEY)

    @jax.jit
    @jax.vmap
    def one(key):
        def loss(both):
            whole = eqx.tree_at(lambda s: s.auxiliary, state, both[1])
            return corrector.loss(both[0], whole, None, NOW, key=key)[0]

        return eqx.filter_grad(loss)((model, state.auxiliary))

    found = one(jax.random.split(KEY, count))
    mean = jax.tree.map(lambda a: np.mean(a, axis=0), found)
    error = jax.tree.map(lambda a: np.std(a, axis=0) / np.sqrt(count), found)
    return mean, error


@pytest.mark.parametrize("divergence", ["kl", "fisher"])
def test_the_pull_is_the_difference_of_the_denoisers(divergence, x64):
    """For Gaussians of one size it is the shift times w = sigma²/(s² + sigma²).

    Of the Fisher divergence it is w² times the shift: the difference of the denoisers
    is constant, and D - x changes by -w times the change of x.
    """
    level, model = 1.7, student()
    corrector = Corrector(
        flow(),
        exact(MEAN + SHIFT),
        weight=0.6,
        law=LogNormal(np.log(2 * level), 1e-9),
        divergence=divergence,
    )
    state = corrector.init(model, key=KEY)
    loss = lambda model: corrector.loss(model, state, None, NOW, key=KEY)[0]
    found = eqx.filter_jit(eqx.filter_grad(loss))(model).network.mean
    z_key, _, _, noise_key = jax.random.split(KEY, 4)
    x = np.asarray(model.sample(80.0 * jax.random.normal(z_key, (2,))))
    noised = x + level * np.asarray(jax.random.normal(noise_key, (2,)))
    taught = MEAN + SCALE**2 / (SCALE**2 + level**2) * (noised - MEAN)
    share = level**2 / (SCALE**2 + level**2)
    gap = SHIFT * share ** (1 if divergence == "kl" else 2)
    by_mean = 1 - EDM.t_min / EDM.t_max  # dx/d(mean), for the sample keeps some noise
    wanted = by_mean * 0.6 * gap / np.abs(x - taught).mean() / 2
    assert_close(found, wanted, 1e-6)
    assert (found > 0).all()  # down the gradient is towards the teacher


@pytest.mark.parametrize(
    "make",
    [
        px.distill.DiffInstruct,
        pytest.param(px.distill.ScoreIdentity, marks=pytest.mark.slow),
    ],
)
def test_where_the_laws_agree_nothing_pulls(make, x64):
    model = student(0 * SHIFT)
    corrector = make(flow(), auxiliary=exact())
    (found, own), (_, error) = gradients(corrector, model)
    assert_close(found.network.mean, 0.0, 0.0, 1e-12)
    assert_close(found.network.scale, 0.0, 0.0, 1e-12)
    # The exact denoiser of the student's law is the auxiliary denoiser's optimum.
    assert np.all(np.abs(own.mean) < 4 * error.mean)


def test_the_auxiliary_denoiser_learns_the_students_law(x64):
    """Its gradient vanishes at the student's own denoiser, not at the teacher's."""
    at = lambda mean: gradients(Corrector(flow(), exact(mean), weight=0.0), student())
    (model, own), (_, error) = at(MEAN + SHIFT)
    assert np.all(np.abs(own.mean) < 4 * error.mean)
    assert_close(model.network.mean, 0.0, 0.0, 1e-12)
    (_, own), (_, error) = at(MEAN)
    assert np.all(own.mean < -10 * error.mean)  # up to the student's mean


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_before_its_ramp_the_student_is_left_alone(x64, start):
    model = student()
    corrector = Corrector(flow(), exact(MEAN + SHIFT), weight=Ramp(1.0, 0.5, 0.6))
    state = corrector.init(model, key=KEY)
    loss = lambda m: corrector.loss(m, state, None, jnp.asarray(start), key=KEY)[0]
    assert not np.any(eqx.filter_grad(loss)(model).network.mean)


@pytest.mark.slow  # trains
@pytest.mark.parametrize("make", [px.distill.DiffInstruct, px.distill.ScoreIdentity])
def test_it_moves_a_student_to_the_teachers_law(make, x32):
    """Beside no other loss: the mean and the scale of an affine student."""
    model = student(scale=0.6)
    corrector = make(flow(), auxiliary=exact(MEAN + SHIFT, 0.6))
    result = px.fit(
        model,
        Sum([(corrector, 1.0)]),
        steps=1000,
        batch_size=128,
        optimiser=optax.adam(px.warmup_cosine(2e-2, 1000)),
        ema=(0.98,),
        key=KEY,
        log_every=1000,
        progress=False,
    )
    network = result.ema().network
    assert_close(network.mean, MEAN, 0.0, 0.04)
    assert_close(network.scale, SCALE, 0.0, 0.04)


def test_a_network_is_trained_without_its_frequencies(x32):
    network = px.nn.MLP(2, 2, width=4, depth=1, key=KEY)
    teacher = px.Preconditioned(network, EDM)
    corrector = Corrector(px.ProbabilityFlow(teacher, EDM))
    state = corrector.init(student(), key=KEY)
    trained = {id(leaf) for leaf in corrector.trainable(state)}
    auxiliary: Any = state.auxiliary
    weights = auxiliary.network
    assert id(weights.out.weight) in trained
    assert id(weights.input.weight) in trained
    fixed = jax.tree.leaves(state.auxiliary, is_leaf=lambda n: isinstance(n, px.EDM))
    assert not any(id(leaf) in trained for leaf in fixed if isinstance(leaf, px.EDM))
    frequencies = jax.tree.leaves(weights.embedding.features)
    assert not any(id(leaf) in trained for leaf in frequencies)


def test_bad_input(x32):
    with pytest.raises(ValueError, match="expected a Preconditioned teacher to copy"):
        Corrector(flow())
    bare = eqx.tree_at(
        lambda d: jax.tree.leaves(d), exact(), [0] * len(jax.tree.leaves(exact()))
    )
    with pytest.raises(ValueError, match="got none in a Gaussian"):
        Corrector(flow(), bare).check(student(), None)
    three = px.Gaussian(jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Corrector(flow(), three).check(student(), None)
    with pytest.raises(ValueError, match="weight must be finite"):
        Corrector(flow(), exact(), weight=-1.0)


@pytest.mark.slow  # compiles a step of two objectives
def test_it_goes_beside_pid(x32):
    """Both losses and both states in one sum."""
    model = student()
    upwind = px.student.Upwind()
    pid = PID(flow(), times=px.karras(4, EDM), derivative=upwind)
    corrector = Corrector(flow(), exact(MEAN + SHIFT), weight=0.0)
    both = Sum([(pid, 1.0), (corrector, 1.0)])
    state = both.init(model, key=KEY)
    keys = jax.random.split(KEY, 2)
    one, two = (
        o.loss(model, s, None, NOW, key=k)[0]
        for o, s, k in zip((pid, corrector), state, keys, strict=True)
    )
    total, (_, terms) = both.loss(model, state, None, NOW, key=KEY)
    assert_close(total, one + two, 1e-5)
    assert {"residual", "gap", "denoising_error"} <= set(terms)
    # What the optimiser trains is put back where it was.
    arrays, put = split_objective(both, state)
    moved = put(jax.tree.map(lambda a: a + 1, arrays))
    assert_close(moved[1].auxiliary.mean, state[1].auxiliary.mean + 1, 1e-6)
    assert eqx.tree_equal(moved[0], state[0])


def test_distribution_matching_is_the_pull_and_pairs():
    both = px.distill.DistributionMatching(flow(), auxiliary=exact(), pairs=8)
    assert isinstance(both, Sum)
    law, ends = both.objectives
    assert isinstance(ends, px.distill.KnowledgeDistillation)
    assert isinstance(law, Corrector)
    assert law.weight == 1
    assert ends.times.size == 2
    alone = px.distill.DistributionMatching(flow(), 0, auxiliary=exact())
    assert isinstance(alone, Corrector)
