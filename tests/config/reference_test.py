"""docs/configs.md is what the schema says."""

import re

from tests.support.commands import ROOT
from tf_blurdiff.config import data_sections, reference, schema
from tf_blurdiff.diffusion.samplers import SAMPLERS


def test_the_page_is_made_from_the_schema_as_it_is():
    assert (ROOT / "docs" / "configs.md").read_text() == reference.page(), "python -m tf_blurdiff.config.reference"


def rows(section):
    """key -> (values, default, meaning) of a heading's table."""
    (table,) = re.findall(rf"^##+ {section}\n(.*?)(?=^##|\Z)", reference.page(), re.MULTILINE | re.DOTALL)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {key.strip("`"): tuple(rest) for key, *rest in lines}


def test_every_key_is_there():
    for heading, section in {
        "train": schema.Train,
        "the U-Net": schema.Network,
        "source: tfds": data_sections.Tfds,
    }.items():
        assert rows(heading).keys() == section.model_fields.keys()


def test_values_defaults_and_bounds_are_in_plain_words():
    train, folder = rows("train"), rows("source: image_folder")
    assert train["steps"] == ("integer >= 1", "`800000`", "optimizer steps")
    assert train["clip_norm"][:2] == ("number > 0 or null", "`1.0`")
    assert rows("sample")["sampler"][0] == ", ".join(f"`{name}`" for name in SAMPLERS) + " or null"
    assert rows("the U-Net")["multipliers"][:2] == ("list of integer >= 1", "`[1, 2, 2, 2]`")
    assert folder["root"][1] == "must be given" and folder["source"][0] == "`image_folder`"
    assert folder["image_size"][0] == "integer or list of 2 of integer or null"
    assert folder["augment"][0] == "list of `flip`, `crop` or null"
