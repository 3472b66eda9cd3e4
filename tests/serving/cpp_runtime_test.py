"""The C++ runtime gives what Python TensorFlow gives, and refuses what TF Serving would refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_blurdiff.serving import cpp_runtime

AWKWARD_STRINGS = [b"", b"\0", b"ends in NULs\0\0", b"\x89PNG\r\n", b"x" * 100]  # 100 bytes: not stored in place


class Toy(tf.Module):
    """Arithmetic on the seed with a variable, and strings that are hard to carry."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable([[3.0, -0.1]])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")])
    def numbers(self, seed):
        x = tf.cast(seed, tf.float32)[:, None] * self.scale
        return {"x": x, "image": tf.cast(tf.abs(x), tf.uint8), "even": seed % 2 == 0, "total": tf.reduce_sum(seed)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")])
    def strings(self, seed):
        return {"image_bytes": tf.gather(tf.constant(AWKWARD_STRINGS), seed)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="text")])
    def reversed(self, text):
        return {"text": tf.reverse(text, [0, 1])}


class Refused(tf.Module):
    """What the C++ runtime cannot run: a Python function, and a function compiled by XLA."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")])
    def python(self, seed):
        return {"y": tf.numpy_function(lambda x: x + 1, [seed], tf.int64)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")], jit_compile=True)
    def xla(self, seed):
        return {"y": seed + 1}


@pytest.fixture(scope="module")
def toy_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "1"
    toy = Toy()
    tf.saved_model.save(
        toy, str(path), signatures={"serving_default": toy.numbers, "png": toy.strings, "reversed": toy.reversed}
    )
    return path


@pytest.fixture(scope="module")
def refused_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("refused") / "1"
    refused = Refused()
    tf.saved_model.save(refused, str(path), signatures={"python": refused.python, "xla": refused.xla})
    return path


def tensor_names(export_dir, signature):
    """The graph's names of a signature's inputs and outputs."""
    saved_model = saved_model_pb2.SavedModel.FromString((export_dir / "saved_model.pb").read_bytes())
    signature_def = saved_model.meta_graphs[0].signature_def[signature]
    inputs = {key: info.name for key, info in signature_def.inputs.items()}
    return inputs, {key: info.name for key, info in signature_def.outputs.items()}


def run(export_dir, signature, seeds):
    inputs, outputs = tensor_names(export_dir, signature)
    (reply,) = cpp_runtime.run_in_cpp_runtime(export_dir, [({inputs["seed"]: np.asarray(seeds, np.int64)}, outputs)])
    return reply


def test_numbers_equal_python_tensorflow_bit_for_bit(toy_dir):
    seeds = np.array([0, 5, -7, 2**40])
    expected = tf.saved_model.load(str(toy_dir)).signatures["serving_default"](tf.constant(seeds))
    received = run(toy_dir, "serving_default", seeds)
    assert set(received) == {"x", "image", "even", "total"}
    for name, array in received.items():
        assert array.dtype == expected[name].numpy().dtype
        np.testing.assert_array_equal(array, expected[name].numpy())


def test_strings_keep_every_byte(toy_dir):
    received = run(toy_dir, "png", [2, 0, 1, 4, 3])["image_bytes"]
    assert received.tolist() == [AWKWARD_STRINGS[i] for i in [2, 0, 1, 4, 3]]


def test_strings_go_in_as_they_are(toy_dir):
    inputs, outputs = tensor_names(toy_dir, "reversed")
    text = np.empty((2, 2), object)
    text[:] = [AWKWARD_STRINGS[1:3], AWKWARD_STRINGS[3:]]
    (reply,) = cpp_runtime.run_in_cpp_runtime(toy_dir, [({inputs["text"]: text}, outputs)])
    assert reply["text"].tolist() == text[::-1, ::-1].tolist()


def test_several_runs_of_one_process_are_told_apart(toy_dir):
    inputs, outputs = tensor_names(toy_dir, "serving_default")
    runs = [({inputs["seed"]: np.array([seed])}, outputs) for seed in (3, 4)]
    assert [reply["total"] for reply in cpp_runtime.run_in_cpp_runtime(toy_dir, runs)] == [3, 4]


def test_an_empty_batch_keeps_its_shape(toy_dir):
    assert run(toy_dir, "serving_default", [])["x"].shape == (0, 2)


@pytest.mark.parametrize(
    "signature, message", [("python", "No OpKernel .* 'PyFunc'"), ("xla", "XLA compilation disabled")]
)
def test_what_tf_serving_cannot_run_fails(refused_dir, signature, message):
    loaded = tf.saved_model.load(str(refused_dir))
    assert loaded.signatures[signature](seed=tf.constant([1], tf.int64))["y"].numpy() == [2]  # Python runs both
    with pytest.raises(RuntimeError, match=message):
        run(refused_dir, signature, [1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"export_dir": "/no/such/folder"}, "cannot load /no/such/folder"),
        ({"feeds": {"nothing:0": {"dtype": "int64", "values": [1]}}}, "no tensor nothing:0"),
        ({"fetches": {"image": "StatefulPartitionedCall:99"}}, "no tensor StatefulPartitionedCall:99"),
        ({"feeds": {"serving_default_seed:0": {"dtype": "float32", "values": [1]}}}, "cannot run the model"),
        ({"feeds": {"serving_default_seed:0": {"dtype": "int64", "values": ["x"]}}}, "feed serving_default_seed:0"),
        ({"feeds": {"serving_default_seed:0": {"dtype": "string", "values": ["x"]}}}, "feed serving_default_seed:0"),
        ({"feeds": {"serving_default_seed:0": {"dtype": "object", "values": ["x"]}}}, "dtype must be one of"),
        ({"feeds": None}, "cannot use the request"),
        ({"fetches": {"image": "no_such_operation:0"}}, "no tensor no_such_operation:0"),
    ],
)
def test_a_failure_is_one_line_and_a_status(toy_dir, tmp_path, change, message):
    run = {
        "feeds": {"serving_default_seed:0": {"dtype": "int64", "values": [1]}},
        "fetches": {"image": "StatefulPartitionedCall:0"},
    }
    request = {"export_dir": str(toy_dir), "runs": [run | change]} | change
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-P", cpp_runtime.__file__, str(tmp_path / "request.json"), str(tmp_path / "reply.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode not in (0, -6, -11), done
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "reply.npz").exists()


def test_the_module_needs_no_tensorflow():
    """It is importable where `import tensorflow` fails; its program checks for itself that nothing imported it."""
    code = "import sys; sys.modules['tensorflow'] = None; import runpy; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-I", "-c", code, cpp_runtime.__file__], check=True)
