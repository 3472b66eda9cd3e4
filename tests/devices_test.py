"""Which devices there are for a request, and what TF_CONFIG says of the workers."""

import json

import pytest
import tensorflow as tf

from tf_blurdiff import devices
from tf_blurdiff.devices import Devices, open_devices
from tf_blurdiff.errors import UserError

HOSTS = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


def set_cluster(monkeypatch, cluster, task):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    # The real one waits for the other workers.
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "all workers")


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs, as far as this package can see, and a strategy that only says what it was asked for."""
    found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(3)]
    listed = tf.config.list_physical_devices
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: found if kind == "GPU" else listed(kind))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)


@pytest.mark.parametrize(
    "kind, index, number", [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2), ("worker", "1", 2)]
)
def test_workers_are_numbered_after_the_chief(monkeypatch, kind, index, number):
    set_cluster(monkeypatch, HOSTS, {"type": kind, "index": index})
    result = open_devices("auto", in_step=False)
    assert result.strategy is tf.distribute.get_strategy()
    assert (result.worker, result.num_workers, result.is_chief) == (number, 3, number == 0)


def test_without_a_chief_the_first_worker_is_it(monkeypatch):
    set_cluster(monkeypatch, {"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 0})
    assert open_devices("multi_worker", in_step=False).is_chief


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}}', '{"cluster": null, "task": null}'])
def test_no_cluster_is_this_process_alone(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert open_devices() == Devices(tf.distribute.get_strategy(), worker=0, num_workers=1)
    with pytest.raises(UserError, match="strategy multi_worker needs the environment variable TF_CONFIG"):
        open_devices("multi_worker")


UNUSABLE = [
    "{", "[]", '"x"', '{"cluster": {"worker": ["a:1"]}}', '{"cluster": ["a:1"]}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "first"}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
    '{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["host"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0.7}}',
    '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
]  # fmt: skip


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_cluster_that_cannot_be_used_is_one_line(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    message = (
        r'^TF_CONFIG cannot be used \(.+\); expected something like {"cluster": .*, or the strategy one_device or '
    )
    for name in ("auto", "multi_worker"):
        with pytest.raises(UserError, match=message):
            open_devices(name, in_step=False)
    assert open_devices("one_device") == Devices(tf.distribute.get_strategy())


def test_auto_takes_what_there_is(monkeypatch, gpus):
    assert open_devices().strategy == ["GPU:0", "GPU:1", "GPU:2"]
    assert open_devices(replicas=2).strategy == ["GPU:0", "GPU:1"]
    assert open_devices(replicas=1).strategy == ["GPU:0"]
    assert open_devices("mirrored", 2).strategy == ["GPU:0", "GPU:1"]
    assert open_devices("one_device").strategy is tf.distribute.get_strategy()
    set_cluster(monkeypatch, HOSTS, {"type": "worker", "index": 1})
    assert open_devices() == Devices("all workers", 2, 3)
    assert open_devices("mirrored").strategy == ["GPU:0", "GPU:1", "GPU:2"]


def test_workers_out_of_step_have_their_own_gpus(monkeypatch, gpus):
    set_cluster(monkeypatch, HOSTS, {"type": "worker", "index": 1})
    assert open_devices(in_step=False) == Devices(["GPU:0", "GPU:1", "GPU:2"], 2, 3, False)


def test_without_gpus_auto_is_one_device():
    result = open_devices()
    assert result.strategy is tf.distribute.get_strategy()
    assert result == Devices(tf.distribute.get_strategy(), 0, 1)


def test_the_processor_is_divided(monkeypatch):
    asked = []
    monkeypatch.setattr(devices, "_divide_processor", asked.append)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)
    assert open_devices("mirrored", 2).strategy == ["CPU:0", "CPU:1"]
    assert open_devices(replicas=3).strategy == ["CPU:0", "CPU:1", "CPU:2"]
    assert asked == [2, 3]


def test_a_processor_in_use_is_not_divided_further():
    tf.constant(0) + 1
    with pytest.raises(UserError, match=r"^replicas: 64 logical devices cannot be made: .*$"):
        open_devices("mirrored", 64)


MISTAKES = [
    ("tpu", None, "strategy must be one of auto, one_device, mirrored, multi_worker. Received: 'tpu'"),
    ("mirrored", 4, "replicas must be 3 or less, the number of GPUs here. Received: 4"),
    ("mirrored", 0, "replicas must be 1 or more"),
    ("auto", -1, "replicas must be 1 or more"),
    ("one_device", 1, "replicas are for the strategy mirrored; with one_device it must be null. Received: 1"),
    ("multi_worker", 2, "replicas are for the strategy mirrored; with multi_worker it must be null. Received: 2"),
]


@pytest.mark.parametrize("name, replicas, message", MISTAKES)
def test_devices_that_are_not_there_are_named(gpus, name, replicas, message):
    with pytest.raises(UserError, match=message):
        open_devices(name, replicas)


class _Replicas:
    def __init__(self, count):
        self.num_replicas_in_sync = count


def test_replicas_are_numbered_over_all_workers():
    in_step = [Devices(_Replicas(6), worker, 3) for worker in range(3)]
    assert [list(each.own_replicas) for each in in_step] == [[0, 1], [2, 3], [4, 5]]
    alone = Devices(_Replicas(2), 1, 3, in_step=False)
    assert list(alone.own_replicas) == [0, 1] and alone.num_replicas == 2


def test_devices_describe_themselves():
    assert Devices(_Replicas(1)).describe() == "1 replica on CPU"
    assert Devices(_Replicas(2)).describe() == "2 replicas on CPU"
    assert Devices(_Replicas(4), 1, 2).describe() == "worker 1 of 2, 4 replicas on CPU"
    assert Devices(_Replicas(2), 1, 2, False).describe() == "worker 1 of 2, 2 replicas on CPU of its own"


def test_means_over_workers_are_exact_for_whole_numbers(two_replicas):
    joined = Devices(two_replicas, worker=0, num_workers=2)
    # One more than float32 can hold apart from its neighbours.
    assert joined.mean([2**24 + 1, 0.25]) == [2**24 + 1, 0.25]
    assert joined.mean([2**40 + 1, -0.5]) == [2**40 + 1, -0.5]
