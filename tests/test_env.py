"""jobs/env.sh: which python, torch and h5py a job gets. What would be built or fetched is recorded, not done."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, environment

RECORDER = """#!/bin/bash
# python as env.sh calls it: venv makes a folder with an activate script, pip writes down its arguments, the rest is the real one
case "$1 $2" in
  "-m venv")
    mkdir -p "$4/bin" "$4/lib" && printf 'export VIRTUAL_ENV=%s PATH=%s/bin:$PATH\\n' "$4" "$4" >"$4/bin/activate"
    cp "$0" "$4/bin/python"; printf '#!/bin/bash\\necho "pip $*" >>"$LOG"\\neval "$PIP_DOES"\\n' >"$4/bin/pip"; chmod +x "$4/bin/pip" ;;
  "-c import sysconfig"*) echo "$VIRTUAL_ENV/lib" ;;
  "-c import torch, mpi4py, h5py"*) ;;
  *) exec "$REAL" "$@" ;;
esac
"""


@pytest.fixture
def env(tmp_path):
    """`. jobs/env.sh` and then a command, with a recorder for python3 and a copy of the files that env.sh reads."""
    tools, tree, log = tmp_path / "bin", tmp_path / "tree", tmp_path / "log"
    for folder in (tools, tree / "jobs", tree / "container"):
        folder.mkdir(parents=True)
    for name in ("requirements.lock", "setup.cfg", "jobs/env.sh"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["cp", "-r", ROOT / "container" / "bin", tree / "container"], check=True)
    for name in ("python3", "mpicc", "h5pcc"):
        (tools / name).write_text(RECORDER if name == "python3" else "#!/bin/sh\n")
        (tools / name).chmod(0o755)
    log.touch()

    def call(command="true", user=None, **more):
        variables = environment(**{"LOG": str(log), "REAL": sys.executable, "HDF5_DIR": "/opt/hdf5", "PIP_DOES": "true"} | more)
        variables["PATH"] = f"{tools}:{more.get('PATH', os.environ['PATH'])}"
        variables.pop("VIRTUAL_ENV", None)
        line = ["bash", "-c", f". {tree}/jobs/env.sh || exit $?; {command}"]
        done = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60, user=user)
        return done, log.read_text()

    call.tree, call.tools = tree, tools
    return call


def package(folder, name, version, more=""):
    """A package as a site would have it: just enough for env.sh to look at."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"__version__ = '{version}'\n{more}\n")


def pins():
    lines = [line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line]
    return {name: version for name, version in lines}


def test_the_pinned_torch_is_installed_first_and_alone(env):
    done, log = env("command -v python; readlink $VIRTUAL_ENV/../.venv")
    assert done.returncode == 0, done.stderr
    assert log.splitlines()[0] == f"pip install torch=={pins()['torch']}" and "h5py==" in log
    again, log_of_both = env("command -v python")
    assert log_of_both == log and done.stdout.splitlines()[-2] == again.stdout.strip()  # made once


TORCHRUN = "import types, sys\nclass P: _option_string_actions = {options}\nsys.modules['torch.distributed.run'] = types.SimpleNamespace(get_args_parser=P)"


def site_torch(folder, version="2.12.1+cu130", options=("--signals-to-handle",)):
    package(folder, "torch", version)
    package(folder / "torch", "distributed", version, TORCHRUN.format(options=options))
    return folder


def test_the_torch_of_the_site_is_found_behind_the_pinned_packages(env, tmp_path):
    """Behind them: a site's older numpy must not come first. Its torchrun would start its python, so there is one of ours."""
    site = site_torch(tmp_path / "module")
    package(site, "numpy", "1.0")
    more = {"HPCDIFF_TORCH": "site", "PYTHONPATH": f"{site}:/other", "PIP_DOES": 'echo "with $PYTHONPATH" >>"$LOG"'}
    done, log = env("echo $PYTHONPATH; cat $VIRTUAL_ENV/lib/hpcdiff_site.pth $VIRTUAL_ENV/bin/torchrun", **more)
    assert done.returncode == 0, done.stderr
    assert {line for line in log.splitlines() if line.startswith("with")} == {
        "with /other"
    }  # pip would take what it sees there for installed
    assert env("echo $PYTHONPATH", **more)[0].stdout == "/other\n"  # a later job, too
    assert "torch==" not in log and f"h5py=={pins()['h5py']}" in log and f"deepspeed=={pins()['deepspeed']}" in log
    venv = next(p for p in env.tree.glob(".venv-*") if p.is_dir())
    assert "numpy==" in (venv / "lock.txt").read_text() and "torch==" not in (venv / "lock.txt").read_text()
    lines = done.stdout.splitlines()
    assert "/other" in lines and str(site) in lines  # on PYTHONPATH what holds no package of ours; the site's folder by the .pth
    assert not any(line.endswith(("/lib-dynload", f"/python{sys.version_info[0]}.{sys.version_info[1]}")) for line in lines)
    assert f'exec "{venv}/bin/python" -m torch.distributed.run "$@"' in lines
    assert "torch is 2.12.1+cu130, the tests were run with" in done.stdout
    env()
    assert len([p for p in env.tree.glob(".venv-*") if p.is_dir()]) == 2  # the pinned one is another environment


def test_a_torch_whose_torchrun_cannot_pass_on_usr1_is_refused(env, tmp_path):
    site = site_torch(tmp_path / "module", "2.4.0", options=())
    done, log = env(HPCDIFF_TORCH="site", PYTHONPATH=str(site))
    assert done.returncode == 2 and log == ""
    assert done.stderr.count("\n") == 1 and "error: torch 2.4.0 has no torchrun --signals-to-handle, HPCDIFF_TORCH=site" in done.stderr


def test_a_site_without_torch_is_said_in_one_line(env, tmp_path):
    package(tmp_path / "module", "torch", "2", "raise OSError('libcudart.so.13: cannot open shared object file')")
    done, log = env(HPCDIFF_TORCH="site", PYTHONPATH=str(tmp_path / "module"))
    assert done.returncode == 2 and log == ""
    assert done.stderr.count("\n") == 1 and "cannot import torch (libcudart.so.13" in done.stderr
    done, _ = env(HPCDIFF_TORCH="sit")
    assert done.returncode == 2 and "HPCDIFF_TORCH=sit is neither site nor pinned" in done.stderr


@pytest.mark.parametrize("parallel", [True, False])
def test_the_h5py_and_mpi4py_of_the_site_need_no_compiler(env, tmp_path, parallel):
    package(tmp_path / "module", "h5py", "3.14.0", f"import types\nget_config = lambda: types.SimpleNamespace(mpi={parallel})")
    package(tmp_path / "module", "mpi4py", pins()["mpi4py"])
    (env.tools / "mpicc").unlink()
    done, log = env(HPCDIFF_H5PY="site", HPCDIFF_MPI4PY="site", PYTHONPATH=str(tmp_path / "module"))
    if parallel:
        assert done.returncode == 0, done.stderr
        assert "h5py==" not in log and "apt" not in done.stdout and "h5py is 3.14.0" in done.stdout and "mpi4py is" not in done.stdout
        assert "of the site" in done.stdout and "against" not in done.stdout
        assert "mpi4py" not in (next(env.tree.glob(".venv-*/lock.txt"))).read_text()
    else:
        assert done.returncode == 2 and "built without MPI, HPCDIFF_H5PY=site" in done.stderr and log == ""


@pytest.mark.parametrize(
    "says", ["ERROR: No matching distribution found for torch (from versions: none)", "Temporary failure in name resolution"]
)
def test_where_pip_finds_nothing_one_line_says_where_to_run_it(env, says):
    """A compute node: what pip prints there, and that a job does not make an environment that a login node has made."""
    done, _ = env(PIP_DOES=f"echo '{says}' >&2; false")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "run `bash jobs/env.sh` once where there is a network" in done.stderr
    done, _ = env(PIP_DOES="echo 'error: command gcc failed' >&2; false")
    assert done.returncode == 2 and "gcc failed" in done.stderr and "bash jobs/env.sh" not in done.stderr
    assert env()[0].returncode == 0  # a half-made one is not taken
    assert env(PIP_DOES="false", PIP_NO_INDEX="1")[0].returncode == 0


def test_pip_itself_without_an_index_leads_to_that_line(env):
    done, _ = env(PIP_DOES='"$REAL" -m pip --isolated install --no-index torch==9.9.9', PIP_FIND_LINKS="", PIP_CONFIG_FILE="/dev/null")
    assert done.returncode == 2 and "pip finds no packages from" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become someone who may not write")
def test_a_tree_that_cannot_be_written_is_used_where_it_is(env, tmp_path):
    def others(path, mode):
        subprocess.run(["chmod", "-R", mode, path], check=True)

    for folder in (tmp_path, *(p for p in tmp_path.parents if p.name.startswith(("pytest-", "popen-")))):
        folder.chmod(0o755)
    others(env.tree, "a+rX,a-w")
    real = shutil.which("python3", path="/usr/bin")
    if real is None or subprocess.run([real, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], user="nobody").returncode:
        pytest.skip("no Python that others may start")
    (tmp_path / "log").chmod(0o666)
    done, log = env(user="nobody")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "set HPCDIFF_VENV to a folder of yours" in done.stderr
    place = tmp_path / "mine"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    done, log = env("cat $VIRTUAL_ENV/lib/hpcdiff.pth $VIRTUAL_ENV/bin/hpcdiff", user="nobody", HPCDIFF_VENV=str(place / "venv"), REAL=real)
    assert done.returncode == 0, done.stderr
    assert str(env.tree) in done.stdout.splitlines() and "-m hpcdiff" in done.stdout and "-e" not in log.split()


def test_none_takes_python_as_it_is(env, tmp_path):
    """In a container or in an environment of one's own; what is missing there is named."""
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done, log = env("python -c 'import hpcdiff; print(hpcdiff.__file__)'", HPCDIFF_VENV="none", PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and log == "" and done.stdout.strip() == str(ROOT / "hpcdiff" / "__init__.py"), done.stderr
    assert not list(env.tree.glob(".venv*"))
    python.write_text(f'#!/bin/sh\n[ "$2" != "import hpcdiff" ] || exit 1\nexec {sys.executable} "$@"\n')  # all but hpcdiff itself
    assert env("echo $PYTHONPATH", HPCDIFF_VENV="none", PYTHONPATH="/other")[0].stdout == f"{env.tree}:/other\n"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # a bare interpreter
    done, _ = env(HPCDIFF_VENV="none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "lacks numpy scipy h5py" in done.stderr


def test_python_and_torchrun_come_from_the_container(env, tmp_path):
    """srun starts a container a rank; inside, nothing is looked for and the wrappers are not used again."""
    image = tmp_path / "hpcdiff.sif"
    done, _ = env(HPCDIFF_CONTAINER=str(image))
    assert done.returncode == 2 and "there is no image" in done.stderr
    image.touch()
    fake = env.tools / "apptainer"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "gds $PMIX_MCA_gds"\n')
    fake.chmod(0o755)
    done, log = env("python -m hpcdiff.train 'a b.yaml'; torchrun --nnodes=2", HPCDIFF_CONTAINER="hpcdiff.sif")
    assert done.returncode == 0 and log == "", done.stderr
    first, second = done.stdout.split("gds hash\n")[:2]
    assert first.splitlines()[0] == "exec" and first.splitlines()[-5:] == [str(image), "python", "-m", "hpcdiff.train", "a b.yaml"]
    assert f"--bind\n{env.tree}\n" in first and f"--pwd\n{tmp_path}\n" in first
    assert f"--env\nPYTHONPATH={env.tree}\n" in first  # the image has a copy of the code
    assert second.splitlines()[-3:] == [str(image), "torchrun", "--nnodes=2"]
    inside = {"HPCDIFF_CONTAINER": str(image), "APPTAINER_CONTAINER": str(image), "HPCDIFF_VENV": "none"}
    (env.tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (env.tools / "python").chmod(0o755)
    done, _ = env("command -v python", **inside)
    assert done.stdout.strip() == str(env.tools / "python"), done.stderr
