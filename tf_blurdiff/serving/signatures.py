"""The signatures of an export: traced functions of named tensors, which check what they are given.

A wrong value is an InvalidArgument whose text names the input and what is allowed. It comes from the graph itself, so
it is the same in every server.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_blurdiff.data import to_uint8, to_unit_range
from tf_blurdiff.diffusion.inverse_problems import ROUNDING_STD, Averaged, Blurred, Masked
from tf_blurdiff.diffusion.samplers import SamplingSettings
from tf_blurdiff.model import LARGEST, Conditions, DiffusionModel, restoration_settings

# The known images of an export have these seeds.
KNOWN_SEEDS = (0, 1, 2, 3)
# Not of images: labels from names of classes.
LABELS = "labels"
_ENLARGED = 2
_PNG = b"\x89PNG\r\n\x1a\n"
# How the files begin that are decoded: TensorFlow's decoder of PNG takes all of them.
_FORMS = (_PNG, b"\xff\xd8\xff", b"GIF8")
# A file whose EXIF or XMP data say that it is to be turned: tag 0x0112, one short of 2 to 8, in either order of bytes.
_TURNED = (
    r"\C*((Exif\x00\x00|eXIf)(MM\C{0,500}\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|II\C{0,500}\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00)|tiff:Orientation(=\"|>)[2-8])\C*"
)
_NOT_BELOW_0 = f"from 0 to {LARGEST:,.0f}", lambda values: (values >= 0.0) & (values <= LARGEST)


class Input(NamedTuple):
    """An input of a signature: dtype and shape of a row, what it means, and rows to try it with, one a known seed.

    Where not every value will do, `allowed` says which, and `is_allowed`, a function of the tensor, tells.
    """

    dtype: str
    shape: tuple[int, ...]
    meaning: str
    example: np.ndarray
    allowed: str = ""
    is_allowed: Callable[[Any], Any] | None = None


class Task(NamedTuple):
    """What signatures are made of: inputs by name, and a function of their values by name that gives images.

    Pictures come to `draw` as floats in [-1, 1], and leave it so.
    """

    meaning: str
    inputs: dict[str, Input]
    draw: Callable[..., Any]


class Signature(NamedTuple):
    """A traced function of the inputs in their order, giving `{"image": ...}`, `{"image_bytes": ...}` or labels."""

    function: Any  # a tf.function
    meaning: str
    inputs: dict[str, Input]


def sampling_task(model: DiffusionModel, settings: SamplingSettings) -> Task:
    """Images of seeds, with settings of `DiffusionModel.sampling_settings`."""
    inputs = _condition_inputs(model)
    return Task(f"images of seeds: {settings.sampler}, {settings.num_steps} steps", inputs, _draw(model, settings))


def restoration_tasks(model: DiffusionModel, settings: SamplingSettings, images: np.ndarray) -> dict[str, Task]:
    """name -> Task: from images to others, with example pictures uint8 `[4, H, W, C]`."""
    shape, conditions = model.image_shape, _condition_inputs(model)
    halves = np.zeros((len(images), *shape[:2], 1), np.uint8)
    halves[:, :, shape[1] // 2 :] = 255
    strength = Input(
        "float32", (), "how much of the process is undone", _column(0.25, 0.5, 0.75, 1.0),
        "in (0, 1]", lambda strength: (strength > 0.0) & (strength <= 1.0),
    )  # fmt: skip
    sigma = Input("float32", (), "the blur's standard deviation in pixels", _column(0.5, 1.0, 1.5, 2.0), *_NOT_BELOW_0)
    mask = Input("uint8", halves.shape[1:], "not 0 where the image is to be filled in", halves)
    image = Input("uint8", shape, "pixels", images)
    restored = restoration_settings(model)
    restore = _draw(model, restored)

    def with_rounding(make, images, *more):
        return make(images, *more, ROUNDING_STD * tf.ones(tf.shape(images)[:1]))

    def change(image, strength, **conditions):
        return _draw(model, settings, _times_from(model, settings, strength))(**conditions, images=image)

    def deblur(image, blur_sigma, **conditions):
        return restore(**conditions, measured=with_rounding(Blurred.of, image, blur_sigma))

    def enlarge(image, **conditions):
        return restore(**conditions, measured=with_rounding(Averaged.of, image))

    def fill_in(image, mask, **conditions):
        return restore(**conditions, measured=with_rounding(Masked.of, image, mask))

    how = f"{restored.sampler}, {restored.num_steps} steps"
    tasks = {
        "image_to_image": Task("images like the given ones", {"image": image, "strength": strength}, change),
        "deblur": Task(f"images without their blur: {how}", {"image": image, "blur_sigma": sigma}, deblur),
        "inpaint": Task(f"images with a part filled in: {how}", {"image": image, "mask": mask}, fill_in),
    }
    if shape[0] % _ENLARGED == 0 == shape[1] % _ENLARGED:
        small = images[:, ::_ENLARGED, ::_ENLARGED]
        image = Input("uint8", small.shape[1:], "pixels, each the mean of 2x2", small)
        tasks["super_resolution"] = Task(f"images twice as large: {how}", {"image": image}, enlarge)
    return {name: task._replace(inputs=conditions | task.inputs) for name, task in tasks.items()}


def _times_from(model, settings, strength):
    """The times of each row from t = strength to 0, `[num_steps + 1, B]`."""
    times = settings.times(model.process)
    if model.distilled_guidance is None:
        return strength[None, :] * times
    # It knows its own times alone: those from the nearest on. A step from there to there changes nothing.
    nearest = tf.argmin(tf.abs(times[:-1] - strength[None, :]), axis=0)
    return tf.minimum(times, tf.gather(times[:, 0], nearest))


def make_signatures(name: str, task: Task) -> tuple[Any, dict[str, Signature]]:
    """The two signatures of a task: `name` of pixels, and `png_` + name of PNG files (`png`, if it is the default).

    Returns:
        the traced function of the images themselves, floats in [-1, 1], and name -> `Signature`.
    """

    def images(*values):
        named = _checked(dict(zip(task.inputs, values)), task.inputs)
        rows = {key: _with_a_row(value, task.inputs[key].example) for key, value in named.items()}
        return task.draw(**{key: _as_floats(key, value) for key, value in rows.items()})[: tf.shape(values[0])[0]]

    images = _traced(images, task.inputs)
    of_files = {_file_name(key, entry): _file_input(entry) for key, entry in task.inputs.items()}

    def files(*values):
        pixels = [_decoded(*each) for each in zip(of_files, values, task.inputs.values())]
        encoded = tf.map_fn(tf.io.encode_png, to_uint8(images(*pixels)), fn_output_signature=tf.string)
        return {"image_bytes": encoded}

    of_pixels = _traced(lambda *values: {"image": to_uint8(images(*values))}, task.inputs)
    png_name = "png" if name == "serving_default" else f"png_{name}"
    return images, {
        name: Signature(of_pixels, task.meaning, task.inputs),
        png_name: Signature(_traced(files, of_files), f"{task.meaning}; pictures as PNG files", of_files),
    }


def labels_signature(class_names: Sequence[str]) -> Signature:
    """From names of classes, or the numbers of labels as texts, to the labels: what a client that knows names asks."""
    numbers = {name: number for number, name in enumerate(class_names)}
    words = {**{str(number): number for number in numbers.values()}, **numbers}  # A name goes before a number.
    allowed = f"one of {', '.join(class_names)}, or a number from 0 to {len(class_names) - 1}"
    known = np.array([name.encode() for name in words], object)
    example = np.resize(np.array([name.encode() for name in class_names], object), len(KNOWN_SEEDS))
    inputs = {"class_name": Input("string", (), "the name of a class", example, allowed)}

    def labels(class_name):
        is_it = class_name[:, None] == tf.constant(known)[None]
        is_known = tf.reduce_any(is_it, axis=1)
        with tf.control_dependencies([_require(is_known, f"class_name must be {allowed}", [class_name])]):
            return {"label": tf.gather(tf.constant(list(words.values()), tf.int64), tf.argmax(is_it, axis=1))}

    return Signature(_traced(labels, inputs), "labels of class names", inputs)


def _condition_inputs(model):
    count = len(KNOWN_SEEDS)
    inputs = {"seed": Input("int64", (), "another one is another image", np.array(KNOWN_SEEDS, np.int64))}
    if model.num_classes is not None:
        last = model.num_classes if model.label_dropout else model.num_classes - 1
        none = f"; {last} is none" if model.label_dropout else ""
        labels = np.arange(count, dtype=np.int64) % model.num_classes
        is_allowed = lambda label: (label >= 0) & (label <= last)
        inputs["label"] = Input("int64", (), f"the kind of image{none}", labels, f"in [0, {last}]", is_allowed)
    if model.label_dropout and model.distilled_guidance is None:
        scales = np.linspace(1.0, 2.0, count, dtype=np.float32)
        inputs["guidance_scale"] = Input("float32", (), "1 is no guidance", scales, *_NOT_BELOW_0)
    return inputs


def _draw(model, settings, times=None):
    times = settings.times(model.process) if times is None else times

    def draw(seed, label=None, guidance_scale=None, **start):
        label = tf.zeros_like(seed) if label is None else label
        guidance_scale = tf.ones(tf.shape(seed)) if guidance_scale is None else guidance_scale
        conditions = Conditions(label, guidance_scale)
        return model.reverse_process.draw(seed, seed, conditions, times, settings, **start)

    return draw


def _traced(function, inputs):
    specs = [tf.TensorSpec([None, *entry.shape], entry.dtype, name=name) for name, entry in inputs.items()]
    return tf.function(function, input_signature=specs, autograph=False)


def _checked(values, inputs):
    """The values, once it is clear that they are allowed."""
    rows, checks = tf.shape(values["seed"])[0], []
    for name, value in values.items():
        own_rows = tf.shape(value)[0]
        checks.append(_require(own_rows == rows, f"{name} must have as many rows as seed", [own_rows, rows]))
        if inputs[name].is_allowed is not None:
            checks.append(_require(inputs[name].is_allowed(value), f"{name} must be {inputs[name].allowed}", [value]))
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in values.items()}


def _with_a_row(values, example):
    """The values, and if there are none an example's: TensorFlow's convolutions of nothing have other shapes."""
    added = tf.cast(tf.shape(values)[0] == 0, tf.int32)
    return tf.concat([values, tf.constant(example[:1], values.dtype)[:added]], axis=0)


def _require(condition, text, received):
    return tf.debugging.Assert(tf.reduce_all(condition), [f"{text}. Received:", *received], summarize=16)


def _as_floats(name, value):
    return to_unit_range(value) if value.dtype == tf.uint8 and name != "mask" else value


def _is_picture(entry):
    return len(entry.shape) == 3


def _file_name(name, entry):
    return f"{name}_bytes" if _is_picture(entry) else name


def _file_input(entry):
    if not _is_picture(entry):
        return entry
    files = np.array([tf.io.encode_png(picture).numpy() for picture in entry.example], object)
    size = "x".join(map(str, entry.shape[:2]))
    return Input("string", (), f"PNG files of {size} (height x width), {entry.meaning}", files)


def _decoded(name, values, entry):
    if not _is_picture(entry):
        return values

    def decode(file):
        starts = [tf.strings.substr(file, 0, len(form)) == form for form in _FORMS]
        known = _require(tf.reduce_any(starts), f"{name} must hold PNG, JPEG or GIF files", ["something else"])
        text = f"{name} must hold pictures of (height, width, channels) {entry.shape}"
        with tf.control_dependencies([known]):
            declared = _declared_size(file, entry.shape)
            # Before it is decoded: a small PNG can say that it has a billion pixels.
            fits = _require(declared[:2] == entry.shape[:2], text, [declared])
        with tf.control_dependencies([fits]):
            file = tf.identity(file)
        picture = tf.io.decode_png(file, channels=entry.shape[-1])
        size, is_upright = tf.shape(picture), ~tf.strings.regex_full_match(file, _TURNED)
        upright = f"{name} must hold upright pictures: turn them as their EXIF orientation says, and leave that out"
        checks = [_require(size == entry.shape, text, [size]), _require(is_upright, upright, ["an orientation"])]
        with tf.control_dependencies(checks):
            return tf.reshape(_over_white(picture, file), entry.shape)

    return tf.map_fn(decode, values, fn_output_signature=tf.TensorSpec(entry.shape, tf.uint8))


def _declared_size(file, shape):
    """What a PNG says that its height, width and channels are; shape for other files, which say it elsewhere."""
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    header = tf.strings.substr(tf.strings.join([file, b"\x00" * 24]), 16, 8)  # Also of a file that ends before it.
    width, height = tf.unstack(tf.io.decode_raw(header, tf.int32, little_endian=False), 2)
    return tf.where(is_png, [height, width, shape[-1]], shape)


def _over_white(picture, file):
    """A decoded file's pixels; where a PNG is transparent, what is hidden there is no part of it."""
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    opaque = tf.fill(tf.concat([tf.shape(picture)[:2], [1]], axis=0), tf.constant(255, tf.uint8))
    alpha = tf.cond(is_png, lambda: tf.io.decode_png(file, channels=4)[..., 3:], lambda: opaque)
    shown, opacity = tf.cast(picture, tf.int32), tf.cast(alpha, tf.int32)
    return tf.cast((shown * opacity + 255 * (255 - opacity) + 127) // 255, tf.uint8)


def _column(*values):
    return np.array(values, np.float32)
