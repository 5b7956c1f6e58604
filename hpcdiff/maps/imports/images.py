"""The images of one field, read a few at a time: a stack in one file, or a file a view."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps.imports.fits import FITS_SUFFIXES, read_fits, shape_of_fits
from hpcdiff.maps.imports.table import WHOLE, Table

Check = Callable[[object, object], None]
"""What looks at a FITS header and at where it stands."""


class Stack:
    """Images (N, npix, npix) in one .npy or FITS file.

    Attributes:
        shape: (N, npix, npix).
        paths: the files.
    Raises:
        UserError: no such file, no such format, not real numbers.
    """

    def __init__(self, path: str, check: Check) -> None:
        self.path, self.extension = _named(path)
        self.paths, self.check = [self.path], check
        self.shape = _shape(self.path, self.extension, check)

    def read(self, images: np.ndarray) -> np.ndarray:
        """The images with these numbers, (len(images), npix, npix), in the file's own type."""
        return _read(self.path, self.extension, self.check, images)


class Single:
    """One .npy or FITS image (npix, npix) a view, in files named after columns of the table; attributes as in `Stack`."""

    def __init__(self, template: str, table: Table, check: Check) -> None:
        self.named = [_named(name) for name in _fill(template, table)]
        self.paths, self.check = list(dict.fromkeys(path for path, _ in self.named)), check
        if len(set(self.named)) < len(self.named):
            twice = next(name for k, name in enumerate(self.named) if name in self.named[:k])
            raise UserError(f"two views have the same image {twice[0]}", template, "name the columns that tell the views apart")
        self.shape = (len(table), *_shape(*self.named[0], check))

    def read(self, images: np.ndarray) -> np.ndarray:
        """The images of these rows of the table, (len(images), npix, npix)."""
        out = []
        for k in images:
            if (shape := _shape(*self.named[k], self.check)) != self.shape[1:]:
                raise UserError(f"an image has shape {shape}, the first {self.shape[1:]}", self.named[k][0], "give images of one size")
            out.append(_read(*self.named[k], self.check, None))
        return np.stack(out)


def open_images(text: str, table: Table, check: Check) -> Stack | Single:
    """The images that a key of `fields` names.

    Raises:
        UserError: as `Stack`; a pattern with *, which would leave the order to chance.
    """
    if "*" in text or "?" in text:
        raise UserError(
            "a pattern leaves the order of the images to chance", text, "name each by columns of the catalogue: map_{halo_id}.fits"
        )
    return Single(text, table, check) if "{" in text else Stack(text, check)


def _fill(template: str, table: Table) -> list[str]:
    """The file name of each view: columns of whole numbers as numbers (so that {halo_id:04d} works), others as they are written."""
    numbers = {name: table.column(name).tolist() for name in WHOLE if name in table and f"{{{name}:" in template}
    columns = {**table.texts, **numbers}
    try:
        return [template.format_map({name: words[row] for name, words in columns.items()}) for row in range(len(table))]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"the name of the images cannot be filled in ({error})", template, f"columns are {', '.join(columns)}") from None


def _named(text: str) -> tuple[Path, str | None]:
    """A path, and the FITS extension behind it in brackets."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    path, extension = (Path(match[1]), match[2]) if match else (Path(text), None)
    if not (path.name.lower().endswith(FITS_SUFFIXES) or (path.suffix == ".npy" and extension is None)):
        raise UserError("images are .npy or FITS files", text, f"give a .npy, or one of {', '.join(FITS_SUFFIXES)}, with [EXTENSION]")
    if not path.exists():
        raise UserError("the images are not there", path, "name others in the key fields")
    return path, extension


def _shape(path: Path, extension: str | None, check: Check) -> tuple[int, ...]:
    shape, kind = shape_of_fits(path, extension, check) if path.suffix != ".npy" else _npy(path, lambda a: (a.shape, a.dtype))
    if kind.kind not in "fiu":
        raise UserError(f"the images are of type {kind}", path, "give real numbers")
    return tuple(shape)


def _read(path: Path, extension: str | None, check: Check, images: np.ndarray | None) -> np.ndarray:
    if path.suffix != ".npy":
        return read_fits(path, extension, check, images)
    return _npy(path, lambda a: np.array(a if images is None else a[images]))


def _npy(path: Path, use: Callable):
    """Map a .npy file into memory, use it, and let it go: what is mapped counts as this process's memory."""
    try:
        with np.errstate(all="ignore"):  # of sizes that overflow
            return use(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, OverflowError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        raise UserError(f"not a whole .npy file of numbers ({' '.join(str(error).split())[:100]})", path, "save it again") from None
