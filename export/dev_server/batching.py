"""Joins requests that come together into one run along dimension 0, as TF Serving's batching session does.

Requests share a queue if they have the same key: the same version, signature, outputs and shapes but for dimension 0.
A queue is a row of batches, of which the last one is open. A batch is run by one of the threads as soon as it is full,
another was opened after it, or its first request has waited for the timeout.
"""

import collections
import math
import threading
import time

import numpy as np

from .config import Batching
from .errors import ServingError
from .metrics import ServerMetrics
from .time_limit import run_within


class _Part:
    """A request, or a part of one that is run in several batches."""

    def __init__(self, inputs: dict, size: int, timeout_seconds: float | None):
        self.inputs, self.size = inputs, size
        self.enqueued = time.monotonic()
        self.deadline = math.inf if timeout_seconds is None else self.enqueued + timeout_seconds
        self.done = threading.Event()
        self.outputs, self.failure = None, None


class _Batch:
    """Parts that run together; `run` is given their joined inputs."""

    def __init__(self, run, due: float):
        self.run, self.due = run, due
        self.parts, self.size = [], 0

    def add(self, part: _Part) -> None:
        self.parts.append(part)
        self.size += part.size


class BatchScheduler:
    """Queues of requests and the threads that run them."""

    def __init__(self, parameters: Batching, metrics: ServerMetrics):
        self._parameters, self._metrics = parameters, metrics
        self._queues = collections.OrderedDict()  # a key to its waiting batches; no key without one
        self._changed = threading.Condition()
        for index in range(parameters.num_threads):
            threading.Thread(target=self._work, name=f"batches_{index}", daemon=True).start()

    def run(self, key, inputs: dict, run, timeout_seconds: float | None = None) -> dict:
        """Runs a request within a batch, and returns when it is done.

        Args:
            key: hashable; requests of equal keys may share a batch.
            inputs: input names -> arrays.
            run: joined inputs -> output names -> arrays; the first request's is used for the whole batch.
            timeout_seconds: how long it may take; a batch may take as long as the most patient of its requests.

        Returns:
            Output names -> arrays of as many rows as the inputs have.
        """
        size = _common_size(inputs)
        self._metrics.input_batch_size.observe(size)
        if size == 0:
            return run_within(timeout_seconds, lambda: run(inputs))  # nothing to join, and no row to pad with
        parts = self._enqueue(key, inputs, size, run, timeout_seconds)
        for part in parts:
            part.done.wait()
        for part in parts:
            if part.failure is not None:
                raise ServingError(*part.failure)
        if len(parts) == 1:
            return parts[0].outputs
        return {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}

    def _enqueue(self, key, inputs: dict, size: int, run, timeout_seconds: float | None) -> list:
        limits = self._parameters
        if size > limits.max_batch_size:
            message = f"Task size {size} is larger than maximum input batch size {limits.max_batch_size}"
            raise ServingError("INVALID_ARGUMENT", message)
        splits = limits.execution_size < limits.max_batch_size
        with self._changed:
            queue = self._queues.get(key, ())
            room = limits.execution_size - queue[-1].size if queue else 0
            sizes = _sizes_of_parts(size, room, limits.execution_size) if splits else [size]
            new_batches = len(sizes) - (sizes[0] <= room)
            if len(queue) + new_batches > limits.max_enqueued_batches:
                message = "The batch scheduling queue to which this task was submitted is full"
                raise ServingError("UNAVAILABLE", message)
            queue = self._queues.setdefault(key, collections.deque())
            parts = [_Part(part, size, timeout_seconds) for part, size in zip(_split(inputs, sizes), sizes)]
            for part in parts:
                if not queue or queue[-1].size + part.size > limits.execution_size:
                    queue.append(_Batch(run, part.enqueued + limits.timeout_seconds))
                queue[-1].add(part)
            self._changed.notify_all()
        return parts

    def _work(self) -> None:
        while True:
            with self._changed:
                while (batch := self._next_batch()) is None:
                    dues = [queue[0].due for queue in self._queues.values()]
                    self._changed.wait(max(0.0, min(dues) - time.monotonic()) if dues else None)
            self._process(batch)
            del batch  # else a thread that waits keeps the last model and its images

    def _next_batch(self) -> _Batch | None:
        """Takes a batch that is ready out of its queue; queues take turns."""
        now = time.monotonic()
        for key, queue in self._queues.items():
            first = queue[0]
            if len(queue) > 1 or first.size >= self._parameters.execution_size or first.due <= now:
                queue.popleft()
                if queue:
                    self._queues.move_to_end(key)
                else:
                    del self._queues[key]
                return first
        return None

    def _process(self, batch: _Batch) -> None:
        """Runs a batch and wakes those who wait for it, whatever happens; an error is everyone's."""
        now = time.monotonic()
        for part in batch.parts:
            self._metrics.queuing_latency.observe((now - part.enqueued) * 1e6, self._parameters.thread_pool_name)
        try:
            if _time_left(batch) == 0:
                raise ServingError("RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue")
            padded_size = self._padded_size(batch)
            joined = _joined(batch, padded_size)
            outputs = run_within(_time_left(batch), lambda: batch.run(joined))
            _give_out(batch, outputs, padded_size)
        except ServingError as error:
            _fail(batch, error.code, str(error))
        except Exception as error:  # the thread outlives every batch
            _fail(batch, "INTERNAL", f"{type(error).__name__}: {error}")
        finally:
            for part in batch.parts:
                part.done.set()

    def _padded_size(self, batch: _Batch) -> int:
        padded = next((size for size in self._parameters.allowed_sizes if size >= batch.size), batch.size)
        self._metrics.wrapped_run_count.add()
        self._metrics.processed_batch_size.observe(padded)
        self._metrics.padding_size.observe(padded - batch.size, str(padded))
        return padded


def _time_left(batch: _Batch) -> float | None:
    """Seconds until nobody waits for the batch any more; None if someone waits for ever."""
    deadline = max(part.deadline for part in batch.parts)
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


def _joined(batch: _Batch, padded_size: int) -> dict:
    """The parts' inputs below each other, then copies of the first row."""
    joined = {}
    for name, first in batch.parts[0].inputs.items():
        rows = [part.inputs[name] for part in batch.parts] + [first[:1]] * (padded_size - batch.size)
        joined[name] = np.concatenate(rows) if len(rows) > 1 else first
    return joined


def _give_out(batch: _Batch, outputs: dict, padded_size: int) -> None:
    """Gives each part its rows of the outputs."""
    for array in outputs.values():
        if array.ndim == 0:
            raise ServingError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
        if array.shape[0] != padded_size:
            message = "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"
            raise ServingError("FAILED_PRECONDITION", f"{message} of the input tensors")
    start = 0
    for part in batch.parts:
        part.outputs = {name: array[start : start + part.size] for name, array in outputs.items()}
        start += part.size


def _fail(batch: _Batch, code: str, message: str) -> None:
    for part in batch.parts:
        part.outputs, part.failure = None, (code, message)  # the error itself would keep its whole traceback alive


def _common_size(inputs: dict) -> int:
    """The inputs' size along dimension 0, which must be the same for all."""
    if not inputs:
        raise ServingError("INVALID_ARGUMENT", "Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in inputs.values()):
        raise ServingError("INVALID_ARGUMENT", "Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in inputs.values()}
    if len(sizes) > 1:
        raise ServingError("INVALID_ARGUMENT", "Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _sizes_of_parts(size: int, room: int, largest: int) -> list:
    """A request's size -> those of its parts: first what the open batch has room for, then whole batches.

    >>> _sizes_of_parts(10, room=3, largest=4)
    [3, 4, 3]
    """
    sizes = [min(size, room)] if room else []
    while (rest := size - sum(sizes)) > 0:
        sizes.append(min(rest, largest))
    return sizes


def _split(inputs: dict, sizes: list):
    start = 0
    for size in sizes:
        yield {name: array[start : start + size] for name, array in inputs.items()}
        start += size
