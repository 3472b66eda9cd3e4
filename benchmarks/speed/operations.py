"""Counts the floating-point operations of a traced function: convolutions and matrix products, 2 per multiply-add."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Operations:
    """Numbers of operations.

    Attributes:
        executed: those of the graph as it is.
        nominal: the same, with every convolution of stride 2 with a 4x4 kernel, in either direction, counted as what it
            stands for in these networks: each pixel repeated to 2x2, then a 3x3 convolution, 36 / 16 of the operations.
    """

    executed: float = 0.0
    nominal: float = 0.0

    def __add__(self, other):
        return Operations(self.executed + other.executed, self.nominal + other.nominal)


def count_operations(concrete_function):
    """The `Operations` of a concrete function whose shapes are all known.

    What no result depends on is not counted, since TensorFlow leaves it out. Functions that it calls are counted at
    each call; of a condition's branches, the larger. A loop's body counts once.
    """
    graph = concrete_function.graph
    graph_def = graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function for function in graph_def.library.function}
    results = [tensor.op.name for tensor in graph.outputs] + [op.name for op in graph.control_outputs]
    return _of_nodes(graph_def.node, {}, results, functions)


def _of_nodes(nodes, arguments, results, functions):
    shapes = {**arguments, **{node.name: _output_shapes(node) for node in nodes}}
    total = Operations()
    for node in _needed(nodes, results):
        total += _of_node(node, shapes)
        counts = [_of_function(functions[name], functions) for name in _called(node) if name in functions]
        if counts:
            total += max(counts, key=lambda count: count.executed)
    return total


def _of_function(function, functions):
    results = [_node_name(name) for name in function.ret.values()] + list(function.control_ret.values())
    return _of_nodes(function.node_def, _argument_shapes(function), results, functions)


def _needed(nodes, results):
    by_name, seen, waiting = {node.name: node for node in nodes}, set(), list(results)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in seen:  # Else it is an argument.
            seen.add(name)
            waiting += map(_node_name, by_name[name].input)
    return [by_name[name] for name in seen]


def _node_name(name):
    # Of "name", "name:1", "name:product:0" within a function, or "^name" for control.
    return name.removeprefix("^").split(":")[0]


def _output_shapes(node):
    return [[dim.size for dim in shape.dim] for shape in node.attr["_output_shapes"].list.shape]


def _argument_shapes(function):
    shapes = {}
    for number, argument in enumerate(function.signature.input_arg):
        attributes = function.arg_attr[number].attr if number in function.arg_attr else {}
        if "_output_shapes" in attributes:
            shape = attributes["_output_shapes"].list.shape[0]
            shapes[argument.name] = [[dim.size for dim in shape.dim]]
    return shapes


def _called(node):
    for value in node.attr.values():
        yield from [value.func.name] if value.HasField("func") else [each.name for each in value.list.func]


def _of_node(node, shapes):
    if node.op not in _COUNTERS:
        return Operations()

    def input_shape(number):
        name, *index = node.input[number].split(":")
        return shapes[name][int(index[-1]) if index else 0]

    try:
        number = float(_COUNTERS[node.op](node, input_shape, shapes[node.name]))
    except (KeyError, IndexError):
        number = -1.0
    if number < 0:
        raise ValueError(f"the shapes of {node.op} {node.name} are not all known")
    is_upsampling = node.op.startswith("Conv2D") and _is_upsampling(node, input_shape, shapes[node.name])
    return Operations(number, number * 36 / 16 if is_upsampling else number)


def _kernel_shape(node, input_shape, outputs):
    return outputs[0] if node.op == "Conv2DBackpropFilter" else input_shape(1)


def _is_upsampling(node, input_shape, outputs):
    kernel = _kernel_shape(node, input_shape, outputs)
    return list(kernel[:2]) == [4, 4] and sorted(node.attr["strides"].list.i) == [1, 1, 2, 2]


def _product(sizes):
    # Negative, and so seen, if any size is unknown.
    return -1 if any(size < 0 for size in sizes) else math.prod(sizes)


def _convolution(node, input_shape, outputs):
    # Each value on the convolution's output side meets a whole kernel for one output channel.
    height, width, channels, _ = _kernel_shape(node, input_shape, outputs)
    output = outputs[0] if node.op == "Conv2D" else input_shape(2)
    return 2 * _product([*output, height, width, channels])


def _matrix_product(node, input_shape, outputs):
    transposed = node.attr["adj_x"].b or node.attr["transpose_a"].b
    return 2 * _product([*outputs[0], input_shape(0)[-2 if transposed else -1]])


def _einsum(node, input_shape, outputs):
    sizes = {}
    operands = node.attr["equation"].s.decode().split("->")[0].split(",")
    if "." in "".join(operands):
        return -1
    for number, labels in enumerate(operands):
        sizes.update(zip(labels, input_shape(number)))
    return 2 * _product(sizes.values())


_COUNTERS = {
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _convolution,
    "Conv2DBackpropFilter": _convolution,
    "MatMul": _matrix_product,
    "BatchMatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "BatchMatMulV3": _matrix_product,
    "Einsum": _einsum,
}
