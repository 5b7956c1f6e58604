"""The watch over a fork: it sees what a damaged file must not make us do."""

import os
import signal

import pytest
from fuzz_fork import CANARY, in_fork


def work_of(what, folder):
    """Something that is forbidden, or wrong."""
    if what == "write":
        (folder / "outside" / "new").write_text("x")
    elif what == "pickle":
        import pickle

        pickle.loads(pickle.dumps(os.path.join))
    elif what == "compile":
        eval(f"'{CANARY}'")  # noqa: S307
    elif what == "shell":
        os.system("true")
    elif what == "memory":
        bytearray(3 << 30)
    elif what == "loop":
        while True:
            pass
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "two lines":
        os.write(2, b"a warning\nhpcdiff project: error: something, somewhere, somehow\n")
        return 2
    elif what == "exit":
        return 1
    return 0


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("write", "opens"),
        ("pickle", "pickle.find_class"),
        ("compile", "compiles"),
        ("shell", "os.system"),
        ("memory", "MemoryError"),
        ("loop", "over 1 s"),
        ("crash", "SIGSEGV"),
        ("two lines", "2 lines"),
        ("exit", "exit 1"),
        ("nothing", ""),
    ],
)
def test_what_must_not_happen_is_seen(tmp_path, what, says):
    around = tmp_path / "around"
    for name in ("case/run", "outside"):
        (around / name).mkdir(parents=True)
    outcome = in_fork(lambda: work_of(what, around), around / "case" / "run", around, tmp_path / "log", seconds=1)
    assert says in outcome.fault and bool(says) == bool(outcome.fault), outcome
