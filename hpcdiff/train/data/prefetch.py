"""The next batches are made while the device works."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch

from hpcdiff.train.data.batch import Batch


class Batches(Protocol):
    """What makes batches: `TrainingData`."""

    device: torch.device

    def batch(self, numbers: np.ndarray) -> Batch:
        """The batch of these images."""


class Prefetcher:
    """Makes batches in a thread of its own, `depth` ahead; on a GPU on a stream of its own.

    Args:
        data: makes them.
        numbers: image numbers of this rank's batches, one array after another; iterated in the thread.
        depth: batches that wait at most; 0 = no thread, each is made when it is asked for.
    Attributes:
        waited_s: seconds that `next` has taken so far.
    """

    def __init__(self, data: Batches, numbers: Iterable[np.ndarray], depth: int = 2) -> None:
        self.data, self.numbers, self.waited_s = data, iter(numbers), 0.0
        self.closed, self.thread = threading.Event(), None
        if depth:
            self.ready: queue.Queue = queue.Queue(depth)
            self.thread = threading.Thread(target=self._work, name="hpcdiff-prefetch", daemon=True)
            self.thread.start()

    def next(self) -> Batch:
        """The next batch, on the device.

        Raises:
            StopIteration: the numbers have come to an end.
            Exception: what went wrong in making it, here or in the thread.
        """
        began = time.perf_counter()
        if self.thread is None:
            batch = self.data.batch(next(self.numbers))
        else:
            batch, made, error = self.ready.get()
            if error is not None:
                self.ready.put_nowait((None, None, error))  # and again to whoever asks again
                raise error
            if made is not None:
                stream = torch.cuda.current_stream(self.data.device)
                stream.wait_event(made)
                for tensor in vars(batch).values():
                    tensor.record_stream(stream)  # its memory is the other stream's
        self.waited_s += time.perf_counter() - began
        return batch

    def _work(self) -> None:
        stream = None
        try:
            if self.data.device.type == "cuda":
                torch.cuda.set_device(self.data.device)  # each thread has a device of its own
                stream = torch.cuda.Stream(self.data.device)
                stream.wait_stream(torch.cuda.default_stream(self.data.device))  # on which the maps were brought there
            else:
                torch.set_num_threads(1)  # of this thread: the others' cores are at work on the step
            with torch.cuda.stream(stream):
                for numbers in self.numbers:
                    batch = self.data.batch(numbers)
                    if not self._put((batch, stream.record_event() if stream else None, None)):
                        return
            self._put((None, None, StopIteration()))
        except BaseException as error:  # noqa: BLE001, it is raised where the batch is asked for
            self._put((None, None, error))

    def _put(self, item: tuple) -> bool:
        while not self.closed.is_set():
            try:
                self.ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def close(self) -> None:
        """End the thread; batches that wait are dropped."""
        self.closed.set()
        if self.thread is not None:
            self.thread.join()
