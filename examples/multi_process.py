"""Data-parallel training over several processes, shown on this machine.

Starts two processes, as a cluster's scheduler would start one on each node, and a
third run alone; all train the same model with the same arguments. The only difference
is the call of `jax.distributed.initialize`. Checks that the two processes end with the
same weights, bit for bit, and with those of the single process to rounding.

    python examples/multi_process.py
"""

import hashlib
import json
import os
import socket
import subprocess
import sys

PROCESSES = 2


def train():
    """What every process runs: nothing in it says how many there are."""
    import jax
    import numpy as np

    import pidax as px

    law = px.GaussianMixture.ring()
    keys = jax.random.split(jax.random.key(0), 4_096)
    data = jax.vmap(lambda key: law.sample(key=key))(keys)
    process = px.EDM()
    network = px.nn.MLP(2, 2, width=64, depth=3, key=jax.random.key(1))
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=np.asarray(data),
        steps=200,
        batch_size=256,  # of the whole run, not of one process
        key=jax.random.key(2),
        progress=False,
    )
    arrays = [np.asarray(a) for a in jax.tree.leaves(result.state.model)]
    marks = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
    norm = float(np.sqrt(sum((a.astype(float) ** 2).sum() for a in arrays)))
    loss = [float(x) for x in result.history["loss"]]
    return {"devices": jax.device_count(), "bits": marks, "norm": norm, "loss": loss}


def launch(process, processes, port):
    """This script again, as one of several processes."""
    place = {"RANK": str(process), "WORLD": str(processes), "PORT": str(port)}
    command = [sys.executable, *(["-W", "error"] if sys.warnoptions else []), __file__]
    return subprocess.Popen(
        command, env={**os.environ, **place}, stdout=subprocess.PIPE, text=True
    )


def worker():
    import jax

    if int(os.environ["WORLD"]) > 1:
        # On SLURM and most clusters: jax.distributed.initialize(), without arguments.
        jax.distributed.initialize(
            coordinator_address=f"localhost:{os.environ['PORT']}",
            num_processes=int(os.environ["WORLD"]),
            process_id=int(os.environ["RANK"]),
        )
    print(json.dumps(train()))


def run(processes):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = [launch(i, processes, port) for i in range(processes)]
    outputs = [process.communicate(timeout=600)[0] for process in started]
    codes = [process.returncode for process in started]
    assert not any(codes), f"expected every process to end well, got {codes}"
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


def main():
    (alone,) = run(1)
    together = run(PROCESSES)
    for name, rows in (("alone", [alone]), ("together", together)):
        for row in rows:
            print(
                f"{name:>9}: {row['devices']} devices, loss {row['loss'][-1]:.7f}, "
                f"|weights| {row['norm']:.7f}, bits {row['bits'][:12]}"
            )
    assert len({row["bits"] for row in together}) == 1, "expected identical weights"
    gap = abs(together[0]["norm"] / alone["norm"] - 1)
    loss_gap = max(
        abs(a / b - 1) for a, b in zip(together[0]["loss"], alone["loss"], strict=True)
    )
    print(
        f"relative gaps to the single process: weights {gap:.1e}, loss {loss_gap:.1e}"
    )
    assert gap < 1e-5, f"expected the weights within 1e-5, got {gap}"
    assert loss_gap < 1e-4, f"expected the losses within 1e-4, got {loss_gap}"


if __name__ == "__main__":
    worker() if "RANK" in os.environ else main()
