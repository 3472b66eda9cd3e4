"""Configs for tests: mappings as YAML gives them."""

import pytest

from tf_blurdiff.config.loading import parse_config
from tf_blurdiff.config.messages import ConfigError

FOLDER = {"source": "image_folder", "root": "photos", "image_size": 64}
DIGITS = {"source": "digits", "image_size": 8, "channels": 1}
SMALL = {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}


def with_values(values):
    """A valid config with some dotted keys set."""
    mapping = {"data": dict(FOLDER)}
    for key, value in values.items():
        *sections, name = key.split(".") if isinstance(key, str) else [key]
        place = mapping
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return mapping


def problems(mapping):
    """The lines against it."""
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping)
    return str(caught.value).splitlines()
