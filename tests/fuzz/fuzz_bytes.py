"""Damage to bytes, whatever they mean: what disks, networks and half-finished copies do."""

from __future__ import annotations

import random

INTERESTING = (
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\xff" * 7 + b"\x7f",
    b"\x00" * 7 + b"\x80",
    b"\x01" + b"\x00" * 7,
    b"\xff\xff\xff\x7f",
)


def flip(rng: random.Random, data: bytearray) -> None:
    """Flip 1 to 16 bits."""
    for _ in range(2 ** rng.randrange(5)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(rng: random.Random, data: bytearray) -> None:
    """Cut the end off."""
    del data[rng.choice([0, 1, 7, 8, rng.randrange(len(data)), len(data) - 1]) :]


def head(rng: random.Random, data: bytearray) -> None:
    """Flip bits near the beginning, where formats say how long things are."""
    for _ in range(2 ** rng.randrange(4)):
        data[rng.randrange(min(len(data), 2048))] ^= 1 << rng.randrange(8)


def splice(rng: random.Random, data: bytearray) -> None:
    """Copy a block over another place of the same file."""
    n = rng.choice([8, 64, 512, 4096])
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    block = data[a : a + n]
    data[b : b + len(block)] = block


def blank(rng: random.Random, data: bytearray) -> None:
    """Zeros or noise where a block was."""
    n, a = rng.choice([16, 512, 4096]), rng.randrange(len(data))
    n = min(n, len(data) - a)
    data[a : a + n] = bytes(n) if rng.random() < 0.5 else rng.randbytes(n)


def insert(rng: random.Random, data: bytearray) -> None:
    """A number of 8 bytes that means much where it stands for a length or an address."""
    a = rng.randrange(len(data)) // 8 * 8
    data[a : a + 8] = rng.choice(INTERESTING)


def shift(rng: random.Random, data: bytearray) -> None:
    """Some bytes more, or fewer, in the middle."""
    a = rng.randrange(len(data))
    if rng.random() < 0.5:
        data[a:a] = rng.randbytes(rng.randrange(1, 64))
    else:
        del data[a : a + rng.randrange(1, 64)]


def append(rng: random.Random, data: bytearray) -> None:
    """More behind the end."""
    data += rng.choice([b"\n", b"\x00" * 4096, bytes(data[:512]), rng.randbytes(100)])


ALL = (flip, flip, truncate, head, head, splice, blank, insert, insert, shift, append)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three of the above."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if out:
            rng.choice(ALL)(rng, out)
    return bytes(out)
