#!/usr/bin/env bash
# All five stages as a chain of Slurm jobs, each waiting for the one before.   bash jobs/pipeline.sh CONFIG.yaml [section.key=value ...]
# FIRST=train starts at a later stage; SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT and the like apply to every job.
cd "$(dirname "$0")/.." || exit 1
[ $# -ge 1 ] || { echo "usage: bash jobs/pipeline.sh CONFIG.yaml [section.key=value ...]" >&2; exit 2; }
command -v sbatch >/dev/null || { echo "hpcdiff pipeline: error: no sbatch, PATH, run this where Slurm is (jobs/quickstart.sh needs none)" >&2; exit 2; }
. jobs/env.sh || exit $? # once, here: compute nodes often have no network
after="" begun=""
for stage in simulate project train sample evaluate; do
  [ "$stage" = "${FIRST:-simulate}" ] && begun=1
  [ -n "$begun" ] || continue
  python -m hpcdiff.$stage "$@" --dry-run >/dev/null || exit $?
  script=$stage
  [ "$stage$(python -m hpcdiff.config get train.engine "$@")" = traindeepspeed ] && script=train_deepspeed
  job=$(sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} "jobs/$script.sbatch" "$@") || exit 1
  after=${job%%;*}
  echo "$stage: job $after"
done
[ -n "$begun" ] || { echo "hpcdiff pipeline: error: FIRST=$FIRST is no stage" >&2; exit 2; }
