"""What Griffe, which reads the source without running it, cannot know of Equinox.

An `equinox.Module` without an `__init__` gets one from its annotated fields, as a
dataclass does; and the string in `Float[Array, "batch *event"]` names axes and is not
an expression. This extension writes both down for the API pages.
"""

import dataclasses
from typing import Any

import griffe

_NOT_FIELDS = ("AbstractVar", "AbstractClassVar", "ClassVar")


class EquinoxModules(griffe.Extension):
    """Constructors of Equinox modules, and jaxtyping's axes as they were written."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Amend the package when all of it is loaded."""
        classes = [c for module in _modules(pkg) for c in module.classes.values()]
        own = [c for c in classes if not c.is_alias]
        bare = [c for c in own if _is_equinox(c) and not _has_init(c)]
        for cls in bare:
            if not cls.name.lstrip("_").startswith("Abstract"):
                cls.set_member("__init__", _constructor(cls))
        for scope in [*_modules(pkg), *own]:
            for member in scope.members.values():
                if not member.is_alias:
                    _restore_axes(member)


def _modules(module: griffe.Module) -> list[griffe.Module]:
    inner = [m for m in module.modules.values() if not m.is_alias]
    return [module, *(found for m in inner for found in _modules(m))]


def _line(cls: griffe.Class) -> list[griffe.Class]:
    """The class and its ancestors within the package."""
    return [cls, *cls.mro()]


def _is_equinox(cls: griffe.Class) -> bool:
    bases = (base for c in _line(cls) for base in c.bases)
    return any(getattr(b, "canonical_path", b) == "equinox.Module" for b in bases)


def _has_init(cls: griffe.Class) -> bool:
    return any("__init__" in c.members for c in _line(cls))


def _constructor(cls: griffe.Class) -> griffe.Function:
    kind = griffe.ParameterKind.positional_or_keyword
    fields: dict[str, griffe.Parameter] = {}
    for ancestor in reversed(_line(cls)):
        for name, field in ancestor.members.items():
            if not field.is_attribute or "property" in field.labels:
                continue
            annotation = field.annotation
            if annotation is None or str(annotation).startswith(_NOT_FIELDS):
                continue
            default = _default(field.value)
            fields[name] = griffe.Parameter(
                name, annotation=annotation, kind=kind, default=default
            )
    parameters = griffe.Parameters(
        griffe.Parameter("self", kind=kind), *fields.values()
    )
    return griffe.Function("__init__", parameters=parameters, returns="None")


def _default(value: Any) -> Any:
    """A field's default; `eqx.field(static=True)` has none."""
    if not (isinstance(value, griffe.ExprCall) and str(value.function) == "eqx.field"):
        return value
    given = [a for a in value.arguments if getattr(a, "name", None) == "default"]
    return given[0].value if given else None


def _restore_axes(member: Any) -> None:
    annotations = [getattr(member, "annotation", None)]
    if member.is_function:
        annotations = [member.returns, *(p.annotation for p in member.parameters)]
    for annotation in annotations:
        _restore_axes_in(annotation)


def _restore_axes_in(part: Any) -> None:
    if isinstance(part, list):
        for item in part:
            _restore_axes_in(item)
    elif isinstance(part, griffe.ExprSubscript) and _is_array_type(part):
        axes = str(part.slice.elements[1]).strip("'\" ").replace(" * ", " *")
        part.slice.elements[1] = f'"{axes}"'
    elif isinstance(part, griffe.Expr):
        for field in dataclasses.fields(part):
            if field.name != "parent":
                _restore_axes_in(getattr(part, field.name))


def _is_array_type(part: griffe.ExprSubscript) -> bool:
    """Such as `Float[Array, "*event"]`."""
    of_jaxtyping = part.canonical_path.startswith("jaxtyping.")
    return of_jaxtyping and len(getattr(part.slice, "elements", ())) == 2
