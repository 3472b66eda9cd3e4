"""The program that makes pictures of an emoji font, on a font made up for it."""

import io
import runpy
import types

import numpy as np
from PIL import Image

from tests.benchmarks import BENCHMARKS

PROGRAM = BENCHMARKS / "data" / "emoji.py"
# Two faces, one of them twice; a hand, and the same in a skin tone; a country's flag and a region's; a pair of faces.
CHARACTERS = {
    0x1F600: "grin", 0x1F601: "beam", 0x1F602: "beam_again", 0x1F44B: "hand", 0x1F3FD: "tone", 0x1F1EB: "letter",
    0x1F3F4: "flag", 0xE0067: "tag", 0x200D: "joiner",
}  # fmt: skip
LIGATURES = {
    "hand": [("hand_in_tone", ["tone"])],
    "letter": [("country", ["letter"])],
    "flag": [("region", ["tag", "tag"])],
    "grin": [("pair", ["joiner", "beam"])],
    "pair": [("pair_in_tone", ["hand_in_tone"])],
}
LEVELS = {
    "grin": 10, "beam": 60, "beam_again": 60, "hand": 110, "hand_in_tone": 120, "country": 130, "region": 140,
    "pair": 160, "pair_in_tone": 170,
}  # fmt: skip


class Font(dict):
    """What the program asks of a font."""

    def getBestCmap(self):
        return CHARACTERS


def picture(level):
    """A grey square of 12x12 in the middle of 16x12 transparent pixels."""
    pixels = np.zeros((12, 16, 4), np.uint8)
    pixels[:, 2:14] = level, level, level, 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return types.SimpleNamespace(imageData=stream.getvalue())


def font():
    table = types.SimpleNamespace(
        ligatures={
            first: [types.SimpleNamespace(LigGlyph=name, Component=rest) for name, rest in made]
            for first, made in LIGATURES.items()
        }
    )
    lookup = types.SimpleNamespace(SubTable=[types.SimpleNamespace(ExtSubTable=table)])
    lookups = types.SimpleNamespace(LookupList=types.SimpleNamespace(Lookup=[lookup]))
    strike = {name: picture(level) for name, level in LEVELS.items()}
    return Font(CBDT=types.SimpleNamespace(strikeData=[strike]), GSUB=types.SimpleNamespace(table=lookups))


def test_pictures_are_on_white_without_tones_flags_and_copies(tmp_path, capsys):
    program = runpy.run_path(str(PROGRAM))
    flags = {
        name: types.SimpleNamespace(value=value)
        for name, value in {"_FONT": "", "_ROOT": str(tmp_path / "emoji"), "_IMAGE_SIZE": 8}.items()
    }
    program["main"].__globals__.update(flags, _opened=lambda path: font())
    program["main"]()
    pictures = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "emoji").iterdir()}
    assert sorted(pictures) == ["beam", "grin", "hand", "pair"]
    assert "4 pictures of 8x8; left out: 2 (skin tone), 2 (flag), 1 (equal to another)" in capsys.readouterr().out
    for name, pixels in pictures.items():
        assert pixels.shape == (8, 8, 3)
        assert abs(pixels[4, 4].astype(int) - LEVELS[name]).max() <= 3 and pixels[0].min() == pixels[:, 0].min() > 200
