"""Folders of image files, decoded when they are wanted, damaged files skipped; and the size that suits them."""

import sys
import threading
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tf_blurdiff.data.kept import KeptPixels, empty_pixels
from tf_blurdiff.data.picture_files import open_picture
from tf_blurdiff.data.pictures import WHITE, DataError, read_image, reason_of

# Sizes that a network can halve three times, from what is worth training to what one device can train in a day or two.
_SIZES = (16, 32, 64)
# So many files are opened to choose a size.
_LOOKED_AT = 500


def chosen_size(paths: Sequence[str]) -> int:
    """A height and width for pictures: the median of their shorter sides, rounded down to 64, 32 or 16.

    Of up to 500 pictures, evenly spaced. Smaller ones than 16 pixels are enlarged to that.

    Raises:
        DataError: if none of these can be read.

    Example:
        >>> import sklearn.datasets
        >>> from tf_blurdiff.data.listing import FileNames
        >>> chosen_size(FileNames(f"{sklearn.datasets.__path__[0]}/images"))
        64
    """
    count = min(len(paths), _LOOKED_AT)
    shorter, refused = [], []
    for number in range(count):
        path = paths[number * len(paths) // count]
        try:
            with open(path, "rb") as file, open_picture(file) as image:
                shorter.append(min(image.size))
        except Exception as error:  # Pillow's have no base in common. The file is named when it is wanted.
            refused.append(f"{path!r} ({reason_of(error)})")
    if not shorter:
        raise DataError(f"data.root: none of {count} of its image files can be read, such as {refused[0]}")
    return max([size for size in _SIZES if size <= np.median(shorter)], default=_SIZES[0])


class Part(Sequence[str]):
    """Some of a sequence of paths, by their numbers."""

    def __init__(self, paths: Sequence[str], numbers: np.ndarray) -> None:
        self._paths, self._numbers = paths, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # Slices are of no use here.
        return self._paths[int(self._numbers[index])]


class Decoder:
    """Decodes files by index; in place of one that cannot be read it gives the next that can, of its class.

    Each unreadable file is named on stderr, once. What is given for an index depends on the files alone.

    Args:
        paths: of the files, a sequence.
        image_shape: (H, W, C) of every result.
        keep: whether what was decoded stays in memory.
        max_corrupt: how many unreadable files are skipped before one is an error.
        background: the colour behind transparent pictures.
        labels: integers, one a file; None for files without classes.

    Attributes:
        kept: what was decoded, if it stays in memory; else None.

    Call arguments:
        indices: integers `[B]`, NumPy; from several threads at once, if need be.

    Returns:
        uint8 `[B, H, W, C]`, NumPy.

    Raises:
        DataError: naming the file that was one too many, or one of those of which none can be read: all, or a class.

    Example:
        >>> import sklearn.datasets
        >>> from tf_blurdiff.data.listing import FileNames
        >>> names = FileNames(f"{sklearn.datasets.__path__[0]}/images")
        >>> Decoder(names, (32, 48, 3), keep=False)(np.array([1, 0])).shape
        (2, 32, 48, 3)
    """

    def __init__(
        self,
        paths: Sequence[str],
        image_shape: tuple[int, int, int],
        keep: bool,
        max_corrupt: int = 0,
        background: str = WHITE,
        labels: np.ndarray | None = None,
    ) -> None:
        self._paths, self._image_shape, self._max_corrupt = paths, image_shape, max_corrupt
        self._background, self._labels = background, labels
        self.kept = KeptPixels(empty_pixels((len(paths), *image_shape)), complete=False) if keep else None
        self._corrupt: dict[int, DataError] = {}
        self._lock = threading.Lock()

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        if self.kept is None:
            return np.stack([self._decode(int(index)) for index in indices])
        for index in self.kept.missing(indices):
            self.kept.put(index, self._decode(int(index)))
        return self.kept.pixels[indices]

    def _decode(self, index):
        for candidate in self._in_turn(index):
            if candidate in self._corrupt:
                continue
            try:
                return read_image(self._paths[candidate], self._image_shape, self._background)
            except DataError as error:
                self._skip(candidate, error)
        which = "its" if self._labels is None else "a sub-folder's"
        count = len(list(self._in_turn(index)))
        raise DataError(f"data.root: none of {which} {count} image files can be read: {self._corrupt[index]}")

    def _in_turn(self, index):
        """The file itself, then those of its class that come after it."""
        for step in range(len(self._paths)):
            number = (index + step) % len(self._paths)
            if self._labels is None or self._labels[number] == self._labels[index]:
                yield number

    def _skip(self, index, error):
        with self._lock:
            if index in self._corrupt:
                return
            if len(self._corrupt) >= self._max_corrupt:
                expected = f"{self._max_corrupt + 1} or more, or sound files"
                raise DataError(f"data.max_corrupt: got {self._max_corrupt}, expected {expected}: {error}")
            self._corrupt[index] = error
            tqdm.write(f"skipped: {error}", file=sys.stderr)
