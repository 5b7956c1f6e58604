"""The files of a snapshot: which they are, whether they belong together, and what they say as one."""

from __future__ import annotations

import glob
import re
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, Background
from hpcdiff.errors import UserError
from hpcdiff.maps import interpreting, open_hdf5
from hpcdiff.snapshot.contents import check_behind, check_links
from hpcdiff.snapshot.dialects import KINDS, Dialect, recognise
from hpcdiff.snapshot.header import COSMOLOGY, Header, read_header
from hpcdiff.snapshot.snapshot import Snapshot


def snapshot_paths(where: str | Path) -> list[Path]:
    """The chunk files that a file, a folder or a glob means, in the order of their numbers.

    Raises:
        UserError: there are none.
    """
    where = str(where)
    path = Path(where)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".hdf5", ".h5") and not p.name.startswith("."))
    elif path.exists():
        found = [path]
    else:
        found = [Path(p) for p in glob.glob(where)]
    if not found:
        what = "no *.hdf5 in the snapshot folder" if path.is_dir() else "the snapshot is not there"
        raise UserError(what, where, "run simulate, or set project.snapshot")
    return sorted(found, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def open_snapshot(where: str | Path, cosmology: Background, given: frozenset[str] | set[str] = frozenset()) -> Snapshot:
    """Read the headers of a snapshot, each file once.

    Args:
        where: file, folder or glob of chunk files.
        cosmology: fills what the snapshot does not say.
        given: dotted keys that the user's config sets; a `cosmology.` key among them must agree with the snapshot.
    Raises:
        UserError: files missing, damaged, there twice, of several runs or not a snapshot; counts or datasets that do not fit;
            not cosmological, not flat, not a cube; the cosmology contradicts the config; Om0 or h in neither of them.
    """
    with interpreting(where, "snapshot"):
        return _open(where, cosmology, given)


def _open(where: str | Path, cosmology: Background, given: frozenset[str] | set[str]) -> Snapshot:
    paths = snapshot_paths(where)
    dialect = _dialect(paths)
    headers = [read_header(path, dialect) for path in paths]
    if len({header.virtual for header in headers}) == 2:  # the files themselves stand beside the one that shows them
        headers = [header for header in headers if not header.virtual]
    for header in headers:
        check_behind(header.contents.behind, header.path)
    first = headers[0]
    _one_run(headers)
    _each_once(headers)
    _all_there(headers, where)
    counts = {kind: [header.contents.counts[kind] for header in headers] for kind in KINDS}
    if not any(map(sum, counts.values())):
        what = f"not a snapshot that can be read: no PartType{', '.join(map(str, KINDS.values()))} with Coordinates in it"
        raise UserError(what, where, "check project.snapshot")
    columns = _columns(headers)
    said = first.cosmology
    if said.get("Ob0") == 0 and any(sum(counts[kind]) for kind in ("gas", "star")):
        said = {key: value for key, value in said.items() if key != "Ob0"}  # baryons in a universe without any: never set
    resolved = _resolve(said, cosmology, given, first.path)
    a = 1 / (1 + first.redshift)
    length = first.length.physical(a, resolved.h) / (MPC_CM * a)
    others: dict[int, int] = {}
    for header in headers:
        for n, rows in header.contents.others.items():
            others[n] = others.get(n, 0) + rows
    return Snapshot(
        paths=[header.path for header in headers],
        dialect=dialect.title,
        box=first.box * length,
        redshift=first.redshift,
        cosmology=said,
        background=resolved,
        assumed=frozenset(key for key in COSMOLOGY if key not in said and f"cosmology.{key}" not in given),
        counts=counts,
        mass_table=first.masses,
        has_h={kind: not sum(counts[kind]) or _has_h(columns[kind]) for kind in KINDS},
        columns=columns,
        units=first.units,
        to_mpc=length,
        gamma=first.gamma,
        kernel=first.kernel,
        indexed=first.cells,
        others={n: rows for n, rows in others.items() if rows},
    )


def _has_h(columns: dict) -> bool:
    return "support" in columns or "density" in columns


def _dialect(paths: list[Path]) -> Dialect:
    """By the first file that has gas, for its datasets tell most; else by the first."""
    found = None
    for path in paths:
        with open_hdf5(path, "snapshot") as f:
            if "Header" not in f:
                has = ", ".join(f) or "nothing"
                what = f"not a GADGET-style snapshot: it has no Header (it has {has})"
                raise UserError(what, path, "Header and PartTypeN/Coordinates are needed; check project.snapshot")
            check_links(f, path)
            found = found or recognise(f)
            if isinstance(f.get("PartType0"), h5py.Group):
                return recognise(f)
    return found


def _one_run(headers: list[Header]) -> None:
    first = headers[0]
    for header in headers[1:]:
        for name in dict.fromkeys([*first.same, *header.same]):
            if name == "the unit of Coordinates" and not (name in first.same and name in header.same):
                continue  # a file without particles
            one, other = first.same.get(name, np.empty(0)), header.same.get(name, np.empty(0))
            if one.tobytes() == other.tobytes():
                continue
            if one.shape != other.shape or not np.allclose(one, other, rtol=1e-6, atol=0, equal_nan=True):
                what = f"{name} is {_said(one)} in {first.path.name} and {_said(other)} in {header.path.name}"
                raise UserError(f"chunks of different runs: {what}", header.path, "name the files of one snapshot by a glob")


def _said(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values) or "not given"


def _each_once(headers: list[Header]) -> None:
    seen: dict[tuple, Path] = {}
    for header in headers:
        for kind, (ids, coordinates) in header.contents.start.items():
            for name, rows in (("ParticleIDs", ids), ("Coordinates", coordinates)):
                if rows is None or len(headers) == 1 or (len(rows) > 1 and all(row == rows[0] for row in rows)):
                    continue  # never written
                key = (kind, name, repr(rows))
                if key in seen:
                    what = f"{seen[key].name} and {header.path.name} start with the same {name} of PartType{KINDS[kind]}"
                    raise UserError(what, header.path, "the same chunk is there twice; move one of them away")
                seen[key] = header.path


def _all_there(headers: list[Header], where: str | Path) -> None:
    files, first = headers[0].files, headers[0]
    if not first.virtual and files not in (0, len(headers)):
        numbers = {int(re.findall(r"\d+", h.path.stem)[-1]) for h in headers if re.search(r"\d", h.path.stem)}
        lost = sorted(set(range(files)) - numbers)
        missing = (
            f", not number {', '.join(map(str, lost[:10]))}{', ...' * (len(lost) > 10)}" if lost and len(numbers) == len(headers) else ""
        )
        what = f"{len(headers)} of the snapshot's {files} chunk files are there{missing}"
        raise UserError(what, where, "give a folder or glob that holds them all, and nothing else")
    promised = {kind: total for header in headers for kind, total in header.totals.items()}
    for kind, total in promised.items():
        held = sum(header.contents.counts[kind] for header in headers)
        if total != held and not (total < 2**32 and total == held % 2**32):  # some codes forget the high word
            what = f"the header promises {total} particles of PartType{KINDS[kind]} and the files hold {held}"
            raise UserError(what, where, "a chunk is missing or cut short")


def _columns(headers: list[Header]) -> dict[str, dict]:
    """Of each kind, which must be the same in all files that have some of it."""
    found: dict[str, dict] = {kind: {} for kind in KINDS}
    of: dict[str, Path] = {}
    for header in headers:
        for kind, columns in header.contents.columns.items():
            if kind not in of:
                of[kind], found[kind] = header.path, columns
            elif columns != found[kind]:
                odd = next(name for name in {**found[kind], **columns} if found[kind].get(name) != columns.get(name))
                has, lacks = (of[kind], header.path) if odd in found[kind] else (header.path, of[kind])
                name = found[kind].get(odd) or columns[odd]
                raise UserError(f"{has.name} has PartType{KINDS[kind]}/{name} and {lacks.name} has not", lacks, "make it again")
    return found


def _resolve(found: dict[str, float], config: Background, given: frozenset[str] | set[str], path: Path) -> Background:
    values = {key: getattr(config, key) for key in COSMOLOGY}
    for key, value in found.items():
        if f"cosmology.{key}" in given and abs(values[key] - value) > 1e-3 * abs(value):
            raise UserError(f"cosmology.{key} is {values[key]:.6g} and the snapshot's own is {value:.6g}", path, "drop the key, or mend it")
        values[key] = value
    for key in ("Om0", "h"):
        if key not in found and f"cosmology.{key}" not in given:
            what = f"the snapshot does not say cosmology.{key} ({' or '.join(COSMOLOGY[key])})"
            raise UserError(what, path, f"set cosmology.{key}: all masses and lengths hang on it")
    return Background(**values)
