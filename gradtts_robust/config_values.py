"""Settings dataclasses from plain values, as YAML and JSON give them; `config` gives `from_dict` on."""
from __future__ import annotations

import dataclasses
import numbers
from typing import Literal, get_args, get_origin, get_type_hints

KINDS = {float: (numbers.Real, "a number"), int: (numbers.Integral, "a whole number"), bool: (bool, "true or false"), str: (str, "text"),
         type(None): (type(None), "null")}


def from_dict(kind: type, values: dict):
    """Builds a settings dataclass from plain values, as read from JSON or YAML.

    Raises:
        ValueError: a key that `kind` does not have, or a value of another type than it has there.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known), key=str)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r} for {kind.__name__}; known: {', '.join(known)}")
    default, hints = kind(), get_type_hints(kind)
    built = {}
    for name, value in values.items():
        current = getattr(default, name)
        if dataclasses.is_dataclass(current) and isinstance(value, dict):
            value = from_dict(type(current), value)
        elif not _fits(value, hints[name]):
            raise ValueError(f"{name} is {value!r}; it must be {_words(hints[name])}")
        elif isinstance(current, tuple):
            value = tuple(value)
        built[name] = value
    return kind(**built)


def _fits(value, hint) -> bool:
    """Whether a value is one of a type hint; lists stand for tuples."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (list, tuple):
        of = parts[:1] * len(value) if isinstance(value, (list, tuple)) and (origin is list or parts[-1] is ...) else parts
        return isinstance(value, (list, tuple)) and len(value) == len(of) and all(map(_fits, value, of))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(name, parts[0]) and _fits(one, parts[1]) for name, one in value.items())
    if parts:
        return any(_fits(value, part) for part in parts)
    return isinstance(value, KINDS.get(hint, (hint,))[0]) and (hint is bool or not isinstance(value, bool))


def _words(hint) -> str:
    """A type hint in the words of an error."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (list, tuple):
        count = "" if origin is list or parts[-1] is ... else f" of {len(parts)}"
        return f"a list{count}, each {_words(parts[0])}"
    if origin is dict:
        return f"names with {_words(parts[1])} each"
    if parts:
        return " or ".join(map(_words, parts))
    return KINDS[hint][1] if hint in KINDS else "settings"
