"""A configuration in plain values, and its hash.

Values are described by value, functions of the bench by their source: the function's
own, without comments and docstrings, and that of every function, class and constant of
the bench that it names.
"""

import ast
import builtins
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

FUNCTIONS = types.FunctionType | types.BuiltinFunctionType | types.MethodType
PACKAGE = __name__.split(".")[0]


def digest(configuration: Any) -> str:
    """Sixteen hexadecimal digits that stand for a configuration."""
    text = json.dumps(describe(configuration), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(value: Any) -> Any:
    """A value in terms of JSON, the same for equal values and for no others.

    An object with a method `configuration()` is described by what that returns.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.bool | np.integer | np.floating):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        return _array(value)
    if hasattr(value, "configuration") and not isinstance(value, type):
        return describe(value.configuration())
    if isinstance(value, Mapping):
        return {_key(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item) for item in value), key=json.dumps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name))
                  for f in dataclasses.fields(value)}  # fmt: skip
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, functools.partial):
        call = {"call": describe(value.func), "with": describe(value.args)}
        return call | {key: describe(item) for key, item in value.keywords.items()}
    if isinstance(value, FUNCTIONS | type):
        return _code(value)
    raise ValueError(
        "expected a configuration of numbers, strings, arrays, dataclasses, named "
        f"functions, and lists or dicts of them, got {value!r} of {type(value)}; give "
        "it a method `configuration()` that returns such values"
    )


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(describe(key))


def _array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    data = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
    return {"array": data, "shape": list(array.shape), "dtype": str(array.dtype)}


def _code(value: Any) -> Any:
    """A function or class of the bench by its source, any other by its name."""
    if not _of_the_bench(value):
        return value.__qualname__
    if value.__name__ == "<lambda>":
        raise ValueError(
            "expected a named function in a configuration, whose source can be read "
            f"by itself, got a lambda of {value.__module__}; write it with def"
        )
    found = {"function": value.__qualname__, "source": code_of(value)}
    cells = getattr(value, "__closure__", None) or ()
    return found | (
        {"closure": describe([c.cell_contents for c in cells])} if cells else {}
    )


def code_of(*values: Any) -> str:
    """A hash of the source of functions and classes of the bench.

    Of an object, a list or a dict: the source of the classes in it.
    """
    seen: dict[int, Any] = {}
    return digest(
        sorted({text for value in values for text in _all_sources(value, seen)})
    )


def _all_sources(value: Any, seen: dict[int, Any]) -> list[str]:
    if isinstance(value, types.FunctionType | type):
        return _sources(value, seen) if _of_the_bench(value) else []
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif dataclasses.is_dataclass(value):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        parts = [type(value), *fields]
    else:
        parts = []
    return [text for part in parts for text in _all_sources(part, seen)]


def _of_the_bench(value: Any) -> bool:
    """Also what a test defines: whatever is neither installed nor the bench's core."""
    module = getattr(value, "__module__", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    known = module.split(".")[0] in {"pidax", *sys.stdlib_module_names}
    core = module.startswith(f"{PACKAGE}.bench")
    return bool(file) and not (known or core or "site-packages" in file)


def _sources(value: Any, seen: dict[int, Any]) -> list[str]:
    """Source texts of a function or class and of what it names."""
    if id(value) in seen:
        return []
    seen[id(value)] = value
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    found = [ast.unparse(without_docstrings(tree))]
    space = _names(value)
    for name in sorted(_loads(tree)):
        item = functools.reduce(_attribute, name.split("."), space)
        if isinstance(item, types.FunctionType | type):
            if _of_the_bench(item) and item.__name__ != "<lambda>":
                found += _sources(item, seen)
        elif item is not None and not isinstance(item, types.ModuleType):
            found += _constant(name, item)
    return found


def _constant(name: str, item: Any) -> list[str]:
    try:
        return [f"{name} = {json.dumps(describe(item), sort_keys=True)}"]
    except ValueError:
        return []


def _names(value: Any) -> Any:
    """What a name means inside a function or class: globals before builtins."""
    module = inspect.getmodule(value)
    space = getattr(value, "__globals__", None) or vars(module or builtins)
    return types.SimpleNamespace(**space)


def _attribute(item: Any, name: str) -> Any:
    """`item.name`, into modules of the bench alone."""
    inside = isinstance(item, types.SimpleNamespace) or (
        isinstance(item, types.ModuleType) and item.__name__.startswith(PACKAGE)
    )
    return getattr(item, name, None) if inside else None


def _loads(tree: ast.AST) -> set[str]:
    """Names and names of attributes, `a` and `a.b`, that a tree reads.

    Annotations are left out: they change no result.
    """
    found, skipped = set(), set()
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            words = getattr(node, name, None)
            if isinstance(words, ast.AST):
                skipped |= {id(inner) for inner in ast.walk(words)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Name):
            found.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found


def without_docstrings(tree: ast.AST) -> ast.AST:
    """A tree without decorators and without statements that are only a constant."""
    bare = lambda node: (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [n for n in node.body if not bare(n)] or [ast.Pass()]  # type: ignore
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = []
    return tree
