"""The memory that is left, of a system whose files are made up."""

import pytest

from hpcdiff import memory

GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A function that writes the kernel's files: 64 GiB available, the job's line of /proc/self/cgroup, and of each group its files."""

    def write(line="", groups=None):
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 1000 kB\nMemAvailable:   {64 * GIB // 1024} kB\n")
        (tmp_path / "proc" / "self" / "cgroup").write_text(line)
        for group, values in (groups or {}).items():
            folder = tmp_path / "groups" / group
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in values.items():
                (folder / name).write_text(f"{value}\n")

    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    return write


def second(limit, used, cache=0):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 1\ninactive_file {cache}"}


def first(limit, used, cache=0):
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": f"inactive_file 7\ntotal_inactive_file {cache}"}


def test_without_groups_it_is_what_the_system_has(system):
    system()
    assert memory.free_bytes() == 64 * GIB


def test_the_jobs_limit_counts_without_the_cache(system):
    system("0::/slurm/job_7/step_0\n", {"slurm/job_7": second(8 * GIB, 5 * GIB, 2 * GIB), "slurm/job_7/step_0": second("max", 5 * GIB)})
    assert memory.free_bytes() == 5 * GIB


def test_the_narrowest_group_counts(system):
    system("0::/a/b\n", {"a": second(10 * GIB, 9 * GIB), "a/b": second(6 * GIB, 1 * GIB)})
    assert memory.free_bytes() == GIB


def test_groups_of_version_1(system):
    line = "11:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7\n0::/system\n"
    system(line, {"memory": first(2**63 - 4096, 60 * GIB), "memory/slurm/job_7": first(16 * GIB, 6 * GIB, 1 * GIB)})
    assert memory.free_bytes() == 11 * GIB


def test_more_than_the_limit_leaves_nothing(system):
    system("0::/a\n", {"a": second(GIB, 2 * GIB)})
    assert memory.free_bytes() == 0


@pytest.mark.parametrize("line", ["nonsense\n", "0::/gone\n"])
def test_what_cannot_be_read_is_no_limit(system, line):
    system(line)
    assert memory.free_bytes() == 64 * GIB


def test_a_system_without_these_files_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.free_bytes() == float("inf")
