"""Kills, a full disk and several processes, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.reliability import kills

ROOT = Path(__file__).parent.parent
ALONE = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}


@pytest.mark.slow
def test_four_kills_and_a_full_disk_leave_no_trace():
    """The suite `reliability`, with fewer kills."""
    kills.full_disk(kills.Planar(), 0, False)
    found = kills.kills(kills.Planar(kills=4), 0, False).metrics
    assert found["kills"] == 4
    assert found["killed"] == found["alone"]


RUN = """
import os, signal, sys
import jax, numpy as np
import pidax as px

class Square(px.distill.AbstractObjective):
    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        return jax.numpy.sum(model(sample, progress) ** 2), ({}, {})

def callback(step, terms, result):
    if step == 10:
        os.kill(os.getpid(), signal.SIGTERM)

net = px.nn.MLP(2, 2, width=4, depth=1, key=jax.random.key(0))
px.fit(net, Square(), data=np.ones((8, 2), np.float32), steps=1000, batch_size=8,
       key=jax.random.key(0), directory=sys.argv[1], log_every=10, callback=callback,
       progress=False)
print("not reached")
"""


@pytest.mark.slow
def test_a_schedulers_sigterm_writes_a_checkpoint_and_ends_the_process(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=ALONE, check=False
    )
    assert done.returncode == -15, done.stderr
    assert "not reached" not in done.stdout
    files = [path.name for path in (tmp_path / "checkpoints").glob("step_*")]
    assert len(files) == 1
    assert 10 <= int(files[0][5:14]) <= 60
