"""Files of another version of a format: said by name, before a number of them is used."""

from __future__ import annotations

from hpcdiff.errors import UserError


class OtherVersion(UserError):
    """A file is whole, and of another version of its format: no damage, so nothing is to be removed or made again unasked."""


def refuse_version(what: str, found: object, ours: int, where: object, again: str) -> None:
    """Refuse a file whose `version` is not ours; one that does not say, as another program may write it, passes.

    Args:
        what: "map file". found: its attribute, None where it has none. ours: what this package reads and writes.
        where: its path. again: how to make it anew.
    Raises:
        OtherVersion: it is newer, older, or no number.
    """
    try:
        version = ours if found is None else int(found)
    except (TypeError, ValueError):
        raise OtherVersion(f"the {what} has version {str(found)[:40]!r}, and version {ours} is read here", where, again) from None
    if version > ours:
        how = f"install the hpcdiff that wrote it, or a later one, or {again}"
        raise OtherVersion(f"the {what} has version {version}, and version {ours} is the newest that is read here", where, how)
    if version < ours:
        raise OtherVersion(f"the {what} has version {version}, and version {ours} is read here", where, again)
