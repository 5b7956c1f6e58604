#!/usr/bin/env bash
# All five stages as a chain of Slurm jobs, each waiting for the one before.
#   bash jobs/pipeline.sh [sbatch options] CONFIG.yaml [section.key=value ...]      run again after a fault, it goes on from there
#   bash jobs/pipeline.sh --status CONFIG.yaml [section.key=value ...]              how far each stage is, and which one failed
# Options go to every job (--account=me --time=2:00:00), with a stage's name before them to that one alone (train:--nodes=4); write
# --nodes=4, not -N 4. SBATCH_PARTITION, SBATCH_TIMELIMIT and the like hold for every job too. FIRST=train starts at a later stage.
cd "$(dirname "$0")/.." || exit 1
refuse() { echo "hpcdiff pipeline: error: $*" >&2; exit 2; }
all="simulate project train sample evaluate" options=() words=() only=() status="" dry=""
for word; do
  case $word in
    --status) status=1 ;;
    --dry-run) dry=1 ;;
    --overwrite) words+=("$word") ;;
    -*) options+=("$word") ;;
    simulate:-* | project:-* | train:-* | sample:-* | evaluate:-*) only+=("$word") ;;
    *) words+=("$word") ;;
  esac
done
[ ${#words[@]} -ge 1 ] || { sed -n '3,4s/^# *//p' "$0" >&2; exit 2; }
case " $all " in *" ${FIRST:-simulate} "*) ;; *) refuse "FIRST=$FIRST is no stage, environment, take one of $all" ;; esac
stages=${FIRST:-simulate}${all#*"${FIRST:-simulate}"}
[ -n "$dry" ] || command -v sbatch >/dev/null || refuse "no sbatch, PATH, run this where Slurm is (jobs/quickstart.sh needs none)"
. jobs/env.sh || exit $? # once, here: compute nodes often have no network
run=$(python -m hpcdiff.config get run.dir "${words[@]}") || exit 2
jobs=$run/.jobs # stage, job, log: one line for each job that was submitted

queued() { squeue -h -j "$1" -o '%T %r' 2>/dev/null | tr '\n' ' '; } # nothing where Slurm has forgotten it

if [ -n "$status" ]; then
  failed=""
  for stage in $all; do
    read -r job log < <(sed -n "s/^$stage //p" "$jobs" 2>/dev/null | tail -n 1)
    code=$(sed -n 's/.*"exit": \([0-9]*\).*/\1/p' "$run/$stage.status.json" 2>/dev/null)
    reason=$(sed -n 's/^ *"reason": "\(.*\)",\{0,1\}$/\1/p' "$run/$stage.status.json" 2>/dev/null)
    now=${job:+$(queued "$job")}
    case $now$code in
      [A-Z]*) state="job $job: ${now% }" ;;
      0) state="done: $reason" ;;
      75) state="stopped: $reason; the same command goes on" failed=${failed:-$stage} ;;
      ?*) state="failed: $reason${log:+ (see $log)}" failed=${failed:-$stage} ;;
      *) if [ -n "$failed" ]; then state="not run, since $failed did not end well"
        elif [ -n "$job" ]; then state="failed: job $job ended without a word (cancelled, or killed before it began), see $log" failed=$stage
        else state="not submitted"; fi ;;
    esac
    printf '%-9s %s\n' "$stage" "$state"
  done
  exit 0
fi

for stage in $stages; do # all of them before the first is submitted
  if [ -n "$dry" ]; then python -m "hpcdiff.$stage" "${words[@]}" --dry-run || exit $?; continue; fi
  python -m "hpcdiff.$stage" "${words[@]}" --dry-run >/dev/null || exit $?
  while read -r job _; do
    [ -z "$(queued "$job")" ] || refuse "$stage of this run is in the queue already, job $job, wait for it or scancel it"
  done < <(sed -n "s/^$stage //p" "$jobs" 2>/dev/null)
done
[ -z "$dry" ] || exit 0
(. jobs/settings.sh && lay_out "$run") # in a shell of its own: each job makes its settings where it runs
mkdir -p "$run" || exit 2
after="" submitted=()
for stage in $stages; do
  script=$stage own=()
  for word in "${only[@]}"; do [ "${word%%:*}" != "$stage" ] || own+=("${word#*:}"); done
  [ "$stage" != train ] || [ "$(python -m hpcdiff.config get train.engine "${words[@]}")" != deepspeed ] || script=train_deepspeed
  rm -f "$run/$stage.status.json" # of an earlier run: --status must not take it for this one's
  job=$(sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} "${options[@]}" "${own[@]}" "jobs/$script.sbatch" "${words[@]}") || {
    [ ${#submitted[@]} = 0 ] || scancel "${submitted[@]}"
    refuse "sbatch refused $stage (see above), jobs/$script.sbatch, so nothing was submitted: put other options before the config (--nodes=2, $stage:--time=1:00:00)"
  }
  after=${job%%;*} submitted+=("${job%%;*}")
  log=$(scontrol -o show job "$after" 2>/dev/null | sed -n 's/.* StdOut=\([^ ]*\).*/\1/p')
  echo "$stage $after $log" >>"$jobs"
  echo "$stage: job $after${log:+, $log}"
done
echo "bash jobs/pipeline.sh --status$(printf ' %q' "${words[@]}")"
