"""One side of `deposit.py`, in an environment of its own: reads a request a line (JSON) and answers with the seconds it took.

    python deposit_worker.py ours|swiftsimio

A request: {"particles": npz with x (n, 3) in units of the map's side about its centre, h (n,) support radius, weights (n, 4)),
"method", "npix", "threads", "save": null or where to put the image}. A first call with few particles compiles and is not timed.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def ours(particles, method: str, npix: int, threads: int):
    """A call that deposits, with the method `exact x 4`, `exact x 1` or `mesh x 1`."""
    from hpcdiff.project import deposit

    name, k = method.split(" x ")
    x, h, weights = particles["x"], particles["h"], np.ascontiguousarray(particles["weights"][:, : int(k)])
    return lambda: deposit(x, h, weights, npix, 1.0, method=name, threads=threads)[0]


def swiftsimio(particles, method: str, npix: int, threads: int):
    """A call of one of swiftsimio's projection backends for one field, with smoothing lengths that give its kernel our support."""
    import numba
    from swiftsimio.visualisation.projection_backends import backends, backends_parallel
    from swiftsimio.visualisation.projection_backends.kernels import kernel_gamma

    numba.set_num_threads(threads)
    x, y = (np.ascontiguousarray(particles["x"][:, n] + 0.5) for n in (0, 1))
    h = (particles["h"] / kernel_gamma).astype(np.float32)
    m = np.ascontiguousarray(particles["weights"][:, 0], np.float32)
    backend = (backends if threads == 1 else backends_parallel)[method]
    return lambda: backend(x=x, y=y, m=m, h=h, res=npix)


def main() -> None:
    """Answer requests until the input ends."""
    side, loaded, warm = {"ours": ours, "swiftsimio": swiftsimio}[sys.argv[1]], {}, set()
    for line in sys.stdin:
        request = json.loads(line)
        path = request["particles"]
        if path not in loaded:
            with np.load(path) as file:
                loaded[path] = dict(file)
        call = side(loaded[path], request["method"], request["npix"], request["threads"])
        if (kind := (request["method"], request["threads"], request["npix"])) not in warm:
            warm.add(kind)
            few = {name: value[:2000] for name, value in loaded[path].items()}
            side(few, request["method"], request["npix"], request["threads"])()
        start = time.perf_counter()
        image = call()
        seconds = time.perf_counter() - start
        if request["save"]:
            np.save(request["save"], image)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
