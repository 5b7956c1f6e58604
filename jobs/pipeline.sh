#!/usr/bin/env bash
# All five stages as a chain of Slurm jobs, each waiting for the one before.
#   bash jobs/pipeline.sh [sbatch options] CONFIG.yaml [section.key=value ...]      run again after a fault, it goes on from there
#   bash jobs/pipeline.sh --status CONFIG.yaml [section.key=value ...]              how far each stage is, and which one failed
# Options go to every job (--account=me --time=2:00:00), with a stage's name before them to that one alone (train:--nodes=4); write
# --nodes=4, not -N 4. SBATCH_PARTITION, SBATCH_TIMELIMIT and the like hold for every job too. FIRST=train starts at a later stage.
cd "$(dirname "$0")/.." || exit 1
refuse() { echo "hpcdiff pipeline: error: $*" >&2; exit 2; }
all="simulate project train sample evaluate" options=() words=() only=() overwrite=() status="" dry=""
for word; do
  case $word in
    --status) status=1 ;;
    --dry-run) dry=1 ;;
    --overwrite) overwrite=(--overwrite) ;;
    -*) options+=("$word") ;;
    simulate:-* | project:-* | train:-* | sample:-* | evaluate:-*) only+=("$word") ;;
    [a-z]*:--*) case ${word%%:*} in *=*) words+=("$word") ;; *) refuse "${word%%:*} is no stage, $word, take one of $all" ;; esac ;;
    *) words+=("$word") ;;
  esac
done
[ ${#words[@]} -ge 1 ] || { sed -n '3,4s/^# *//p' jobs/pipeline.sh >&2; exit 2; }
[ -f "${words[0]}" ] || refuse "there is no config file ${words[0]}, $PWD, name it from there; options are written with = (--nodes=4, not -N 4)"
words+=("${overwrite[@]}")
case " $all " in *" ${FIRST:-simulate} "*) ;; *) refuse "FIRST=$FIRST is no stage, environment, take one of $all" ;; esac
stages=${FIRST:-simulate}${all#*"${FIRST:-simulate}"}
[ -n "$dry" ] || command -v sbatch >/dev/null || refuse "no sbatch, PATH, run this where Slurm is (jobs/quickstart.sh needs none)"
. jobs/env.sh || exit $? # once, here: compute nodes often have no network
run=$(python -m hpcdiff.config get run.dir "${words[@]}") || exit 2
jobs=$run/.jobs # stage, job, log: one line for each job that was submitted

ask() { # what Slurm says of this run's jobs: number, state, reason; nothing of those that it has forgotten
  local known
  queue="" silent=""
  known=$(cut -d ' ' -f 2 "$jobs" 2>/dev/null | tail -n 50 | paste -sd ,)
  [ -z "$known" ] || queue=$(squeue -h -j "$known" -o '%i %T %r' 2>/dev/null) || squeue -h -j "$known" 2>&1 | grep -q "Invalid job id" || silent=1
}

refuse_queued() {
  local job
  ask
  [ -z "$silent" ] || refuse "squeue does not answer, so jobs of this run may be in the queue, Slurm, try again later"
  [ -n "$queue" ] || return 0
  job=$(sed -n '1s/ .*//p' <<<"$queue")
  refuse "$(sed -n "s/ $job .*//p" "$jobs" | tail -n 1) of this run is in the queue already, job $job, wait for it or scancel it"
}

if [ -n "$status" ]; then
  ask
  failed=""
  for stage in $all; do
    read -r job log < <(sed -n "s/^$stage //p" "$jobs" 2>/dev/null | tail -n 1)
    code=$(sed -n 's/.*"exit": \([0-9]*\).*/\1/p' "$run/$stage.status.json" 2>/dev/null)
    reason=$(sed -n 's/^ *"reason": "\(.*\)",\{0,1\}$/\1/p' "$run/$stage.status.json" 2>/dev/null)
    now=${job:+$(sed -n "s/^$job //p" <<<"$queue")}
    case $now$code in
      [A-Z]*) state="job $job: $now" ;;
      0) state="done: $reason" ;;
      75) state="stopped: $reason; the same command goes on" failed=${failed:-$stage} ;;
      ?*) state="failed: $reason${log:+ (see $log)}" failed=${failed:-$stage} ;;
      *) if [ -n "$failed" ]; then state="not run, since $failed did not end well"
        elif [ -n "$job" ] && [ -n "$silent" ]; then state="not known, since squeue does not answer (job $job)"
        elif [ -n "$job" ]; then state="failed: job $job ended without a word (cancelled, or killed before it began), see $log" failed=$stage
        else state="not submitted"; fi ;;
    esac
    printf '%-9s %s\n' "$stage" "$state"
  done
  exit 0
fi

[ -n "$dry" ] || refuse_queued
for stage in $stages; do # all of them before the first is submitted
  if [ -n "$dry" ]; then python -m "hpcdiff.$stage" "${words[@]}" --dry-run || exit $?; continue; fi
  python -m "hpcdiff.$stage" "${words[@]}" --dry-run >/dev/null || exit $?
done
[ -z "$dry" ] || exit 0
(. jobs/settings.sh && lay_out "$run") # in a shell of its own: each job makes its settings where it runs
{ mkdir -p "$run" && exec 8>"$run/.jobs.lock"; } 2>/dev/null || refuse "nothing can be written there, $run, choose another run.dir"
flock -n -E 9 8 2>/dev/null || [ $? != 9 ] || refuse "another pipeline.sh submits this run just now, $run, wait for it"
refuse_queued
after="" submitted=() listed=$(cat "$jobs" 2>/dev/null) errors=$(mktemp)
declare -A ended=() # how each stage ended before
trap 'rm -f "$errors"' EXIT
for stage in $stages; do
  script=$stage own=()
  for word in "${only[@]}"; do [ "${word%%:*}" != "$stage" ] || own+=("${word#*:}"); done
  [ "$stage" != train ] || [ "$(python -m hpcdiff.config get train.engine "${words[@]}")" != deepspeed ] || script=train_deepspeed
  ended[$stage]=$(cat "$run/$stage.status.json" 2>/dev/null)
  rm -f "$run/$stage.status.json" # of an earlier run: --status must not take it for this one's
  job=$(sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} "${options[@]}" "${own[@]}" "jobs/$script.sbatch" "${words[@]}" 2>"$errors") || {
    [ ${#submitted[@]} = 0 ] || scancel "${submitted[@]}"
    for word in "${!ended[@]}"; do [ -z "${ended[$word]}" ] || echo "${ended[$word]}" >"$run/$word.status.json"; done
    if [ -n "$listed" ]; then echo "$listed" >"$jobs"; else rm -f "$jobs"; fi
    why=$(sed -e 's/^sbatch: //' -e 's/^error: //' -e '/^Try /d' "$errors" | paste -sd ';' | sed 's/;/; /g')
    refuse "sbatch refused $stage (${why:-without a word}), jobs/$script.sbatch, nothing was submitted: give other options (--nodes=2, $stage:--time=1:00:00)"
  }
  cat "$errors" >&2
  after=${job%%;*} submitted+=("${job%%;*}")
  log=$(scontrol -o show job "$after" 2>/dev/null | sed -n 's/.* StdOut=\([^ ]*\).*/\1/p')
  echo "$stage $after $log" >>"$jobs"
  echo "$stage: job $after${log:+, $log}"
done
echo "bash jobs/pipeline.sh --status$(printf ' %q' "${words[@]}")"
