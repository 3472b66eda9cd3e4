"""A run's model card, README.md: what the model is, written anew at each checkpoint; below a line the user's own."""

import pathlib
import shlex
from typing import Any

import keras
import tensorflow as tf

from tf_blurdiff import __version__
from tf_blurdiff.config import Config
from tf_blurdiff.data import Images
from tf_blurdiff.files import write_atomically
from tf_blurdiff.model import DiffusionModel

NAME = "README.md"
_LINE = "<!-- What is above this line is written anew at every checkpoint. What is below it is yours, and stays. -->"
_YOURS = """

## Licence

To be filled in: of the pictures that were learned from, and of these weights.

## What it is for, and what it is not for

To be filled in. The images are of the kind that was learned from, with its gaps and faults.
"""


def write_model_card(run_dir: pathlib.Path, text: str) -> None:
    """Writes the card above its line and keeps what is below; leaves a README.md alone that has no such line.

    Raises:
        OSError: if it cannot be written.
    """
    # As bytes: what is the user's may be in any encoding.
    path, line, yours = run_dir / NAME, _LINE.encode(), _YOURS.encode()
    if path.exists():
        _, found, yours = path.read_bytes().partition(line)
        if not found:
            return
    write_atomically(path, lambda temporary: temporary.write_bytes(f"{text}\n".encode() + line + yours))


def own_words(run_dir: pathlib.Path) -> str | None:
    """What the user has written below the line of a run's card; None if there is no card, or all is to be filled in."""
    path = run_dir / NAME
    content = path.read_bytes() if path.is_file() else b""
    _, _, yours = content.partition(_LINE.encode())
    return None if yours.strip() in (b"", _YOURS.strip().encode()) else yours.decode("utf-8", "replace").strip()


def model_card(
    run_dir: pathlib.Path, config: Config, model: DiffusionModel, images: Images, step: int, losses: dict[str, float]
) -> str:
    """What is above the line, as Markdown.

    Args:
        run_dir: the run directory.
        config: what the run was begun with.
        model: its model.
        images: what it learns.
        step: of the checkpoint.
        losses: of the checkpoint, by name.
    """
    height, width, channels = model.image_shape
    colours = "grey" if channels == 1 else "colour"
    steps = [int(path.stem[5:]) for path in (run_dir / "samples").glob("step_*.png") if path.stem[5:].isdecimal()]
    picture = f"![samples at step {max(steps):,}](samples/step_{max(steps):08d}.png)\n\n" if steps else ""
    rows = _facts(config, model, images, step) | {name: f"{loss:.6g}" for name, loss in losses.items()}
    table = "".join("| {} | {} |\n".format(name, str(fact).replace("|", r"\|")) for name, fact in rows.items())
    model_path, config_path = (shlex.quote(str(run_dir / name)) for name in ("model.keras", "config.yaml"))
    imports = "".join(f" --imports {name}" for name in config.imports)
    process = getattr(config.process, "class_name", config.process.preset)
    return f"""# {run_dir.resolve().name}

A diffusion model, {process}, of {height}x{width} images (height x width) in {colours}.

{picture}    python -m tf_blurdiff.sample --model {model_path}{imports} --out samples.png

    import tf_blurdiff as bd

    model = bd.load_model({str(run_dir / "model.keras")!r})
    images = model.sample(seeds=range(16))  # float32, [16, {height}, {width}, {channels}] in [-1, 1]

| what | |
|---|---|
{table}
[config.yaml](config.yaml) has every setting, `metrics.jsonl` the losses of every step that was logged. Scores against
real images: `python -m tf_blurdiff.evaluate --model {model_path} --config {config_path}{imports}`.
"""


def _facts(config, model, images, step):
    held_out = "" if images.held_out is None else f", {images.held_out.num_images:,} held out"
    settings, network = config.train, config.network.model_dump(exclude={"num_classes"})
    guidance = model.distilled_guidance
    built_in = "" if guidance in (None, 1.0) else f", with a guidance scale of {guidance:g} built in"
    distilled = {} if guidance is None else {"distilled": f"calls of the network: {model.num_steps}{built_in}"}
    return {
        "images learned from": f"{images.num_images:,} of {_source(config.data)}{held_out}",
        "labels": ", ".join(model.class_names or ()) or model.num_classes or "none",
        "process": f"{config.process.preset}; {_settings(config.process.model_dump(exclude={'preset'}))}",
        "network": f"{model.network.count_params():,} weights; {_settings(network)}",
        "prediction": model.prediction,
        "sampling": f"{model.sampler}, {model.num_steps} steps",
        **distilled,
        "trained": f"{step:,} of {settings.steps:,} steps of {settings.batch_size} images, seed {settings.seed}",
        "versions": f"tf_blurdiff {__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }


def _source(data):
    return " ".join(
        [data.source, *(str(value) for key in ("class_name", "name", "root") if (value := getattr(data, key, None)))]
    )


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {list(value) if isinstance(value, tuple) else value}" for name, value in values.items())
