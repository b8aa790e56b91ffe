"""Suites of problems and methods, and which of them go together."""

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

from .. import SUITES as NAMES
from ._configuration import describe

PACKAGE = __name__.split(".")[0]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method answers: metrics, cost, and the precision it computed in."""

    metrics: dict[str, Any]
    cost: dict[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A problem on the list of a suite; `make` is called when it is needed."""

    suite: str
    name: str
    label: str
    make: Callable[[bool], Any]
    kind: str
    seeds: tuple[int, ...] | None
    quick: bool

    @functools.cached_property
    def _made(self) -> dict[bool, Any]:
        return {}

    def made(self, *, quick: bool) -> Any:
        """The problem itself, made once."""
        if quick not in self._made:
            self._made[quick] = self.make(quick)
        return self._made[quick]

    def configuration(self, *, quick: bool) -> Any:
        """By its own account, or by the source of the function that makes it."""
        made = self.made(quick=quick)
        own = hasattr(made, "configuration") or dataclasses.is_dataclass(made)
        return describe(made if own else self.make)


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A method on the list of a suite: `run(problem, seed, quick)` is its outcome."""

    suite: str
    name: str
    label: str
    run: Any  # a function `(problem, seed, quick) -> Outcome`, or an object that is one
    on: tuple[str, ...]
    seeds: tuple[int, ...]
    quick: bool
    group: str

    def takes(self, problem: Problem) -> bool:
        """Whether the problem is one of its own, by name or kind."""
        return problem.kind in self.on or problem.name in self.on

    def configuration(self, problem: Any) -> Any:
        """By its own account for this problem, or by its source."""
        own = getattr(self.run, "configuration_on", None)
        return describe(own(problem) if own else self.run)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Problems and methods by name, in the order in which they were registered."""

    name: str
    problems: dict[str, Problem] = dataclasses.field(default_factory=dict)
    methods: dict[str, Method] = dataclasses.field(default_factory=dict)

    @property
    def doc(self) -> str:
        """The docstring of its package, in one line."""
        package = importlib.import_module(f"{PACKAGE}.{self.name}")
        return " ".join(str(package.__doc__).split())


SUITES: dict[str, Suite] = {name: Suite(name) for name in NAMES}


def suite(name: str) -> Suite:
    """The suite of this name, with all files of its package read."""
    found = SUITES[_known("suite", name, list(SUITES))]
    if name in NAMES:
        package = importlib.import_module(f"{PACKAGE}.{name}")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package.__name__}.{module.name}")
    return found


def problem(
    suite: str,
    name: str = "",
    *,
    label: str = "",
    kind: str = "",
    seeds: tuple[int, ...] | None = None,
    quick: bool = True,
) -> Callable[[Any], Any]:
    """Put a function `make(quick)` on a suite's list of problems.

    **Arguments:**

    - `name`, `label`: for the command line and for tables; the function's name.
    - `kind`: which methods take it; methods take the problems of kind "" by default.
    - `seeds`: the only ones on which methods are run unless one is asked for.
    - `quick`: whether `--quick` runs it.
    """

    def register(make: Any) -> Any:
        own = name or make.__name__
        entry = Problem(suite, own, label or own, make, kind, seeds, quick)
        _new(suite, "problem", own, SUITES[_known("suite", suite, list(SUITES))])
        SUITES[suite].problems[own] = entry
        return make

    return register


def method(
    suite: str,
    name: str = "",
    *,
    label: str = "",
    on: tuple[str, ...] = ("",),
    seeds: tuple[int, ...] = (0,),
    quick: bool = True,
    group: str = "",
) -> Callable[[Any], Any]:
    """Put a function `run(problem, seed, quick) -> Outcome` on a suite's list.

    **Arguments:**

    - `name`, `label`: for the command line and for tables; the function's name.
    - `on`: the names or kinds of the problems that it takes.
    - `seeds`: what is run when no seed is asked for.
    - `quick`: whether `--quick` runs it.
    - `group`: which part of the suite's tables shows it.
    """

    def register(run: Any) -> Any:
        own = name or run.__name__
        entry = Method(suite, own, label or own, run, on, seeds, quick, group)
        _new(suite, "method", own, SUITES[_known("suite", suite, list(SUITES))])
        SUITES[suite].methods[own] = entry
        return run

    return register


def pairs(
    suite: Suite, problem: str = "", method: str = "", *, quick: bool = False
) -> Iterator[tuple[Problem, Method]]:
    """Problems and the methods that take them; names may hold `*`.

    Quick without names: every problem and every method once, as far as they are quick.
    """
    problems = _chosen(suite, "problem", problem, suite.problems)
    methods = _chosen(suite, "method", method, suite.methods)
    every = [(p, m) for p in problems for m in methods if m.takes(p)]
    if not every:
        raise ValueError(
            f"expected a method that takes the problem, got --problem {problem} and "
            f"--method {method} of {suite.name}, which do not go together; "
            "`python -m benchmarks list` says which do"
        )
    if quick and not (problem or method):
        every = _once([(p, m) for p, m in every if p.quick and m.quick])
    yield from every


def _once(every: list[tuple[Problem, Method]]) -> list[tuple[Problem, Method]]:
    """Every method on a problem of its own if there is one; then other problems.

    The methods that take the fewest problems choose first.
    """
    of: dict[Method, list[Problem]] = {}
    for problem, method in every:
        of.setdefault(method, []).append(problem)
    kept: list[tuple[Problem, Method]] = []
    for method in sorted(of, key=lambda method: len(of[method])):
        fresh = [problem for problem in of[method] if problem not in dict(kept)]
        kept.append(((fresh or of[method])[0], method))
    for problem, method in every:
        if problem not in dict(kept):
            kept.append((problem, method))
    return sorted(kept, key=every.index)


def _chosen(suite: Suite, what: str, name: str, known: dict[str, Any]) -> list[Any]:
    if not name:
        return list(known.values())
    if any(letter in name for letter in "*?"):
        found = fnmatch.filter(known, name)
        if found:
            return [known[one] for one in found]
    return [known[_known(f"{what} of the suite {suite.name}", name, list(known))]]


def _known(what: str, name: str, names: list[str]) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, 5, 0.3)
    shown = names if len(names) <= 12 else close or names[:12]
    raise ValueError(
        f"expected a {what}, one of {', '.join(shown)}"
        f"{', ...' if len(shown) < len(names) else ''}; got {name!r}; "
        "`python -m benchmarks list` shows them all"
    )


def _new(suite: str, what: str, name: str, found: Suite) -> None:
    known = found.problems if what == "problem" else found.methods
    if name in known:
        raise ValueError(
            f"expected a new name for a {what} of the suite {suite}, got {name!r}, "
            "which is taken; give another, by name="
        )
