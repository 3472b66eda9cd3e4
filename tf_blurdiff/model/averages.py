"""The averaged weights of a network: which weight each belongs to, their age, and how they are kept in files."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

# Averages whose age is in no file are too old to be moved far by a few steps.
_OLD = 2**31


def learnable(network: keras.Model) -> list[keras.Variable]:
    """The weights that training changes unless they are frozen, in the network's order, whether frozen or not.

    What a layer keeps beside them, such as the statistics of a batch normalisation, is not among them.
    """
    # Keras has no public way to tell frozen weights from such statistics.
    found = {id(weight) for layer in network._flatten_layers() for weight in layer._trainable_variables}
    return [weight for weight in network.variables if id(weight) in found]


def places(network: keras.Model) -> dict[int, str]:
    """Where a network's variables and layers are, by their `id`: names of attributes, and kinds of layers in lists.

    The same for networks made by the same code, in any process and with any numbers in their layers' names; and a layer
    more, such as an embedding of labels, renames none of another kind.

    Example:
        >>> network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
        >>> [path.split(".")[-2:] for path in sorted(places(network).values())][:4]
        [[''], ['_functional'], ['_layers', 'Dense_0'], ['Dense_0', '_kernel']]
    """
    found: dict[int, str] = {}
    _note_places(network, (), found, set())
    return found


def _note_places(thing, path, found, seen):
    if isinstance(thing, (keras.Variable, keras.layers.Layer)):
        found.setdefault(id(thing), ".".join(path))
    if isinstance(thing, (keras.layers.Layer, list, tuple, dict)) and id(thing) not in seen:
        seen.add(id(thing))
        for name, part in _parts(thing):
            _note_places(part, (*path, name), found, seen)


def _parts(thing: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(thing, keras.layers.Layer):
        # Public names first: Keras's own lists are a last resort.
        return sorted(vars(thing).items(), key=lambda item: (item[0].startswith("_"), item[0]))
    if isinstance(thing, dict):
        return [(str(key), part) for key, part in thing.items()]
    kinds = [type(part).__name__ for part in thing]
    return [(f"{kind}_{kinds[:i].count(kind)}", part) for i, (kind, part) in enumerate(zip(kinds, thing))]


class Averages(keras.layers.Layer):
    """Exponential moving averages of all weights of a network that can be learned, and their age.

    An average belongs to its weight whatever is frozen; that of a frozen weight stays as it is. In files it is found by
    the weight's path, and one that a file does not have is its weight's own value.

    Args:
        network: a built network.

    Attributes:
        values: the averages, in the order of `learnable`.
        age: int64 variable, the number of steps that they are of.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="averages", dtype="float32")
        # Under replicas every copy gets the same update.
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        # A function: weights that are attributes would count as this layer's own.
        self._weights = lambda: learnable(network)
        weights, paths = self._weights(), places(network)
        self._paths = [paths.get(id(weight), f"weight_{i}") for i, weight in enumerate(weights)]
        self._numbers = {id(weight): i for i, weight in enumerate(weights)}
        self._of_old_file: dict[int, np.ndarray] = {}
        self._misfit = ""
        self.values = [
            self.add_weight(name=f"average_{i}", shape=weight.shape, dtype=weight.dtype, **fixed)
            for i, weight in enumerate(weights)
        ]
        for average, weight in zip(self.values, weights):
            average.assign(weight)
        self.age = self.add_weight(name="age", shape=(), dtype="int64", initializer="zeros", **fixed)
        self.built = True

    def of(self, weight: keras.Variable) -> keras.Variable:
        """The average of a weight; what has none, such as a statistic, is its own."""
        number = self._numbers.get(id(weight))
        return weight if number is None else self.values[number]

    def save_own_variables(self, store: Any) -> None:
        """Called by Keras when it saves."""
        store["age"] = self.age
        for path, average in zip(self._paths, self.values):
            store[f"of {path}"] = average

    def note_old_file(self, values: Sequence[np.ndarray]) -> None:
        """Takes what a file of earlier versions has: averages in the order of the weights, without an age.

        Raises:
            ValueError: if there are not as many of them as weights.
        """
        weights = self._weights()
        trained = [number for number, weight in enumerate(weights) if weight.trainable]
        numbers = trained if len(values) == len(trained) else list(range(len(weights)))
        if len(values) != len(numbers):
            raise ValueError(f"the file has {len(values)} averages, and the network {len(weights)} weights")
        self._of_old_file = dict(zip(numbers, values))

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras when it loads, after the network's weights.

        Raises:
            ValueError: if some are missing or of another shape; the others are loaded.
        """
        misfit, self._misfit = self._misfit, ""
        if misfit and not len(store.keys()):
            raise ValueError(misfit)  # Keras tries a layer that failed a second time, from where the file has nothing.
        values, age, self._of_old_file = self._of_old_file, _OLD, {}
        is_old = bool(values)
        if "age" in store.keys():  # noqa: SIM118 (Keras's stores are no mappings)
            names = {number: f"of {path}" for number, path in enumerate(self._paths)}
            there = set(store.keys())
            values = {number: store[name] for number, name in names.items() if name in there}
            age = int(store["age"])
        left_out = []
        for number, (average, weight) in enumerate(zip(self.values, self._weights())):
            value = values.get(number)
            fits = value is not None and tuple(value.shape) == tuple(average.shape)
            average.assign(value if fits else weight)
            # Earlier versions kept none for weights that were frozen from the start.
            if not fits and not (is_old and value is None):
                left_out.append(self._paths[number])
        self.age.assign(age if values else 0)
        if values and left_out:
            self._misfit = f"the file has no averages of this shape for: {', '.join(left_out)}"
            raise ValueError(self._misfit)
