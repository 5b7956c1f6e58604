"""YAML and JSON that others wrote, as plain values: no size or depth that a few bytes can blow up, and one kind of error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import yaml

MOST, DEEPEST = 100_000, 50
"""Values of a YAML text, counted wherever an alias repeats them, and the depth to which they may be nested."""


class NotPlain(ValueError):
    """A text is no YAML or JSON that can be used; says why in one short line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one, with an end to what merged mappings (`<<`) can grow to."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST:
            raise NotPlain(f"it has more than {MOST} values")


def read_yaml(text: str) -> object:
    """A YAML text as dicts, lists, texts and numbers.

    Raises:
        NotPlain: it is not YAML, or has more than `MOST` values or a deeper nesting than `DEEPEST`, as aliases of aliases give.
    """
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506, a safe loader
        _refuse_large(tree)
    except RecursionError:
        raise NotPlain("it is nested too deeply") from None
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # PyYAML's own of odd numbers and dates
        raise NotPlain(_short(error)) from None
    return tree


def read_json(text: str | bytes) -> object:
    """A JSON text as dicts, lists, texts and numbers.

    Raises:
        NotPlain: it is not JSON, is nested too deeply, or says NaN or Infinity, which JSON has not.
    """

    def refuse(name: str) -> None:
        raise NotPlain(f"it says {name}")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise NotPlain("it is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise NotPlain(_short(error)) from None


def _refuse_large(tree: object) -> None:
    left, count = [(tree, 0)], 0
    while left:
        node, depth = left.pop()
        inner = [*node.keys(), *node.values()] if isinstance(node, dict) else node if isinstance(node, (list, tuple, set)) else ()
        count += 1 + len(inner)
        if count > MOST:
            raise NotPlain(f"it has more than {MOST} values (an alias within itself?)")
        if depth > DEEPEST:
            raise NotPlain("it is nested too deeply")
        left.extend((value, depth + 1) for value in inner if isinstance(value, (dict, list, tuple, set)))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def infinite(value: object, name: str = "") -> Iterator[str]:
    """Numbers in nested dicts and lists that JSON cannot say, as "a.b is inf"."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from infinite(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from infinite(one, name)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {value}"
