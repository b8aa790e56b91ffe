"""OpenAI's checkpoints: the same networks as EDM's ADM under other names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

import pidax as px
from pidax.convert import CheckpointError, load_consistency, load_openai
from pidax.convert._edm import to_state
from pidax.convert._openai import openai_naming
from pidax.convert._state_dict import fill, names, structure, written
from pidax.denoiser import ConsistencyCoefficients, EDMCoefficients

# Two levels, one block each, attention on the coarse grid alone.
OPTIONS: dict[str, Any] = dict(
    resolution=8, width=64, multipliers=(1, 2), blocks=1, attention=(4,), classes=3
)
# Their names beside EDM's, block by block, written down from the published module.
BLOCKS = {
    "input_blocks.1.0": "enc.8x8_block0",
    "input_blocks.2.0": "enc.4x4_down",
    "input_blocks.3.0": "enc.4x4_block0",
    "middle_block.0": "dec.4x4_in0",
    "middle_block.2": "dec.4x4_in1",
    "output_blocks.0.0": "dec.4x4_block0",
    "output_blocks.1.0": "dec.4x4_block1",
    "output_blocks.1.2": "dec.8x8_up",  # after the attention of its level
    "output_blocks.2.0": "dec.8x8_block0",
    "output_blocks.3.0": "dec.8x8_block1",
}
ATTENTION = {
    "input_blocks.3.1": "enc.4x4_block0",
    "middle_block.1": "dec.4x4_in0",
    "output_blocks.0.1": "dec.4x4_block0",
    "output_blocks.1.1": "dec.4x4_block1",
}
IN_BLOCK = {
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
    "skip_connection": "skip",
}
OTHERS = {
    "time_embed.0": "map_layer0",
    "time_embed.2": "map_layer1",
    "input_blocks.0.0": "enc.8x8_conv",
    "out.0": "out_norm",
    "out.2": "out_conv",
}


def renamed(state, flash):
    """EDM's state dict by OpenAI's names; only the labels and attention differ."""
    pairs = dict(OTHERS)
    pairs |= {
        f"{a}.{x}": f"{b}.{y}" for a, b in BLOCKS.items() for x, y in IN_BLOCK.items()
    }
    inside = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}
    pairs |= {
        f"{a}.{x}": f"{b}.{y}" for a, b in ATTENTION.items() for x, y in inside.items()
    }
    found = {"label_emb.weight": state["map_label.weight"].T}  # a row for each class
    for there, here in pairs.items():
        for part in ("weight", "bias"):
            if f"{here}.{part}" in state:
                array = state[f"{here}.{part}"]
                if there.endswith("qkv"):
                    array = rows(array, flash)
                found[f"{there}.{part}"] = array
    return found


def rows(array, flash, heads=2):
    """From (head, channel, q k v), EDM's, to one of OpenAI's two orders."""
    split = array.reshape(heads, -1, 3, *array.shape[1:])
    order = (2, 0, 1) if flash else (0, 2, 1)
    return split.transpose(*order, *range(3, split.ndim)).reshape(array.shape)


@pytest.fixture(scope="module")
def network():
    return make(**OPTIONS)


def make(**options):
    whole: Any = dict(dropout=0.0, key=jax.random.key(0), **options)
    return drawn(lambda: px.nn.DhariwalUNet(3, 3, **whole))


@pytest.mark.slow
@pytest.mark.parametrize("flash", [True, False])
def test_every_array_is_found_under_its_published_name(network, flash):
    state = renamed(to_state(network), flash)
    empty = structure(px.nn.DhariwalUNet, 3, 3, dropout=0.0, **OPTIONS)
    naming = openai_naming(flash)
    assert names(empty, naming) == {k: v.shape for k, v in state.items()}
    back = fill(empty, state, naming)
    pairs = zip(jax.tree.leaves(back), jax.tree.leaves(network), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_the_names_of_imagenet_at_64():
    """As in the published files: 296 million parameters, 12 blocks down, 16 up."""
    whole = structure(px.nn.DhariwalUNet, 3, 3, resolution=64, classes=1000)
    found = names(whole, openai_naming(True))
    count = sum(int(np.prod(shape)) for shape in found.values())
    assert round(count / 1e6) == 296
    assert found["label_emb.weight"] == (1000, 768)
    assert found["input_blocks.15.1.qkv.weight"] == (2304, 768, 1, 1)
    assert found["output_blocks.15.0.skip_connection.weight"] == (192, 384, 1, 1)
    assert found["output_blocks.3.2.in_layers.2.weight"] == (768, 768, 3, 3)
    assert "output_blocks.15.1.qkv.weight" not in found  # none at 64 by 64
    assert "input_blocks.16.0.in_layers.0.weight" not in found


@pytest.mark.slow
def test_files_are_read_and_small_normalisations_refused(tmp_path):
    wide = {**OPTIONS, "width": 128, "multipliers": (1,), "attention": ()}
    net = make(**wide)
    path = tmp_path / "edm.safetensors"
    px.convert.write_safetensors(path, written(net, openai_naming(True)), {})
    teacher = load_openai(path, **wide)
    x = np.random.default_rng(2).normal(size=(8, 8, 3)).astype(np.float32)
    label = jnp.array(1)
    # Operation by operation: the three calls share what is compiled.
    scaled = net(x / np.hypot(2.0, 0.5), 250 * np.log(2.0), label)
    expected = 0.25 / 4.25 * x + 1.0 / np.sqrt(4.25) * scaled
    found = teacher(x, 2.0, condition=label)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (teacher.classes, teacher.shape) == (3, (8, 8, 3))
    model = load_consistency(path, **wide)
    at_least = model(x, 0.002, condition=label)
    np.testing.assert_allclose(at_least, x, rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"edm\.safetensors: .*192"):
        load_openai(path, **OPTIONS)
    with pytest.raises(CheckpointError, match="missing"):
        load_openai(path, **{**wide, "blocks": 2})


def test_consistency_coefficients_are_the_papers(x64):
    process, sigma = px.EDM(), jnp.array([0.002, 0.5, 80.0])
    c_skip, c_out, c_in, c_noise = ConsistencyCoefficients()(
        sigma, jnp.ones(3), process
    )
    above = sigma - 0.002
    np.testing.assert_allclose(c_skip, 0.25 / (above**2 + 0.25), rtol=1e-12)
    expected = 0.5 * above / jnp.sqrt(sigma**2 + 0.25)
    np.testing.assert_allclose(c_out, expected, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(c_in, 1 / jnp.sqrt(sigma**2 + 0.25), rtol=1e-12)
    np.testing.assert_allclose(c_noise, 250 * jnp.log(sigma), rtol=1e-12)
    thousands = EDMCoefficients(slope=250.0)(sigma, jnp.ones(3), process)[3]
    np.testing.assert_allclose(thousands, c_noise, rtol=1e-12)
