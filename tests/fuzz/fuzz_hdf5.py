"""HDF5 files that are whole as files, with content that is not what the reader expects, or leads elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import numpy as np
from fuzz_fork import CANARY

NUMBERS = (0, 1, -1, 2, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 2**31, -(2**31), 2**63 - 1, -(2**63), 0.5, 3e38)
TYPES = ("<f8", "<f4", "<f2", ">f8", ">f4", "<i8", "<i4", "i1", "u1", "<u8", "<u4", "S3", "S0", "V5", "?", "<c16")
BYTES = (
    "",
    " ",
    "nan",
    "1.2.3",
    "SWIFT",
    "é",
    "\x01",
    "x" * 40_000,
    f"__import__('os').system('{CANARY}')",
    "{}",
    "[",
    "run: !!python/object:os.x {}",
    "[" * 20_000,
    "&a [*a]",
    "../../outside/victim",
)


def mutate(rng: random.Random, path: Path, others: list[Path]) -> None:
    """Change one to three things in a file.

    Args:
        others: files that links and virtual datasets may lead to: of the outside, of the same kind.
    """
    for _ in range(rng.choice([1, 1, 2, 3])):
        with h5py.File(path, "r+") as f:
            names: list[str] = []
            f.visit(names.append)
            if not names:
                return
            rng.choice(STRUCTURAL)(rng, f, sorted(names), others)


def _dataset(rng: random.Random, f: h5py.File, names: list[str]) -> str | None:
    found = [name for name in names if isinstance(f.get(name), h5py.Dataset)]
    return rng.choice(found) if found else None


def _put(f: h5py.File, name: str, **options: object) -> None:
    """A dataset in the place of another, with its attributes where they fit."""
    about = dict(f[name].attrs)
    del f[name]
    f.create_dataset(name, **options).attrs.update(about)


def _value(rng: random.Random) -> object:
    return rng.choice(
        [
            lambda: rng.choice(NUMBERS),
            lambda: np.full(rng.choice([1, 2, 3, 6, 7]), rng.choice(NUMBERS[:12]), "<f8"),
            lambda: np.zeros(rng.choice([0, 1, 5, 6, 1000]), np.int32),
            lambda: np.full(6, rng.choice([-1, 0, 1, 2**31 - 1]), np.int32),
            lambda: np.full((2, 3), 1.0),
            lambda: rng.choice(BYTES),
            lambda: np.bytes_(b"\xff\xfe latin"),
            lambda: np.array([b"a", b"bcd"]),
            lambda: h5py.Empty("f8"),
            lambda: h5py.Empty("S1"),
            lambda: np.zeros(2, [("a", "f8"), ("b", "i4")]),
            lambda: np.array([1 + 2j]),
            lambda: np.True_,
            lambda: np.void(b"\x00\x01"),
            lambda: np.uint64(2**64 - 1),
            lambda: np.float16(1.5),
        ]
    )()


def attribute(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """An attribute removed, renamed, or of another value or type."""
    place = f[rng.choice(["/", "/", *(n for n in names if len(f[n].attrs)), *names[:1]])] if names else f
    keys = list(place.attrs)
    key = rng.choice(keys or ["format"])
    what = rng.random()
    if what < 0.15 and keys:
        del place.attrs[key]
    elif what < 0.2 and keys:
        place.attrs.rename(key, "renamed")
    elif what < 0.3 and keys and np.issubdtype(np.asarray(place.attrs[key]).dtype, np.number):
        place.attrs[key] = np.asarray(place.attrs[key]) * rng.choice([-1, 0, 2, 1000, 1e-3])
    elif what < 0.33:
        place.attrs.create(key, np.array(place.ref, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
    elif what < 0.36:
        place.attrs.create(key, np.array([np.arange(3.0), np.arange(1.0)], dtype=object), dtype=h5py.vlen_dtype(np.float64))
    else:
        place.attrs[key] = _value(rng)


def remove(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """A group or dataset less, or under another name."""
    name = rng.choice(names)
    if rng.random() < 0.5:
        del f[name]
    else:
        f.move(name, name + rng.choice(["2", "_", " ", "é", "/x/y"]) if rng.random() < 0.7 else "renamed")


def kind(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """Another type of numbers, or no numbers."""
    if (name := _dataset(rng, f, names)) is None:
        return
    shape, what = f[name].shape, rng.random()
    if what < 0.6:
        dtype = np.dtype(rng.choice(TYPES) if what < 0.55 else [("a", "f8"), ("b", "i4", (2,))])
        _put(f, name, shape=shape, dtype=h5py.string_dtype() if dtype.itemsize == 0 else dtype)
    elif what < 0.7:
        _put(f, name, shape=shape, dtype=h5py.string_dtype())
    elif what < 0.8:
        _put(f, name, shape=shape, dtype=h5py.vlen_dtype(np.float64))
    elif what < 0.9:
        _put(f, name, shape=shape, dtype=h5py.ref_dtype)
    else:
        _put(f, name, shape=shape, dtype=np.dtype(("<f4", (3,))))


def shape(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """Another shape: a rank more or less, a row more or fewer, none at all, turned round."""
    if (name := _dataset(rng, f, names)) is None:
        return
    old, data = f[name].shape or (), f[name][()]
    n = old[0] if old else 1
    new = rng.choice(
        [
            (),
            (0,),
            (0, *old[1:]),
            (n + 1, *old[1:]),
            (max(n - 1, 0), *old[1:]),
            (*old, 1),
            (1, *old),
            old[::-1],
            (n,),
            (n, 2),
            (1,) * 32,
            None,
        ]
    )
    dtype = getattr(data, "dtype", np.dtype("f8"))
    if new is None or dtype.kind == "O":
        _put(f, name, data=h5py.Empty("f4"))
    else:
        _put(f, name, data=np.resize(data, new) if np.size(data) else np.zeros(new, dtype))


def values(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """Numbers that make no sense, one or all."""
    if (name := _dataset(rng, f, names)) is None or f[name].dtype.kind not in "iuf" or not f[name].size:
        return
    data = f[name][()]
    flat = np.atleast_1d(data).reshape(-1)
    with np.errstate(all="ignore"):
        number = rng.choice(NUMBERS)
        if flat.dtype.kind in "iu":
            about = np.iinfo(flat.dtype)
            number = rng.choice([0, 1, 2, 3, 127, about.min, about.max])
        what = rng.random()
        if what < 0.4:
            flat[rng.randrange(len(flat))] = number
        elif what < 0.6:
            flat[:] = number
        elif what < 0.8:
            flat *= np.array(rng.choice([0, 2, 3, 1000])).astype(flat.dtype)
        else:
            rng.shuffle(order := list(range(len(flat))))
            flat = flat[order]
    f[name][...] = flat.reshape(data.shape)


def huge(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """A shape that no memory holds and no byte on the disk stands behind."""
    if (name := _dataset(rng, f, names)) is None:
        return
    old, dtype = f[name].shape or (1,), f[name].dtype
    if dtype.kind not in "iuf":
        return
    n = rng.choice([10**6, 10**8, 2**31, 2**33, 2**40])
    new = rng.choice([(n, *old[1:]), (n, *old[1:]), (*old[:-1], n)])
    chunks = rng.choice([None, tuple(min(s, 4) or 1 for s in new), tuple(min(s, 1000) or 1 for s in new)])
    _put(f, name, shape=new, dtype=dtype, chunks=chunks, maxshape=None if chunks is None else (None,) * len(new))


def storage(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """Other chunks and filters: those that are fine, those that are missing here, a damaged chunk behind a checksum."""
    if (name := _dataset(rng, f, names)) is None or f[name].dtype.kind not in "iuf" or not f[name].size or not f[name].shape:
        return
    data, about = f[name][()], dict(f[name].attrs)
    what = rng.randrange(5)
    if what == 0:
        _put(f, name, data=data, chunks=(1,) * data.ndim if data.size < 2000 else True)
    elif what == 1:
        _put(f, name, data=data, compression="gzip", shuffle=True, fletcher32=True)
    elif what == 2:
        _put(f, name, data=data, chunks=True, maxshape=(None,) * data.ndim, scaleoffset=2)
    else:
        del f[name]
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk(data.shape)
        if what == 3:
            create.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd, which a plain HDF5 has not
        else:
            create.set_fletcher32()
        made = h5py.h5d.create(f.id, name.encode(), h5py.h5t.py_create(data.dtype), h5py.h5s.create_simple(data.shape), create)
        made.write_direct_chunk((0,) * data.ndim, rng.randbytes(rng.choice([1, 4, data.nbytes, data.nbytes + 4])))
        h5py.Dataset(made).attrs.update(about)


def link(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """A link in the place of something: into nothing, in a circle, to another file, to a device."""
    name = rng.choice(names)
    del f[name]
    target = rng.choice([*map(str, others), "nowhere.h5", "/dev/zero", "/etc/passwd", "../../outside/victim", f.filename, "", "x" * 3000])
    f[name] = rng.choice(
        [
            h5py.SoftLink("/nowhere"),
            h5py.SoftLink(f"/{name}"),
            h5py.SoftLink("/"),
            h5py.ExternalLink(target, "/"),
            h5py.ExternalLink(target, f"/{name}"),
        ]
    )


def virtual(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """A virtual dataset, or one whose bytes stand in another file."""
    if (name := _dataset(rng, f, names)) is None or f[name].dtype.kind not in "iuf" or not f[name].shape or not f[name].size:
        return
    dtype, size, about = f[name].dtype, f[name].shape, dict(f[name].attrs)
    target = rng.choice([*map(str, others), "nowhere.h5", "/dev/zero", ".", f.filename, "../../outside/victim", "%b"])
    if rng.random() < 0.4:
        del f[name]
        f.create_dataset(name, shape=size, dtype=dtype, external=[(target, 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(size, dtype)
        layout[:] = h5py.VirtualSource(target, rng.choice([name, "/x"]), size, dtype)
        del f[name]
        f.create_virtual_dataset(name, layout, fillvalue=rng.choice([0, 1, np.nan]) if dtype.kind == "f" else 0)
    f[name].attrs.update(about)


def swap(rng: random.Random, f: h5py.File, names: list[str], others: list[Path]) -> None:
    """A group where a dataset was, a dataset or a type where a group was, one dataset under another's name."""
    name = rng.choice(names)
    was = isinstance(f[name], h5py.Group)
    what = rng.random()
    if what < 0.5:
        del f[name]
        if was:
            f[name] = rng.choice([np.zeros(3), np.dtype("f8"), np.bytes_(b"text")])
        else:
            f.create_group(name)
    elif what < 0.75:
        f[name + "_more"] = rng.choice([np.zeros(3), "text", np.dtype("f8")]) if rng.random() < 0.5 else h5py.SoftLink("/nowhere")
    elif (other := _dataset(rng, f, names)) and other != name and not name.startswith(other + "/") and not other.startswith(name + "/"):
        del f[name]
        f[name] = f[other]


STRUCTURAL = (
    attribute,
    attribute,
    attribute,
    attribute,
    remove,
    remove,
    kind,
    kind,
    shape,
    shape,
    values,
    values,
    values,
    huge,
    storage,
    link,
    virtual,
    swap,
)
