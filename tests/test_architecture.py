"""The rules of the house, kept by the machine."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import pidax as px

SOURCE = Path(inspect.getfile(px)).parent
# From the ground up: a room imports only rooms before it.
LOWER = [
    "_floor",
    "types",
    "_checks",
    "_batches",
    "_files",
    "_progress",
    "_table",
    "store",
    "nn",
    "metrics",
    "pde",
    "process",
]
UPPER = [
    "denoiser",
    "flow",
    "solver",
    "_compatibility",
    "student",
    "constraint",
    "distill",
    "inference",
    "train",
]
ROOMS = [*LOWER, *UPPER, "convert", "evaluate", "plot"]
KNOW_NOTHING_OF_DIFFUSION = ("store", "nn", "metrics", "pde")
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def imports(file: Path) -> list[tuple[str, str]]:
    """(room, module within it) of every import of pidax in the file."""
    found = []
    package = ("pidax", *file.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            path = (*base, *(node.module.split(".") if node.module else ()))
            names = [path] if len(path) > 1 else [(*path, a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(a.name.split(".")) for a in node.names]
        else:
            continue
        found += [(n[1], ".".join(n[2:])) for n in names if n[0] == "pidax"]
    return found


def test_imports_point_downwards_and_through_the_front_door():
    for file in FILES:
        room = room_of(file)
        if room == "__init__":
            continue
        assert room in ROOMS, f"{room} has no place among the rooms"
        for other, module in imports(file):
            if other == room:
                continue
            assert ROOMS.index(other) < ROOMS.index(room), f"{file} imports {other}"
            assert not module.startswith("_"), f"{file} reaches into {other}.{module}"
            if room in KNOW_NOTHING_OF_DIFFUSION:
                allowed = (*LOWER[: LOWER.index("store")], *KNOW_NOTHING_OF_DIFFUSION)
                assert other in allowed, f"{file} must not know of {other}"


def classes():
    for module in pkgutil.walk_packages(px.__path__, "pidax."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name)):
            mine = inspect.isclass(cls) and cls.__module__ == module.name
            if mine and issubclass(cls, eqx.Module):
                yield cls


def test_a_class_is_abstract_or_final():
    """Bases are abstract by name and in fact; fields and __init__ in one class."""
    found = list(classes())
    assert len(found) > 100
    for cls in found:
        for base in cls.__mro__[1:]:
            if not base.__module__.startswith("pidax"):
                continue
            final = f"{cls} subclasses final {base}"
            assert base.__name__.startswith("Abstract"), final
            assert inspect.isabstract(base), f"{base} is called abstract but is not"
            fields = [f.name for f in dataclasses.fields(base)]
            assert not fields, f"{base} has fields {fields}: put them in final classes"
        if cls.__name__.startswith("Abstract"):
            assert inspect.isabstract(cls), f"{cls} is called abstract but is not"


def test_every_module_says_what_it_is():
    for file in FILES:
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_no_two_rooms_use_one_name_for_two_files():
    rooms: dict[str, str] = {}
    for file in FILES:
        if file.parent == SOURCE or file.name.startswith("__"):
            continue
        other = rooms.setdefault(file.name, room_of(file))
        assert other == room_of(file), f"{file.name} is in {other} and {room_of(file)}"


def test_every_argument_is_annotated():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            some = node.args
            given = [*some.posonlyargs, *some.args, *some.kwonlyargs]
            given += [one for one in (some.vararg, some.kwarg) if one is not None]
            bare = [one.arg for one in given if one.annotation is None]
            bare = [name for name in bare if name not in ("self", "cls")]
            assert not bare, f"{file}, {node.name}: annotate {bare}"


def test_public_functions_and_classes_are_documented():
    for name in dir(px):
        value = getattr(px, name)
        if name.startswith("_") or inspect.ismodule(value):
            continue
        assert value.__doc__, f"px.{name} has no docstring"


# --- the check of array arguments ----------------------------------------------------


def test_a_wrong_shape_is_named_by_argument_axis_and_size(x32):
    with pytest.raises(jaxtyping.TypeCheckError) as caught:
        px.metrics.rms_error(jnp.ones((4, 3)), jnp.ones((5, 3)))
    message = str(caught.value)
    for word in ("parameter 'reference'", "f32[5,3]", "sample *event", "sample=4"):
        assert word in message
    flow = px.ProbabilityFlow(px.Circle(), px.EDM())
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'z'"):
        px.solve(flow, jnp.ones(2, dtype=int))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'times'"):
        px.solve(flow, jnp.ones(2), times=jnp.ones((2, 2)))


def test_a_wrong_type_takes_a_screen_and_names_the_function():
    """Of a call with large arguments too: a student has a page of them."""
    key = jax.random.key(0)
    network = px.nn.MLP(2, 2, width=8, depth=4, key=key)
    student = px.Student(network, px.EDM())
    with pytest.raises(jaxtyping.TypeCheckError) as caught:
        px.solve(student, jnp.ones(2))  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "Type-check error whilst checking the parameters of pidax.flow.solve.",
        "The problem arose whilst typechecking parameter 'flow'.",
        "Actual value: Student(...)",
        "Expected type: <class 'pidax.flow._probability_flow.ProbabilityFlow'>.",
    ]
    assert caught.value.__suppress_context__
    # An error inside a call that is checked itself is the inner one's.
    wrong: Any = lambda x, t: 1
    flow = px.ProbabilityFlow(px.from_function(wrong, px.EDM()), px.EDM())
    with pytest.raises(ValueError, match="the wrapped model must return one array"):
        flow(0.5, jnp.ones(2))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"of pidax\.evaluate\.compare"):
        px.compare(flow, student, key=3)  # type: ignore[arg-type]


def test_a_class_in_place_of_its_instance_is_named():
    key = jax.random.key(0)
    network = px.nn.MLP(2, 2, width=8, depth=1, key=key)
    for make in (
        lambda: px.ProbabilityFlow(px.Circle(), px.EDM),  # type: ignore[arg-type]
        lambda: px.Student(network, px.EDM),  # type: ignore[arg-type]
        lambda: px.karras(18, px.EDM),  # type: ignore[arg-type]
        lambda: px.from_score(lambda x, t: x, px.EDM),  # type: ignore[arg-type]
    ):
        message = "process must be an instance of AbstractProcess, got the class EDM"
        with pytest.raises(ValueError, match=message):
            make()


def test_what_is_imported_when_asked_for_is_listed():
    assert {"pde", "inference", "convert", "refine", "Residual"} <= set(dir(px))


def test_the_check_can_be_switched_off():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="must hold the same samples"):  # its own
            px.metrics.rms_error(jnp.ones((4, 3)), jnp.ones((5, 3)))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
