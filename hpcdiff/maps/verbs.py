"""The commands of `python -m hpcdiff.maps`: from the words of the command line to the lines that are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hpcdiff.errors import UserError, nearest
from hpcdiff.maps.check import Findings, check
from hpcdiff.maps.structure import rows_text

MOST_LINES = 100
"""Damaged views that are listed one by one."""


def _info(words: list[str]) -> Iterator[str]:
    from hpcdiff.maps.info import info

    (path,), _ = _parse("info", words, "FILE")
    yield from info(path)


def _verify(words: list[str]) -> Iterator[str]:
    (path,), _ = _parse("verify", words, "FILE")
    found = check(path)
    for title, rows in (("differs from its checksum", found.damaged), ("has values that are not finite", found.not_finite)):
        yield from (f"{found.view(row)}: {title}" for row in rows[:MOST_LINES])
        if len(rows) > MOST_LINES:
            yield f"... and {len(rows) - MOST_LINES} more"
    yield from found.wrong
    _refuse(path, found)
    left = f", {len(found.unwritten)} are not written yet" if len(found.unwritten) else ""
    yield f"{path}: {found.n_views - len(found.unwritten)} of {found.n_views} views are whole{left}"


def _refuse(path: str, found: Findings) -> None:
    """Raise a UserError about the worst that was found; `clear` mends damaged maps, and nothing else."""
    again = "import it again with --overwrite" if found.imported else "project --overwrite"
    if found.wrong:
        more = f" (and {len(found.wrong) - 1} more)" if len(found.wrong) > 1 else ""
        raise UserError(f"the map file contradicts itself: {found.wrong[0]}{more}", path, again)
    if len(found.damaged):
        how = again if found.imported else f"python -m hpcdiff.maps clear {path} and run project again"
        how = "run project again" if path.endswith(".partial") and not found.imported else how
        raise UserError(f"{_of(len(found.damaged), found.n_views)} damaged ({rows_text(found.damaged)})", path, how)
    if len(found.not_finite):
        what = f"{_of(len(found.not_finite), found.n_views)} whole but not finite everywhere ({rows_text(found.not_finite)})"
        raise UserError(what, path, f"mend what they were made from, then {again}")


def _of(n: int, total: int) -> str:
    return f"{n} of {total} views {'is' if n == 1 else 'are'}"


def _clear(words: list[str]) -> Iterator[str]:
    from hpcdiff.maps.clear import clear

    (path,), options = _parse("clear", words, "FILE", values=("--rows", "--halos"))
    numbers = {name: _whole_numbers(name, text) for name, text in options.items()}
    yield clear(path, numbers.get("--rows"), numbers.get("--halos"))


def _import(words: list[str]) -> Iterator[str]:
    from hpcdiff.maps.imports import import_maps, read_spec

    (path, *overrides), options = _parse("import", words, "IMPORT.yaml", flags=("--dry-run", "--overwrite"), more=True)
    yield from import_maps(read_spec(path, overrides), "--dry-run" in options, "--overwrite" in options)


VERBS: dict[str, Callable[[list[str]], Iterator[str]]] = {"info": _info, "verify": _verify, "clear": _clear, "import": _import}


def run_verb(argv: list[str]) -> Iterator[str]:
    """The lines that a command prints; what it does is done as they are taken.

    Raises:
        UserError: the command line, the file or the input is at fault.
    """
    usage = f"usage: python -m hpcdiff.maps {{{','.join(VERBS)}}} FILE; --help says more"
    if not argv:
        raise UserError("no command given", "command line", usage)
    if argv[0] not in VERBS:
        raise UserError(f"unknown command {argv[0]!r}{nearest(argv[0], VERBS)}", "command line", usage)
    return VERBS[argv[0]](argv[1:])


def _parse(
    verb: str, words: list[str], wanted: str, values: tuple[str, ...] = (), flags: tuple[str, ...] = (), more: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Split into plain words (one, or `more`) and options, those in `values` with what follows them or stands behind `=`."""
    usage = f"usage: python -m hpcdiff.maps {verb} {wanted} {' '.join([*(f'[{v} N,N,...]' for v in values), *(f'[{f}]' for f in flags)])}"
    plain, options, rest = [], {}, iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            plain.append(word)
        elif name in values:
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise UserError(f"{name} wants numbers", "command line", usage)
            options[name] = value
        elif word in flags:
            options[word] = ""
        else:
            raise UserError(f"unknown option {name!r}{nearest(name, (*values, *flags))}", "command line", usage)
    if not plain:
        raise UserError(f"no {wanted} given", "command line", usage)
    if len(plain) > 1 and not more:
        raise UserError(f"one {wanted} at a time, not {len(plain)}", "command line", usage)
    return plain, options


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}", "command line", "whole numbers with commas between them, as 5,17") from None
