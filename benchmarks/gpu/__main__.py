"""Every number of pidax on a GPU, in one command.

    python -m benchmarks.gpu --minutes 9        # on a machine with a GPU
    python -m benchmarks.gpu --dry              # every line, tiny, on a CPU; no numbers
    python -m benchmarks.gpu --only images      # parts whose name has this in it

Each part (`PARTS`, in the order of their worth) runs in a process of its own, so that
its peak of memory is its own and a part that fails or runs out of memory costs only
itself. Rows are written as they come to benchmarks/results/gpu.json (with `--out DIR`
there too), and a row that is there is not measured again: an interrupted suite goes on
where it was. `--minutes` is a limit: parts that it leaves no time for are named in the
file. The persistent compilation cache is in outputs/gpu/. `--dry` runs most parts in
one process and the fields in another, without XLA's expensive optimisations.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import FAST_COMPILING
from benchmarks.gpu import NO_GPU

ROOT = Path(__file__).parents[2]
STORE = ROOT / "outputs/gpu"
TARGET = ROOT / "benchmarks/results/gpu.json"
# name, seconds that it is given at most, and at least: it is not begun with fewer
PARTS = (
    ("peaks", 60, 30),
    ("images paper bf16", 260, 120),
    ("torch", 260, 90),
    ("smoke", 170, 60),
    ("sampling", 100, 60),
    ("precision", 60, 30),
    ("pmap", 60, 40),
    ("darcy", 300, 90),
    ("images ours bf16", 200, 120),
    ("images paper f32", 200, 120),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, help="a folder for copies of the results")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    target = STORE / "dry.json" if arguments.dry else TARGET
    STORE.mkdir(parents=True, exist_ok=True)
    if arguments.dry:
        target.unlink(missing_ok=True)
    path = [str(ROOT / "src"), str(ROOT)]
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(
            [*path, *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        XLA_PYTHON_CLIENT_MEM_FRACTION="0.92",
        PYTHONUNBUFFERED="1",
        MPLBACKEND="agg",
    )
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(STORE / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    if arguments.dry:
        flags = f"{environment.get('XLA_FLAGS', '')} {FAST_COMPILING}"
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    chosen = [part for part in PARTS if arguments.only in part[0]]
    if not chosen:
        raise SystemExit(
            f"--only must be in the name of a part, got {arguments.only!r}. The parts "
            f"are {', '.join(name for name, _, _ in PARTS)}."
        )
    fields = None
    if any(name == "darcy" for name, _, _ in chosen):  # made beside the other parts
        quiet = environment | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        fields = subprocess.Popen(
            _command("darcy data", target, arguments.dry), env=quiet, cwd=ROOT
        )
    left_out: dict[str, str] = {}

    def measure(part: tuple[str, int, int]) -> None:
        name, most, least = part
        left = end - time.monotonic()
        if not arguments.dry and left < least:
            left_out[name] = f"not begun: {left:.0f} s were left, it needs {least}"
            return
        if name == "darcy" and fields is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                fields.wait(None if arguments.dry else max(left - least, 1))
        command = _command(name, target, arguments.dry)
        limit = None if arguments.dry else min(most, left)
        start = time.monotonic()
        try:
            code = subprocess.run(
                command, env=environment, cwd=ROOT, timeout=limit, check=False
            ).returncode
            if code == NO_GPU:  # the others would say the same
                sys.exit(NO_GPU)
            if code:
                left_out[name] = f"failed with exit status {code}"
        except subprocess.TimeoutExpired:
            left_out[name] = f"stopped after {limit:.0f} s"
        print(f"=== {name}: {time.monotonic() - start:.0f} s", flush=True)
        if arguments.out and target.exists():
            arguments.out.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, arguments.out)

    try:
        if arguments.dry:  # nothing is timed: two at once
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(measure, _together(chosen)))
        else:
            for part in chosen:
                measure(part)
    finally:
        if fields is not None:
            fields.kill()
    left_out = _finish(target, left_out, arguments)
    if left_out:
        print("Not measured:", json.dumps(left_out, indent=1))
    if arguments.dry and left_out:
        sys.exit(1)


def _together(parts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """As few processes as will do: Python and JAX start for each."""
    alone = [part for part in parts if part[0] in ("torch", "darcy")]
    names = [part[0] for part in parts if part not in alone]
    return [*alone, *([(",".join(names), 0, 0)] if names else [])]


def _command(name: str, target: Path, dry: bool) -> list[str]:
    script = "torch_step.py" if name == "torch" else "parts.py"
    words = [sys.executable, str(Path(__file__).parent / script), name, str(target)]
    return [*words, *(["--dry"] if dry else [])]


def _finish(target: Path, left_out: dict[str, str], arguments) -> dict[str, str]:
    """What was not measured is said in the file, with the reason that a part gave."""
    if not target.exists():
        return left_out
    found = json.loads(target.read_text())
    left_out = left_out | found.pop("failed", {})
    text = json.dumps({**found, "not_measured": left_out}, indent=1) + "\n"
    new = target.with_suffix(".new")
    new.write_text(text)
    os.replace(new, target)
    if arguments.out:
        shutil.copy(target, arguments.out)
    return left_out


if __name__ == "__main__":
    main()
