"""A warmed process of which every run of a stage is a fork: two seconds of imports are paid once.

Reads lines of JSON from standard input, {"stage", "argv", "limit", "ranks": [{"env": {}, "out": path}]}, answers with the process ids at
once, and with their exit statuses (negative: ended by that signal) when all have ended; "hung" lists those that the limit ended.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback


def warm() -> None:
    """Import what the stages import, also what they import late."""
    for name in (
        *(f"hpcdiff.{stage}.__main__" for stage in ("simulate", "project", "train", "sample", "evaluate")),
        *("hpcdiff.simulate.work", "hpcdiff.train.loop", "hpcdiff.sample.run", "hpcdiff.evaluate.report", "hpcdiff.evaluate.look"),
        *("torch.utils.tensorboard", "torch.distributed", "torch.distributed.checkpoint", "safetensors.torch", "matplotlib.pyplot", "tqdm"),
        *("scipy.special", "scipy.ndimage", "scipy.spatial", "scipy.optimize", "numba", "colossus.cosmology", "torch._dynamo"),
    ):
        importlib.import_module(name)


def plain_pictures() -> None:
    """Figures as a few bytes each: drawing takes most of the time of `evaluate`, and reads no file."""
    import numpy as np
    from matplotlib.backends import backend_agg, backend_pdf, backend_svg
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from torch.utils.tensorboard import writer

    def plain(self, target, *args, **kwargs) -> None:
        data = b"a picture" * 2000
        if hasattr(target, "write"):
            target.write(data)
        else:
            with open(target, "wb") as f:
                f.write(data)

    backend_agg.FigureCanvasAgg.print_png = backend_pdf.FigureCanvasPdf.print_pdf = backend_svg.FigureCanvasSVG.print_svg = plain
    ConstrainedLayoutEngine.execute = lambda self, figure: None
    writer.figure_to_image = lambda figure, close: np.zeros((3, 8, 8), np.uint8)


def live(stage: str, argv: list[str], env: dict[str, str], out: str, pictures: bool) -> None:
    """One rank, in the fork; does not return."""
    status = 1
    try:
        os.setsid()
        target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.stdin = open(os.devnull)  # noqa: SIM115
        os.environ.update(env)
        ctypes.CDLL(None).fault_arm()
        if not pictures:
            plain_pictures()
        status = importlib.import_module(f"hpcdiff.{stage}.__main__").main(argv)
        atexit._run_exitfuncs()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001, as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pids: list[int], limit: float) -> tuple[dict[int, int], list[int]]:
    """Exit statuses of all, and those that were still there at the end of the limit, which are killed."""
    ended, hung, end = {}, [], time.monotonic() + limit
    while len(ended) < len(pids):
        for pid in set(pids) - set(ended):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end and not hung:
            hung = sorted(set(pids) - set(ended))
            for pid in hung:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return ended, hung


def main() -> None:
    """Serve until standard input ends."""
    warm()
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pids = []
        for rank in job["ranks"]:
            pid = os.fork()
            if not pid:
                live(job["stage"], job["argv"], rank["env"], rank["out"], job["pictures"])
            pids.append(pid)
        print(json.dumps(pids), file=answers, flush=True)
        ended, hung = wait(pids, job["limit"])
        print(json.dumps({"status": [ended[pid] for pid in pids], "hung": [pids.index(pid) for pid in hung]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
