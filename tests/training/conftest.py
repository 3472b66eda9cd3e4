"""Runs in this process of a network that is traced quickly."""

import pytest

from tests.support.runs import train_here, with_small_network


@pytest.fixture
def small_network(monkeypatch):
    with_small_network(monkeypatch)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The run directory of a small network that was trained to its end without an interruption."""
    run_dir = tmp_path_factory.mktemp("small") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_small_network(monkeypatch)
        train_here(run_dir)
    return run_dir
