"""What goes wrong through the user's input, and how it is said: one line, WHAT, WHERE, HOW TO MEND."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable

AWAY = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ESHUTDOWN)
"""What a broken disk or a file server that went away gives."""


NO_LOCKS = "export HDF5_USE_FILE_LOCKING=FALSE: the stages have a lock of their own"
"""How to mend what HDF5's BEST_EFFORT does not pass over (ENOLCK, EOPNOTSUPP; it knows ENOSYS alone)."""


class UserError(Exception):
    """The user's input is at fault; the text is one line: WHAT, WHERE, HOW TO MEND."""

    def __init__(self, what: object, where: object = "", how: object = "") -> None:
        super().__init__(", ".join(_line(str(part)) for part in (what, where, how) if str(part)))


def _line(text: str) -> str:
    """One line that a terminal bears: no control characters, and nobody reads more than a thousand letters."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))
    return text if len(text) <= 1000 else f"{text[:700]} ... {text[-200:]}"


class Busy(UserError):
    """Another process works on the same outputs."""


class Stopped(Exception):
    """A signal asked us to stop, and everything worth keeping has been saved."""


def nearest(word: object, words: Iterable[str]) -> str:
    """A hint that names the valid word nearest to `word`, as a text to append; empty if none is near."""
    words = list(words)
    near = [w for w in words if "." in w and w.split(".")[-1] == str(word).split(".")[-1]]  # the right name in the wrong section
    near = near or difflib.get_close_matches(str(word), words, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


CANNOT_READ = "file read failed|MPI_File_read"
"""What HDF5 says, also without an errno, when the disk does not give a file's content."""
CANNOT_WRITE = "No space left|file write failed|MPI_File_(write|sync|set_size|close)"
"""What HDF5 says without an errno, through MPI-IO too, when the disk refuses."""


def disk_error(error: BaseException, folder: object = "") -> str | None:
    """An error of the file system, or a lack of memory, that the user can mend, as one line; None for any other.

    An error that comes without the name of a file is said of `folder`, in which is written, unless it may be one of reading.
    """
    if isinstance(error, MemoryError):
        how = "give the job more memory; where so much cannot be meant, an input file is damaged"
        return str(UserError(f"not enough memory ({error})" if str(error) else "not enough memory", "", how))
    said = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
        errno.EACCES: ("no permission to write or read", "choose another place or mend its permissions"),
        errno.EPERM: ("no permission to write or read", "choose another place or mend its permissions"),
        errno.EROFS: ("the file system is read-only", "choose another place"),
        errno.ENOTDIR: ("a file stands where a folder is wanted", "choose another place"),
        errno.EISDIR: ("a folder stands where a file is wanted", "choose another path"),
        errno.EEXIST: ("a file stands where a folder is wanted", "choose another place"),
        errno.ENAMETOOLONG: ("a path is too long", "choose a shorter one"),
        errno.ELOOP: ("a link leads to itself", "mend the link"),
        errno.ENOLCK: ("the file system has no file locks", NO_LOCKS),
        errno.EOPNOTSUPP: ("the file system lacks something, such as file locks", NO_LOCKS),
        errno.EFBIG: ("the file is larger than is allowed here", "raise `ulimit -f` or choose another place"),
        **dict.fromkeys(AWAY, ("the disk does not answer as it should", "look to the file system, then run the same command again")),
    }.get(getattr(error, "errno", None))
    if said is not None and error.errno in AWAY:
        said = (f"{said[0]} ({os.strerror(error.errno)})", said[1])
    reading = isinstance(error, (OSError, RuntimeError)) and re.search(CANNOT_READ, str(error))
    if said is None and reading:
        said = ("the file cannot be read", "look to the file system, then run the same command again")
    if said is None and isinstance(error, (OSError, RuntimeError)) and re.search(CANNOT_WRITE, str(error)):
        said = ("the disk is full or the file cannot be written", "free some space and run the same command again")
    if said is None:
        return None
    named = re.search("filename = '([^']+)'", str(error))  # as HDF5 says it
    anywhere = reading or getattr(error, "errno", None) in AWAY
    where = getattr(error, "filename", None) or (named[1] if named else "" if anywhere else folder)
    return str(UserError(said[0], os.fsdecode(where) if isinstance(where, bytes) else where, said[1]))


def reader_left() -> int:
    """After a BrokenPipeError of standard output (`| head` has seen enough): end in peace; returns the exit status 0."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
    return 0
