#!/usr/bin/env bash
# A task of a step: runs a command and notes, for the job script, how the first task of the step that came to an early end did so.
#   srun ... bash jobs/task.sh COMMAND ...     the file HPCDIFF_END then says `told` (TERM came from outside) or `failed` (by itself)
# A stage at work saves at TERM and says so in its status file. One that is still starting dies of it without a word, and so does its torchrun.
# Such a TERM was seen (Slurm 22.05) after a node's death, in the job's next run: no fault of the stage's.
set -C # the first note stands: later ends follow from the first
note() { { echo "$1" >"$HPCDIFF_END"; } 2>/dev/null; } # no process of its own, which would get the same TERM
trap 'note told' TERM
trap : USR1 INT # for the command alone, which gets them too
export PET_NODE_RANK=${SLURM_NODEID:-0} # torchrun's --node-rank: where it numbers nodes itself, the first to end leaves a stack trace
"$@" &
code=129
while [ $code -gt 128 ] && kill -0 $! 2>/dev/null; do # a trapped signal ends a wait, not the command
  wait $!
  code=$?
done
wait $! 2>/dev/null
late=$? # of a command that ended just when a signal came (bash may have lost it then: 255); 127: it was known already
[ $late = 127 ] || code=$late
[ $code = 0 ] || note failed
exit $code
