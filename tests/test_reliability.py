"""Kills, a full disk and several processes, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALONE = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}


KILLS = """
import json
from benchmarks.reliability import kills
few = kills.Planar(kills=4)
print(json.dumps([kills.kills(few, 0, False).metrics,
                  kills.full_disk(few, 0, False).metrics]))
"""


@pytest.mark.slow
def test_four_kills_and_a_full_disk_leave_no_trace():
    """The suite `reliability`, with fewer kills, in processes of its own."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS],
        capture_output=True,
        text=True,
        env=ALONE,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed, full = json.loads(done.stdout.splitlines()[-1])
    assert killed["kills"] == 4
    assert killed["killed"] == killed["alone"]
    assert full["resumed_with_room"] == full["alone"]
    assert full["checkpoints_refused"] > 0
    assert full["checkpoints_kept_and_whole"]


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
