#!/usr/bin/env bash
# Set-up of hpcdiff: makes .venv once, and activates it. Use: `. jobs/env.sh` (job scripts) or `bash jobs/env.sh` (once, where there is a network).
# .venv is a link to .venv-HASH; when the lock file changes a new one is made beside it, so that running jobs keep theirs.
# MPI and parallel HDF5 come from loaded modules, conda or HDF5_DIR where they are there, else from apt (root or sudo).
#   PYTHON=python3.12           another interpreter (3.11 or later)
#   HPCDIFF_VENV=DIR            another place for the environment, such as a local disk; none: take `python` as it is, make nothing
#   HPCDIFF_TORCH=site          the torch that PYTHON imports (a module's or conda's) in place of the pinned one; HPCDIFF_H5PY, HPCDIFF_MPI4PY too
#   HPCDIFF_CONTAINER=FILE.sif  python and torchrun inside this Apptainer image (container/hpcdiff.def), make nothing
# More: docs/clusters.md

hpcdiff_setup() {
  local root link venv python stamp want hdf5 site="" name variable
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  python=${PYTHON:-python3}
  fail() { echo "hpcdiff env: error: $*" >&2; return 2; }
  export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-BEST_EFFORT} # scratch file systems often have no locks
  if [ -n "${HPCDIFF_CONTAINER:-}" ] && [ -z "${APPTAINER_CONTAINER:-}" ]; then hpcdiff_container; return; fi
  if [ "${HPCDIFF_VENV:-}" = none ]; then hpcdiff_as_it_is; return; fi
  for name in torch h5py mpi4py; do
    variable=HPCDIFF_${name^^}
    case ${!variable:-pinned} in
      site) site+=" $name" ;;
      pinned) ;;
      *) fail "$variable=${!variable} is neither site nor pinned, the environment, unset it"; return 2 ;;
    esac
  done
  link=$(realpath -ms "${HPCDIFF_VENV:-$root/.venv}")
  [ ! -d "$link" ] || [ -L "$link" ] || link=$link/.venv # a folder that is there already is not ours to replace
  want=$({ cat "$root/requirements.lock" "$root/setup.cfg" "$root/jobs/env.sh"; [ -z "$site" ] || echo "$site"; } | sha256sum | cut -c1-16)
  venv=$link-$want
  stamp=$venv/.ready
  if [ ! -e "$stamp" ]; then
    mkdir -p "$(dirname "$venv")" 2>/dev/null
    [ -w "$(dirname "$venv")" ] || { fail "the environment cannot be made here, $(dirname "$venv"), set HPCDIFF_VENV to a folder of yours that every node sees"; return 2; }
    exec 9>"$link.lock"
    flock 9 2>/dev/null || true # several jobs that start at once: one builds, the others wait
    if [ ! -e "$stamp" ]; then hpcdiff_build || { exec 9>&-; return 2; }; fi
    exec 9>&-
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  hpcdiff_pythonpath
  [ "$(readlink "$link")" = "$venv" ] || { [ -d "$link" ] && [ ! -L "$link" ]; } || ln -sfn "$venv" "$link" 2>/dev/null
  return 0
}

hpcdiff_container() {
  [ -e "$HPCDIFF_CONTAINER" ] || { fail "there is no image, HPCDIFF_CONTAINER=$HPCDIFF_CONTAINER, build it from container/hpcdiff.def"; return 2; }
  command -v apptainer >/dev/null || { fail "no apptainer, PATH, load its module"; return 2; }
  HPCDIFF_CONTAINER=$(realpath "$HPCDIFF_CONTAINER")
  export HPCDIFF_CONTAINER PATH="$root/container/bin:${PATH//"$root/container/bin:"/}" # its python and torchrun start the image's
}

hpcdiff_as_it_is() {
  local missing
  missing=$(python -c 'import importlib.util, sys; print(*[n for n in sys.argv[1:] if not importlib.util.find_spec(n)] + ["3.11"] * (sys.version_info < (3, 11)))' \
    numpy scipy h5py mpi4py numba torch tensorboard yaml tqdm matplotlib PIL safetensors colossus astropy 2>/dev/null) || missing=python
  [ -z "$missing" ] || { fail "HPCDIFF_VENV=none, but $(command -v python || echo PATH) lacks $missing, the environment, install them (requirements.lock) or unset HPCDIFF_VENV"; return 2; }
  python -c 'import hpcdiff' 2>/dev/null || export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
}

hpcdiff_pythonpath() { # a module's folder with a numpy of its own would come before the environment's
  local folder kept=""
  [ -n "${PYTHONPATH:-}" ] || return 0
  while IFS= read -r -d : folder; do
    [ -d "$folder/numpy" ] || [ -d "$folder/torch" ] || [ -d "$folder/h5py" ] || [ -d "$folder/mpi4py" ] || kept+=:$folder
  done <<<"$PYTHONPATH:"
  export PYTHONPATH=${kept#:}
}

hpcdiff_find_hdf5() { # prints the prefix of a parallel HDF5
  local wrapper prefix
  if [ -n "${HDF5_DIR:-}" ]; then echo "$HDF5_DIR"; return; fi
  for wrapper in h5pcc h5pcc.openmpi h5pcc.mpich; do
    command -v "$wrapper" >/dev/null || continue
    for prefix in "/usr/lib/$(gcc -print-multiarch 2>/dev/null)/hdf5/${wrapper#h5pcc.}" "${CONDA_PREFIX:-}" "$(dirname "$(dirname "$(command -v "$wrapper")")")"; do
      if [ -e "$prefix/include/hdf5.h" ] && compgen -G "$prefix/lib*/libhdf5.*" >/dev/null; then echo "$prefix"; return; fi
    done
  done
}

hpcdiff_mpi_and_hdf5() {
  local sudo=""
  if ! command -v mpicc >/dev/null || [ -z "$(hpcdiff_find_hdf5)" ]; then
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if command -v apt-get >/dev/null && $sudo true 2>/dev/null; then
      echo "hpcdiff env: installing Open MPI and parallel HDF5 by apt"
      { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq build-essential openmpi-bin libopenmpi-dev libhdf5-openmpi-dev; } >"$link.log" 2>&1 ||
        { fail "apt could not install MPI and HDF5, $link.log, install openmpi-bin libopenmpi-dev libhdf5-openmpi-dev"; return 2; }
    else
      fail "no MPI compiler with parallel HDF5 (mpicc, h5pcc), PATH, load your site's modules, or conda install -c conda-forge openmpi 'h5py=*=mpi_openmpi*', or apt-get install openmpi-bin libopenmpi-dev libhdf5-openmpi-dev"
      return 2
    fi
  fi
  hdf5=$(hpcdiff_find_hdf5)
  [ -n "$hdf5" ] || { fail "mpicc is there but no parallel HDF5, PATH, set HDF5_DIR to its prefix"; return 2; }
}

hpcdiff_site() { # prints the folders from which PYTHON imports; exits with one line where a site's package will not do
  "$python" - "$root/requirements.lock" $site <<'EOF'
import importlib, os, sys, sysconfig
lock, *names = sys.argv[1:]
pinned = dict(line.split("==") for line in open(lock).read().split() if "==" in line)
for name in names:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        how = "load the module or activate the conda environment that has it, or name its PYTHON"
        sys.exit(f"{sys.executable} cannot import {name} ({error}), HPCDIFF_{name.upper()}=site, {how}")
    if name == "torch":
        from torch.distributed.run import get_args_parser

        if "--signals-to-handle" not in get_args_parser()._option_string_actions:
            sys.exit(f"torch {module.__version__} has no torchrun --signals-to-handle, HPCDIFF_TORCH=site, take a newer torch or the pinned one")
    if name == "h5py" and not module.get_config().mpi:
        sys.exit("this h5py was built without MPI, HPCDIFF_H5PY=site, load a parallel one or unset HPCDIFF_H5PY: it is then built")
    if module.__version__.split("+")[0] != pinned[name]:
        print(f"hpcdiff env: {name} is {module.__version__}, the tests were run with {pinned[name]}", file=sys.stderr)
standard = [os.path.realpath(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib")]
standard += [os.path.join(f, "lib-dynload") for f in standard]
print(*[f for f in sys.path if os.path.isdir(f) and os.path.realpath(f) not in standard], sep="\n")
EOF
}

hpcdiff_build() {
  local start=$SECONDS own=""
  if [ -n "${VIRTUAL_ENV:-}" ] && [[ $VIRTUAL_ENV == "$link"-* ]]; then PATH=${PATH//"$VIRTUAL_ENV/bin:"/}; fi # not from an earlier one of ours
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    { fail "$python is not Python 3.11 or later, PATH, load a module or set PYTHON"; return 2; }
  [[ $site == *h5py* ]] || hpcdiff_mpi_and_hdf5 || return 2
  [ -z "$site" ] || hpcdiff_site >"$link.site" 2>"$link.log" || { fail "$(tail -n 1 "$link.log")"; return 2; }
  [ -z "$site" ] || cat "$link.log"
  echo "hpcdiff env: making $venv (${site:+the$site of the site; }${hdf5:+h5py against $hdf5; }about 3 minutes)"
  own=$(grep -v -e '^#' -e '^h5py==' -e '^deepspeed==' "$root/requirements.lock" | grep -v -E "^(${site// /|}|none)==")
  {
    export PIP_RETRIES=${PIP_RETRIES:-2} &&
      "$python" -m venv --clear "$venv" && . "$venv/bin/activate" && hpcdiff_pythonpath &&
      echo "$own" >"$venv/lock.txt" &&
      # torch first: later packages must find it, not fetch another build
      { [[ $site == *torch* ]] || pip install $(grep '^torch==' "$root/requirements.lock"); } &&
      pip install -r "$venv/lock.txt" &&
      # only now: pip would take what the site has for installed
      { [ -z "$site" ] || mv "$link.site" "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpcdiff_site.pth"; } &&
      # the site's own torchrun would start the site's own python
      { [[ $site != *torch* ]] || { printf '#!/bin/sh\nexec "%s/bin/python" -m torch.distributed.run "$@"\n' "$venv" >"$venv/bin/torchrun" && chmod +x "$venv/bin/torchrun"; }; } &&
      # no build isolation: it would compile mpi4py from source for 8 minutes
      { [[ $site == *h5py* ]] || CFLAGS="-O1 -g0" CC=mpicc HDF5_MPI=ON HDF5_DIR=$hdf5 pip install --ignore-installed --no-deps --no-build-isolation --no-binary=h5py --no-cache-dir $(grep '^h5py==' "$root/requirements.lock"); } &&
      # DeepSpeed asks torch what it may build, so in isolation a second torch would be fetched; it compiles nothing that we use
      DS_BUILD_OPS=0 pip install --no-deps --no-build-isolation $(grep '^deepspeed==' "$root/requirements.lock") &&
      hpcdiff_itself &&
      python -c 'import torch, mpi4py, h5py, sys; sys.exit(not h5py.get_config().mpi)'
  } >"$link.log" 2>&1 || {
    if grep -q -E 'NewConnectionError|name resolution|Name or service not known|ConnectTimeout|ReadTimeout|ProxyError|unreachable|from versions: none' "$link.log"; then
      fail "pip finds no packages from $(uname -n), $link.log, run \`bash jobs/env.sh\` once where there is a network (a login node); jobs then need none"
    else
      fail "the environment could not be made, $link.log, see its last lines: $(tail -n 1 "$link.log")"
    fi
    return 2
  }
  touch "$stamp"
  echo "hpcdiff env: ready after $((SECONDS - start)) s"
}

hpcdiff_itself() { # the tree is used where it is; in one that cannot be written pip has no place for its metadata
  if [ -w "$root" ]; then pip install --no-deps --no-build-isolation -e "$root"; return; fi
  echo "$root" >"$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpcdiff.pth" &&
    printf '#!/bin/sh\nexec "%s/bin/python" -m hpcdiff "$@"\n' "$venv" >"$venv/bin/hpcdiff" && chmod +x "$venv/bin/hpcdiff"
}

hpcdiff_setup || { hpcdiff_status=$?; [ "${BASH_SOURCE[0]}" != "$0" ] && return $hpcdiff_status; exit $hpcdiff_status; }
