"""From a name and some numbers in a YAML file to a function ready to call.

The keyword-only parameters of a function are its hyper-parameters: their annotations and defaults
are the schema, so no default is ever written twice. A parameter whose type is a `Record` is a group
of options that several functions share (the training loop's, say): its fields appear beside the
function's own, so a configuration stays flat.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from copy import copy
from functools import partial
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model
from pydantic.fields import FieldInfo

from hardening.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


class Record(BaseModel):
    """Frozen plain data; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spec(Record):
    """Names an entry of a registry and its hyper-parameters."""

    name: str
    params: dict[str, JsonValue] = {}


class Parameter(NamedTuple):
    """One hyper-parameter as a user sees it."""

    name: str
    type: str
    default: str
    meaning: str


def bind(registry: Mapping[str, F], spec: Spec, where: str = "") -> F:
    """Look `spec.name` up and fix its hyper-parameters.

    Raises:
        ConfigError: The name or a hyper-parameter is unknown, or a value has the wrong type;
            the text starts with `where`, the place in the configuration.
    """
    function = look_up(registry, spec.name, where)
    params = resolve(function, spec.params, where)
    return partial(function, **params)  # type: ignore[return-value]


def look_up(registry: Mapping[str, F], name: str, where: str = "") -> F:
    """The registry's entry, or a ConfigError that suggests the nearest name."""
    if name not in registry:
        raise ConfigError(f"{_at(where)}unknown name {name!r}, {suggest(name, registry)}")
    return registry[name]


def resolve(
    function: Callable[..., Any], params: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """All hyper-parameters of `function`: `params` checked against its schema, defaults added."""
    fields = _fields(function)
    place = f"{_at(where)}{getattr(function, '__name__', '')}"
    for name in params:
        if name not in fields:
            raise ConfigError(f"{place}: unknown parameter {name!r}, {suggest(name, fields)}")
    schema = create_model(
        "params",
        __config__=ConfigDict(extra="forbid", validate_default=True),
        **{name: (field.annotation, field) for name, field in fields.items()},  # type: ignore[call-overload]
    )
    groups = _groups(function)
    try:
        flat = dict(schema(**params))
        grouped = {
            name: type(default)(**{field: flat.pop(field) for field in type(default).model_fields})
            for name, default in groups.items()
        }
    except ValidationError as error:
        raise ConfigError(one_line(error, place)) from error
    return {**flat, **grouped}


def suggest(name: str, known: Collection[str]) -> str:
    """`did you mean ...?` when something is near, else the list of what there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    expected = f"expected one of {', '.join(sorted(known))}" if known else "none is expected"
    return f"did you mean {near[0]!r}? ({expected})" if near else expected


def one_line(error: ValidationError, where: str = "") -> str:
    """The first complaint of a validation: the field, what was expected, what was got."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in (*([where] if where else []), *first["loc"]))
    message = re.sub("^(Value error|Assertion failed), ", "", first["msg"])
    got = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {message}{got}{more}" if field else f"{message}{got}{more}"


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The hyper-parameters of `function`, read off its signature and its docstring's Args."""
    meanings = _meanings(inspect.getdoc(function) or "")
    return [
        Parameter(
            name,
            type_name(field.annotation),
            "required" if field.is_required() else repr(field.default),
            meanings.get(name, field.description or ""),
        )
        for name, field in _fields(function).items()
    ]


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _groups(function: Callable[..., Any]) -> dict[str, Record]:
    """The parameters that are groups of shared options, with this function's defaults for them."""
    keywords = _keywords(function)
    return {name: p.default for name, p in keywords.items() if isinstance(p.default, Record)}


def _fields(function: Callable[..., Any]) -> dict[str, FieldInfo]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, FieldInfo] = {}
    for name, p in _keywords(function).items():
        if isinstance(p.default, Record):
            for inner, field in type(p.default).model_fields.items():
                fields[inner] = copy(field)
                fields[inner].default = getattr(p.default, inner)
        elif p.default is p.empty:
            fields[name] = FieldInfo.from_annotation(hints[name])
        else:
            fields[name] = FieldInfo.from_annotated_attribute(hints[name], p.default)
    return fields


def _meanings(doc: str) -> dict[str, str]:
    """`name -> text` of the Args section of a docstring."""
    _, _, args = doc.partition("Args:\n")
    block = re.split(r"\n\S", args, maxsplit=1)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def type_name(hint: Any) -> str:
    """A type as a user reads it: `int`, `ce, dlr`, `list of int`, `float | None`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(inner[0])
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in {tuple, list}:
        return f"list of {type_name(inner[0])}"
    if origin in {Union, UnionType}:
        return " | ".join(map(type_name, inner))
    return "None" if hint is NoneType else getattr(hint, "__name__", str(hint))


def _at(where: str) -> str:
    return f"{where}: " if where else ""
