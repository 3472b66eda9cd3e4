"""Prepares Fashion-MNIST for TFDS without a network: from Debian's package of it.

    apt-get install dataset-fashion-mnist
    python benchmarks/data/fashion_mnist.py --data_dir fashion_data
    python -m tf_blurdiff.train --config fashion_mnist.yaml --set data.root=fashion_data

It prints the number of images of each split, after about a minute. TFDS knows the files' checksums. Debian's are the
same but for the names and times in their gzip headers, which the package leaves out; here they are put back. With a
network none of this is needed: TFDS downloads the files itself.
"""

import pathlib
import struct

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where to prepare it: TFDS's data_dir, data.root.", required=True)

_PACKAGE = pathlib.Path("/usr/share/datasets/fashion-mnist")
# When the files were made, in seconds since 1970.
_TIMES = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}
_BARE_HEADER = 10  # Bytes of a gzip header with neither name nor time.


def main():
    """Prepares the data set, and says what there is."""
    import tensorflow_datasets as tfds

    data_dir = pathlib.Path(_DATA_DIR.value).expanduser()
    builder = tfds.builder("fashion_mnist", data_dir=data_dir)
    if not builder.is_prepared():
        downloads = data_dir / "downloads"
        (downloads / "manual").mkdir(parents=True, exist_ok=True)
        for name, seconds in _TIMES.items():
            (downloads / "manual" / f"{name}.gz").write_bytes(_with_header(name, seconds))
        builder.download_and_prepare(download_dir=downloads)
    for split, info in builder.info.splits.items():
        print(f"{data_dir}: fashion_mnist, {split}: {info.num_examples} images")


def _with_header(name, seconds):
    """The file as its authors made it."""
    path = _PACKAGE / f"{name}.gz"
    try:
        stripped = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); expected the files of Debian's package "
            "dataset-fashion-mnist: apt-get install dataset-fashion-mnist"
        ) from None
    # Flags: a name follows. Then the time, no hint about the compression, and Unix.
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", seconds) + b"\x00\x03" + name.encode() + b"\x00"
    return header + stripped[_BARE_HEADER:]


if __name__ == "__main__":
    command_line.run(main)
