"""The provenance of a report's figures: the run, the models and their samples, the feature networks."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_blurdiff import __version__
from tf_blurdiff.config import Config
from tf_blurdiff.devices import Devices
from tf_blurdiff.evaluation.candidates import Candidate, SampleSettings
from tf_blurdiff.evaluation.features import FeatureNetwork
from tf_blurdiff.evaluation.reference import Reference
from tf_blurdiff.generation import SETTINGS_FILE

_PACKAGES = ("tensorflow", "keras", "numpy")


def describe_run(
    command: Sequence[str], config: Config, config_name: str, real: dict[str, Any], devices: Devices
) -> dict[str, str]:
    """What was done, with what and when, as lines of text by their titles.

    Args:
        command: the words of the command line.
        config: whose data are the real images.
        config_name: what the command line calls it, with what it overrides.
        real: what `scores.score` knows of the real images.
        devices: what the samples were made on.
    """
    data = config.data.model_dump()
    where = ", ".join(str(data[key]) for key in ("source", "name", "root") if data.get(key))
    split = data.get("split", "train")
    versions = [f"tf_blurdiff {__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)]
    as_text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return {
        "command": shlex.join(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config_name,
        "config sha256": hashlib.sha256(as_text.encode()).hexdigest()[:16],
        "real images": f"{where}, split {split}: {real['num_images']:,} of {real['of']:,}, not mirrored",
        "digest of the real images": real["digest"],
        "samples": "averaged weights, rounded to 8 bits, written as PNG and read again",
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "devices": devices.describe(),
    }


def describe_candidate(
    candidate: Candidate, reference: Reference, samples: SampleSettings, out_dir: str | Path
) -> dict[str, Any]:
    """Which model it is and how its samples in `out_dir` were drawn; can be written as JSON."""
    labels = "in turn" if reference.images.labels is None else "of real images, in a random order"
    model, folder = candidate.model, candidate.folder(out_dir)
    return {
        "name": candidate.name,
        "path": str(candidate.path),
        "sha256": candidate.sha256,
        "weights": "averaged",
        "process": f"{type(model.process.noise).__name__}, {type(model.process.dissipation).__name__}",
        "prediction": model.prediction,
        "loss_exponent": model.loss_exponent,
        "precision": samples.precision or "of its training",
        "labels": None if model.num_classes is None else labels,
        "num_images": samples.num_images,
        "first_seed": samples.seed,
        **json.loads((folder / SETTINGS_FILE).read_text()),
        "folder": str(folder),
    }


def describe_network(network: FeatureNetwork) -> dict[str, Any]:
    """What features distances are of; can be written as JSON."""
    names = ("name", "is_fid", "num_features", "preparation", "digest", "remark")
    return {name: getattr(network, name) for name in names}
