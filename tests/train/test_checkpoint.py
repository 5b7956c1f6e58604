"""Checkpoints: any cutting into any other, one file a node, damage, full disks, kills, and no pickle."""

import json
import os
import pickle
import random
import re
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from checkpoint_ranks import check_newest, content, cutting, emptied, on_ranks, same
from conftest import LAUNCHERS, ROOT, environment

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.train import manifest as manifests
from hpcdiff.train import storage
from hpcdiff.train.checkpoint import Checkpoints, whole_names
from hpcdiff.train.pieces import Piece, cut, room
from hpcdiff.world import World

SCRIPT = Path(__file__).with_name("checkpoint_ranks.py")


def save(folder, images, keep=3, world=None, pieces=None, node=None, **state):
    """One whole checkpoint."""
    world = world or World()
    checkpoints = Checkpoints(folder, keep, world, node)
    pieces = pieces or {name: cut(tensor, world.rank, world.size) for name, tensor in content(images).items()}
    checkpoints.save(images, pieces, {"images": images, **state}, {"a": 1}, "ddp")
    checkpoints.settle()
    return checkpoints


def script(*arguments, ranks=1):
    command = [*LAUNCHERS["alone" if ranks == 1 else "torchrun"](ranks), str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment(PYTHONPATH=f"{ROOT}:{ROOT}/tests"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture
def no_pickle(monkeypatch):
    """Nothing may be unpickled."""

    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)


@pytest.mark.parametrize("seed", range(6))
def test_any_cutting_on_any_ranks_loads_into_any_other(tmp_path, no_pickle, monkeypatch, seed):
    """Random runs, empty ones too, of every type, on 1 to 5 ranks of 1 to 3 nodes: the same bytes on any other number."""
    rng = random.Random(seed)
    if seed % 2:  # a file system that takes 101 bytes at a time
        monkeypatch.setattr(storage.os, "pwritev", lambda file, parts, offset: os.pwrite(file, b"".join(parts)[:101], offset))
    for case in range(4):
        writers, nodes, ordered = rng.randint(1, 5), rng.randint(1, 3), bool(rng.randint(0, 1))
        folder, images = tmp_path / str(case), rng.randrange(1000)
        cut_up = cutting(content(images), writers, rng, ordered)
        on_ranks(writers, lambda w: save(folder, images, 1, w, cut_up[w.rank], node=f"n{w.rank * nodes // w.size}"))  # noqa: B023
        assert {p.suffix for p in (folder / f"{images:012d}").iterdir()} <= {".safetensors", ".json"}
        shards = list((folder / f"{images:012d}").glob("*.safetensors"))
        assert len(shards) <= (min(nodes, writers) if ordered else writers)
        for readers in (1, rng.randint(2, 4)):
            expected = cutting(content(images), readers, rng, ordered=False)
            expected[0] = {name: Piece(tensor.reshape(-1), 0, tuple(tensor.shape)) for name, tensor in content(images).items()}

            def load(world):
                checkpoints, wanted = Checkpoints(folder, 1, world), emptied(expected[world.rank])  # noqa: B023
                checkpoints.load(checkpoints.newest(), wanted)
                assert same(wanted, expected[world.rank])  # noqa: B023

            on_ranks(readers, load)


def test_the_manifest_says_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 1000)
    on_ranks(3, lambda w: save(tmp_path, 40, world=w, updates=7, rng=[1, 2**63]))
    manifest = Checkpoints(tmp_path, 1, World()).newest()
    assert manifest["images"] == 40 and manifest["world_size"] == 3 and manifest["engine"] == "ddp" and manifest["config"] == {"a": 1}
    assert manifest["state"] == {"images": 40, "updates": 7, "rng": [1, 2**63]}
    assert manifest["tensors"] == {name: list(tensor.shape) for name, tensor in content(40).items()}
    for file in manifest["files"]:
        path = tmp_path / f"{40:012d}" / file["name"]
        assert path.stat().st_size == file["bytes"] and files.sha256_file(path) == file["sha256"]


def test_the_folder_is_one_that_dcp_itself_can_load(tmp_path):
    """Its own reader and planner, given nothing but the folder."""
    import torch.distributed.checkpoint as dcp

    on_ranks(3, lambda w: save(tmp_path, 40, world=w, node=str(w.rank)))
    held = {name: tensor for name, tensor in content(40).items() if tensor.numel()}
    state = {name: torch.empty(tensor.numel(), dtype=tensor.dtype) for name, tensor in held.items()}
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path / f"{40:012d}")), no_dist=True)
    assert all(torch.equal(state[name], tensor.reshape(-1)) for name, tensor in held.items())


def test_1024_ranks_write_one_file_a_node_and_a_cyclic_deal_no_more_than_one_a_rank():
    shapes = {"weights/a": (512, 256, 3, 3), "weights/b": (512,), "n": (), "exp_avg/a": (512, 256, 3, 3)}

    def plan(rank):
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        spans = {name: (n * rank // 1024, n * (rank + 1) // 1024) for name, n in sizes.items()}
        return {name: storage.Run(a, b - a, list(shapes[name]), "float32") for name, (a, b) in spans.items()}

    held = []
    for node in range(128):
        [shard] = storage.shards({rank: plan(rank) for rank in range(8 * node, 8 * node + 8)})
        assert shard.ranks == list(range(8 * node, 8 * node + 8))
        held.append({"name": shard.name, "pieces": {name: [run.start, run.n] for name, run in shard.runs.items()}})
    assert manifests.uncovered({name: list(shape) for name, shape in shapes.items()}, held) is None
    assert len({file["name"] for file in held}) == 128
    assert len(storage.shards({rank: plan(rank) for rank in range(5, 1024, 128)})) == 8


def test_only_the_newest_are_kept_and_what_was_cut_short_goes(tmp_path):
    for images in (10, 20, 30):
        save(tmp_path, images, keep=2)
    (tmp_path / "000000000040.partial").mkdir()
    (tmp_path / "000000000040.partial" / "rank-00000.plan").write_text("{}")
    assert Checkpoints(tmp_path, 2, World()).newest()["images"] == 30
    save(tmp_path, 40, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000030", "000000000040"]


def test_the_same_number_again_replaces_and_never_loses(tmp_path, monkeypatch):
    """Killed between the two renames, the one before comes back."""
    save(tmp_path, 10, keep=1, turn=1)
    save(tmp_path, 10, keep=1, turn=2)
    assert Checkpoints(tmp_path, 1, World()).newest()["state"]["turn"] == 2
    (tmp_path / "000000000010").rename(tmp_path / "000000000010.replaced")
    assert Checkpoints(tmp_path, 1, World()).newest()["state"]["turn"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["000000000010"]


def rewritten(folder, change):
    """Change a manifest and give it the right hash of itself again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    files_, tensors = manifest.pop("files"), {name: [shape, manifest["types"][name]] for name, shape in manifest["tensors"].items()}
    head = {key: manifest[key] for key in ("images", "world_size", "engine", "config", "state")}
    path.write_text(manifests.compose(head, tensors, files_))


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def shard_of(folder, n=-1):
    return sorted(folder.glob("shard-*"))[n]


DAMAGE = {
    "truncated": (lambda f: shard_of(f).write_bytes(shard_of(f).read_bytes()[:-5]), "bytes, not"),
    "longer": (lambda f: shard_of(f).write_bytes(shard_of(f).read_bytes() + b"\0"), "bytes, not"),
    "flipped": (lambda f: flip(shard_of(f), -1), "another SHA-256"),
    "flipped header": (lambda f: flip(shard_of(f, 0), 20), "another SHA-256"),
    "missing": (lambda f: shard_of(f).unlink(), "No such file"),
    "a folder": (lambda f: (shard_of(f).unlink(), (f / "shard-00002.safetensors").mkdir()), "shard-00002.safetensors"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "No such file"),
    "empty manifest": (lambda f: (f / "manifest.json").write_text(""), "cannot be read"),
    "garbled manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe{"), "cannot be read"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "cannot be read"),
    "other json": (lambda f: (f / "manifest.json").write_text('{"format": "hpcdiff-maps"}'), "its format"),
    "flipped manifest": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace('"a": 1', '"a": 3')),
        "not as it was written",
    ),
    "no hash": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace('"sha256"', '"sha257"', 1)),
        "lacks its own hash",
    ),
    "renamed": (lambda f: f.rename(f.with_name("000000000021")), "that of image 20"),
    "outside": (lambda f: rewritten(f, lambda m: m["files"][0].update(name="../../x.safetensors")), "it names the file"),
    "other file": (lambda f: rewritten(f, lambda m: m["files"][0].update(name="manifest.json")), "it names the file"),
    "fewer files": (lambda f: rewritten(f, lambda m: m["files"].pop()), "elements of"),
    "gap": (lambda f: rewritten(f, lambda m: m["files"][1]["pieces"]["weights/conv"].__setitem__(0, 340)), "not at all"),
    "overlap": (lambda f: rewritten(f, lambda m: m["files"][1]["pieces"]["weights/conv"].__setitem__(0, 300)), "twice"),
    "empty run": (lambda f: rewritten(f, lambda m: m["files"][1]["pieces"]["weights/conv"].__setitem__(1, 0)), "elements"),
    "unknown tensor": (lambda f: rewritten(f, lambda m: m["tensors"].pop("weights/bias")), "not among the tensors"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_is_taken(tmp_path, capsys, kind):
    """On every rank alike, whichever rank saw it; written by three ranks of three nodes, read by two."""
    for images in (10, 20):
        on_ranks(3, lambda w, n=images: save(tmp_path, n, world=w, node=str(w.rank)))
    damage, says = DAMAGE[kind]
    damage(tmp_path / "000000000020")
    assert on_ranks(2, lambda w: check_newest(Checkpoints(tmp_path, 3, w))) == [10, 10]
    said = capsys.readouterr().out
    name = "000000000021" if kind == "renamed" else "000000000020"
    assert said.count("is damaged") == 1 and f"{name} is damaged" in said and says in said, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000010", f"{name}.damaged"]


def test_damaged_twice_and_damaged_all(tmp_path, capsys):
    for _ in range(2):
        save(tmp_path, 10)
        flip(shard_of(tmp_path / "000000000010"), -1)
        assert Checkpoints(tmp_path, 3, World()).newest() is None
    assert [p.name for p in tmp_path.iterdir()] == ["000000000010.damaged"]
    assert Checkpoints(tmp_path / "none", 3, World()).newest() is None


def test_a_checkpoint_of_another_version_is_refused_and_not_set_aside(tmp_path):
    save(tmp_path, 10)
    path = tmp_path / "000000000010" / "manifest.json"
    path.write_text(json.dumps({"format": "hpcdiff-checkpoint", "version": 1, "images": 10, "files": []}))
    with pytest.raises(UserError, match="version 1"):
        Checkpoints(tmp_path, 3, World()).newest()
    assert whole_names(tmp_path) == ["000000000010"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.update({"weights/x": room((3,))}), "the checkpoint has no weights/x"),
        (lambda w: w.pop("weights/bias"), "the checkpoint has weights/bias, and this network has not"),
        (lambda w: w.update({"weights/conv": room((10, 100))}), r"weights/conv has shape \(100, 10\) in the checkpoint, not \(10, 100\)"),
        (lambda w: w.update({"weights/conv": room((100, 10), torch.float64)}), "weights/conv is float32 in the checkpoint, not float64"),
        (lambda w: w.update({"ema/half": room((5, 3))}), "ema/half is bfloat16 in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_network_says_what_differs_on_every_rank(tmp_path, change, says):
    save(tmp_path, 10)

    def load(world):
        checkpoints = Checkpoints(tmp_path, 3, world)
        wanted = {name: room(tuple(tensor.shape), tensor.dtype) for name, tensor in content(10).items()}
        if world.rank == 1 or "pop" in change.__code__.co_names:
            change(wanted)
        checkpoints.load(checkpoints.newest(), wanted)

    said = on_ranks(2, load, refused=True)
    with pytest.raises(UserError, match=says):
        raise said[0]
    assert str(said[0]) == str(said[1])


def test_a_rank_may_want_some_tensors_only_if_others_want_the_rest(tmp_path):
    save(tmp_path, 10)
    names = sorted(content(10))

    def load(world):
        wanted = {name: room(tuple(content(10)[name].shape), content(10)[name].dtype) for name in names[world.rank :: 2]}
        checkpoints = Checkpoints(tmp_path, 3, world)
        checkpoints.load(checkpoints.newest(), wanted)
        assert all(torch.equal(piece.data, content(10)[name].reshape(-1)) for name, piece in wanted.items())

    assert on_ranks(2, load) == [None, None]


def test_training_goes_on_while_a_save_is_under_way(tmp_path, monkeypatch):
    """`save` returns before a byte is written; the checkpoint holds what was so then; the next save waits for it."""
    written, write = threading.Event(), storage.write

    def slow(*arguments):
        assert written.wait(30)
        write(*arguments)

    monkeypatch.setattr(storage, "write", slow)
    checkpoints, weights = Checkpoints(tmp_path, 3, World()), torch.ones(50)
    state = {"images": 10}
    checkpoints.save(10, {"w": cut(weights, 0, 1)}, state, {}, "ddp")
    weights += 1
    state["images"] = 11
    assert whole_names(tmp_path) == []
    threading.Timer(0.3, written.set).start()
    assert checkpoints.save(20, {"w": cut(weights, 0, 1)}, state, {}, "ddp") > 0.2
    assert whole_names(tmp_path)[0] == "000000000010"
    wanted = {"w": room((50,))}
    manifest = manifests.parse((tmp_path / "000000000010" / "manifest.json").read_text(), tmp_path / "000000000010")
    checkpoints.load(manifest, wanted)
    assert torch.equal(wanted["w"].data, torch.ones(50)) and manifest["state"] == {"images": 10}
    assert checkpoints.newest()["images"] == 20  # waits for the one under way


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 10)
    need = sum(tensor.nbytes for tensor in content(20).values())
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: need - 1)
    said = on_ranks(2, lambda w: save(tmp_path, 20, world=w), refused=True)
    assert all("are free" in str(e) for e in said), said
    assert [p.name for p in tmp_path.iterdir()] == ["000000000010"]
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: need)
    on_ranks(2, lambda w: save(tmp_path, 20, world=w))
    assert len(whole_names(tmp_path)) == 2


@pytest.mark.parametrize(
    ("where", "name", "rank"),
    [("write", "shard-00000", 1), ("plan", "rank-00003.plan", 3), ("sync", "shard-00002", 2), ("commit", "manifest.json", 0)],
)
def test_a_failure_of_one_rank_at_any_step_is_one_error_on_all(tmp_path, monkeypatch, where, name, rank):
    """Four ranks on two nodes; nobody is left waiting, earlier checkpoints stay, and the next save works."""
    on_ranks(4, lambda w: save(tmp_path, 10, world=w, node=str(w.rank // 2)))
    full = OSError(28, "No space left on device", name)
    owner, attribute = {
        "write": (storage, "write"),
        "plan": (Path, "write_text"),
        "sync": (files, "sync"),
        "commit": (files, "write_atomic"),
    }[where]
    original = getattr(owner, attribute)

    def failing(*arguments, **options):
        mine = where != "write" or arguments[2] == rank
        if mine and any(name.rsplit(".", 1)[0] in str(getattr(a, "name", a)) for a in arguments[:2]):
            raise full
        return original(*arguments, **options)

    monkeypatch.setattr(owner, attribute, failing)
    said = on_ranks(4, lambda w: save(tmp_path, 20, world=w, node=str(w.rank // 2)), refused=True)
    assert len({str(e) for e in said}) == 1 and "the disk is full" in str(said[0]), said
    assert [p.name for p in tmp_path.iterdir()] == ["000000000010"]
    monkeypatch.undo()
    on_ranks(4, lambda w: save(tmp_path, 20, world=w, node=str(w.rank // 2)))
    assert on_ranks(3, lambda w: check_newest(Checkpoints(tmp_path, 3, w))) == [20] * 3


def test_a_disk_that_fills_up_in_the_middle(tmp_path, monkeypatch):
    """A file system of 120 kB holds one checkpoint of 60 kB and not two; what is free is said wrongly, as under a quota."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        tensors = {"w": torch.randn(15_000)}
        checkpoints = Checkpoints(disk / "c", 3, World())
        monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: 10**9)
        checkpoints.save(10, {"w": cut(tensors["w"], 0, 1)}, {}, {}, "ddp")
        checkpoints.settle()
        checkpoints.save(20, {"w": cut(tensors["w"], 0, 1)}, {}, {}, "ddp")
        with pytest.raises(UserError, match="the disk is full"):
            checkpoints.settle()
        assert [p.name for p in (disk / "c").iterdir()] == ["000000000010"]
        assert checkpoints.newest()["images"] == 10
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_processes_save_and_load_each_others(tmp_path):
    """3 -> 2 -> 1 processes under torchrun; and where one rank alone cannot write, all say so."""
    assert "saved 10 on 3" in script("go", tmp_path / "c", 1, ranks=3)
    assert "saved 20 on 2" in script("go", tmp_path / "c", 2, ranks=2)
    assert check_newest(Checkpoints(tmp_path / "c", 2, World())) == 20


def test_killed_at_any_moment_what_is_left_is_whole(tmp_path):
    """Two ranks that save for ever are killed 15 times; each time the newest holds what was saved under its number, none is damaged."""
    said = script("kill", tmp_path / "c", 15)
    reached, short, damaged = (int(n) for n in re.search(r"reached (\d+), cut short (\d+), damaged (\d+)", said).groups())
    assert reached > 10 and short > 3 and damaged == 0, said
