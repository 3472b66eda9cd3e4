"""The devices that work together: one, several of one machine, or several machines (workers).

Every worker runs the same program; TF_CONFIG tells each where the others are and which one it is itself.
"""

import dataclasses
import functools
import json
import os
import re
import sys
from collections.abc import Sequence

import tensorflow as tf

from tf_blurdiff.errors import UserError, one_of

_NVIDIA = "/dev/nvidia0"
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class Devices:
    """A strategy of tf.distribute, and this process's place in it.

    A replica is one device's copy of the model. Replicas are numbered over all workers, and a worker's own follow one
    another. Of workers that are not in step, each has a strategy of its own and counts its own replicas alone.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    num_workers: int = 1
    in_step: bool = True

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.worker == 0

    @property
    def num_replicas(self) -> int:
        """Of all workers, if they are in step."""
        return self.strategy.num_replicas_in_sync

    @property
    def own_replicas(self) -> range:
        """The numbers of this worker's replicas."""
        if not self.in_step:
            return range(self.num_replicas)
        count = self.num_replicas // self.num_workers
        return range(self.worker * count, (self.worker + 1) * count)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means of some numbers over all workers, which must all call it; in float64, so whole numbers are exact.

        Example:
            >>> Devices(tf.distribute.get_strategy()).mean([2, 0.5])
            [2.0, 0.5]
        """
        if self.num_workers == 1:
            return [float(value) for value in values]
        return self._traced_mean(tf.constant(values, tf.float64)).numpy().tolist()

    @functools.cached_property
    def _traced_mean(self):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float64)])
        def mean(values):
            own = self.strategy.run(tf.identity, args=(values,))
            return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, own, axis=None)

        return mean

    @property
    def kind(self) -> str:
        """What computes, "GPU" or "CPU"."""
        return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"

    def describe(self) -> str:
        """One line for people."""
        replicas = f"{self.num_replicas} replica{'s' if self.num_replicas > 1 else ''} on {self.kind}"
        if self.num_workers == 1:
            return replicas
        return f"worker {self.worker} of {self.num_workers}, {replicas}{'' if self.in_step else ' of its own'}"


def has_unseen_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that TensorFlow does not see, though nobody has hidden it."""
    return (
        os.path.exists(_NVIDIA)
        and "CUDA_VISIBLE_DEVICES" not in os.environ
        and not tf.config.list_physical_devices("GPU")
    )


def open_devices(name: str = "auto", replicas: int | None = None, in_step: bool = True) -> Devices:
    """Makes the devices of this process ready; call it before TensorFlow has computed anything.

    Args:
        name: "one_device"; "mirrored", the devices of this machine; "multi_worker", those of all machines in TF_CONFIG;
            "auto", what there is: the workers of TF_CONFIG, else all GPUs, else one device.
        replicas: for "mirrored", how many devices; None is all GPUs. On a machine without GPUs the processor is
            divided into so many logical devices, which is for trying things out and not faster.
        in_step: whether workers join, as training must. If not, each works with the devices of its machine alone, and
            nothing happens to the others when one is stopped or started again.

    Returns:
        `Devices`.

    Raises:
        UserError: for devices that are not there, and for a TF_CONFIG that cannot be used.

    Example:
        >>> open_devices("one_device").num_replicas
        1
    """
    one_of("strategy", name, STRATEGIES)
    if replicas is not None and replicas < 1:
        raise UserError(f"replicas must be 1 or more, or null. Received: {replicas!r}")
    # A TF_CONFIG that was left over is no concern of who asks for this machine's devices.
    workers, worker = _workers() if name in ("auto", "multi_worker") else ([], 0)
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        many = replicas is not None or len(gpus) > 1
        name = "multi_worker" if len(workers) > 1 else "mirrored" if many else "one_device"
    if replicas is not None and name != "mirrored":
        raise UserError(f"replicas are for the strategy mirrored; with {name} it must be null. Received: {replicas!r}")
    if name == "multi_worker":
        if not workers:
            raise UserError("strategy multi_worker needs the environment variable TF_CONFIG, which is not set")
        strategy = _multi_worker_strategy(workers) if in_step else _own_strategy(gpus)
        return Devices(strategy, worker, len(workers), in_step)
    if name == "mirrored":
        return Devices(tf.distribute.MirroredStrategy(_own_devices(gpus, replicas)))
    return Devices(tf.distribute.get_strategy())


def _own_strategy(gpus):
    # Not MirroredStrategy's own choice of devices, which would be those of all workers in TF_CONFIG.
    return tf.distribute.MirroredStrategy(_own_devices(gpus, None)) if len(gpus) > 1 else tf.distribute.get_strategy()


def _own_devices(gpus, replicas):
    kind, count = ("GPU", len(gpus)) if gpus else ("CPU", replicas or 1)
    wanted = replicas or count
    if wanted > count:
        raise UserError(f"replicas must be {count} or less, the number of GPUs here. Received: {wanted}")
    if kind == "CPU":
        _divide_processor(wanted)
    return [f"{kind}:{number}" for number in range(wanted)]


def _divide_processor(count):
    (processor,) = tf.config.list_physical_devices("CPU")
    if len(tf.config.get_logical_device_configuration(processor) or [None]) >= count:
        return
    try:
        logical = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(processor, logical)
    except RuntimeError as error:
        raise UserError(f"replicas: {count} logical devices cannot be made: {error}") from error


def _multi_worker_strategy(workers):
    if len(workers) > 1:
        # TensorFlow waits for the others for long, and hears no signal but SIGKILL meanwhile.
        print(f"joining {len(workers)} workers: {', '.join(workers)}", file=sys.stderr, flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the workers of TF_CONFIG cannot be joined: {reason}") from error


def _workers():
    """The addresses of all workers, the chief first, and the number of this one; none without TF_CONFIG."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return [], 0
    try:
        description = json.loads(text)
        cluster, task = description.get("cluster") or {}, description.get("task") or {}
        if not cluster:
            return [], 0
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        kind, index = task.get("type"), str(task.get("index"))
        known = set(cluster) <= {"chief", "worker"} and all(isinstance(hosts, list) for hosts in cluster.values())
        known = known and all(re.fullmatch(r".+:\d+", str(host)) for host in chiefs + workers)
        if not known or kind not in cluster or not re.fullmatch(r"\d+", index) or int(index) >= len(cluster[kind]):
            raise ValueError(f"task {kind} {index} of the cluster {cluster}")
        number = int(index) if kind == "chief" else len(chiefs) + int(index)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        example = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(
            f"TF_CONFIG cannot be used ({error}); expected something like {example}, or the strategy one_device or "
            "mirrored, which do not read it"
        ) from None
    return chiefs + workers, number
