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
# two processes, which take file after file; those of the job scripts wait for Slurm most of the time and run beside them
said=$(mktemp) || exit 1
set -m # a process group of their own, in which an interrupt is not ignored: they end their Slurm
$tests tests/slurm >"$said" 2>&1 &
beside=$!
set +m
trap 'kill -INT $beside 2>/dev/null; wait $beside; rm -f "$said"' EXIT
$tests -n 2 --dist loadfile --ignore=tests/slurm
status=$?
[ $status -ne 2 ] || exit 2 # interrupted, which pytest bears in good order, so that the shell would go on
wait $beside || status=1
cat "$said"
exit $status
