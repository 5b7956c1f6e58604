# shellcheck shell=bash
# What the job scripts share: leaving in good order before the job's end, and going on in the next one. Use: `. jobs/requeue.sh`
#   begin SCRIPT CONFIG ...   the stage's folder, files of an earlier run away, traps (SCRIPT: train, train_deepspeed, sample, ...)
#   step COMMAND ...          run it; signals to this shell become the file `stop` in run.dir, which all ranks obey when a step is whole
#   under_torchrun -m ...     the step of train, sample and evaluate: one torchrun a node, one process a GPU
#   finish CONFIG ...         0: done; 75: the same job again, or another link of a chain where requeueing is forbidden; else 1

trap asked=1 USR1 TERM # told before a stage has begun: that one stops at once

begin() {
  script=jobs/$1.sbatch stage=${1%%_*} asked=${asked:-} me=$SLURM_JOB_ID
  shift
  # a task of an array: the plain number of one of them stands for the whole array, and requeueing that would end the others
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || me=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_$SLURM_ARRAY_TASK_ID
  run=$(python -m hpcdiff.config get run.dir "$@") || exit 2
  status=$run/$stage.status.json guard=$run/.$stage.requeued # where the stage says how it ended; from where it was requeued
  export HPCDIFF_END=$run/.$stage.end.$SLURM_JOB_ID          # how its first task to end early did so (task.sh)
  rm -f "$status" "$run/stop" "$run/.$stage.end."*
  lay_out "$run"
  mkdir -p "$run" 2>/dev/null # for the file stop; where that cannot be, the stage says why
  trap ask USR1 TERM # the time limit comes near (--signal), or the job is preempted
  [ -z "$asked" ] || ask # the signal came between two stages of one job
}

ask() { # under its own name only when it is whole: an empty file would be the user's, who wants no requeue
  asked=1 # the job's number: a stage that is still starting keeps this file, and takes any other for left over
  [ -e "$run/stop" ] || { echo "requeue $SLURM_JOB_ID" >"$run/.stop.$$" && mv "$run/.stop.$$" "$run/stop"; } 2>/dev/null
}

step() {
  "$@" &
  local pid=$!
  until wait $pid || ! kill -0 $pid 2>/dev/null; do :; done # a trapped signal ends a wait, not the step
}

under_torchrun() { # without GPUs: HPCDIFF_PROCESSES a node, else the tasks a node that were asked for
  local tasks=${SLURM_NTASKS_PER_NODE:-1} processes=${SLURM_GPUS_ON_NODE:-0} host cores
  [ "$processes" -gt 0 ] || processes=${HPCDIFF_PROCESSES:-$tasks}
  cores=$((${SLURM_CPUS_PER_TASK:-1} * tasks)) # one torchrun has the cores of all tasks of its node, and srun is told that they are its own
  host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # the port is below 32768, as Linux gives those above to outgoing connections
  # a dead node must end the others (-K); torchrun dies of a USR1 that it is not told to handle, and leaves its workers
  step env SRUN_CPUS_PER_TASK=$cores SLURM_CPUS_PER_TASK=$cores srun --kill-on-bad-exit=1 --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    --cpus-per-task=$cores \
    bash jobs/task.sh torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$processes" \
    --master-addr="$host" --master-port=$((20000 + SLURM_JOB_ID % 12000)) --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 "$@"
}

mark() { # how far the work is, in what a restart that comes no further leaves as it was
  case $stage in
    train) ls "$run/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' | tail -n 1 ;;
    project) # maps.h5.partial has its full size at once, and a new time after each restart
      { ls "$run" | grep -x 'smoothing\..*\.h5'
        python -c 'import h5py, sys; print("views", (h5py.File(sys.argv[1])["catalog/checksum"][:] != 0).sum())' "$run/maps.h5.partial"; } 2>/dev/null | paste -sd ' ' ;;
    *) find "$run/$stage.partial" "$run/${stage}s.partial" -type f ! -name config.yaml ! -name '*.tmp' ! -name '.*' -printf '%p %s %T@\n' 2>/dev/null | sort | cksum ;;
  esac
}

finish() {
  local code end times=0 here
  ! grep -q -s -x "requeue $SLURM_JOB_ID" "$run/stop" || rm -f "$run/stop" # a signal that came when the stage had ended
  code=$(sed -n 's/.*"exit": \([0-9]*\).*/\1/p' "$status" 2>/dev/null) end=$(cat "$HPCDIFF_END" 2>/dev/null)
  rm -f "$HPCDIFF_END"
  case ${code:-${asked:+75}} in # no status after a signal: killed before it could save
    0) rm -f "$guard"; exit 0 ;;
    75) ;;
    "" | 1) # a fault of ours, or a rank is gone: worth another try where TERM came while the stage was starting, or with its node
      [ "$end" = told ] || nodes_gone || failed "$(reason)"
      if [ "$end" = told ]; then end="was told to end before it could save"; else end="has lost a node"; fi
      echo "hpcdiff $stage: job $me $end ($(reason)): no fault of the stage's" >&2 ;;
    *) failed "$(reason)" ;;
  esac
  if grep -q '"requeue": false' "$status" 2>/dev/null; then
    echo "hpcdiff $stage: stopped by the file stop, so this job is not requeued; the same command goes on"
    rm -f "$guard"; exit 75
  fi
  shown=$(scontrol -o show job "$me" 2>/dev/null)
  case "$(field JobState) $(field Reason)" in
    *TimeLimit) ;; # over its time all the same: it goes on
    CANCELLED* | COMPLETING* | PREEMPTED* | PENDING* | NODE_FAIL*) # by scancel, or Slurm itself requeues what it preempts or has lost a node
      echo "hpcdiff $stage: the job was cancelled, or Slurm requeues it, so it is not requeued from here; the same command goes on"
      rm -f "$guard"; exit 75 ;;
  esac
  here=$(mark)
  [ ! -e "$guard" ] || [ "$(sed -n 1p "$guard")" != "$here" ] || times=$(($(sed -n 2p "$guard") + 1))
  if [ "$times" -ge 2 ]; then
    echo "hpcdiff $stage: error: two restarts in a row came no further, ${here:-from the start}, give the job more time (--time)" >&2
    rm -f "$guard"; exit 1
  fi
  printf '%s\n' "$here" "$times" >"$guard"
  scontrol requeue "$me" && exit # either way the same command goes on
  shown=$(scontrol -o show job "$me" 2>/dev/null)
  case "$(field JobState)" in
    PENDING* | REQUEUE* | COMPLETING* | NODE_FAIL*) echo "hpcdiff $stage: Slurm has requeued the job itself" ;;
    *) chain "$@" ;; # requeueing is forbidden
  esac
}

reason() {
  [ -n "$code" ] || echo "it ended without a word: killed, or out of memory"
  sed -n 's/^ *"reason": "\(.*\)",\{0,1\}$/\1/p' "$status" 2>/dev/null
}

nodes_gone() { # Slurm itself may not know it for minutes
  [ "${SLURM_NNODES:-1}" -gt 1 ] || return 1
  ! timeout 60 srun --overlap --mpi=none --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task=1 true >/dev/null 2>&1
}

failed() {
  echo "hpcdiff $stage: job $me failed ($1); jobs that wait for it are cancelled; mend it and give the same command again" >&2
  exit 1
}

field() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$shown" | grep -v -x -e '(null)' -e N/A; }

chain() { # another job with this one's request, which Slurm starts when this one has ended; --signal and the like: SBATCH_SIGNAL, ...
  local next job argument arguments=() name=${SLURM_JOB_NAME:-hpcdiff-$stage} of options
  of=$(basename "$run")
  name=${name%".$of"}.$of # singleton waits for jobs of one name: other runs must not wait for this one
  options=(--parsable --dependency="singleton,afterany:$me" --job-name="$name")
  for argument; do [ "$argument" = --overwrite ] || arguments+=("$argument"); done # it was done; now it would remove the work
  add() { [ -z "$2" ] || options+=("--$1=$2"); }
  add partition "$(field Partition)"; add account "$(field Account)"; add qos "$(field QOS)"; add time "$(field TimeLimit)"
  add mem "$(field MinMemoryNode)"; add mem-per-cpu "$(field MinMemoryCPU)"; add constraint "$(field Features)"; add output "$(field StdOut)"
  add nodes "${SLURM_NNODES:-}"; add ntasks-per-node "${SLURM_NTASKS_PER_NODE:-}"; add cpus-per-task "${SLURM_CPUS_PER_TASK:-}"
  add gpus-per-node "${SLURM_GPUS_PER_NODE:-}"; add gpus "${SLURM_GPUS:-}"; add gpus-per-task "${SLURM_GPUS_PER_TASK:-}"
  # gres:gpu:4,gres:disk:1, or with / in newer versions; the GPUs of --gpus-per-node are among them
  add gres "$(field TresPerNode | tr , '\n' | sed -e 's/^gres[:/]//' ${SLURM_GPUS_PER_NODE:+-e /^gpu/d} | paste -sd , -)"
  add ntasks "${SLURM_NTASKS:-}"; add licenses "$(field Licenses)"; add reservation "${SLURM_JOB_RESERVATION:-}"; add array "${SLURM_ARRAY_TASK_ID:-}"
  next=$(sbatch "${options[@]}" "$script" "${arguments[@]}") || { echo "hpcdiff $stage: error: neither requeue nor sbatch works" >&2; exit 75; }
  next=${next%%;*}
  echo "hpcdiff $stage: requeueing is forbidden, so job $next goes on"
  [ ! -e "$run/.jobs" ] || echo "$stage $next $(field StdOut)" >>"$run/.jobs"       # for pipeline.sh --status
  [ "$script" != jobs/sweep.sbatch ] || echo "$next" >>"$(dirname "$run")/chained" # for hpcdiff sweep, which asks what is queued
  for job in $(squeue -h -u "$(id -un)" -t PD -o '%i %E' 2>/dev/null | sed -n "s/^\([0-9_]*\) .*afterok:$SLURM_JOB_ID\([^0-9].*\)\{0,1\}$/\1/p"); do
    scontrol update JobId="$job" Dependency="afterok:$next" || exit 75 # what waits for this stage waits for its last link
  done
}
