"""FITS images and .npy stacks: headers that lie about the numbers behind them, or that say what nobody expects."""

from __future__ import annotations

import ast
import gzip
import random
import struct

import numpy as np
from fuzz_fork import CANARY

CARD, BLOCK = 80, 2880
VALUES = (
    "0", "1", "-1", "2", "7", "-32", "-64", "8", "16", "99", "2147483648", "9223372036854775807", "1E308", "-1E308", "1E-320", "1D400", "NAN", "INF", "T", "F", "''",
    "'x'", "'uK'", "'K_CMB'", "'Msun/Mpc2'", "'erg/s/cm2'", "'10**(3) K'", "'mag'", "'K**99999999'", "'(K'", "'deg'", "'kpc'", "'m'", "'RA---TAN'", "'DEC--SIP'", "'GLON-ZPN'", "'RA---TAN-SIP'",
    "'DEC--TPV'", "'FREQ'", "'XLON-CAR'", "(1, 2)", "1 / 2", "=", "'unclosed", f"'__import__(os).system({CANARY})'", "'\xff\xfe'", "9" * 65,
)  # fmt: skip
KEYS = (
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND", "BSCALE", "BZERO", "BLANK", "PCOUNT", "GCOUNT", "GROUPS", "BUNIT", "REDSHIFT", "CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2",
    "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CDELT1", "CDELT2", "CD1_1", "CD2_2", "PC1_1", "PC1_2", "CROTA2", "LONPOLE", "LATPOLE", "PV2_1", "PV1_1", "EQUINOX", "RADESYS", "WCSAXES", "A_ORDER", "A_2_0",
    "CTYPE3", "CHECKSUM", "DATASUM", "XTENSION", "TFIELDS", "ZIMAGE", "ZCMPTYPE", "END", "CONTINUE", "HIERARCH a b", "COMMENT", "INHERIT", "DATE-OBS", "MJDREF", "TIMESYS",
)  # fmt: skip
NUMBERS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 3e38, -3e38, 1e-40)


def cards(data: bytes) -> int:
    """How many cards the first header has, `END` among them; of a file without one, those of its first block."""
    for n in range(0, len(data) - CARD, CARD):
        if data[n : n + 8] == b"END     ":
            return n // CARD + 1
    return BLOCK // CARD


def mutate_fits(rng: random.Random, data: bytes) -> bytes:
    """Cards replaced, removed, doubled, or of another key; or numbers that are none. A .gz stays one."""
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(mutate_fits(rng, gzip.decompress(data)), 1)
    for _ in range(rng.choice([1, 1, 2, 3])):
        n, what, out = cards(data), rng.random(), bytearray(data)
        k = rng.randrange(n)
        if what < 0.45:
            key = out[k * CARD : k * CARD + 8] if rng.random() < 0.6 else rng.choice(KEYS).ljust(8).encode("latin1")
            out[k * CARD : (k + 1) * CARD] = _card(key, rng.choice(VALUES))
        elif what < 0.55:
            del out[k * CARD : (k + 1) * CARD]
            out[(n - 1) * CARD : (n - 1) * CARD] = b" " * CARD
        elif what < 0.65:
            j = rng.randrange(n)
            out[j * CARD : (j + 1) * CARD] = out[k * CARD : (k + 1) * CARD]
        elif what < 0.72:
            a = k * CARD + rng.randrange(CARD)
            out[a : a + 1] = rng.choice([b"\x00", b"\n", b"\xff", b"'", b"/", b"=", b" "])
        elif what < 0.78:
            out += rng.choice([bytes(out), b"\x00" * BLOCK, _extension(rng), bytes(out[: n * CARD])])
        elif what < 0.82:
            out[k * CARD : k * CARD] = _card(rng.choice(KEYS).ljust(8).encode(), rng.choice(VALUES))
        else:
            begin = -(-n * CARD // BLOCK) * BLOCK
            if len(out) > begin + 8:
                a = begin + rng.randrange((len(out) - begin) // 4) * 4
                count = rng.choice([1, 1, 100, (len(out) - a) // 4])
                piece = struct.pack(">f", rng.choice(NUMBERS)) * count
                out[a : a + len(piece)] = piece[: len(out) - a]
        data = bytes(out)
    return data


def _card(key: bytes, value: str) -> bytes:
    return (bytes(key)[:8].ljust(8) + b"= " + value.encode("latin1").rjust(20))[:CARD].ljust(CARD)


def _extension(rng: random.Random) -> bytes:
    """One more header behind the image: of an image, of a table, of nothing that is known."""
    kind = rng.choice(["IMAGE", "BINTABLE", "TABLE", "NOTHING", ""])
    said = {"XTENSION": f"'{kind:8s}'", "BITPIX": "8", "NAXIS": "2", "NAXIS1": rng.choice(["4", "999999999", "-1"]), "NAXIS2": "2", "PCOUNT": "0", "GCOUNT": "1"}  # fmt: skip
    if kind == "BINTABLE":
        said |= {
            "TFIELDS": rng.choice(["1", "999", "-1"]),
            "TFORM1": rng.choice(["'4A'", "'1PJ(9)'", "'99999999J'"]),
            "ZIMAGE": rng.choice("TF"),
        }
    text = b"".join(_card(key.encode(), value) for key, value in said.items()) + b"END".ljust(CARD)
    return text.ljust(BLOCK) + bytes(BLOCK)


DESCRIPTIONS = (
    "'<f4'", "'>f8'", "'|O'", "'<c8'", "'|S3'", "'<M8[s]'", "'|V0'", "[('a', '<f4')]", "'x'", "3", "None", "[]", f"__import__('os').system('{CANARY}')", "'<f4,<f4'", "'<f4' * 10", "{}",
)  # fmt: skip
SHAPES = (
    "()",
    "(0,)",
    "(-1, 8, 8)",
    "(1, 2)",
    "(2**62, 2**62)",
    "(4611686018427387904, 8, 8)",
    "(999999, 8, 8)",
    "(8, 8)",
    "3",
    "'a'",
    "(1.0, 8)",
    "None",
    "(True, 8, 8)",
)


def mutate_npy(rng: random.Random, data: bytes) -> bytes:
    """A .npy whose header says another type, shape or order than its numbers have; pickled objects; numbers that are none."""
    n = struct.unpack("<H", data[8:10])[0]
    header, body = ast.literal_eval(data[10 : 10 + n].decode()), bytearray(data[10 + n :])
    what = rng.random()
    said = {name: repr(value) for name, value in header.items()}
    if what < 0.2:
        said["descr"] = rng.choice(DESCRIPTIONS)
    elif what < 0.45:
        shape = header["shape"]
        said["shape"] = rng.choice([*SHAPES, repr((shape[0] + 1, *shape[1:])), repr((shape[0] - 1, *shape[1:])), repr(shape[::-1])])
    elif what < 0.5:
        said["fortran_order"] = rng.choice(["True", "None", "7", "'a'"])
    elif what < 0.56:
        said.pop(rng.choice(list(said)))
    elif what < 0.6:
        said["more"] = "1"
    elif what < 0.9:
        values = np.frombuffer(body, header["descr"]).copy()
        a = rng.randrange(len(values))
        values[a : a + rng.choice([1, 1, 64, len(values)])] = rng.choice(NUMBERS)
        body = bytearray(values.tobytes())
    else:
        return data[:6] + bytes([rng.choice([0, 2, 3, 9]), rng.choice([0, 1])]) + data[8:]
    text = "{" + ", ".join(f"'{name}': {value}" for name, value in said.items()) + ", }"
    if rng.random() < 0.05:
        text = rng.choice(["{" * 5000, "(" * 200, "[]", "{}", f"exec('{CANARY}')", "{'shape': " + "9" * 5000 + "}"])
    raw = text.encode()
    raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
    return data[:8] + struct.pack("<H", len(raw) & 0xFFFF) + raw + bytes(body)
