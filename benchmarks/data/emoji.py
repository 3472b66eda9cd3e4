"""Makes a folder of small colour pictures: the glyphs of a colour emoji font.

    apt-get install fonts-noto-color-emoji
    python benchmarks/data/emoji.py --root emoji
    python -m tf_blurdiff.train --config emoji.yaml --run_dir runs/emoji

Each glyph's bitmap becomes a PNG file of --image_size pixels a side on white, named as the font
names it. Variants of skin tone are left out, as 1,900 of Noto's 3,900 glyphs are, and so are flags and what is equal to
another glyph. Noto Color Emoji is Google's; its pictures are under the Apache licence, the font under the Open Font
License. It needs fontTools, which comes with the extra "plots".
"""

import io
import pathlib

from absl import flags
from PIL import Image

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError

_FONT = flags.DEFINE_string("font", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "With the table CBDT.")
_ROOT = flags.DEFINE_string("root", None, "The folder to make; it must be missing or empty.", required=True)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels a side.", lower_bound=4)

_SKIN_TONES = set(range(0x1F3FB, 0x1F400))
# The letters of countries' flags, and the tags that spell those of regions.
_FLAG_LETTERS = {*range(0x1F1E6, 0x1F200), *range(0xE0020, 0xE0080)}


def main():
    """Writes the pictures, and says how many of what there were."""
    root = pathlib.Path(_ROOT.value).expanduser()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"--root {root} is not an empty folder; expected a new one")
    font = _opened(_FONT.value)
    bitmaps = _bitmaps(font)
    characters = {name: code for code, name in font.getBestCmap().items()}
    parts = _ligatures(font)
    root.mkdir(parents=True, exist_ok=True)
    left_out, seen = {"skin tone": 0, "flag": 0, "equal to another": 0}, set()
    for name, png in bitmaps.items():
        codes = {characters.get(part) for part in _parts(name, parts)}
        picture = _on_white(png, _IMAGE_SIZE.value)
        if codes & _SKIN_TONES:
            left_out["skin tone"] += 1
        elif codes & _FLAG_LETTERS:
            left_out["flag"] += 1
        elif picture.tobytes() in seen:
            left_out["equal to another"] += 1
        else:
            seen.add(picture.tobytes())
            picture.save(root / f"{name}.png")
    reasons = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
    print(f"{root}: {len(seen)} pictures of {_IMAGE_SIZE.value}x{_IMAGE_SIZE.value}; left out: {reasons}")


def _opened(path):
    from fontTools.ttLib import TTFont, TTLibError

    try:
        font = TTFont(path)
    except (OSError, TTLibError) as error:
        raise UserError(
            f"--font {path} cannot be read ({error}); expected a font such as that of Debian's package "
            "fonts-noto-color-emoji: apt-get install fonts-noto-color-emoji"
        ) from None
    if "CBDT" not in font:
        raise UserError(f"--font {path} has no bitmaps in colour (table CBDT), as Noto Color Emoji has")
    return font


def _bitmaps(font):
    """`{glyph's name: PNG}`."""
    return {name: glyph.imageData for strike in font["CBDT"].strikeData for name, glyph in strike.items()}


def _ligatures(font):
    """`{glyph's name: names of the glyphs that it stands for}`."""
    found = {}
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else ():
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                found |= {ligature.LigGlyph: [first, *ligature.Component] for ligature in ligatures}
    return found


def _parts(name, ligatures):
    """The glyphs that a glyph stands for, those of its parts in their place."""
    if name not in ligatures:
        return {name}
    rest = {key: value for key, value in ligatures.items() if key != name}
    return {part for of in ligatures[name] for part in _parts(of, rest)}


def _on_white(png, size):
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, tuple((side - length) // 2 for length in picture.size))
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    command_line.run(main)
