"""The development server's batching: what is joined, padded, split, refused, and who gets which error."""

import asyncio
import time

import numpy as np
import pytest
import tensorflow as tf

from dev_server import batching, served_model
from dev_server.config import Batching
from dev_server.errors import ServingError
from dev_server.metrics import ServerMetrics
from tests.support.event_loop import in_event_loop


class Recorder:
    """A model that doubles x, keeps the batches that it was given, and can be held up."""

    def __init__(self, open_=True):
        self.batches, self.gate, self.running = [], asyncio.Event(), asyncio.Event()
        if open_:
            self.gate.set()

    async def __call__(self, inputs):
        self.batches.append({name: array.copy() for name, array in inputs.items()})
        self.running.set()
        await self.gate.wait()
        if (inputs["x"] < 0).any():
            raise ServingError("INVALID_ARGUMENT", "x is negative")
        return {"y": 2 * inputs["x"]}

    def sizes(self):
        return [len(batch["x"]) for batch in self.batches]


def scheduler(**parameters):
    return batching.BatchScheduler(
        Batching(**({"execution_size": parameters.get("max_batch_size", 1000)} | parameters)), ServerMetrics()
    )


async def request(queue, x, run, key="key", timeout_seconds=None):
    """A request that waits in the queue, or runs, when this returns; awaiting it gives its rows of y."""
    task = asyncio.create_task(queue.run(key, {"x": np.asarray(x)}, run, timeout_seconds))
    await asyncio.sleep(0)
    return task


async def rows(*tasks):
    return [(await task)["y"].tolist() for task in tasks]


async def held_up(queue):
    """Occupies the only place for a run -> (the request that does so, the model that holds it)."""
    blocker = Recorder(open_=False)
    first = await request(queue, [0], blocker, key="blocker")
    await blocker.running.wait()
    return first, blocker


@in_event_loop
async def test_requests_that_wait_together_run_together_and_each_gets_its_rows():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    first, blocker = await held_up(queue)
    requests = [await request(queue, x, model) for x in ([1, 2], [3], [4, 5, 6])]
    blocker.gate.set()
    assert await rows(*requests) == [[2, 4], [6], [8, 10, 12]]
    assert model.sizes() == [6] and await rows(first) == [[0]]


@in_event_loop
async def test_other_keys_are_not_joined():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    requests = [await request(queue, [x], model, key) for x, key in ((1, "a"), (2, "b"), (3, "a"))]
    blocker.gate.set()
    assert await rows(*requests) == [[2], [4], [6]]
    assert sorted(model.sizes()) == [1, 2]


@in_event_loop
async def test_queues_take_turns():
    queue, model = scheduler(max_batch_size=2, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    requests = [await request(queue, [x, x], model, key) for x, key in ((1, "a"), (2, "a"), (3, "a"), (4, "b"))]
    blocker.gate.set()
    await rows(*requests)
    assert [batch["x"][0] for batch in model.batches] == [1, 4, 2, 3]


@in_event_loop
async def test_so_many_batches_run_at_a_time():
    queue, model = scheduler(max_batch_size=1, num_threads=2), Recorder(open_=False)
    requests = [await request(queue, [x], model) for x in range(3)]
    await asyncio.sleep(0.05)
    assert model.sizes() == [1, 1]
    model.gate.set()
    assert await rows(*requests) == [[0], [2], [4]]


@in_event_loop
async def test_a_batch_that_is_full_does_not_wait_and_one_that_is_not_waits_for_the_timeout():
    queue, model = scheduler(max_batch_size=2, num_threads=1, timeout_seconds=3600.0), Recorder()
    full = [await request(queue, [1], model), await request(queue, [2], model)]
    assert await rows(*full) == [[2], [4]] and model.sizes() == [2]
    queue, started = scheduler(max_batch_size=2, num_threads=1, timeout_seconds=0.05), time.monotonic()
    assert await rows(await request(queue, [3], model)) == [[6]]
    assert time.monotonic() - started >= 0.05


@in_event_loop
async def test_a_batch_is_closed_when_the_next_request_does_not_fit():
    queue, model = scheduler(max_batch_size=4, num_threads=1, timeout_seconds=3600.0), Recorder()
    requests = [await request(queue, [1, 2, 3], model), await request(queue, [4, 5, 6, 7], model)]
    assert await rows(*requests) == [[2, 4, 6], [8, 10, 12, 14]]
    assert model.sizes() == [3, 4]


@in_event_loop
async def test_a_batch_is_padded_with_a_copy_of_a_row_to_the_next_allowed_size():
    queue, model = scheduler(max_batch_size=8, num_threads=1, allowed_sizes=(1, 4, 8)), Recorder()
    assert await rows(await request(queue, [[5, 6], [7, 8]], model)) == [[[10, 12], [14, 16]]]
    assert model.batches[0]["x"].tolist() == [[5, 6], [7, 8], [5, 6], [5, 6]]
    assert await rows(await request(queue, [[1, 1]], model)) == [[[2, 2]]] and model.sizes() == [4, 1]


@in_event_loop
async def test_a_request_that_is_too_large_is_refused():
    with pytest.raises(ServingError, match="Task size 5 is larger than maximum input batch size 4") as refused:
        await rows(await request(scheduler(max_batch_size=4), range(5), Recorder()))
    assert refused.value.code == "INVALID_ARGUMENT"


@in_event_loop
async def test_a_large_request_is_split_if_the_parameters_say_so():
    queue, model = scheduler(max_batch_size=16, execution_size=4, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    requests = [await request(queue, x, model) for x in ([1], range(10))]
    blocker.gate.set()
    assert await rows(*requests) == [[2], list(range(0, 20, 2))]
    assert model.sizes() == [4, 4, 3]
    with pytest.raises(ServingError, match="Task size 17"):
        await rows(await request(queue, range(17), model))


@in_event_loop
async def test_a_full_queue_refuses_and_no_other_queue_does():
    queue, model = scheduler(max_batch_size=2, num_threads=1, max_enqueued_batches=2), Recorder()
    _, blocker = await held_up(queue)
    requests = [await request(queue, x, model) for x in ([1, 2], [3], [4])]
    with pytest.raises(ServingError, match="queue to which this task was submitted is full") as refused:
        await rows(await request(queue, [5], model))
    assert refused.value.code == "UNAVAILABLE"
    requests.append(await request(queue, [6], model, "other"))
    blocker.gate.set()
    assert await rows(*requests) == [[2, 4], [6], [8], [12]]
    assert await rows(await request(queue, [5], model)) == [[10]]


@in_event_loop
async def test_an_error_goes_to_every_request_of_the_batch_and_to_no_other():
    queue, model = scheduler(max_batch_size=4, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    requests = [await request(queue, x, model) for x in ([1], [-1], [3, 4, 5])]
    blocker.gate.set()
    for failing in requests[:2]:
        with pytest.raises(ServingError, match="x is negative") as failure:
            await failing
        assert failure.value.code == "INVALID_ARGUMENT"
    assert await rows(requests[2]) == [[6, 8, 10]]


@in_event_loop
async def test_a_client_that_stops_waiting_takes_nothing_from_the_others_of_its_batch():
    queue, model = scheduler(max_batch_size=4, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    gone, other = [await request(queue, [x], model) for x in (1, 2)]
    gone.cancel()
    blocker.gate.set()
    assert await rows(other) == [[4]] and gone.cancelled()


def failing(error):
    raise error


@pytest.mark.parametrize(
    "result, code, message",
    [
        (lambda: {"y": np.float32(1)}, "FAILED_PRECONDITION", "0 dimensions"),
        (lambda: {"y": np.zeros(5)}, "FAILED_PRECONDITION", "does not equal the sum"),
        (lambda: 1 / 0, "INTERNAL", "ZeroDivisionError"),
        (lambda: failing(TimeoutError("its own")), "INTERNAL", "TimeoutError: its own"),
    ],
)
@in_event_loop
async def test_a_run_that_fails_is_an_answer_and_frees_its_place(result, code, message):
    async def run(inputs):
        return result()

    queue = scheduler(max_batch_size=4, num_threads=1)
    with pytest.raises(ServingError, match=message) as failure:
        await rows(await request(queue, [1, 2], run, timeout_seconds=60.0))
    assert failure.value.code == code
    assert await rows(await request(queue, [1], Recorder())) == [[2]]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "at least one input"),
        ({"x": np.array(1)}, "at least one dimension"),
        ({"x": np.zeros(2), "label": np.zeros(3)}, "equal 0th-dimension size"),
    ],
)
@in_event_loop
async def test_inputs_that_cannot_be_joined_are_refused(inputs, message):
    with pytest.raises(ServingError, match=message) as refused:
        await scheduler().run("key", inputs, Recorder())
    assert refused.value.code == "INVALID_ARGUMENT"


@in_event_loop
async def test_a_request_of_no_rows_runs_by_itself():
    queue, model = scheduler(allowed_sizes=(4,), max_batch_size=4), Recorder()
    assert (await queue.run("key", {"x": np.zeros((0, 3))}, model))["y"].shape == (0, 3)
    assert model.sizes() == [0]


@in_event_loop
async def test_nothing_of_a_request_is_kept():
    queue = scheduler(num_threads=2)
    for number in range(50):
        assert await rows(await request(queue, [number], Recorder(), key=number)) == [[2 * number]]
    assert not queue._queues and not queue._running


@in_event_loop
async def test_a_batch_that_waited_too_long_for_all_its_requests_is_not_run():
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    late = [await request(queue, [number], model, timeout_seconds=0.0) for number in (1, 2)]
    blocker.gate.set()
    for refused_request in late:
        with pytest.raises(ServingError, match="while waiting in batching queue") as refused:
            await refused_request
        assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert model.sizes() == []


@pytest.mark.parametrize("patience", [None, 60.0])
@in_event_loop
async def test_a_batch_may_take_as_long_as_its_most_patient_request(patience):
    queue, model = scheduler(max_batch_size=8, num_threads=1), Recorder()
    _, blocker = await held_up(queue)
    both = [await request(queue, [x], model, timeout_seconds=limit) for x, limit in ((1, 0.0), (2, patience))]
    blocker.gate.set()
    assert await rows(*both) == [[2], [4]] and model.sizes() == [2]


@in_event_loop
async def test_a_run_that_takes_too_long_is_an_error_of_its_batch_and_frees_its_place():
    queue, slow = scheduler(max_batch_size=8, num_threads=1), Recorder(open_=False)
    with pytest.raises(ServingError, match="Timed out waiting for notification") as refused:
        await rows(await request(queue, [1], slow, timeout_seconds=0.05))
    assert refused.value.code == "DEADLINE_EXCEEDED"
    assert await rows(await request(queue, [2], Recorder())) == [[4]]


@in_event_loop
async def test_many_requests_lose_and_mix_up_nothing(rng):
    model = Recorder()
    queue = scheduler(max_batch_size=16, num_threads=3, timeout_seconds=0.001, max_enqueued_batches=1000)
    sent = [rng.integers(0, 10**9, size=rng.integers(1, 12)) for _ in range(400)]
    tasks = [await request(queue, x, model) for x in sent]
    assert await rows(*tasks) == [(2 * x).tolist() for x in sent]
    assert sum(model.sizes()) == sum(map(len, sent)) and max(model.sizes()) <= 16
    assert len(model.sizes()) < len(sent)


@in_event_loop
async def test_the_queues_figures():
    metrics = ServerMetrics()
    queue = batching.BatchScheduler(Batching(8, 8, allowed_sizes=(4, 8), thread_pool_name="pool"), metrics)
    started = time.monotonic()
    await queue.run("key", {"x": np.zeros(3)}, Recorder())
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


class TwoOutputs(tf.Module):
    """x -> x + a constant, and twice x."""

    def __init__(self, constant):
        super().__init__()
        self.constant = tf.Variable(constant, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, name="x")])
    def __call__(self, x):
        return {"sum": x + self.constant, "twice": 2 * x}


@in_event_loop
async def test_models_outputs_and_shapes_are_not_mixed_in_a_batch(tmp_path):
    metrics, models = ServerMetrics(), []
    queue = batching.BatchScheduler(Batching(16, 16, timeout_seconds=0.2, num_threads=1), metrics)
    for constant in (100, 200):
        module, folder = TwoOutputs(constant), tmp_path / str(constant)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
        models.append(await served_model.load("m", constant, folder, metrics, queue))
    ask = lambda model, x, *wanted: model.predict("serving_default", {"x": np.array(x, np.int64)}, wanted)
    one, other, filtered, longer, last = await asyncio.gather(
        ask(models[0], [[1]]),
        ask(models[1], [[2]]),
        ask(models[0], [[3]], "twice"),
        ask(models[0], [[4, 5]]),
        ask(models[0], [[6]]),
    )
    plain = lambda outputs: {name: array.tolist() for name, array in outputs.items()}
    assert plain(one) == {"sum": [[101]], "twice": [[2]]} and plain(other) == {"sum": [[202]], "twice": [[4]]}
    assert plain(filtered) == {"twice": [[6]]} and plain(longer) == {"sum": [[104, 105]], "twice": [[8, 10]]}
    assert plain(last) == {"sum": [[106]], "twice": [[12]]}
    joined = next(line for line in metrics.text().splitlines() if "wrapped_run_count" in line and line[0] != "#")
    assert joined.split()[-1] == "4"  # The first and the last request were one batch.
