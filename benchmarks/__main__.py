"""Run problems x methods, list them, and render the tables of the docs.

python -m benchmarks run                          # what is missing, of every suite
python -m benchmarks run --suite pid --problem ring --method 'ours*' --seed 0
python -m benchmarks run --quick                  # everything, tiny; nothing is kept
python -m benchmarks list [--suite pid]
python -m benchmarks tables [--check | --figures]
"""

import argparse
import sys

from . import bench
from .bench import _registry, _runner


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the rows that are missing")
    run.add_argument("--suite", default="", help=", ".join(_registry.NAMES))
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
            f"{', '.join(_registry.NAMES)}"
        )
    suites = [chosen.suite] if chosen.suite else list(_registry.NAMES)
    made, failed = bench.run(
        suites,
        chosen.problem,
        chosen.method,
        chosen.seed,
        quick=chosen.quick,
        again=chosen.again,
    )
    print()
    for suite, rows in made.by("suite"):
        print(f"{suite}\n{bench.grid(rows)}\n")
    seconds = sum(row.cost["seconds"] for row in made)
    print(f"{len(made)} rows made in {seconds:.0f} s, {len(failed)} failed")
    print(*(f"failed: {title}" for title in failed), sep="\n", end="")
    return bool(failed)


def show(chosen: argparse.Namespace) -> int:
    for name in [chosen.suite] if chosen.suite else _registry.NAMES:
        suite = bench.suite(name)
        print(f"{name}: {suite.doc}")
        if chosen.stale:
            print(*(f"  {line}" for line in _runner.stale(name)), sep="\n")
            continue
        print(*_runner.standing(name), sep="\n")
        if chosen.suite:
            for method in suite.methods.values():
                said = f" ({method.label})" if method.label != method.name else ""
                print(f"  method {method.name}{said}")
    return 0


def tables(chosen: argparse.Namespace) -> int:
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
