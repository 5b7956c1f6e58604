"""`manifest.json` of a checkpoint: what it is, its tensors, its files with sizes and SHA-256, and a hash of itself."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from hpcdiff.errors import UserError
from hpcdiff.plain import read_json

FORMAT, VERSION = "hpcdiff-checkpoint", 2
NAME = "manifest.json"
BLANK = "0" * 64
"""Stands for the manifest's own hash while that is taken."""


class Damaged(Exception):
    """A checkpoint is not whole; the text says what is wrong."""


def compose(head: dict, tensors: dict[str, list], files: list[dict]) -> str:
    """The manifest's text, one line a tensor and a file.

    Args:
        head: images, world_size, engine, config, state.
        tensors: name -> [shape, torch's name of its type]; they become `tensors` and `types`.
        files: of each file name, bytes, sha256 and pieces (tensor -> [start, n]: the run of elements that it holds).
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, "sha256": BLANK, **head}, indent=1, allow_nan=False).removesuffix("\n}")
    for key, n in (("tensors", 0), ("types", 1)):
        text += (
            f',\n "{key}": {{\n  ' + ",\n  ".join(f"{json.dumps(name)}: {json.dumps(about[n])}" for name, about in tensors.items()) + "\n }"
        )
    lines = (json.dumps(file) for file in files)  # one at a time: thousands of them at once would hold the GIL for long
    text += ',\n "files": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    return text.replace(BLANK, hashlib.sha256(text.encode()).hexdigest(), 1)


def parse(text: str, folder: Path) -> dict:
    """The manifest of the checkpoint in `folder`, checked as far as that is possible without its files.

    Raises:
        Damaged: the text is not as it was written, is another checkpoint's, or its files do not make up its tensors.
        UserError: it was written by another version.
    """
    try:
        manifest = read_json(text)
        if manifest["format"] != FORMAT:
            raise Damaged(f"its format is {manifest['format']!r}")
        own = manifest.get("sha256")
        if own is not None and hashlib.sha256(text.replace(own, BLANK, 1).encode()).hexdigest() != own:
            raise Damaged(f"{NAME} is not as it was written")
        if manifest["version"] != VERSION:
            what = f"a checkpoint of version {manifest['version']}, and this is hpcdiff for version {VERSION}"
            raise UserError(what, folder, "go on with the hpcdiff that wrote it, or train --overwrite")
        if own is None:
            raise Damaged(f"{NAME} lacks its own hash")
        if f"{manifest['images']:012d}" != folder.name:
            raise Damaged(f"its {NAME} is that of image {manifest['images']}")
        for file in manifest["files"]:
            if Path(file["name"]).name != file["name"] or not file["name"].endswith(".safetensors"):
                raise Damaged(f"it names the file {file['name']!r}")
            if not isinstance(file["bytes"], int) or not isinstance(file["sha256"], str):
                raise Damaged(f"size or hash of {file['name']} is no such thing")
        if fault := uncovered(manifest["tensors"], manifest["files"]):
            raise Damaged(fault)
        if manifest["types"].keys() != manifest["tensors"].keys() or not isinstance(manifest["state"], dict):
            raise Damaged("tensors and their types differ, or it has no state")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its {NAME} cannot be read: {' '.join(f'{type(error).__name__} {error}'.split())}") from None


def uncovered(tensors: dict[str, list[int]], files: list[dict]) -> str | None:
    """What is wrong if the files do not hold every element of every tensor once; None if they do.

    Args:
        tensors: name -> shape.
        files: their `pieces`, name -> [start, n].
    """
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in tensors}
    for file in files:
        for name, (start, n) in file["pieces"].items():
            if name not in spans:
                return f"{file['name']} holds {name}, which is not among the tensors"
            spans[name].append((start, start + n))
    for name, held in spans.items():
        end = 0
        for start, stop in sorted(held):
            if start != end or stop <= start:
                return f"elements {min(start, end)} to {max(start, end)} of {name} are there {'twice' if start < end else 'not at all'}"
            end = stop
        if end != math.prod(tensors[name]):
            return f"{end} elements of {name} are there, not {math.prod(tensors[name])}"
    return None
