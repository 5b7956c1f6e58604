"""JSON of another shape, and safetensors files whose header lies."""

from __future__ import annotations

import json
import random
import struct

from fuzz_fork import CANARY

VALUES = (
    None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 1e308, float("nan"), float("inf"), "", " ", "nan", "linear", "../../outside/victim",
    "/etc/passwd", f"__import__('os').system('{CANARY}')", "x" * 100_000, "\x00", "\ud800", "é", "4sigma", "asinh", [], [[]], [0], [-1, 2], [2**62, 2**62], {}, {"a": 1},
    ["sz"], ["sz", "xray", "gas", "dm"],
)  # fmt: skip


def nodes(tree: object, path: tuple = ()) -> list[tuple]:
    """Paths of every value below a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [p for key, value in inner for p in ((*path, key), *nodes(value, (*path, key)))]


def mutate_tree(rng: random.Random, tree: object) -> object:
    """Replace, remove, rename or double a value somewhere in a tree; the tree itself, in 1 of 50."""
    if rng.random() < 0.02:
        return rng.choice(VALUES)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        paths = nodes(tree)
        if not paths:
            break
        path = rng.choice(paths)
        place = tree
        for key in path[:-1]:
            place = place[key]
        what = rng.random()
        if what < 0.6:
            old = place[path[-1]]
            scaled = [old * 2, old + 1, -old] if isinstance(old, (int, float)) else []
            place[path[-1]] = rng.choice([*VALUES, *scaled])
        elif what < 0.8:
            del place[path[-1]]
        elif isinstance(place, dict):
            place[rng.choice(["x", "", "../x", "sha256", "config", f"{path[-1]}2"])] = place.pop(path[-1])
        else:
            place.append(place[path[-1]])
    return tree


def mutate_json(rng: random.Random, text: str) -> str:
    """JSON of another shape; or deep, or with a key twice."""
    what = rng.random()
    if what < 0.03:
        return "[" * 100_000
    if what < 0.06:
        return '{"a":' * 50_000 + "1" + "}" * 50_000
    if what < 0.09:
        return text.replace("{", '{"format": 0, "format": "hpcdiff-model",', 1)
    if what < 0.12:
        return text.replace(": 1", f": {'9' * 5000}", 1)
    tree = mutate_tree(rng, json.loads(text))
    return json.dumps(tree, indent=1)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Lengths, offsets, types and shapes of the header that are not those of the data; or data that are no numbers."""
    n = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + n]), bytearray(data[8 + n :])
    tensors = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(tensors), rng.choice(tensors)
    about, size = header[name], None
    what = rng.randrange(13)
    if what == 0:
        about["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "", 3])
    elif what == 1:
        about["shape"] = rng.choice([[], [0], [-1], [2**62, 2**62], [2**40], [1, *about["shape"]], about["shape"][::-1], ["a"], None])
    elif what == 2:
        about["data_offsets"] = rng.choice([header[other]["data_offsets"], [0, 2**63], [5, 1], [-1, 4], [0], [0, len(body) + 4], "x"])
    elif what == 3:
        del header[name]
    elif what == 4:
        header[rng.choice(["x", "denoiser.", "statistics.mean", "../x", "\x00"])] = dict(about)
    elif what == 5:
        header[name + "x"] = header.pop(name)
    elif what == 6:
        header[name], header[other] = header[other], header[name]
    elif what == 7:
        size = rng.choice([0, 1, n - 1, n + 1, n + len(body) + 9, 2**31, 2**63, 2**64 - 1, 100_000_001])
    elif what == 8:
        header = mutate_tree(rng, header)
    elif what == 9:
        header["__metadata__"] = rng.choice(
            [{"DCP_SHARDING_INFO": "[" * 50_000}, {"DCP_SHARDING_INFO": '{"x": 1}'}, {"format": "tf"}, {"a": 1}, [], None]
        )
    elif what == 10:
        return data[:8] + b"[" * n + bytes(body)
    else:  # numbers that are none, but whole as a file
        a = about["data_offsets"][0] + rng.randrange(max(1, (about["data_offsets"][1] - about["data_offsets"][0]) // 4)) * 4
        body[a : a + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), -1.0, 0.0, 3e38]))
    try:
        text = json.dumps(header).encode()
    except UnicodeEncodeError:
        text = b"{}"
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(body)
