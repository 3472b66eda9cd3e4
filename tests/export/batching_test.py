"""The development server's batching: what is joined, padded, split, refused, and who gets which error."""

import threading
import time

import numpy as np
import pytest

from dev_server import batching
from dev_server.config import Batching
from dev_server.errors import ServingError
from dev_server.metrics import ServerMetrics
from tests.support import servers


class Recorder:
    """A model that doubles x, keeps the batches that it was given, and can be held up."""

    def __init__(self, open_=True):
        self.batches, self.gate = [], threading.Event()
        self.running = threading.Semaphore(0)
        if open_:
            self.gate.set()

    def __call__(self, inputs):
        self.batches.append({name: array.copy() for name, array in inputs.items()})
        self.running.release()
        assert self.gate.wait(60)
        if (inputs["x"] < 0).any():
            raise ServingError("INVALID_ARGUMENT", "x is negative")
        return {"y": 2 * inputs["x"]}

    def sizes(self):
        return [len(batch["x"]) for batch in self.batches]


def scheduler(**parameters):
    return batching.BatchScheduler(
        Batching(**({"execution_size": parameters.get("max_batch_size", 1000)} | parameters)), ServerMetrics()
    )


class Request(threading.Thread):
    """A request of its own thread; `answer()` waits for it and raises what it raised."""

    def __init__(self, queue, x, run, key="key", timeout_seconds=None, **more):
        super().__init__(daemon=True)
        self._arguments = key, {"x": np.asarray(x)} | more, run, timeout_seconds
        self._queue, self._result = queue, None
        self.start()

    def run(self):
        try:
            self._result = self._queue.run(*self._arguments)
        except Exception as error:
            self._result = error

    def answer(self):
        self.join(60)
        assert self._result is not None, "no answer"
        if isinstance(self._result, Exception):
            raise self._result
        return self._result["y"].tolist()


def waiting(queue):
    return sum(batch.size for batches in queue._queues.values() for batch in batches)


def held_up(queue):
    """Occupies the only thread -> (the request that does so, the model that holds it)."""
    blocker = Recorder(open_=False)
    request = Request(queue, [0], blocker, key="blocker")
    assert blocker.running.acquire(timeout=60)
    return request, blocker


def enqueue(queue, requests):
    """Starts requests one after the other, each when the one before it waits."""
    started = []
    for x, run, key in requests:
        before = waiting(queue)
        started.append(Request(queue, x, run, key))
        servers.wait_until(lambda before=before, x=x: waiting(queue) == before + len(x))
    return started


def test_requests_that_wait_together_run_together_and_each_gets_its_rows():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    first, blocker = held_up(queue)
    requests = enqueue(queue, [([1, 2], model, "key"), ([3], model, "key"), ([4, 5, 6], model, "key")])
    blocker.gate.set()
    assert [request.answer() for request in requests] == [[2, 4], [6], [8, 10, 12]]
    assert model.sizes() == [6] and first.answer() == [0]


def test_other_keys_are_not_joined():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = held_up(queue)
    requests = enqueue(queue, [([1], model, "a"), ([2], model, "b"), ([3], model, "a")])
    blocker.gate.set()
    assert [request.answer() for request in requests] == [[2], [4], [6]]
    assert sorted(model.sizes()) == [1, 2]


def test_a_batch_that_is_full_does_not_wait_and_one_that_is_not_waits_for_the_timeout():
    queue, model = scheduler(max_batch_size=2, num_threads=1, timeout_seconds=3600.0), Recorder()
    full = enqueue(queue, [([1], model, "key")]) + [Request(queue, [2], model)]
    assert sorted(request.answer()[0] for request in full) == [2, 4] and model.sizes() == [2]
    lonely = Request(scheduler(max_batch_size=2, num_threads=1, timeout_seconds=0.05), [3], model)
    assert lonely.answer() == [6]


def test_a_batch_is_closed_when_the_next_request_does_not_fit():
    queue, model = scheduler(max_batch_size=4, num_threads=1, timeout_seconds=3600.0), Recorder()
    first = enqueue(queue, [([1, 2, 3], model, "key")])[0]
    second = Request(queue, [4, 5, 6, 7], model)
    assert (first.answer(), second.answer()) == ([2, 4, 6], [8, 10, 12, 14])
    assert model.sizes() == [3, 4]


def test_a_batch_is_padded_with_a_copy_of_a_row_to_the_next_allowed_size():
    queue, model = scheduler(max_batch_size=8, num_threads=1, allowed_sizes=(1, 4, 8)), Recorder()
    assert Request(queue, [[5, 6], [7, 8]], model).answer() == [[10, 12], [14, 16]]
    assert model.batches[0]["x"].tolist() == [[5, 6], [7, 8], [5, 6], [5, 6]]
    assert Request(queue, [[1, 1]], model).answer() == [[2, 2]] and model.sizes() == [4, 1]


def test_a_request_that_is_too_large_is_refused():
    with pytest.raises(ServingError, match="Task size 5 is larger than maximum input batch size 4") as refused:
        Request(scheduler(max_batch_size=4), range(5), Recorder()).answer()
    assert refused.value.code == "INVALID_ARGUMENT"


def test_a_large_request_is_split_if_the_parameters_say_so():
    queue, model = scheduler(max_batch_size=16, execution_size=4, num_threads=1), Recorder()
    _, blocker = held_up(queue)
    requests = enqueue(queue, [([1], model, "key"), (range(10), model, "key")])
    blocker.gate.set()
    assert [request.answer() for request in requests] == [[2], list(range(0, 20, 2))]
    assert model.sizes() == [4, 4, 3]
    with pytest.raises(ServingError, match="Task size 17"):
        Request(queue, range(17), model).answer()


def test_a_full_queue_refuses_and_no_other_queue_does():
    queue, model = scheduler(max_batch_size=2, num_threads=1, max_enqueued_batches=2), Recorder()
    _, blocker = held_up(queue)
    requests = enqueue(queue, [([1, 2], model, "key"), ([3], model, "key"), ([4], model, "key")])
    with pytest.raises(ServingError, match="queue to which this task was submitted is full") as refused:
        Request(queue, [5], model).answer()
    assert refused.value.code == "UNAVAILABLE"
    requests += enqueue(queue, [([6], model, "other")])
    blocker.gate.set()
    assert [request.answer() for request in requests] == [[2, 4], [6], [8], [12]]
    assert Request(queue, [5], model).answer() == [10]


def test_an_error_goes_to_every_request_of_the_batch_and_to_no_other():
    queue, model = scheduler(max_batch_size=4, num_threads=1), Recorder()
    _, blocker = held_up(queue)
    requests = enqueue(queue, [([1], model, "key"), ([-1], model, "key"), ([3, 4, 5], model, "key")])
    blocker.gate.set()
    for request in requests[:2]:
        with pytest.raises(ServingError, match="x is negative") as failure:
            request.answer()
        assert failure.value.code == "INVALID_ARGUMENT"
    assert requests[2].answer() == [6, 8, 10]


@pytest.mark.parametrize(
    "run, code, message",
    [
        (lambda inputs: {"y": np.float32(1)}, "FAILED_PRECONDITION", "0 dimensions"),
        (lambda inputs: {"y": np.zeros(5)}, "FAILED_PRECONDITION", "does not equal the sum"),
        (lambda inputs: 1 / 0, "INTERNAL", "ZeroDivisionError"),
    ],
)
def test_a_run_that_fails_is_an_answer_and_the_thread_lives_on(run, code, message):
    queue = scheduler(max_batch_size=4, num_threads=1)
    with pytest.raises(ServingError, match=message) as failure:
        Request(queue, [1, 2], run).answer()
    assert failure.value.code == code
    assert Request(queue, [1], Recorder()).answer() == [2]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "at least one input"),
        ({"x": np.array(1)}, "at least one dimension"),
        ({"x": np.zeros(2), "label": np.zeros(3)}, "equal 0th-dimension size"),
    ],
)
def test_inputs_that_cannot_be_joined_are_refused(inputs, message):
    with pytest.raises(ServingError, match=message) as refused:
        scheduler().run("key", inputs, Recorder())
    assert refused.value.code == "INVALID_ARGUMENT"


def test_a_request_of_no_rows_runs_by_itself():
    model = Recorder()
    assert scheduler(allowed_sizes=(4,), max_batch_size=4).run("key", {"x": np.zeros((0, 3))}, model)["y"].shape == (
        0,
        3,
    )
    assert model.sizes() == [0]


def test_nothing_of_a_request_is_kept():
    queue = scheduler(num_threads=2)
    for number in range(50):
        assert Request(queue, [number], Recorder(), key=number).answer() == [2 * number]
    assert not queue._queues


def test_a_batch_that_waited_too_long_for_all_its_requests_is_not_run():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = held_up(queue)
    late = [Request(queue, [number], model, timeout_seconds=0.0) for number in (1, 2)]
    servers.wait_until(lambda: waiting(queue) == 2)
    blocker.gate.set()
    for request in late:
        with pytest.raises(ServingError, match="while waiting in batching queue") as refused:
            request.answer()
        assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert model.sizes() == []


@pytest.mark.parametrize("patience", [None, 60.0])
def test_a_batch_may_take_as_long_as_its_most_patient_request(patience):
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = held_up(queue)
    both = [Request(queue, [number], model, timeout_seconds=limit) for number, limit in ((1, 0.0), (2, patience))]
    servers.wait_until(lambda: waiting(queue) == 2)
    blocker.gate.set()
    assert [request.answer() for request in both] == [[2], [4]] and model.sizes() == [2]


def test_a_run_that_takes_too_long_is_an_error_of_its_batch_and_frees_the_thread():
    queue, slow = scheduler(max_batch_size=8, num_threads=1), Recorder(open_=False)
    with pytest.raises(ServingError, match="Timed out waiting for notification") as refused:
        Request(queue, [1], slow, timeout_seconds=0.05).answer()
    assert refused.value.code == "DEADLINE_EXCEEDED"
    assert Request(queue, [2], Recorder()).answer() == [4]
    slow.gate.set()


def test_many_threads_lose_and_mix_up_nothing():
    queue, model = (
        scheduler(max_batch_size=16, num_threads=3, timeout_seconds=0.001, max_enqueued_batches=1000),
        Recorder(),
    )
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 10**9, size=rng.integers(1, 12)) for _ in range(400)]
    started = [Request(queue, x, model) for x in requests]
    assert [request.answer() for request in started] == [(2 * x).tolist() for x in requests]
    assert sum(model.sizes()) == sum(map(len, requests)) and max(model.sizes()) <= 16
    assert len(model.sizes()) < len(requests)


def test_the_queues_figures():
    metrics = ServerMetrics()
    queue = batching.BatchScheduler(Batching(8, 8, allowed_sizes=(4, 8), thread_pool_name="pool"), metrics)
    started = time.monotonic()
    queue.run("key", {"x": np.zeros(3)}, Recorder())
    elapsed = (time.monotonic() - started) * 1e6
    text = metrics.text()
    for line in (
        ":tensorflow:serving:batching_session:wrapped_run_count{} 1",
        ":tensorflow:serving:batching_session:input_batch_size_sum{} 3",
        ":tensorflow:serving:batching_session:processed_batch_size_sum{} 4",
        ':tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="4"} 1',
        ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="pool"} 1',
    ):
        assert line in text.splitlines(), line
    latency = next(line for line in text.splitlines() if "queuing_latency_sum" in line)
    assert 0 <= float(latency.split()[-1]) <= elapsed
