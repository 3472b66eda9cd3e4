"""Joins requests that come together into one run along dimension 0, as TF Serving's batching session does.

Requests share a queue if they have the same key: the same version, signature, outputs and shapes but for dimension 0.
A queue is a row of batches, of which the last one is open. A batch is ready as soon as it is full, another was opened
after it, or its first request has waited for the timeout; `num_threads` batches run at a time. Everything but the runs
themselves happens in the event loop, so nothing here needs a lock.
"""

import asyncio
import collections
import math
from collections.abc import Awaitable, Callable, Hashable, Iterator

import numpy as np

from .config import Batching
from .errors import ServingError, time_limit
from .metrics import ServerMetrics

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Awaitable[Arrays]]


class _Part:
    """A request, or a part of one that is run in several batches; its `answer` is its rows of the outputs."""

    def __init__(self, inputs: Arrays, size: int, timeout_seconds: float | None):
        loop = asyncio.get_running_loop()
        self.inputs, self.size = inputs, size
        self.enqueued = loop.time()
        self.deadline = math.inf if timeout_seconds is None else self.enqueued + timeout_seconds
        self.answer = loop.create_future()


class _Batch:
    """Parts that run together; `run` is given their joined inputs."""

    def __init__(self, run: Run):
        self.run = run
        self.parts, self.size = [], 0
        self.due, self.timer = False, None

    def add(self, part: _Part) -> None:
        self.parts.append(part)
        self.size += part.size


class BatchScheduler:
    """Queues of requests, and the batches that run. Its methods are called in the event loop."""

    def __init__(self, parameters: Batching, metrics: ServerMetrics):
        self._parameters, self._metrics = parameters, metrics
        self._queues = collections.OrderedDict()  # a key to its waiting batches; no key without one
        self._running = set()

    async def run(self, key: Hashable, inputs: Arrays, run: Run, timeout_seconds: float | None = None) -> Arrays:
        """Runs a request within a batch, and returns when it is done.

        Args:
            key: requests of equal keys may share a batch.
            inputs: input names -> arrays.
            run: joined inputs -> output names -> arrays; the first request's is used for the whole batch.
            timeout_seconds: how long it may take; a batch may take as long as the most patient of its requests.

        Returns:
            Output names -> arrays of as many rows as the inputs have.

        Raises:
            ServingError: the request cannot be joined, the queue is full, or the batch failed.
        """
        size = _common_size(inputs)
        self._metrics.input_batch_size.observe(size)
        if size == 0:  # nothing to join, and no row to pad with
            async with time_limit(timeout_seconds):
                return await run(inputs)
        parts = self._enqueue(key, inputs, size, run, timeout_seconds)
        self._start_batches()
        answers = await asyncio.gather(*[part.answer for part in parts], return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def _enqueue(self, key: Hashable, inputs: Arrays, size: int, run: Run, timeout_seconds: float | None) -> list:
        limits = self._parameters
        if size > limits.max_batch_size:
            message = f"Task size {size} is larger than maximum input batch size {limits.max_batch_size}"
            raise ServingError("INVALID_ARGUMENT", message)
        splits = limits.execution_size < limits.max_batch_size
        queue = self._queues.get(key, ())
        room = limits.execution_size - queue[-1].size if queue else 0
        sizes = _sizes_of_parts(size, room, limits.execution_size) if splits else [size]
        new_batches = len(sizes) - (sizes[0] <= room)
        if len(queue) + new_batches > limits.max_enqueued_batches:
            raise ServingError("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full")
        queue = self._queues.setdefault(key, collections.deque())
        parts = [_Part(part, size, timeout_seconds) for part, size in zip(_split(inputs, sizes), sizes)]
        for part in parts:
            if not queue or queue[-1].size + part.size > limits.execution_size:
                queue.append(self._open_batch(run))
            queue[-1].add(part)
        return parts

    def _open_batch(self, run: Run) -> _Batch:
        batch = _Batch(run)
        batch.timer = asyncio.get_running_loop().call_later(self._parameters.timeout_seconds, self._time_is_up, batch)
        return batch

    def _time_is_up(self, batch: _Batch) -> None:
        batch.due = True
        self._start_batches()

    def _start_batches(self) -> None:
        while len(self._running) < self._parameters.num_threads and (batch := self._next_batch()):
            batch.timer.cancel()
            task = asyncio.create_task(self._process(batch))
            self._running.add(task)
            task.add_done_callback(self._end_batch)

    def _end_batch(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        self._start_batches()

    def _next_batch(self) -> _Batch | None:
        """Takes a batch that is ready out of its queue; queues take turns."""
        for key, queue in self._queues.items():
            first = queue[0]
            if len(queue) > 1 or first.size >= self._parameters.execution_size or first.due:
                queue.popleft()
                if queue:
                    self._queues.move_to_end(key)
                else:
                    del self._queues[key]
                return first
        return None

    async def _process(self, batch: _Batch) -> None:
        """Runs a batch and answers its parts, whatever happens; an error is everyone's."""
        now = asyncio.get_running_loop().time()
        for part in batch.parts:
            self._metrics.queuing_latency.observe((now - part.enqueued) * 1e6, self._parameters.thread_pool_name)
        try:
            time_left = max(part.deadline for part in batch.parts) - now  # until nobody waits for it any more
            if time_left <= 0:
                raise ServingError("RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue")
            padded_size = self._padded_size(batch)
            async with time_limit(None if time_left == math.inf else time_left):
                outputs = await batch.run(_joined(batch, padded_size))
            _give_out(batch, outputs, padded_size)
        except ServingError as error:
            _fail(batch, error.code, str(error))
        except Exception as error:  # the server outlives every batch
            _fail(batch, "INTERNAL", f"{type(error).__name__}: {error}")

    def _padded_size(self, batch: _Batch) -> int:
        padded = next((size for size in self._parameters.allowed_sizes if size >= batch.size), batch.size)
        self._metrics.wrapped_run_count.add()
        self._metrics.processed_batch_size.observe(padded)
        self._metrics.padding_size.observe(padded - batch.size, str(padded))
        return padded


def _joined(batch: _Batch, padded_size: int) -> Arrays:
    """The parts' inputs below each other, then copies of the first row."""
    joined = {}
    for name, first in batch.parts[0].inputs.items():
        rows = [part.inputs[name] for part in batch.parts] + [first[:1]] * (padded_size - batch.size)
        joined[name] = np.concatenate(rows) if len(rows) > 1 else first
    return joined


def _give_out(batch: _Batch, outputs: Arrays, padded_size: int) -> None:
    """Answers each part with its rows of the outputs."""
    for array in outputs.values():
        if array.ndim == 0:
            raise ServingError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
        if array.shape[0] != padded_size:
            message = "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"
            raise ServingError("FAILED_PRECONDITION", f"{message} of the input tensors")
    start = 0
    for part in batch.parts:
        rows = {name: array[start : start + part.size] for name, array in outputs.items()}
        start += part.size
        if not part.answer.done():  # a client that stops waiting cancels it
            part.answer.set_result(rows)


def _fail(batch: _Batch, code: str, message: str) -> None:
    for part in batch.parts:
        if not part.answer.done():
            part.answer.set_exception(ServingError(code, message))


def _common_size(inputs: Arrays) -> int:
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


def _split(inputs: Arrays, sizes: list) -> Iterator[Arrays]:
    start = 0
    for size in sizes:
        yield {name: array[start : start + size] for name, array in inputs.items()}
        start += size
