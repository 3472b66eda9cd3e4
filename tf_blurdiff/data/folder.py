"""Folders of image files, up to millions: listed compactly, decoded when they are wanted, damaged files skipped."""

import os
import sys
import threading
from array import array
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tf_blurdiff.data.kept import KeptPixels, empty_pixels
from tf_blurdiff.data.pictures import SUFFIXES, DataError, read_image

_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)


class FileNames:
    """The paths of all image files below a folder, in one string of bytes: some 40 bytes a file.

    The order is that of the bytes of each folder's names. Files and folders with a dot in front are left out, and links
    to folders are not followed. No file is opened.

    Args:
        root: the folder.

    Raises:
        DataError: if it is not a folder, cannot be listed, or has no image file in it.

    Example:
        >>> import sklearn.datasets
        >>> names = FileNames(f"{sklearn.datasets.__path__[0]}/images")
        >>> [os.path.basename(name) for name in names]
        ['china.jpg', 'flower.jpg']
    """

    def __init__(self, root: str | os.PathLike | None) -> None:
        kinds = ", ".join(SUFFIXES)
        self._root = os.path.expanduser(os.fspath(root or ""))
        if not os.path.isdir(self._root):
            raise DataError(f"root: got {str(root)!r}, which is not a folder; expected a folder of images ({kinds})")
        self._names, self._ends = bytearray(), array("Q", [0])
        try:
            self._list()
        except OSError as error:
            raise DataError(
                f"root: got {str(root)!r}, where {os.fsdecode(error.filename)!r} cannot be listed ({error.strerror}); "
                "expected folders that can be read"
            ) from None
        if not len(self):
            raise DataError(f"root: got {str(root)!r}, which holds no image; expected files ending in {kinds}")

    def _list(self):
        # The bar is for folders that take long.
        for name in tqdm(_walk(os.fsencode(self._root)), "Listing images", unit="file", disable=None, delay=2):
            self._names += name
            self._ends.append(len(self._names))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        name = bytes(self._names[self._ends[index] : self._ends[index + 1]])
        return os.path.join(self._root, os.fsdecode(name))


class Decoder:
    """Decodes files by index; in place of one that cannot be read it gives the next that can.

    Each unreadable file is named on stderr, once. What is given for an index depends on the files alone.

    Args:
        paths: of the files, a sequence.
        image_shape: (H, W, C) of every result.
        keep: whether what was decoded stays in memory.
        max_corrupt: how many unreadable files are skipped before one is an error.

    Attributes:
        kept: what was decoded, if it stays in memory; else None.

    Call arguments:
        indices: integers `[B]`, NumPy; from several threads at once, if need be.

    Returns:
        uint8 `[B, H, W, C]`, NumPy.

    Raises:
        DataError: naming the file that was one too many, or if no file can be read.

    Example:
        >>> import sklearn.datasets
        >>> names = FileNames(f"{sklearn.datasets.__path__[0]}/images")
        >>> Decoder(names, (32, 48, 3), keep=False)(np.array([1, 0])).shape
        (2, 32, 48, 3)
    """

    def __init__(
        self, paths: Sequence[str] | FileNames, image_shape: tuple[int, int, int], keep: bool, max_corrupt: int = 0
    ) -> None:
        self._paths, self._image_shape, self._max_corrupt = paths, image_shape, max_corrupt
        self.kept = KeptPixels(empty_pixels((len(paths), *image_shape)), complete=False) if keep else None
        self._corrupt: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        if self.kept is None:
            return np.stack([self._decode(int(index)) for index in indices])
        for index in self.kept.missing(indices):
            self.kept.put(index, self._decode(int(index)))
        return self.kept.pixels[indices]

    def _decode(self, index):
        for step in range(len(self._paths)):
            candidate = (index + step) % len(self._paths)
            if candidate in self._corrupt:
                continue
            try:
                return read_image(self._paths[candidate], self._image_shape)
            except DataError as error:
                self._skip(candidate, error)
        raise DataError(f"data.root: none of its {len(self._paths)} image files can be read, expected one or more")

    def _skip(self, index, error):
        with self._lock:
            if index in self._corrupt:
                return
            if len(self._corrupt) >= self._max_corrupt:
                expected = f"{self._max_corrupt + 1} or more, or sound files"
                raise DataError(f"data.max_corrupt: got {self._max_corrupt}, expected {expected}: {error}")
            self._corrupt.add(index)
            tqdm.write(f"skipped: {error}", file=sys.stderr)


def _walk(folder):
    """The paths, in bytes, of the image files below a folder, relative to it."""
    subfolders, names = set(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue  # Thumbnails, and leftovers of file managers.
            if entry.is_dir(follow_symlinks=False):
                subfolders.add(entry.name)
                names.append(entry.name)
            elif entry.name.lower().endswith(_SUFFIXES) and entry.is_file():
                names.append(entry.name)
    for name in sorted(names):
        if name in subfolders:
            for below in _walk(os.path.join(folder, name)):
                yield os.path.join(name, below)
        else:
            yield name
