"""The command line `train` with a plain small network in place of the config's, which is traced much faster."""

import pytest

from tests.support.runs import with_small_network
from tf_blurdiff import command_line, train

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_small_network(monkeypatch)
        command_line.run(train.main, train.FLAGS.values)
