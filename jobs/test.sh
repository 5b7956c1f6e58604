#!/usr/bin/env bash
# The tests: sets everything up, checks style, runs the suite.   bash jobs/test.sh [pytest arguments, such as -m "not slow"]
cd "$(dirname "$0")/.." || exit 1
. jobs/env.sh || exit $?
ruff check . && ruff format --check . || exit 1
# serial BLAS and one thread a rank: tests start up to 3 ranks on 2 cores
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # containers and CI run as root
exec python -m pytest -q -p no:cacheprovider --durations=15 "$@"
