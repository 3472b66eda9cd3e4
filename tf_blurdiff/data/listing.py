"""Lists of image files below a folder: which there are, what was left out and why, and sub-folders as classes."""

import os
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from tf_blurdiff.data.pictures import SUFFIXES, DataError

# What `labels` is where all sub-folders are classes.
FOLDERS = "folders"
_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)
# Reasons for leaving out, and kinds of files: so many are named, the most frequent.
_NAMED = 12


class FileNames(Sequence[str]):
    """The paths of all image files below a folder, in one string of bytes: some 40 bytes a file.

    The order is that of the bytes of each folder's names. Files and folders with a dot in front are left out. Links to
    folders are followed after all else, and no folder is listed twice, so links that go round in a circle end. No file
    is opened.

    Args:
        root: the folder.
        labels: "folders" for the sub-folders of the root as classes, in the order of their names; or the names of those
            that are; None for none.

    Attributes:
        forms: how many files there are of each suffix.
        left_out: how many files and folders were left out, by what they are.
        class_names: of the labels, or None.
        labels: int64 `[N]`, or None.

    Raises:
        DataError: if it is not a folder, cannot be listed, or has no image file in it; for a class without one, and for
            fewer than two classes.

    Example:
        >>> import sklearn.datasets
        >>> names = FileNames(f"{sklearn.datasets.__path__[0]}/images")
        >>> [os.path.basename(name) for name in names]
        ['china.jpg', 'flower.jpg']
        >>> dict(names.forms), names.left_out[".txt"]
        ({'.jpg': 2}, 1)
    """

    def __init__(self, root: str | os.PathLike | None, labels: str | Sequence[str] | None = None) -> None:
        kinds = ", ".join(SUFFIXES)
        self._root = os.path.expanduser(os.fspath(root or ""))
        if not os.path.isdir(self._root):
            raise DataError(f"root: got {str(root)!r}, which is not a folder; expected a folder of images ({kinds})")
        self._names, self._ends = bytearray(), array("Q", [0])
        walk = _Walk(os.fsencode(self._root))
        self.forms, self.left_out = walk.forms, walk.left_out
        classes = None if labels is None else _Classes(labels, self.left_out, self.forms)
        try:
            self._list(walk, classes)
        except OSError as error:
            raise DataError(
                f"root: got {str(root)!r}, where {os.fsdecode(error.filename)!r} cannot be listed ({error.strerror}); "
                "expected folders that can be read"
            ) from None
        if not len(self):
            found = f" ({self._counts()})" if self.left_out else ""
            where = "" if labels is None else " in sub-folders, of which data.labels makes classes"
            raise DataError(
                f"root: got {str(root)!r}, which holds no image{where}; expected files ending in {kinds}{found}"
            )
        self.class_names: tuple[str, ...] | None = None
        self.labels: np.ndarray | None = None
        if classes is not None:
            self.class_names, self.labels = classes.finished()

    def _list(self, walk, classes):
        # The bar is for folders that take long.
        for name in tqdm(walk.names(), "Listing images", unit="file", disable=None, delay=2):
            if classes is None or classes.take(name):
                self._names += name
                self._ends.append(len(self._names))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # Slices are of no use here.
        return os.path.join(self._root, os.fsdecode(self._name(index)))

    def _name(self, index):
        return bytes(self._names[self._ends[index] : self._ends[index + 1]])

    def keys(self) -> np.ndarray:
        """A number for each file, uint64 `[N]`, that depends on its path below the root alone."""
        return np.fromiter((zlib.crc32(self._name(index)) for index in range(len(self))), np.uint64, len(self))

    def summary(self) -> str:
        """How many there are, of which forms, and what was left out: a line."""
        return f"{len(self):,} pictures in {self._root!r}: {self._counts()}"

    def _counts(self):
        left_out = f"left out: {_listed(self.left_out)}" if self.left_out else ""
        return "; ".join(filter(None, (_listed(self.forms), left_out)))


class _Walk:
    """Goes through the folders below a root, by bytes."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._seen: set[tuple[int, int]] = set()  # folders, by device and number
        self._links: list[bytes] = []
        self.forms: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def names(self) -> Iterator[bytes]:
        """The paths of the image files, relative to the root."""
        yield from self._below(b"")
        # After all folders that are no links: what two ways lead to has the shorter name.
        for link in self._links:
            yield from self._below(link)

    def _below(self, place):
        folder = os.path.join(self._root, place)
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in self._seen:
            self.left_out["links to folders that are listed already"] += 1
            return
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            sorted_entries = sorted(entries, key=lambda entry: entry.name)
        for entry in sorted_entries:
            name = os.path.join(place, entry.name)
            if entry.name.startswith(b"."):
                self.left_out["hidden"] += 1  # Thumbnails, and leftovers of file managers.
            elif entry.is_dir(follow_symlinks=False):
                yield from self._below(name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self.left_out["broken links"] += 1  # To nothing, or to themselves.
            elif entry.is_dir():
                self._links.append(name)
            elif self._is_image(entry):
                yield name

    def _is_image(self, entry):
        suffix = os.path.splitext(entry.name)[1].lower()
        shown = suffix.decode("utf-8", "replace") or "without a suffix"
        if not entry.is_file():
            shown = "neither files nor folders"
        elif suffix in _SUFFIXES:
            self.forms[shown] += 1
            return True
        self.left_out[shown] += 1
        return False


class _Classes:
    """Sub-folders as classes: numbers the names that are in one."""

    def __init__(self, labels: str | Sequence[str], left_out: Counter[str], forms: Counter[str]) -> None:
        self._wanted = None if labels == FOLDERS else tuple(labels)
        if self._wanted is not None and len(set(self._wanted)) < len(self._wanted):
            raise DataError(f"labels: got {_some(self._wanted)}, expected each name once")
        self._left_out, self._forms = left_out, forms
        self._number_of: dict[bytes, int] = {}
        self._others: set[str] = set()
        self._numbers = array("L")

    def take(self, name: bytes) -> bool:
        """Whether a file is in a class; notes which."""
        folder, slash, _ = name.partition(b"/")
        if slash and (self._wanted is None or _text(folder) in self._wanted):
            self._numbers.append(self._number_of.setdefault(folder, len(self._number_of)))
            return True
        if slash:
            self._others.add(_text(folder))
        self._forms[os.path.splitext(name)[1].lower().decode()] -= 1
        self._left_out["in sub-folders that are no classes" if slash else "in no sub-folder, so of no class"] += 1
        return False

    def finished(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes' names, and each file's number among them."""
        folders = sorted(self._number_of)
        names = tuple(map(_text, folders))
        if self._wanted is not None:
            if missing := [name for name in self._wanted if name not in names]:
                there = _some(sorted({*names, *self._others}))
                raise DataError(f"labels: got {missing[0]!r}, which is no sub-folder with images; expected {there}")
            places = {name: place for place, name in enumerate(self._wanted)}
            folders = sorted(folders, key=lambda folder: places[_text(folder)])
            names = self._wanted
        if len(folders) < 2 or len(set(names)) < len(folders):
            raise DataError(f"labels: got the sub-folders {_some(names)}, expected two or more with different names")
        if unsafe := [name for name in names if "${" in name or name == "???"]:
            raise DataError(
                f"labels: got the sub-folder {unsafe[0]!r}, expected a name that YAML files of configs can hold"
            )
        order = np.empty(len(folders), np.int64)
        order[[self._number_of[folder] for folder in folders]] = np.arange(len(folders))
        return names, order[np.frombuffer(self._numbers, np.dtype("L"))]


def _text(folder):
    """A folder's name as text, whatever its bytes are."""
    return folder.decode("utf-8", "replace")


def _some(names):
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])


def _listed(counts):
    counts = +counts
    most = counts.most_common(_NAMED)
    rest = counts.total() - sum(count for _, count in most)
    return ", ".join(f"{what} ({count:,})" for what, count in [*most, *([("others", rest)] if rest else [])])
