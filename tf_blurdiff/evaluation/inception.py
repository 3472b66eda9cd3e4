"""The 2015 Inception graph, whose features the published FIDs are of; from a file that the user has."""

import hashlib
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded

NUM_FEATURES = 2048
INPUT_SIZE = 299
# Pixels enter as floats in [0, 255]; the graph resizes and scales them itself.
_INPUT, _OUTPUT = "ExpandDims:0", "pool_3:0"
_RESIZE, _RESIZE_SIZE = "ResizeBilinear", "ResizeBilinear/size"


def load_inception(path: str | os.PathLike) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Loads the frozen graph, classify_image_graph_def.pb.

    The graph resizes to 299x299 with TensorFlow 1's bilinear operation and maps pixels to (pixel - 128) / 128, as the
    published FIDs have it; grey images are repeated to RGB.

    Args:
        path: of the file.

    Returns:
        A function from uint8 `[B, H, W, C]` to float32 `[B, 2048]`, and a digest of the file.

    Raises:
        UserError: if there is no such file, or if it holds another graph.

    Reference: Heusel et al., GANs trained by a two time-scale update rule, 2017; Szegedy et al., Rethinking the
    Inception architecture, 2016.
    """
    content, graph_def = _read(path)
    _check(graph_def, path)

    def pool_3(images):
        (features,) = tf.graph_util.import_graph_def(
            graph_def, input_map={_INPUT: images}, return_elements=[_OUTPUT], name="inception"
        )
        return features

    images = tf.TensorSpec((None, None, None, 3), tf.float32)
    try:
        function = tf.compat.v1.wrap_function(pool_3, [images])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be imported as the Inception graph: {str(error).splitlines()[0]}") from None
    size = function.outputs[0].shape[-1]
    if size != NUM_FEATURES:
        raise UserError(f"{path} must hold the Inception graph with {NUM_FEATURES} features. Received: {size}")

    def features(images):
        colour = np.broadcast_to(images, (*images.shape[:-1], 3)).astype(np.float32)
        return tf.reshape(function(tf.constant(colour)), (-1, NUM_FEATURES)).numpy()

    return features, hashlib.sha256(content).hexdigest()[:16]


def _read(path):
    try:
        content = expanded(path).read_bytes()
    except OSError as error:
        raise UserError(f"the Inception graph {path} cannot be read: {error.strerror}") from None
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(content)
    except DecodeError:
        raise UserError(f"{path} is not a frozen graph; classify_image_graph_def.pb is expected") from None
    for node in graph_def.node:
        # Shapes that the file notes are of a batch of one.
        node.attr.pop("_output_shapes", None)
    return content, graph_def


def _check(graph_def, path):
    nodes = {node.name: node for node in graph_def.node}
    wanted = [name.partition(":")[0] for name in (_INPUT, _OUTPUT)] + [_RESIZE, _RESIZE_SIZE]
    missing = [name for name in wanted if name not in nodes]
    if missing:
        raise UserError(f"{path} is not the 2015 Inception graph: it has no node {', '.join(missing)}")
    resize, size = nodes[_RESIZE], tf.make_ndarray(nodes[_RESIZE_SIZE].attr["value"].tensor).tolist()
    aligned = resize.attr["align_corners"].b or resize.attr["half_pixel_centers"].b
    if size != [INPUT_SIZE, INPUT_SIZE] or aligned:
        raise UserError(f"{path} is not the 2015 Inception graph: it does not resize to {INPUT_SIZE} as that does")
