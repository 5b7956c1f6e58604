"""The child that opens HDF5 files first: what it survives, what it dies of, and who starts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, make_maps, refused, run

from hpcdiff import scout
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.scout import Scout, go_ahead
from hpcdiff.world import World

ANSWERS = """
import os, signal, sys
print("ready", flush=True)
for line in sys.stdin:
    if "crash" in line:
        os.kill(os.getpid(), signal.{signal})
    print("seen", flush=True)
"""


def pretending(name="SIGSEGV", code=ANSWERS):
    """Children that die of a file called crash, and how many were started."""
    begun = []

    def begin():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        begun.append(subprocess.Popen([sys.executable, "-S", "-c", code.replace("{signal}", name)], **pipes))
        return begun[-1]

    return begin, begun


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a", "crash", "b", "c")]
    for path in paths:
        path.write_text("x")
    return paths


def damage_texts(path, byte=3):
    """Change a byte (0 to 7) of the length of the first text in the heap of a file's texts: the last of them make HDF5 1.10 crash, the first
    make it go in circles."""
    data = bytearray(path.read_bytes())
    data[data.index(b"GCOL") + 24 + byte] = 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "says"),
    [("SIGSEGV", "crashes on it (SIGSEGV)"), ("SIGABRT", "crashes on it (SIGABRT)"), ("SIGPROF", "does not come to an end")],
)
def test_a_file_of_which_a_child_dies_is_refused_and_the_next_is_looked_at(files, name, says):
    begin, begun = pretending(name)
    made = Scout(begin)
    found = [made.look(path) for path in files]
    assert says in found[1] and found[0] == found[2] == found[3] == "" and len(begun) == 2
    made.rest()
    assert all(child.poll() is not None for child in begun)


def test_a_file_is_looked_at_once_until_it_is_written_to(files, monkeypatch):
    made, asked = Scout(), []
    monkeypatch.setattr(made, "_ask", lambda path: asked.append(path) or "")
    for _ in range(3):
        made.look(files[0])
    assert len(asked) == 1
    files[0].write_text("xy")
    made.look(files[0])
    assert len(asked) == 2


def test_a_child_that_went_to_rest_or_was_ended_is_followed_by_another(files):
    begin, begun = pretending()
    made = Scout(begin)
    made.look(files[0])
    begun[0].kill()
    begun[0].wait()
    assert "crashes" in made.look(files[1]) and len(begun) == 2


@pytest.mark.parametrize("how", ["not allowed", "dies at once", "is killed", "says nothing", "has ended"])
def test_where_no_child_can_look_files_are_read_all_the_same(files, how, monkeypatch):
    monkeypatch.setattr(scout, "PATIENCE_MS", 1000)
    code = {"dies at once": "", "is killed": ANSWERS, "says nothing": "import time; time.sleep(60)"}.get(how, "")
    begin, begun = pretending("SIGKILL", code)

    def none():
        raise BlockingIOError("no process left")

    made = Scout(none if how == "not allowed" else begin)
    assert made.look(files[1]) == "" and not made.on
    assert made.look(files[0]) == "" and len(begun) <= 1


def test_whole_files_pass_with_one_child_and_a_damaged_one_does_not(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=4, npix=8)
    with h5py.File(tmp_path / "big.h5", "w") as f:
        f.create_dataset("packed", data=np.zeros((4000, 400)), chunks=(100, 400), compression="gzip")
        f["texts"] = [f"text {n}" for n in range(1000)]
        f["self"] = h5py.SoftLink("/")
        f.attrs["many"] = ["a"] * 100
    made = Scout()
    try:
        assert made.look(tmp_path / "maps.h5") == made.look(tmp_path / "big.h5") == made.look(ROOT / "setup.py") == ""
        assert made.on and made.child.poll() is None
        first = made.child.pid
        damage_texts(tmp_path / "maps.h5")
        assert "the HDF5 library" in made.look(tmp_path / "maps.h5")
        assert made.look(tmp_path / "big.h5") == "" and (made.child is None or made.child.pid != first)
    finally:
        made.rest()


def test_a_call_that_never_ends_ends_the_child(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as f:
        f.attrs["format"] = "a text"
    damage_texts(tmp_path / "f.h5", byte=0)
    code = f"from hpcdiff import scouting; scouting.CALL_S = 0.3; scouting.look({str(tmp_path / 'f.h5')!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=100).returncode == -signal.SIGPROF


def test_the_child_is_no_rank_and_needs_neither_mpi_nor_torch():
    environment = {
        **os.environ,
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "0",
        "PMIX_RANK": "0",
        "SLURM_PROCID": "0",
        "RANK": "0",
    }
    code = (
        "import os, sys; from hpcdiff.scout import SCOUT; assert SCOUT.look('setup.py') == '' and SCOUT.on;"
        "print(open(f'/proc/{SCOUT.child.pid}/environ').read().replace(chr(0), ' '))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    names = {word.partition("=")[0] for word in said.stdout.split(" ")}
    assert "PATH" in names and not names & {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", "RANK"}
    code = (
        "from hpcdiff import scouting; import sys; m = sys.modules.get('mpi4py.MPI'); print(m is not None and m.Is_initialized());"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == ["False", "False"]


def test_the_child_ends_with_its_parent():
    code = "import os; from hpcdiff.scout import SCOUT; SCOUT.look('setup.py'); print(SCOUT.child.pid, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    child, until = Path(f"/proc/{done.stdout.strip()}"), time.monotonic() + 30
    while child.exists() and (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < until:
        time.sleep(0.02)
    assert not child.exists() or (child / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_other_ranks_than_the_first_start_none(files, monkeypatch):
    begin, begun = pretending()
    monkeypatch.setattr(scout, "SCOUT", Scout(begin))
    world = World()
    world.rank = 1
    go_ahead(world, files)
    assert not begun
    with pytest.raises(UserError, match="crashes"):
        go_ahead(World(), files)
    scout.SCOUT.rest()
    other = Scout(begin)
    other.first = False
    assert other.look(files[1]) == "" and "crashes" in other.look(files[1], own=True)
    other.rest()


def test_a_map_file_that_crashes_hdf5_is_refused_in_one_line(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    damage_texts(tmp_path / "maps.h5")
    with pytest.raises(UserError, match=r"the map file is damaged: the HDF5 library .*, .*maps\.h5, make it again"):
        MapFile(tmp_path / "maps.h5")


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_on_two_ranks_too(tmp_path, stage):
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    damage_texts(tmp_path / "maps.h5")
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path}}}\n")
    refused(run(stage, tmp_path / "c.yaml", ranks=2), "the map file is damaged", "hdf5 library")


def test_chunks_of_particles_on_two_ranks(tmp_path):
    """Those of a finished run are refused by `project`; those that a killed one has left are made again, whichever rank they are dealt to."""
    (tmp_path / "c.yaml").write_text(
        f"run: {{dir: {tmp_path}, seed: 5}}\nsimulate: {{clusters: 9, mass_range: [3e14, 1.2e15], cell: 34, particle_mass: 6e11}}\n"
        "project: {npix: 8}\n"
    )
    assert run("simulate", tmp_path / "c.yaml").returncode == 0
    paths = sorted((tmp_path / "snapshot").iterdir())
    first = [path.read_bytes() for path in paths]
    for path in paths:
        damage_texts(path)
    refused(run("project", tmp_path / "c.yaml", ranks=2), "the snapshot is damaged: the hdf5 library")
    (tmp_path / "simulate.partial").mkdir()
    with h5py.File(tmp_path / "halos.hdf5") as f:
        (tmp_path / "simulate.partial" / "config.yaml").write_text(f.attrs["config"])
    (tmp_path / "halos.hdf5").unlink()
    done = run("simulate", tmp_path / "c.yaml", ranks=2)
    assert done.returncode == 0, done.stderr
    assert len(paths) > 1 and [path.read_bytes() for path in paths] == first


FORKS = """
import os, sys
import h5py
from hpcdiff import scouting

def dies(work, path):
    child = os.fork()
    if child == 0:
        try:
            work(path)
        except Exception:
            pass
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0

def names(path):
    with h5py.File(path) as f:
        list(f["catalog"])

whole = open(sys.argv[1], "rb").read()
unseen = died = 0
for at in range(whole.rindex(b"FRHP"), whole.rindex(b"FRHP") + 146, 5):
    open(sys.argv[2], "wb").write(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
    if dies(names, sys.argv[2]):
        died, unseen = died + 1, unseen + (not dies(scouting.look, sys.argv[2]))
print(died, unseen)
"""


def test_the_child_dies_of_what_any_reader_would_die_of(tmp_path):
    """HDF5 1.10 may crash at the first question about a group whose heap of names is damaged, and not at one that comes after another."""
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    command = [sys.executable, "-c", FORKS, tmp_path / "maps.h5", tmp_path / "damaged.h5"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    died, unseen = map(int, said.stdout.split())
    assert died and not unseen
