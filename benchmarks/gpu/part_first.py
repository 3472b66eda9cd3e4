"""Whether it runs and computes right: digits.yaml is trained, sampled, and its images are compared with a processor's.

Training is the command line's, in `train.precision=auto`, with the strategies auto and mirrored side by side. The
comparison is of the images of the same seeds, from the same model in float32 without TF32, with the sampler of the
config: on the GPU and on the processor, compiled by XLA and not. A grey level is 2 / 255 of the images' [-1, 1].
"""

import functools
import json
import pathlib
import shutil
import tempfile

import numpy as np
import programs
import yaml
from part import Part

_STRATEGIES = ("auto", "mirrored")
_SMALL = (*programs.TINY, "train.decay_steps=null", "train.warmup_steps=0", "train.log_every=1", "train.steps=3")
# Of what is left, what training may take.
_TO_TRAIN = 0.75


def main(part):
    """Fills two tables, and keeps a sheet of samples."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        seconds = _TO_TRAIN * part.left()
        calls = {name: functools.partial(_train, part, folder / name, name, seconds) for name in _STRATEGIES}
        finished = programs.side_by_side(part, calls)
        table = part.table(
            "Training digits.yaml, the two side by side", "strategy", "precision", "steps", "last loss",
            "images/s, last", "seconds, with start-up",
        )  # fmt: skip
        for name, took in finished.items():
            table.put(name, name, *_described(folder / name), f"{took:.0f}")
        if finished:
            model = folder / next(iter(finished)) / "model.keras"
            calls = {name: functools.partial(_draw, part, model, name, folder) for name in ("GPU", "processor")}
            calls["sample"] = functools.partial(_sample, part, model, folder)
            programs.side_by_side(part, calls)
            _compare(part, folder)


def _train(part, run_dir, strategy, seconds):
    settings = ["train.precision=auto", f"train.strategy={strategy}", "train.steps=300"]
    settings += _SMALL if part.small else ()
    words = ["-m", "tf_blurdiff.train", "--config", "digits.yaml", "--run_dir", run_dir]
    return programs.run([*words, *programs.overrides(*settings)], seconds)[1]


def _described(run_dir):
    precision = yaml.safe_load((run_dir / "config.yaml").read_text())["train"]["precision"]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "loss" in row][-1]
    return precision, last["step"], f"{last['loss']:.4f}", last["images_per_second"]


def _sample(part, model, folder):
    sheet = folder / "samples.png"
    programs.run(
        ["-m", "tf_blurdiff.sample", "--model", model, "--num_images", 4 if part.small else 64, "--out", sheet],
        part.left(),
    )
    shutil.copy(sheet, part.out.with_name("first_samples.png"))


def _draw(part, model, device, folder):
    """Images in DEVICE-plain.npy and DEVICE-compiled.npy; on a machine without a GPU both devices are the processor."""
    program = pathlib.Path(__file__).with_name("draw_images.py")
    count, steps = (4, 2) if part.small else (64, 20)
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "processor" else {}
    programs.run([program, model, folder / device, count, steps], part.left(), **hidden)


def _compare(part, folder):
    table = part.table(
        "Images of the same seeds against the processor's, not compiled; float32 without TF32", "on", "compiled",
        "largest difference, grey levels", "the same, of 8-bit images", "pixels that differ, of 8-bit images",
    )  # fmt: skip
    reference = folder / "processor-plain.npy"
    for device in ("GPU", "processor"):
        for how in ("plain", "compiled"):
            path = folder / f"{device}-{how}.npy"
            if path != reference and path.exists() and reference.exists():
                where = f"{device}, none here" if device == "GPU" and part.small else device
                table.put(path.name, where, how == "compiled", *differences(np.load(path), np.load(reference)))


def differences(images, others):
    """In grey levels; and of what is written to a file, with the share of the pixels that differ.

    Args:
        images, others: in [-1, 1], of one shape.
    """
    levels, other_levels = (127.5 * (array + 1.0) for array in (images, others))
    rounded = np.abs(np.round(levels) - np.round(other_levels))
    return f"{np.abs(levels - other_levels).max():.3f}", f"{rounded.max():.0f}", f"{100 * (rounded > 0).mean():.2f} %"


if __name__ == "__main__":
    main(Part.from_command_line())
