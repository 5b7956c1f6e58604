# shellcheck shell=bash
# What the job scripts set for a cluster. Use: `. jobs/env.sh`, then `. jobs/settings.sh`. Nothing that you have set yourself is changed.
#   HPCDIFF_CACHE=DIR              another place for compiled code than the node's own disk
#   HPCDIFF_STRIPE="-c 8 -S 4M"    another layout of a new run.dir on Lustre (options of lfs setstripe); no: the site's
# Sources, and what is left alone on purpose: docs/clusters.md

setting() { # NAME VALUE: exported where it is not set
  [ -z "${!1+set}" ] || return 0
  export "$1=$2"
  HPCDIFF_SETTINGS+="$1=$2|"
}

hpcdiff_settings() {
  local tasks processes threads old name
  while IFS= read -r -d "|" old; do # of the job that submitted this one (a chain): ours, and of its node
    name=${old%%=*}
    [ "${!name:-}" != "${old#*=}" ] || unset "$name"
  done <<<"${HPCDIFF_SETTINGS:-}"
  export HPCDIFF_SETTINGS=""

  # srun does not inherit it since Slurm 22.05: every task would have one core
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || setting SRUN_CPUS_PER_TASK "$SLURM_CPUS_PER_TASK"
  # else torchrun sets 1, and an MPI rank takes every core of the node; torchrun's processes share the cores of all tasks of the node
  tasks=${SLURM_NTASKS_PER_NODE:-1} processes=${SLURM_GPUS_ON_NODE:-0}
  [ "$processes" -gt 0 ] || processes=${HPCDIFF_PROCESSES:-1}
  threads=$((${SLURM_CPUS_PER_TASK:-1} * tasks / (processes > tasks ? processes : tasks)))
  setting OMP_NUM_THREADS $((threads > 0 ? threads : 1))

  # compiled code: on the node's own disk, kept for later jobs there; on NFS and Lustre ranks of several nodes race for it
  setting HPCDIFF_CACHE "$(hpcdiff_cache)"
  if [ -n "$HPCDIFF_CACHE" ]; then
    setting NUMBA_CACHE_DIR "$HPCDIFF_CACHE/numba"            # else beside the source, which may be read-only
    setting TORCHINDUCTOR_CACHE_DIR "$HPCDIFF_CACHE/inductor" # else /tmp, which may be small
    setting TRITON_CACHE_DIR "$HPCDIFF_CACHE/triton"          # else the home folder: stale handles on NFS end the job
  fi
  setting PYTHONUNBUFFERED 1 # what a rank said before it was killed stands in the log

  setting TORCH_ELASTIC_SHUTDOWN_TIMEOUT 280 # seconds between TERM and KILL: torchrun's own 30 are too short to save
  setting NCCL_DEBUG WARN                    # NCCL says why it failed, and is silent otherwise
  [ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || ! compgen -G "${SYSFS:-/sys}/class/cxi/*" >/dev/null || hpcdiff_slingshot
  if compgen -G "${SYSFS:-/sys}/class/infiniband/*" >/dev/null; then
    ulimit -S -l "$(ulimit -H -l)" # InfiniBand pins memory
    [ "$(ulimit -l)" = unlimited ] || echo "hpcdiff: note: $(ulimit -l) kB may be locked in memory: InfiniBand may say 'Cannot allocate memory'"
  fi
}

hpcdiff_cache() { # prints a folder of ours alone on the node's own disk, or nothing
  local place
  for place in "${SLURM_TMPDIR:-}" /tmp "${TMPDIR:-}"; do
    [ -n "$place" ] || continue
    place=$place/hpcdiff-$(id -u)
    if mkdir -p -m 700 "$place" 2>/dev/null && [ -O "$place" ] && [ -w "$place" ]; then echo "$place"; return; fi
  done
}

hpcdiff_slingshot() { # GPUs and HPE Slingshot (CXI devices): what HPE gives for NCCL over libfabric
  setting NCCL_SOCKET_IFNAME hsn          # else NCCL may take the management network
  setting NCCL_CROSS_NIC 1                # the NICs of a node are not on separate rails
  setting NCCL_NET_GDR_LEVEL PHB          # GPU memory straight to a NIC of the same CPU
  setting FI_MR_CACHE_MONITOR userfaultfd # the default monitor can deadlock with CUDA's allocations
  setting FI_CXI_DISABLE_HOST_REGISTER 1  # likewise
  setting FI_CXI_DEFAULT_CQ_SIZE 131072   # completion queues that many ranks don't fill
  setting FI_CXI_DEFAULT_TX_SIZE 2048     # likewise for sends
  setting FI_CXI_RX_MATCH_MODE hybrid     # matching goes on in software where the NIC has no room left
  local folder found="" folders=${LD_LIBRARY_PATH:-}
  for folder in ${folders//:/ }; do ! compgen -G "$folder/libnccl-net*.so" >/dev/null || found=1; done
  [ -n "$found" ] || [ "${SLURM_NNODES:-1}" = 1 ] ||
    echo "hpcdiff: note: no libnccl-net.so on LD_LIBRARY_PATH, so NCCL takes TCP between nodes: load the site's aws-ofi-nccl module"
}

lay_out() { # DIR: a run.dir before a stage makes it; files take their layout from their folder when they are created
  local parent=$1 layout=${HPCDIFF_STRIPE:-}
  while [ ! -e "$parent" ]; do parent=$(dirname "$parent"); done
  [ "$(stat -f -c %T "$parent" 2>/dev/null)" = lustre ] || return 0
  setting OMPI_MCA_io ^ompio # Open MPI 4's own MPI-IO hangs on shared files of Lustre in several versions; ROMIO comes with it
  if [ -e "$1" ] || [ "$layout" = no ] || ! command -v lfs >/dev/null; then return 0; fi
  if [ -z "$layout" ]; then
    [ "$(lfs getstripe -d -c "$parent" 2>/dev/null)" = 1 ] || return 0 # a layout that the site has thought about
    layout="-E 256M -c 1 -E 4G -c 4 -S 4M -E -1 -c 16 -S 4M"           # small files on one server, a large maps.h5 on many
  fi
  # shellcheck disable=SC2086
  mkdir -p "$1" && lfs setstripe $layout "$1" || echo "hpcdiff: note: lfs setstripe did not work on $1, whose files have the site's layout"
}

hpcdiff_settings
