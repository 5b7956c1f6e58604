"""The members of a sweep: their settings, their names, their folders."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from hpcdiff import files
from hpcdiff.config import Config, read_config
from hpcdiff.errors import UserError
from hpcdiff.plain import read_json
from hpcdiff.strict import difference
from hpcdiff.sweep.spec import STAGES, Sweep, base_config
from hpcdiff.versions import refuse_version

FORMAT, VERSION = "hpcdiff-sweep", 1
LONGEST = 64
"""Letters of a folder's name."""


@dataclass
class Member:
    """One run of the sweep.

    Attributes:
        number: from 0; the index in Slurm's array. name: of its folder. folder: where it runs.
        settings: {dotted key: value} of every key that the sweep varies anywhere.
        config: its whole config; None where it was read from `members.json`.
    """

    number: int
    name: str
    folder: Path
    settings: dict[str, object]
    config: Config | None = None


def expand(sweep: Sweep) -> list[Member]:
    """Every combination of `vary`, then the explicit `members`.

    Raises:
        UserError: a member's config does not hold (which member is said), or two members are the same.
    """
    given = [dict(zip(sweep.vary, values, strict=True)) for values in itertools.product(*sweep.vary.values())] if sweep.vary else []
    given += sweep.members
    varied = list(dict.fromkeys(key for settings in given for key in settings))
    base, out, seen = base_config(sweep), [], {}
    for number, settings in enumerate(given):
        try:
            config = read_config(sweep.base, [f"{key}={json.dumps(value)}" for key, value in settings.items()], sweep.where)
        except UserError as error:
            raise UserError(f"member {number} of the sweep: {error}") from None
        whole = config.resolved()
        name = name_of(number, settings)
        config.run.dir, config.run.maps = str(sweep.folder / name), base.run.maps
        same = json.dumps(whole, sort_keys=True)
        if same in seen:
            raise UserError(f"members {seen[same]} and {number} are the same", sweep.where, "name each once")
        seen[same] = number
        out.append(Member(number, name, sweep.folder / name, {key: value_of(whole, key) for key in varied}, config))
    return out


def value_of(tree: dict, dotted: str) -> object:
    """The value of a dotted key in nested dictionaries."""
    for part in dotted.split("."):
        tree = tree[part]
    return tree


def labels(keys: list[str]) -> dict[str, str]:
    """A short word for each dotted key: its last part, or more of it where two would be alike."""
    last = [key.split(".")[-1] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def text_of(value: object) -> str:
    """A value in few letters: [sz, xray] is sz+xray, 0.250 is 0.25."""
    if isinstance(value, list):
        return "+".join(map(text_of, value)) or "none"
    if isinstance(value, dict):
        return "+".join(f"{k}.{text_of(v)}" for k, v in value.items())
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def name_of(number: int, settings: dict[str, object]) -> str:
    """A folder's name: 007-seed1-subset0.25-inputs_sz+xray. Letters, digits and .+_- alone, as shells and overrides want."""
    words = labels(list(settings))
    parts = []
    for key, value in settings.items():
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        parts.append(f"{words[key]}{'' if numeric else '_'}{text_of(value)}")
    name = f"{number:03d}-" + re.sub(r"[^A-Za-z0-9.+_-]+", "_", "-".join(parts))
    return name[:LONGEST].rstrip(".-_+")


def content_of(sweep: Sweep, members: list[Member]) -> dict:
    """What `members.json` holds: enough to know the sweep again, and to gather it without SWEEP.yaml."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "sweep": {
            "base": base_config(sweep).resolved(),
            "stages": sweep.stages,
            "vary": sweep.vary,
            "members": {str(n): m for n, m in enumerate(sweep.members)},
        },
        "members": [{"name": m.name, "settings": m.settings} for m in members],
    }


def refuse_change(sweep: Sweep, members: list[Member]) -> None:
    """Raise a UserError if the folder holds another sweep; the key that differs is named."""
    path = sweep.folder / "members.json"
    content = json.loads(json.dumps(content_of(sweep, members)))
    if path.exists() and (found := difference(read_members(sweep.folder)["sweep"], content["sweep"])):
        key, old, new = found
        raise UserError(f"{key} was {old!r} and is now {new!r}", path, "set it back, or take another dir")


def write_members(sweep: Sweep, members: list[Member]) -> None:
    """Write each member's `config.yaml`, then `members.json`: where that is, all are; nothing is written twice.

    Raises:
        UserError: a folder of another member bears the number of one of these, by which jobs/sweep.sbatch finds it.
    """
    if (sweep.folder / "members.json").exists():
        return
    for m in members:
        if other := next((p for p in sweep.folder.glob(f"{m.number:03d}-*") if p.name != m.name), None):
            raise UserError("this was left by another sweep, which was killed before it began", other, "remove it, or take another dir")
    for m in members:
        files.make_folder(m.folder)
        files.write_atomic(m.folder / "config.yaml", m.config.to_yaml())
    files.write_json(sweep.folder / "members.json", content_of(sweep, members))


def read_members(folder: Path) -> dict:
    """The content of `members.json`.

    Raises:
        UserError: it is not there, or no sweep wrote it.
    """
    path = folder / "members.json"
    try:
        content = read_json(path.read_text())
    except FileNotFoundError:
        raise UserError("the sweep has not been started", path, "run it without --gather first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the list of members cannot be read ({error})", path, "take another dir") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("this is no list of members", path, "take another dir")
    refuse_version("list of members", content.get("version"), VERSION, path, "take another dir")
    if not _is_whole(content):
        raise UserError("the list of members is damaged", path, "remove it, and start the sweep again; what is finished is kept")
    return content


def _is_whole(content: dict) -> bool:
    """Has `members.json` the parts that are read, of the types that they should be?"""
    sweep, members = content.get("sweep"), content.get("members")
    if not isinstance(sweep, dict) or not isinstance(members, list) or not members:
        return False
    if not isinstance(sweep.get("stages"), list) or not set(map(str, sweep["stages"])) <= set(STAGES):
        return False
    return all(
        isinstance(m, dict) and isinstance(m.get("settings"), dict) and re.fullmatch(r"[\w.+-]+", str(m.get("name"))) for m in members
    )
