"""Run problems x methods, list them, and render the tables of the docs.

python -m benchmarks run                          # what is missing, of every suite
python -m benchmarks run --suite pid --problem ring --method 'ours*' --seed 0
python -m benchmarks run --quick                  # every suite, tiny; nothing is kept
python -m benchmarks list [--suite pid]
python -m benchmarks tables [--check | --figures]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from . import FAST_COMPILING, SUITES


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the rows that are missing")
    run.add_argument("--suite", default="", help=", ".join(SUITES))
    run.add_argument("--problem", default="", help="a name, or a pattern with *")
    run.add_argument("--method", default="", help="a name, or a pattern with *")
    run.add_argument("--seed", type=int, help="default: the method's own seeds")
    run.add_argument("--quick", action="store_true", help="tiny; nothing is kept")
    run.add_argument("--again", action="store_true", help="also rows that are there")
    listed = commands.add_parser("list", help="suites, problems, methods")
    listed.add_argument("--suite", default="")
    listed.add_argument("--stale", action="store_true", help="rows of old recipes")
    tables = commands.add_parser("tables", help="render the tables of the docs")
    tables.add_argument("--check", action="store_true", help="only compare")
    tables.add_argument("--figures", action="store_true", help="draw figures, too")
    chosen = parser.parse_args()
    try:
        return COMMANDS[chosen.command](chosen)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def run(chosen: argparse.Namespace) -> int:
    if not chosen.suite and (chosen.problem or chosen.method):
        raise ValueError(
            "expected --suite beside --problem and --method, got none; give one of "
            f"{', '.join(SUITES)}"
        )
    if not chosen.quick:
        return rows(chosen)
    # Read by JAX when it is imported, here and in the processes that suites start.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILING}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        return rows(chosen) if chosen.suite else every_suite()


def every_suite() -> int:
    """A trial run of every suite, two at a time, in processes of their own."""

    def one(suite: str) -> int:
        command = [sys.executable, "-m", "benchmarks", "run", "--quick"]
        done = subprocess.run(
            [*command, "--suite", suite], capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr if done.returncode else "", flush=True)
        return done.returncode

    with ThreadPoolExecutor(2) as pool:
        failed = [s for s, code in zip(SUITES, pool.map(one, SUITES)) if code]  # noqa: B905
    print(f"failed: {', '.join(failed)}" if failed else "every suite ran")
    return bool(failed)


def rows(chosen: argparse.Namespace) -> int:
    from . import bench

    made, failed = bench.run(
        [chosen.suite] if chosen.suite else list(SUITES),
        chosen.problem,
        chosen.method,
        chosen.seed,
        quick=chosen.quick,
        again=chosen.again,
    )
    print()
    for suite, part in made.by("suite"):
        print(f"{suite}\n{bench.grid(part)}\n")
    seconds = sum(row.cost["seconds"] for row in made)
    print(f"{len(made)} rows made in {seconds:.0f} s, {len(failed)} failed")
    for title in failed:
        print(f"failed: {title}")
    return bool(failed)


def show(chosen: argparse.Namespace) -> int:
    from . import bench

    for name in [chosen.suite] if chosen.suite else SUITES:
        suite = bench.suite(name)
        print(f"{name}: {suite.doc}")
        lines = bench.stale(name) if chosen.stale else bench.standing(name)
        print(*(f"  {line}" for line in lines), sep="\n")
        if chosen.suite and not chosen.stale:
            for method in suite.methods.values():
                said = f" ({method.label})" if method.label != method.name else ""
                print(f"  method {method.name}{said}")
    return 0


def tables(chosen: argparse.Namespace) -> int:
    from . import bench

    if not chosen.check:
        bench.render(figures=chosen.figures)
        return 0
    stale = bench.check()
    if stale:
        print("not as the rows say:", *stale, sep="\n  ")
        print("run python -m benchmarks tables")
    else:
        print("every table is as the rows say")
    return bool(stale)


COMMANDS = {"run": run, "list": show, "tables": tables}

if __name__ == "__main__":
    sys.exit(main())
