#!/usr/bin/env bash
# Set-up of hpcdiff: makes .venv once, and activates it. Use: `. jobs/env.sh` (job scripts) or `bash jobs/env.sh`.
# .venv is a link to .venv-HASH; when the lock file changes a new one is made beside it, so that running jobs keep theirs.
# MPI and parallel HDF5 come from loaded modules, conda or HDF5_DIR where they are there, else from apt (root or sudo).
#   PYTHON=python3.12     another interpreter (3.11 or later)
#   HPCDIFF_VENV=DIR      another place for the environment, such as a local disk

hpcdiff_setup() {
  local root link venv python stamp want hdf5
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  link=${HPCDIFF_VENV:-$root/.venv}
  [ ! -d "$link" ] || [ -L "$link" ] || link=$link/.venv # a folder that is there already is not ours to replace
  python=${PYTHON:-python3}
  fail() { echo "hpcdiff env: error: $*" >&2; return 2; }

  want=$(cat "$root/requirements.lock" "$root/setup.cfg" "$root/jobs/env.sh" | sha256sum | cut -c1-16)
  venv=$link-$want
  stamp=$venv/.ready
  if [ ! -e "$stamp" ]; then
    mkdir -p "$(dirname "$venv")" || return 2
    exec 9>"$link.lock"
    flock 9 2>/dev/null || true # several jobs that start at once: one builds, the others wait
    if [ ! -e "$stamp" ]; then hpcdiff_build || { exec 9>&-; return 2; }; fi
    exec 9>&-
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  [ "$(readlink "$link")" = "$venv" ] || { [ -d "$link" ] && [ ! -L "$link" ]; } || ln -sfn "$venv" "$link" 2>/dev/null
  export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-BEST_EFFORT} # scratch file systems often have no locks
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

hpcdiff_build() {
  local sudo="" start=$SECONDS
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    { fail "$python is not Python 3.11 or later, PATH, load a module or set PYTHON"; return 2; }
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
  echo "hpcdiff env: making $venv (h5py against $hdf5; about 3 minutes)"
  {
    "$python" -m venv --clear "$venv" && . "$venv/bin/activate" &&
      grep -v -e '^h5py==' -e '^deepspeed==' "$root/requirements.lock" >"$venv/lock.txt" &&
      # torch first: later packages must find it, not fetch another build
      pip install $(grep '^torch==' "$root/requirements.lock") &&
      pip install -r "$venv/lock.txt" &&
      # no build isolation: it would compile mpi4py from source for 8 minutes
      CFLAGS="-O1 -g0" CC=mpicc HDF5_MPI=ON HDF5_DIR=$hdf5 pip install --no-deps --no-build-isolation --no-binary=h5py --no-cache-dir $(grep '^h5py==' "$root/requirements.lock") &&
      # DeepSpeed asks torch what it may build, so in isolation a second torch would be fetched; it compiles nothing that we use
      DS_BUILD_OPS=0 pip install --no-deps --no-build-isolation $(grep '^deepspeed==' "$root/requirements.lock") &&
      pip install --no-deps --no-build-isolation -e "$root" &&
      python -c 'import h5py, sys; sys.exit(not h5py.get_config().mpi)'
  } >"$link.log" 2>&1 || { fail "the environment could not be made, $link.log, see its last lines: $(tail -n 1 "$link.log")"; return 2; }
  touch "$stamp"
  echo "hpcdiff env: ready after $((SECONDS - start)) s"
}

hpcdiff_setup || { hpcdiff_status=$?; [ "${BASH_SOURCE[0]}" != "$0" ] && return $hpcdiff_status; exit $hpcdiff_status; }
