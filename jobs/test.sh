#!/usr/bin/env bash
# The tests: sets everything up, checks style, runs the suite.   bash jobs/test.sh [pytest arguments, such as -m "not slow"]
cd "$(dirname "$0")/.." || exit 1
. jobs/env.sh || exit $?
ruff check . && ruff format --check . || exit 1
# serial BLAS and one thread a rank: tests start up to 3 ranks on 2 cores
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # containers and CI run as root
tests="python -m pytest -q -p no:cacheprovider --durations=15"
[ $# -eq 0 ] || exec $tests "$@"
# those of the job scripts wait for Slurm most of the time: they run beside the others
said=$(mktemp) || exit 1
$tests tests/slurm >"$said" 2>&1 &
beside=$!
trap 'kill $beside 2>/dev/null; rm -f "$said"' EXIT
$tests --ignore=tests/slurm
status=$?
wait $beside || status=1
cat "$said"
exit $status
