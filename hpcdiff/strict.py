"""YAML into dataclasses, strictly: unknown keys, wrong types and values out of range are one-line errors.

Knows no key of hpcdiff; the keys are in `config.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

import yaml

from hpcdiff.errors import UserError, nearest
from hpcdiff.plain import NotPlain, read_yaml


def one_of(*choices: str, default: str | None = None):
    """A text field that takes one of `choices`; the first is the default unless another is named."""
    return field(default=default or choices[0], metadata={"choices": choices})


def number(default: float | None, low: float | None = None, high: float | None = None, above: float | None = None):
    """A number with bounds: low <= value <= high, value > above."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def some_of(*choices: str, default: tuple[str, ...]):
    """A list of distinct values among `choices`."""
    return field(default_factory=lambda: list(default), metadata={"choices": choices})


def to_yaml(sections: dict) -> str:
    """Nested dictionaries as YAML in the order given."""
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=120)


def fields_of(cls) -> list[dataclasses.Field]:
    """The fields that are keys of the config."""
    return [f for f in dataclasses.fields(cls) if not f.metadata.get("hidden")]


def _hints(cls) -> dict:
    return typing.get_type_hints(cls)


DOCS = "docs/config.md"


class Places:
    """Where the value of each key was written, for messages.

    Args:
        file: what holds the keys. by: who overrides them.
    Attributes:
        overridden: dotted names of the keys that were.
    """

    def __init__(self, file: str | Path, by: str = "command line") -> None:
        self.file, self.by = str(file), by
        self.overridden: set[str] = set()

    def of(self, *dotted: str) -> str:
        """The place of a key, or of several that do not go together: the overrides' if they name one of these, or a key of a section among them."""
        return self.by if any(f"{key}.".startswith(f"{name}.") for key in self.overridden for name in dotted) else self.file


def read(cls, places: Places, overrides: list[str] = (), docs: str = DOCS) -> tuple[object, set[str]]:
    """Read the YAML file of `places` into the dataclass `cls` and apply dotted overrides ("train.lr=1e-3"), which win.

    Returns:
        the instance, and the dotted names of the keys that were given; `places` knows then which were overridden.
    Raises:
        UserError: the file is missing or not YAML; as `build`.
    """
    path = places.file
    try:
        tree = read_yaml(Path(path).read_text())
    except NotPlain as error:
        raise UserError("the config is not YAML", path, error) from None
    except (OSError, ValueError) as error:  # not there, no UTF-8, a NUL in its name
        raise UserError("cannot read the config", path, getattr(error, "strerror", None) or str(error)) from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError("the config is not a mapping of sections", path, f"see {docs}")
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} is not an override", places.by, "write key=value, with dots: section.key=value")
        try:
            merge(cls, tree, key.strip().split("."), read_yaml(value), places.overridden)
        except NotPlain as error:
            raise UserError(f"the value of {key} is not YAML ({error})", places.by, "quote it") from None
    given: set[str] = set()
    return build(cls, tree, given, places, docs=docs), given


def build(cls, tree: dict, given: set[str], places: Places, prefix: str = "", valid: list[str] = (), docs: str = DOCS):
    """A tree of YAML as an instance of the dataclass `cls`; dotted names of the keys that it gives are added to `given`.

    Raises:
        UserError: an unknown key (the nearest valid one is named), or a value of another type.
    """
    valid = valid or [dotted for dotted, _, _ in leaves(cls())]
    hints, values = _hints(cls), {}
    names = [f.name for f in fields_of(cls)]
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if key not in names:
            raise UserError(f"unknown key {dotted!r}{nearest(dotted, valid)}", places.of(dotted), f"see {docs}")
        if dataclasses.is_dataclass(hints[key]):
            value = {} if value is None else value
            if not isinstance(value, dict):
                raise UserError(f"{dotted} is a section, not {value!r}", places.of(dotted), f"write {key}: {{...}}")
            values[key] = build(hints[key], value, given, places, dotted + ".", valid, docs)
        else:
            given.add(dotted)
            values[key] = _convert(value, hints[key], dotted, places.of(dotted), docs)
    return cls(**values)


def merge(cls, tree: dict, path: list[str], value: object, named: set[str], prefix: str = "") -> None:
    """Put an override into the YAML tree, so that it is checked like the rest, and its dotted name into `named`; a section is merged, anything else replaced."""
    name, *rest = path
    hint = _hints(cls).get(name)
    if not dataclasses.is_dataclass(hint) or (not rest and not isinstance(value, dict)):
        named.add(prefix + ".".join(path))
        tree[".".join(path)] = value  # a leaf, or an unknown key, which is refused later with its whole name
        return
    tree[name] = tree[name] if isinstance(tree.get(name), dict) else {}
    for key, v in [(rest, value)] if rest else [([str(k)], v) for k, v in value.items()]:
        merge(hint, tree[name], key, v, named, f"{prefix}{name}.")


def _expand(text: object, dotted: str, where: str):
    """`${VAR}` in a text, or in the texts of a list or mapping, as the environment's value."""
    if isinstance(text, list):
        return [_expand(t, dotted, where) for t in text]
    if isinstance(text, dict):
        return {k: _expand(t, dotted, where) for k, t in text.items()}
    if not isinstance(text, str):
        return text

    def value(match: re.Match) -> str:
        if match[1] not in os.environ:
            raise UserError(f"{dotted} uses ${{{match[1]}}}, which is not set", where, f"export {match[1]}=...")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _convert(value: object, hint, dotted: str, where: str, docs: str):
    """The YAML value as the field's type; numbers in quotes or as 1e14 (text to YAML) are numbers."""
    value = _expand(value, dotted, where)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        converted = _as(value, option)
        if converted is not _NO:
            return converted
    raise UserError(f"{dotted} is {value!r}, not {' or '.join(_wanted(option) for option in options)}", where, f"see {docs}")


def _wanted(hint) -> str:
    """What a type takes, for a message: `list[float]` is a list of numbers."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is list:
        return f"a list of {_wanted(args[0]).removeprefix('a ')}s"
    if typing.get_origin(hint) is dict:
        return f"a mapping of names to {_wanted(args[1])}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_wanted(option) for option in args)
    return {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}[hint]


_NO = object()


def _as(value: object, hint):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return next((converted for option in args if (converted := _as(value, option)) is not _NO), _NO)
    if hint is type(None):
        return None if value is None else _NO
    if origin is list:
        items = [_as(v, args[0]) for v in value] if isinstance(value, list) else [_NO]
        return _NO if any(v is _NO for v in items) else items
    if origin is dict:
        if not isinstance(value, dict):
            return _NO
        items = {str(k): _as(v, args[1]) for k, v in value.items()}
        return _NO if any(v is _NO for v in items.values()) else items
    if hint is bool:
        return value if isinstance(value, bool) else _NO
    if isinstance(value, bool) or value is None:
        return _NO
    if hint is str:
        return value if isinstance(value, str) and _is_text(value) else _NO
    if hint is int and isinstance(value, int):
        return value  # a float would round it above 2^53
    try:
        number_ = float(value) if isinstance(value, (int, float, str)) else None
    except ValueError:
        number_ = None
    if number_ is None or number_ != number_ or number_ in (float("inf"), float("-inf")):
        return _NO
    if hint is float:
        return number_
    return int(number_) if hint is int and number_ == int(number_) else _NO


def _is_text(value: str) -> bool:
    """Can it be a name of a file, or stand in one? A NUL and half a surrogate pair cannot."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def check_bounds(config: object, places: Places) -> None:
    """Hold every value against the choices and bounds of its field.

    Raises:
        UserError: the first that does not fit, with what would.
    """
    for dotted, f, value in leaves(config):
        choices, values = f.metadata.get("choices"), value
        if choices:
            values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
            for v in values:
                if v is not None and v not in choices:
                    raise UserError(f"{dotted} is {v!r}{nearest(v, choices)}", places.of(dotted), f"one of {', '.join(choices)}")
            if isinstance(value, list) and (not value or len(set(value)) < len(value)):
                raise UserError(f"{dotted} is {value!r}", places.of(dotted), "name at least one, and each once")
        for name, holds in (("low", lambda v, b: v >= b), ("high", lambda v, b: v <= b), ("above", lambda v, b: v > b)):
            bound = f.metadata.get(name)
            if bound is not None and isinstance(value, (int, float)) and not holds(value, bound):
                words = {"low": "at least", "high": "at most", "above": "above"}[name]
                raise UserError(f"{dotted} is {value!r}", places.of(dotted), f"it must be {words} {bound}")


def leaves(node: object, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, object]]:
    """Every key below a section: dotted name, field, value."""
    for f in fields_of(type(node)):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f, value


def difference(old: dict, new: dict, exempt: tuple[str, ...] = (), prefix: str = "") -> tuple[str, object, object] | None:
    """The first dotted key in which two resolved configs differ, with its old and new value; None if there is none."""
    for key in dict.fromkeys([*new, *old]):
        dotted = f"{prefix}{key}"
        a, b = old.get(key), new.get(key)
        if dotted in exempt or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            if found := difference(a, b, exempt, dotted + "."):
                return found
        else:
            return dotted, a, b
    return None


def refuse_difference(old: dict, new: dict, where: str | Path, stage: str, exempt: tuple[str, ...] = ()) -> None:
    """Raise a UserError that names the key, its old and its new value, if a rerun's config differs from the stored one."""
    if found := difference(old, new, exempt):
        key, a, b = found
        raise UserError(f"{key} was {a!r} and is now {b!r}", where, f"set it back, take another run.dir, or {stage} --overwrite")


def _docstrings(cls) -> dict[str, str]:
    """Attribute docstrings: the text that follows each field in the source."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    pairs = zip(body, body[1:], strict=False)
    return {
        a.target.id: b.value.value
        for a, b in pairs
        if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant)
    }


def reference(cls, head: str) -> str:
    """All keys of `cls` as Markdown tables, made from its dataclasses' docstrings; `head` comes first."""
    lines = [head, ""]

    def section(cls, prefix: str) -> None:
        lines.extend([f"## `{prefix.rstrip('.')}`", "", cls.__doc__, "", "| key | default | meaning |", "|---|---|---|"])
        docs, hints, inner = _docstrings(cls), _hints(cls), []
        for f in fields_of(cls):
            if dataclasses.is_dataclass(hints[f.name]):
                inner.append((hints[f.name], f"{prefix}{f.name}."))
                continue
            default = getattr(cls(), f.name)
            shown = yaml.safe_dump(default, default_flow_style=True, width=1000).replace("\n...", "").strip()
            choices = f.metadata.get("choices")
            extra = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices and isinstance(default, str) else ""
            lines.append(f"| `{prefix}{f.name}` | `{shown}` | {docs[f.name]}{extra} |")
        lines.append("")
        for cls_, prefix_ in inner:
            section(cls_, prefix_)

    for f in fields_of(cls):
        section(_hints(cls)[f.name], f.name + ".")
    return "\n".join(lines).rstrip() + "\n"
