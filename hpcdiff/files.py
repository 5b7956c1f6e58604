"""Files on slow and shared file systems: atomic writes, hashes, free space. One writer at a time: `lock`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

from hpcdiff.errors import UserError


def make_folder(path: str | Path) -> None:
    """A folder and those above it, where they do not stand already.

    Raises:
        UserError: it is in a place where the system makes no folders, such as /proc. OSError: any other fault.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # its parents are there by now
        raise UserError("no folder can be made here", path, "choose another place") from None


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` under a temporary name, flush it to disk and rename: a reader sees the old file or the new one."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as `json_text`, atomically."""
    write_atomic(path, json_text(value))


def json_text(value: object) -> str:
    """Sorted, indented JSON; the same value gives the same text."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def sync(path: str | Path) -> None:
    """Flush a file's or a folder's content to disk, so that a later rename cannot overtake it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse fsync on folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def remove(path: str | Path) -> None:
    """Remove a file or a folder with all that is in it; nothing happens where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def made_first(path: str | Path) -> bool:
    """Make an empty file; False if it is there: of all that ask for one file, on any node, one gets True."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def free_bytes(path: str | Path) -> int:
    """Bytes free for us on the file system that holds `path` (or will hold it: the nearest existing parent)."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
