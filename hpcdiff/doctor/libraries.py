"""MPI, HDF5 and torch as a stage would load them: versions, places, and whether they fit each other.

Each half is loaded in a process of its own, so that no rank of this program has both, and a library that crashes takes nothing with it.
"""

from __future__ import annotations

import json
import subprocess

from hpcdiff.doctor import aside
from hpcdiff.doctor.verdict import Finding

MPI_HALF = """
import json, sys
said = {"mpi4py": None, "mpi": None, "h5py": None, "hdf5": None, "parallel": False, "loaded": []}
try:
    import h5py
    said.update(h5py=h5py.version.version, hdf5=h5py.version.hdf5_version, parallel=bool(h5py.get_config().mpi))
except Exception as error:
    said["h5py_error"] = f"{type(error).__name__}: {error}"
from hpcdiff.guards import mpi_libraries
said["hdf5_loads"] = mpi_libraries()
try:
    import mpi4py
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI
    said.update(mpi4py=mpi4py.__version__, mpi=MPI.Get_library_version().replace(chr(0), " ").split(chr(10))[0].strip())
except Exception as error:
    said["mpi4py_error"] = f"{type(error).__name__}: {error}"
said["loaded"] = mpi_libraries()
print(json.dumps(said))
"""
TORCH_HALF = """
import json
said = {}
import torch, torch.distributed as dist
said.update(torch=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip, devices=torch.cuda.device_count())
said["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda and dist.is_nccl_available() else None
said["gloo"] = dist.is_gloo_available()
try:  # a GPU that a rank has for itself alone (compute mode exclusive) has no room for this process
    if torch.cuda.is_available():
        said["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
except RuntimeError:
    pass
print(json.dumps(said))
"""


def start() -> dict[str, subprocess.Popen]:
    """Begin to load both halves, each in a process; on one rank."""
    return {half: aside.start(["-c", code]) for half, code in (("mpi", MPI_HALF), ("torch", TORCH_HALF))}


def collect(processes: dict[str, subprocess.Popen], until: float) -> dict[str, dict]:
    """What each half said; {"error": text} where it cannot be loaded, or not by `until` (time.monotonic())."""
    return {
        half: {"error": error} if error else json.loads(out.splitlines()[-1])
        for half, (out, error) in aside.collect(processes, until).items()
    }


def judge(found: dict[str, dict], ranks: int, gpus: bool) -> list[Finding]:
    """Findings about the libraries; `gpus`: does a rank see one?"""
    mpi, torch, said = found["mpi"], found["torch"], []
    again = "bash jobs/env.sh builds all of them for the MPI that is loaded"
    slow = [half for half, one in found.items() if one.get("error") == aside.TIMEOUT]
    if slow:
        how = "keep the environment in a container or on a local disk; on a busy machine, try again"
        said.append(Finding(False, f"{' and '.join(slow)} took too long to load, so nothing is known of it", how))
    if "mpi" in slow:
        pass
    elif "error" in mpi:
        said.append(Finding(True, f"HDF5 and MPI cannot be loaded together ({mpi['error']})", again))
    else:
        if mpi["h5py"] is None:
            said.append(Finding(True, f"h5py cannot be imported ({mpi.get('h5py_error')})", again))
        if mpi["mpi4py"] is None:
            what = f"mpi4py cannot be imported ({mpi.get('mpi4py_error')}), so simulate and project run on one rank alone"
            said.append(Finding(False, what, again))
        elif not mpi["parallel"]:
            said.append(Finding(False, "h5py has no parallel HDF5, so project runs on one rank alone", again))
        if len(mpi["loaded"]) > 1:
            said.append(Finding(True, f"two MPI libraries in one process: {' and '.join(mpi['loaded'])}", again))
    if "torch" in slow:
        pass
    elif "error" in torch:
        said.append(Finding(True, f"torch cannot be imported ({torch['error']})", again))
    elif gpus and not torch["devices"]:
        build = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built without CUDA"
        how = "install torch for this driver's CUDA (nvidia-smi says which), or HPCDIFF_TORCH=site"
        said.append(Finding(True, f"there are GPUs, and torch ({torch['torch']}, {build}) sees none", how))
    elif not torch["gloo"]:
        said.append(Finding(ranks > 1, "torch was built without gloo, by which the ranks talk", "install a build with gloo"))
    return said


def lines(found: dict[str, dict]) -> list[str]:
    """Two or three lines about what is there."""
    mpi, torch = found["mpi"], found["torch"]
    said = []
    if "error" in mpi:
        said.append(f"MPI and HDF5: {mpi['error']}")
    else:
        places = ", ".join(mpi["loaded"]) or "no library loaded"
        said.append(f"MPI: {mpi['mpi'] or mpi.get('mpi4py_error')} (mpi4py {mpi['mpi4py']}, {places})")
        if mpi["h5py"] is None:
            said.append(f"HDF5: {mpi.get('h5py_error')}")
        else:
            fits = "the same MPI" if mpi["parallel"] and len(mpi["loaded"]) == 1 else "" if not mpi["parallel"] else "ANOTHER MPI"
            kind = f"parallel, {fits}" if mpi["parallel"] else "serial"
            said.append(f"HDF5: {mpi['hdf5']} (h5py {mpi['h5py']}, {kind})")
    if "error" in torch:
        return [*said, f"torch: {torch['error']}"]
    build = f"CUDA {torch['cuda']}, NCCL {torch['nccl']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU build"
    bf16 = "" if "bf16" not in torch else f", bf16 {'yes' if torch['bf16'] else 'no'}"
    return [
        *said,
        f"torch: {torch['torch']} ({build}, {torch['devices']} device(s) visible{bf16}, gloo {'yes' if torch['gloo'] else 'no'})",
    ]
