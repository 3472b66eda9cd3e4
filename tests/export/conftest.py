"""The development servers that several files ask, in this process and once for all of them."""

import pytest

import tf_blurdiff as bd
from tests.support import models
from tests.support.servers import Toy, server_in_this_process

FIGURES = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory):
    """The base path of the toy model: version 10; an older version and what is no version are to be skipped."""
    base = tmp_path_factory.mktemp("served") / "digits"
    Toy().save(base / "10")
    for skipped in ("9", "latest", "99.tmp"):
        (base / skipped).mkdir()
    (base / "11").write_text("a file is no version")
    return base


@pytest.fixture(scope="session")
def toy_server(toy_path):
    """Serves the toy model as `digits`."""
    with server_in_this_process(toy_path) as server:
        yield server


@pytest.fixture(scope="session")
def open_toy_server(toy_path):
    """The same for pages of all origins, with the figures, and impatient with REST requests: 1 ms."""
    options = {"enable_cors": True, "monitoring_path": FIGURES, "timeout_seconds": 0.001}
    with server_in_this_process(toy_path, **options) as server:
        yield server


@pytest.fixture(scope="session")
def small_model():
    """A model without labels whose images differ."""
    return models.randomized(models.make())


@pytest.fixture(scope="session")
def small_export(small_model, tmp_path_factory):
    """The export of the small model, of 4 steps: `<base_dir>/1`."""
    return bd.export_savedmodel(small_model, tmp_path_factory.mktemp("small"), num_steps=4)
