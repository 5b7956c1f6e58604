#!/usr/bin/env bash
# A real Slurm of two nodes on this machine, to try the job scripts on a workstation.   bash jobs/local_slurm.sh start|stop|status|env [DIR]
#   bash jobs/local_slurm.sh start                 installed by apt where it is missing (root or sudo); some seconds
#   eval "$(bash jobs/local_slurm.sh env)"         this shell's sbatch, srun and squeue speak to it, and the job scripts' requests fit it
#   bash jobs/pipeline.sh --nodes=2 --ntasks-per-node=2 --cpus-per-task=1 configs/quickstart.yaml
#   bash jobs/local_slurm.sh stop                  ends its jobs and removes DIR; also what a crash has left
# DIR holds all of it: configuration, key, logs, spool. Default: ${TMPDIR:-/tmp}/hpcdiff-slurm-USER. CPUS=2: what each node says that it has.
# No GPUs: a request such as --gpus-per-node=4 is refused ("Requested node configuration is not available"), as on any site without them. SBATCH_GPUS_PER_NODE=0
# takes it back without a word changed in the script (`env` sets it), and each node then runs as many processes as tasks were asked for.
# Memory is believed, not measured. The nodes are called 127.0.0.1 and 127.0.0.2: names that programs on any machine find.

fail() { echo "hpcdiff local_slurm: error: $*" >&2; exit 2; }
command=${1:-} dir=${2:-${TMPDIR:-/tmp}/hpcdiff-slurm-$(id -un)}
case $command in start | stop | status | env) ;; *) sed -n '2,4p' "$0" >&2; exit 2 ;; esac
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
case $dir in *[[:space:]]*) fail "a space in the path, which slurm.conf cannot have, $dir, name another DIR" ;; esac
[ ${#dir} -le 80 ] || fail "the path is too long for a socket, $dir, name a shorter DIR"
export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # Slurm's daemons are often not on a user's PATH
nodes="127.0.0.1 127.0.0.2"

ours() { # process ids: the daemons of this DIR, and what its jobs have started
  local pid name
  for pid in $(grep -l -s -z -x -F "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ | tr -dc '0-9\n'); do
    name=$(cat "/proc/$pid/comm" 2>/dev/null)
    case $name in slurmctld* | slurmd* | slurmstepd* | munged*) echo "$pid" ;;
    *) ! grep -q -s -z '^SLURM_JOB_ID=' "/proc/$pid/environ" || echo "$pid" ;; esac # not the user's own shell
  done
}

idle() { [ -e "$SLURM_CONF" ] && [ "$(timeout 10 sinfo -h -N -o '%T' 2>/dev/null | grep -c -x -e idle -e mixed -e allocated)" = 2 ]; }

missing() {
  local name
  for name in munged slurmctld slurmd sbatch srun; do command -v $name >/dev/null || echo $name; done
}

install() {
  local sudo=""
  [ -n "$(missing)" ] || return 0
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  command -v apt-get >/dev/null && $sudo true 2>/dev/null ||
    fail "no $(missing | head -n 1), PATH, have slurmctld, slurmd, slurm-client and munge installed (apt-get install, as root)"
  echo "hpcdiff local_slurm: installing Slurm by apt"
  # its own services must not start; libpmix.so, which its plugin opens, is in the -dev package
  { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge libpmix-dev; } \
    >"$dir/log/apt.log" 2>&1 || fail "apt could not install Slurm, $dir/log/apt.log, $(tail -n 1 "$dir/log/apt.log")"
}

configure() {
  local ports
  ports=($(python3 -c 'import socket; s = [socket.socket() for _ in range(3)]; [x.bind(("", 0)) for x in s]; print(*(x.getsockname()[1] for x in s))')) ||
    fail "no python3, PATH, install it"
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  cat >"$dir/slurm.conf" <<END
ClusterName=local
SlurmctldHost=localhost
SlurmctldPort=${ports[0]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits as long as a job's credential is valid; a busy machine takes seconds to start a step with it
AuthInfo=socket=$dir/munge.socket,cred_expire=20
# a busy machine answers late
MessageTimeout=60
TCPTimeout=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
# a folder for each node: pmix puts sockets there
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
# no cgroups: they would need root and a machine of our own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# nodes are what this file says
SlurmdParameters=config_overrides
# known, so that --gpus-per-node=0 is understood; no node has any
GresTypes=gpu
JobRequeue=1
# job scripts make ports of job numbers: two Slurms of one machine must not begin with the same
FirstJobId=$((1000 + RANDOM % 15000))
ReturnToService=2
# a dead node is noticed within seconds, a job that does not end is killed within seconds
SlurmctldTimeout=10
SlurmdTimeout=${SLURMD_TIMEOUT:-15}
KillWait=${KILL_WAIT:-10}
InactiveLimit=0
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2
NodeName=127.0.0.1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=${CPUS:-2} RealMemory=1000000
NodeName=127.0.0.2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=${CPUS:-2} RealMemory=1000000
PartitionName=local Nodes=127.0.0.[1-2] Default=YES MaxTime=INFINITE DefaultTime=60 OverSubscribe=FORCE:4 State=UP
END
}

start() {
  local node limit
  if idle; then echo "hpcdiff local_slurm: runs already in $dir"; return; fi
  [ ! -d "$dir" ] || [ -e "$dir/.hpcdiff" ] || [ -z "$(ls -A "$dir")" ] || fail "this folder is not a local Slurm's, $dir, name another DIR"
  [ ! -d "$dir" ] || stop >/dev/null
  mkdir -p "$dir"/{log,state} "$dir"/{spool,tmp}/{127.0.0.1,127.0.0.2} && touch "$dir/.hpcdiff" || fail "cannot write, $dir, name another DIR"
  install
  configure
  munged --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" --log-file="$dir/log/munged.log" \
    --seed-file="$dir/munged.seed" --force >>"$dir/log/munged.log" 2>&1 || fail "munged does not start, $dir/log/munged.log, $(tail -n 1 "$dir/log/munged.log")"
  slurmctld -c -f "$SLURM_CONF" >>"$dir/log/slurmctld.log" 2>&1 || fail "slurmctld does not start, $dir/log/slurmctld.log, $(tail -n 1 "$dir/log/slurmctld.log")"
  for node in $nodes; do
    slurmd -N "$node" -f "$SLURM_CONF" >>"$dir/log/slurmd.$node.log" 2>&1 || fail "slurmd does not start, $dir/log/slurmd.$node.log, $(tail -n 1 "$dir/log/slurmd.$node.log")"
  done
  limit=$((SECONDS + 60))
  until idle; do
    [ $SECONDS -lt $limit ] || fail "the nodes are not idle after 60 s ($(sinfo -h -N -o '%N %T %E' 2>&1 | tr '\n' ' ')), $dir/log, see its files"
    sleep 0.2
  done
  echo "hpcdiff local_slurm: two nodes of ${CPUS:-2} CPUs in $dir; now: eval \"\$(bash $0 env${given:+ $dir})\""
}

stop() {
  local pid limit=$((SECONDS + 20))
  if [ ! -e "$dir/.hpcdiff" ] && [ -z "$(ours)" ]; then echo "hpcdiff local_slurm: nothing runs in $dir"; return; fi
  # shellcheck disable=SC2046
  kill -TERM $(ours) 2>/dev/null
  while [ -n "$(ours)" ]; do
    [ $SECONDS -lt $((limit - 15)) ] || kill -KILL $(ours) 2>/dev/null
    [ $SECONDS -lt $limit ] || fail "processes $(ours | tr '\n' ' ')do not end, $dir, end them by hand"
    sleep 0.1
  done
  rm -rf "$dir"
  echo "hpcdiff local_slurm: ended, $dir is removed"
}

given=${2:-}
case $command in
  start) start ;;
  stop) stop ;;
  status)
    idle || { echo "hpcdiff local_slurm: does not run in $dir"; exit 1; }
    echo "hpcdiff local_slurm: runs in $dir"; sinfo -N -o '%N %T %c CPUs'; squeue -o '%.8i %.20j %.10T %R' ;;
  env)
    [ -e "$SLURM_CONF" ] || fail "no Slurm was started, $dir, bash jobs/local_slurm.sh start"
    # no shared memory: Open MPI would take the two nodes for one; no GPUs: see above
    echo "export SLURM_CONF=$SLURM_CONF OMPI_MCA_btl=tcp,self SBATCH_GPUS_PER_NODE=0" ;;
esac
