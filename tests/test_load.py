"""From files to teachers, students and distances."""

import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import pidax as px
from pidax.convert import CheckpointError, load_edm, load_lpips, load_pid
from pidax.convert.__main__ import main

DATA = Path(__file__).parent / "data"
PICKLE = DATA / "edm_ddpmpp_uncond.pkl"
STATE = DATA / "edm_ddpmpp_uncond_state_dict.ckpt"


@pytest.fixture(scope="module")
def teacher():
    return load_edm(PICKLE)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_a_teacher_is_that_of_its_configuration_and_arrays(teacher):
    """Which denoises as the golden files say: see `test_edm_networks`."""
    read = px.convert.read_checkpoint(PICKLE)
    made = read.configuration
    given = {**made["init_kwargs"], "class_name": made["class_name"]}
    assert eqx.tree_equal(teacher, px.convert.teacher_from(given, read.state))


def test_it_says_its_process_its_classes_and_its_shape(teacher):
    assert (teacher.classes, teacher.shape) == (None, (16, 16, 3))
    assert eqx.tree_equal(teacher.process, px.EDM())
    flow = px.ProbabilityFlow(teacher, teacher.process)
    assert flow.shape == (16, 16, 3)
    labelled = load_edm(DATA / "edm_adm_small_cond.pkl")
    assert labelled.classes == 4
    assert isinstance(labelled.network, px.nn.DhariwalUNet)
    noisy = load_edm(DATA / "edm_vp_ddpmpp.pkl")
    assert isinstance(noisy.process, px.VP)


def test_every_format_gives_the_same_teacher(teacher, tmp_path):
    settings = px.convert.read_checkpoint(PICKLE).configuration["init_kwargs"]
    assert same(load_edm(STATE, configuration=settings), teacher)
    out = tmp_path / "teacher.safetensors"
    assert main(["convert", str(PICKLE), str(out)]) == 0
    assert same(load_edm(out), teacher)


def test_a_students_checkpoint_is_the_network_itself(teacher):
    settings = px.convert.read_checkpoint(PICKLE).configuration["init_kwargs"]
    student = load_pid(STATE, settings)
    assert isinstance(student, px.Student)
    assert same(student.network, teacher.network)


def test_teachers_are_trained_from_and_survive_a_file(teacher, tmp_path):
    student = px.Student.from_teacher(teacher, teacher.process)
    assert student.shape == teacher.shape
    px.save(tmp_path / "teacher.pidax", teacher)
    assert same(px.load(tmp_path / "teacher.pidax"), teacher)


def test_lpips_from_its_two_files(tmp_path):
    with np.load(DATA / "lpips_tiny.npz") as golden:
        arrays = dict(golden)
    halves = {
        "vgg": {k: v for k, v in arrays.items() if k.startswith("features")},
        "lin": {f"lin{i}.model.1.weight": arrays[f"lin{i}"] for i in range(5)},
    }
    for name, state in halves.items():
        px.convert.write_safetensors(tmp_path / name, state)
    distance = load_lpips(tmp_path / "vgg", tmp_path / "lin", size=None)
    np.testing.assert_array_equal(distance.weights[2], arrays["lin2"].ravel())
    with pytest.raises(CheckpointError, match=r"(?s)vgg: .*lin0 to lin4, got"):
        load_lpips(tmp_path / "vgg", tmp_path / "vgg")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (None, "torch zip with arrays alone. Pass configuration="),
        ({"img_channels": 3, "model_type": "SongUNet"}, "missing, 'img_resolution'"),
        (
            {"img_resolution": 16, "img_channels": 3, "model_type": "SongUNet"},
            "expected exactly the arrays",
        ),
    ],
)
def test_what_a_state_dict_does_not_say_is_asked_for(configuration, message):
    with pytest.raises(CheckpointError, match=f"(?s)uncond_state_dict.*{message}"):
        load_edm(STATE, configuration=configuration)


@pytest.mark.slow
def test_a_saved_teacher_is_read_by_a_program_that_never_converts(teacher, tmp_path):
    path = tmp_path / "teacher.pidax"
    px.save(path, teacher)
    code = f"""
import sys, pidax as px
print(px.load({str(path)!r}).shape, "pidax.convert" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "(16, 16, 3) False"
