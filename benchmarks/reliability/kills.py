"""Kill a run at random moments, fill its disk, and see whether it shows in the end.

One run is killed with SIGKILL again and again, at moments drawn from its start-up, its
training and its checkpoints (one every five steps), and resumed each time; its final
state is compared bit for bit with that of a run that was left alone. Another writes
to a file system that is full after a few checkpoints (a tmpfs where it may be mounted,
else a limit on the size of files), and is resumed when there is room again.
"""

import dataclasses
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np

import pidax as px

from .. import bench

STEPS = 2_500
SEED = 0
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Planar:
    """A two-dimensional teacher, how long it trains and how often it is killed."""

    steps: int = STEPS
    kills: int = 20


@bench.problem("reliability", label="a teacher of the ring")
def planar(quick):
    return Planar(steps=200, kills=1) if quick else Planar()


def train(directory: str, steps: int = STEPS, keep: int = 3) -> px.Result:
    """The run: a two-dimensional teacher with everything that has a state."""
    law = px.GaussianMixture.ring()
    data = jax.vmap(lambda key: law.sample(key=key))(
        jax.random.split(jax.random.key(1), 2_000)
    )
    process = px.EDM()
    network = px.nn.MLP(2, 2, width=64, depth=3, key=jax.random.key(2))
    return px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=np.asarray(data),
        steps=steps,
        batch_size=512,
        clip=1.0,
        ema=(0.99, 0.999),
        key=jax.random.key(SEED),
        directory=directory,
        checkpoint_every=5,
        keep=keep,
        log_every=20,
        progress=False,
    )


def bits(result: px.Result) -> str:
    """A hash of every bit of a run's state."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(result.state):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def start(directory: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.reliability.kills", str(directory)]
    environment = {"PYTHONWARNINGS": "default", **os.environ}
    return subprocess.Popen(
        [*command, str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(directory: Path, steps: int) -> str:
    output, _ = start(directory, steps).communicate()
    return output.strip().splitlines()[-1]


def last_step(directory: Path) -> int:
    files = (directory / "checkpoints").glob("step_*.pidax")
    return max((int(path.stem.split("_")[1]) for path in files), default=0)


def kill_again_and_again(problem: Planar, directory: Path) -> dict:
    """Bits of the killed run and of the one left alone."""
    kills, steps = problem.kills, problem.steps
    begin = time.perf_counter()
    run = start(directory / "alone", steps)
    while not last_step(directory / "alone"):
        time.sleep(0.01)
    starting = time.perf_counter() - begin
    alone = run.communicate()[0].strip().splitlines()[-1]
    training = time.perf_counter() - begin - starting
    killed, draw, moments = directory / "killed", random.Random(SEED), []
    while len(moments) < kills:
        run, before = start(killed, steps), last_step(killed)
        # One in five dies while starting, most likely; the others somewhere in the
        # share of the training that is each one's.
        early = draw.random() < 0.2
        waited = time.perf_counter()
        while not early and last_step(killed) == before and run.poll() is None:
            time.sleep(0.002)
        share = starting if early else training / kills
        time.sleep(draw.uniform(0, share))
        ended_by_itself = run.poll() is not None
        run.send_signal(signal.SIGKILL)
        run.wait()
        if ended_by_itself:
            break
        moments.append(
            {
                "seconds_after_start": time.perf_counter() - waited,
                "last_checkpoint": last_step(killed),
                "half_written_files": len(list(killed.rglob("*.tmp"))),
            }
        )
    return {
        "kills": len(moments),
        "moments": moments,
        "steps": steps,
        "alone": alone,
        "killed": finish(killed, steps),
    }


def fill_the_disk(directory: Path) -> dict:
    """A run on a file system that holds three checkpoints, then on one with room."""
    alone = bits(train(str(directory / "roomy"), steps=60))
    size = next((directory / "roomy" / "checkpoints").iterdir()).stat().st_size
    small, room = directory / "small", 3 * size + 32_768
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if mounted:
            first = None
        else:
            first = train(str(small), steps=15, keep=100)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(str(small), steps=60, keep=100)
        refused = sum("was not written" in str(w.message) for w in caught)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        kept = sorted(path.name for path in (small / "checkpoints").glob("step_*"))
        for name in kept:  # each is whole: its hashes are checked
            px.load(small / "checkpoints" / name)
        if mounted:
            again = ["mount", "-o", f"remount,size={40 * size}", str(small)]
            subprocess.run(again, check=True)
        resumed = bits(train(str(small), steps=60, keep=100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", str(small)], check=True)
    del first
    return {
        "file_system": "tmpfs" if mounted else "limit on the size of a file",
        "bytes": room if mounted else size // 2,
        "checkpoints_refused": refused,
        "checkpoints_kept_and_whole": kept,
        "alone": alone,
        "resumed_with_room": resumed,
    }


@bench.method("reliability")
def kills(problem: Planar, seed, quick):
    """Killed again and again: the bits of the run that was left alone."""
    with tempfile.TemporaryDirectory() as folder:
        found = kill_again_and_again(problem, Path(folder))
    same = found["alone"] == found["killed"]
    if not same:
        raise AssertionError(f"expected the same bits after the kills, got {found}")
    return bench.Outcome({"same_bits": same, **found})


@bench.method("reliability", "full disk", quick=False)
def full_disk(problem: Planar, seed, quick):
    """A disk that is full: refused checkpoints, whole ones, and the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        found = fill_the_disk(Path(folder))
    same = found["alone"] == found["resumed_with_room"]
    if not (same and found["checkpoints_refused"]):
        raise AssertionError(f"expected refusals and then the same bits, got {found}")
    return bench.Outcome({"same_bits": same, **found})


if __name__ == "__main__":
    print(bits(train(sys.argv[1], steps=int(sys.argv[2]))))
