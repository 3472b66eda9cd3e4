"""The client's pictures and numbers: what a signature is sent, and what is wrong with what was given."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from endpoint import calls, image_grid, restoration_inputs
from endpoint.command_line import ClientError
from tests.support.programs import assert_one_line, run_script
from tests.support.servers import server_in_this_process

SIGNATURES = {
    "png": {"seed": (-1,)},
    "deblur": {"seed": (-1,), "image": (-1, 8, 6, 1), "blur_sigma": (-1,)},
    "png_deblur": {"seed": (-1,), "image_bytes": (-1,), "blur_sigma": (-1,)},
    "inpaint": {"seed": (-1,), "image": (-1, 8, 6, 3), "mask": (-1, 8, 6, 1)},
    "png_inpaint": {"seed": (-1,), "image_bytes": (-1,), "mask_bytes": (-1,)},
    "png_image_to_image": {"seed": (-1,), "label": (-1,), "image_bytes": (-1,), "strength": (-1,)},
    "two_channels": {"seed": (-1,), "image": (-1, 8, 6, 2)},
    "png_loud": {"seed": (-1,), "sound": (-1,)},
}


@pytest.fixture
def files(tmp_path, rng):
    """Pictures of 8 rows of 6 pixels, as files: name -> path; and the grey ones' pixels."""
    grey = rng.integers(0, 256, (8, 6), "uint8")
    pictures = {
        "grey.png": Image.fromarray(grey),
        "colour.png": Image.fromarray(rng.integers(0, 256, (8, 6, 3), "uint8")),
        "deep.png": Image.fromarray(256 * grey.astype("uint16") + 255),
        "palette.gif": Image.fromarray(grey).convert("P"),
        "mask.png": Image.fromarray(grey > 127),
        "wide.png": Image.fromarray(grey.T.copy()),
        "floats.tiff": Image.fromarray(grey.astype("float32")),
        "whole.tiff": Image.fromarray(grey.astype("int32")),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    turned = Image.fromarray(np.rot90(grey).copy())
    turned.getexif()[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    (tmp_path / "broken.png").write_bytes((tmp_path / "colour.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    return {path.name: str(path) for path in tmp_path.iterdir()}, grey


def complete(signature, given, seeds=(5, 6), **more):
    return restoration_inputs.complete({"seed": np.array(seeds)} | more, given, signature, SIGNATURES)


def array(value):
    """The pixels that are sent for one row, `[H, W, C]`."""
    if isinstance(value, np.ndarray):
        assert value.dtype == np.uint8
        return value
    image = np.asarray(Image.open(io.BytesIO(value), formats=["PNG"]))
    return image if image.ndim == 3 else image[..., None]


@pytest.mark.parametrize("name", ["grey.png", "deep.png", "palette.gif", "turned.png"])
@pytest.mark.parametrize("signature, key", [("deblur", "image"), ("png_deblur", "image_bytes")])
def test_a_picture_of_any_kind_is_sent_as_the_signatures_pixels(files, signature, key, name):
    paths, grey = files
    sent = complete(signature, {"image": [paths[name]], "blur_sigma": ["0.5", "1"]})
    assert set(sent) == {"seed", key, "blur_sigma"} and sent["blur_sigma"].tolist() == [0.5, 1.0]
    assert len(sent[key]) == 2
    for value in sent[key]:
        np.testing.assert_array_equal(array(value), grey[..., None])


@pytest.mark.parametrize("signature, key", [("deblur", "image"), ("png_deblur", "image_bytes")])
def test_transparency_is_sent_as_white_and_damaged_metadata_do_not_matter(files, tmp_path, signature, key):
    grey = Image.fromarray(files[1])
    clear, broken = grey.convert("RGBA"), tmp_path / "broken.png"
    clear.putalpha(Image.fromarray(np.where(files[1] > 127, 255, 0).astype(np.uint8)))
    clear.save(tmp_path / "clear.png")
    grey.save(broken, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff")
    given = {"image": [str(tmp_path / "clear.png"), str(broken)], "blur_sigma": ["1"]}
    first, second = map(array, complete(signature, given)[key])
    np.testing.assert_array_equal(first[..., 0], np.where(files[1] > 127, files[1], 255))
    np.testing.assert_array_equal(second[..., 0], files[1])


def test_colours_masks_and_a_picture_a_seed(files):
    paths, grey = files
    given = {"image": [paths["grey.png"], paths["colour.png"]], "mask": [paths["mask.png"]]}
    colour = np.asarray(Image.open(paths["colour.png"]))
    for signature, key in (("inpaint", "image"), ("png_inpaint", "image_bytes")):
        sent = complete(signature, given)
        first, second = map(array, sent[key])
        np.testing.assert_array_equal(first, np.repeat(grey[..., None], 3, axis=-1))
        np.testing.assert_array_equal(second, colour)
        for mask in sent[key.replace("image", "mask")]:
            np.testing.assert_array_equal(array(mask), np.where(grey > 127, 255, 0)[..., None])


@pytest.mark.parametrize(
    "signature, given, message",
    [
        ("png_deblur", {}, "signature png_deblur needs --blur_sigma and --image"),
        ("png_deblur", {"image": ["grey.png"]}, "signature png_deblur needs --blur_sigma: it takes blur_sigma, image,"),
        ("png_image_to_image", {"image": ["grey.png"], "strength": ["1"]}, "png_image_to_image needs --labels"),
        ("png", {"strength": ["1"]}, "--strength: signature png takes only seed"),
        ("png_blur", {}, "--signature: the model has no 'png_blur', but deblur, inpaint, png, png_deblur"),
        ("png_loud", {}, "--signature: this client has no 'sound', and png_loud takes seed, sound"),
        ("deblur", {"image": ["grey.png"], "blur_sigma": ["nan"]}, "--blur_sigma: expected a number, .* 'nan'"),
        ("deblur", {"image": ["grey.png"], "blur_sigma": ["1e39"]}, "--blur_sigma: expected a number, .* '1e39'"),
        ("deblur", {"image": ["grey.png"], "blur_sigma": ["x"]}, "--blur_sigma: expected .* Received: 'x'"),
        ("deblur", {"image": ["grey.png"], "blur_sigma": ["1"] * 3}, "--blur_sigma: give one, or .* 2 seeds.* 3"),
        ("deblur", {"image": ["grey.png"] * 3, "blur_sigma": ["1"]}, "--image: give one, or one for each of 2 seeds"),
        ("inpaint", {"image": ["grey.png"], "mask": ["wide.png"]}, r"--mask: .*wide.png is 8x6 pixels .* takes 6x8"),
        ("png_deblur", {"image": ["wide.png"], "blur_sigma": ["1"]}, r"--image: .*wide.png is 8x6 .*deblur takes 6x8"),
        ("two_channels", {"image": ["grey.png"]}, "--signature: two_channels takes images of 2 channels"),
        ("deblur", {"image": ["text.png"], "blur_sigma": ["1"]}, "--image: cannot read .*text.png: no picture"),
        ("deblur", {"image": ["broken.png"], "blur_sigma": ["1"]}, "--image: cannot read .*broken.png: "),
        ("deblur", {"image": ["floats.tiff"], "blur_sigma": ["1"]}, "floats.tiff: its pixels have more than 16 bits"),
        ("deblur", {"image": ["whole.tiff"], "blur_sigma": ["1"]}, "whole.tiff: its pixels have more than 16 bits"),
        ("deblur", {"image": ["none.png"], "blur_sigma": ["1"]}, "--image: cannot read none.png: No such file"),
        ("deblur", {"image": ["/dev"], "blur_sigma": ["1"]}, "--image: cannot read /dev: Is a directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(files, signature, given, message):
    paths, _ = files
    given = {name: [paths.get(text, text) for text in texts] for name, texts in given.items()}
    with pytest.raises(ClientError, match=message) as refused:
        complete(signature, given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("signature", ["png", "serving_default", "steps_10", "png_steps_10"])
def test_signatures_of_seeds_alone_need_no_metadata(signature):
    assert not restoration_inputs.are_needed(signature, {})
    assert restoration_inputs.are_needed(signature, {"strength": ["1"]})
    assert restoration_inputs.are_needed(f"{signature}_deblur", {})


# A model that restores, served


@pytest.fixture(scope="module")
def signatures_and_server(restoring_export):
    with server_in_this_process(restoring_export.parent) as server:
        yield tf.saved_model.load(str(restoring_export)).signatures, server


@pytest.fixture
def ask(signatures_and_server, tmp_path):
    """Runs the client: ask(*flags); its images are in tmp_path / "out"."""
    fixed = [
        f"--url=http://127.0.0.1:{signatures_and_server[1].rest}",
        "--model=digits",
        "--labels=1",
        "--guidance_scale=1.5",
        f"--out_dir={tmp_path}/out",
    ]
    return lambda *flags: run_script("client.py", *fixed, *flags)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def saved(folder):
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in (folder / "out").iterdir()}


SEEDS = [7, 7, -2]


def requests_of_all_tasks(folder, rng):
    """task -> (what the flags give, the same as arrays)."""
    mask = 255 * np.eye(8, dtype="uint8")
    own = {
        "image_to_image": ({"strength": ["0.25", "0.5", "1"]}, {"strength": np.array([0.25, 0.5, 1.0], "float32")}),
        "deblur": ({"blur_sigma": ["1.5"]}, {"blur_sigma": np.full(3, 1.5, "float32")}),
        "super_resolution": ({}, {}),
        "inpaint": ({"mask": [save(folder / "mask.png", mask)]}, {"mask": np.stack([mask[..., None]] * 3)}),
    }
    for task, (given, arrays) in own.items():
        size = 4 if task == "super_resolution" else 8
        images = rng.integers(0, 256, (3, size, size, 1), "uint8")
        paths = [save(folder / f"{task}_{name}.png", image[..., 0]) for name, image in zip("abc", images)]
        yield task, given | {"image": paths}, arrays | {"image": images}


def expected_images(signatures, task, arrays):
    """What the export gives in this process, `[3, 8, 8]`."""
    arrays |= {"seed": np.array(SEEDS), "label": np.full(3, 1), "guidance_scale": np.full(3, 1.5, "float32")}
    answer = signatures[task](**{name: tf.constant(value) for name, value in arrays.items()})
    return answer["image"].numpy()[..., 0].astype(int)


@pytest.mark.parametrize("how", ["rest", "grpc"])
@pytest.mark.parametrize("form", ["", "png_"])
def test_every_task_gives_the_signatures_images(signatures_and_server, tmp_path, rng, how, form):
    signatures, server = signatures_and_server
    inputs = {"seed": np.array(SEEDS), "label": np.ones(3, np.int64), "guidance_scale": np.full(3, 1.5, np.float32)}
    for task, given, arrays in requests_of_all_tasks(tmp_path, rng):
        endpoint = calls.Endpoint("digits", form + task)
        if how == "rest":
            call = calls.RestClient(f"http://127.0.0.1:{server.rest}", endpoint)
        else:
            call = calls.GrpcClient(f"127.0.0.1:{server.grpc}", endpoint)
        answer = call(restoration_inputs.complete(inputs, given, form + task, call.signatures()))
        received = [np.asarray(image_grid.decode(image)).astype(int) for image in answer]
        assert np.abs(received - expected_images(signatures, task, arrays)).max() <= 1, task


def test_the_program_names_its_files_by_the_pictures(signatures_and_server, ask, tmp_path, rng):
    requests = {task: request for task, *request in requests_of_all_tasks(tmp_path, rng)}
    given, arrays = requests["inpaint"]
    flags = ["--signature=png_inpaint", "--seeds=7,7,-2", "--batch_size=2", f"--mask={given['mask'][0]}"]
    done = ask(*flags, *[f"--image={path}" for path in given["image"]])
    assert done.returncode == 0, done
    names = [f"seed_{seed}_label_1_inpaint_{name}.png" for seed, name in zip(SEEDS, "abc")]
    received = saved(tmp_path)
    assert sorted(received) == sorted(names)
    images = np.stack([received[name] for name in names])
    assert np.abs(images - expected_images(signatures_and_server[0], "inpaint", arrays)).max() <= 1


def test_rows_that_differ_in_a_number_do_not_overwrite_each_other(ask, tmp_path, rng):
    image = save(tmp_path / "a.png", rng.integers(0, 256, (8, 8), "uint8"))
    done = ask("--signature=png_deblur", "--seeds=3,3", "--blur_sigma=0.5,2", f"--image={image}")
    assert done.returncode == 0, done
    assert sorted(saved(tmp_path)) == ["0000_seed_3_label_1.png", "0001_seed_3_label_1.png"]


def test_a_mistake_is_one_line_and_no_image(ask, tmp_path):
    image = save(tmp_path / "large.png", np.zeros((9, 8), "uint8"))
    done = ask("--signature=png_deblur", f"--image={image}", "--blur_sigma=1")
    assert_one_line(done, "client", "large.png is 8x9 pixels (width x height); signature png_deblur takes 8x8")
    save(image, np.zeros((8, 8), "uint8"))
    done = ask("--signature=png_image_to_image", f"--image={image}", "--strength=2")
    assert_one_line(done, "client", "strength must be in (0, 1]")
    assert not list((tmp_path / "out").iterdir())
