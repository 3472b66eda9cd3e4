"""What a run shows of itself."""

import pytest
import tensorflow as tf

from tests.support.runs import TINY
from tf_blurdiff.errors import UserError
from tf_blurdiff.training.reporting import ChiefReport, Report, StepTimer


def test_the_bar_says_why_it_stands_still(tmp_path, capsys):
    report = ChiefReport(tmp_path, total_steps=3, verbose=True)
    with report.opened(0, TINY):
        with report.doing("compiling"):
            meanwhile = capsys.readouterr().err
        report.advance(1)
        afterwards = capsys.readouterr().err
    assert "training (compiling):" in meanwhile.rpartition("\r")[2]
    assert "(" not in afterwards.rpartition("\r")[2].partition(":")[0]


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError(None, None, "events; No space left"), OSError(28, "")]
)
def test_a_disk_that_is_full_for_tensorboard_is_one_line(tmp_path, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    report = ChiefReport(tmp_path, total_steps=3, verbose=False)
    with report.opened(0, TINY):
        monkeypatch.setattr(tf.summary, "scalar", full)
        with pytest.raises(UserError, match=r"^run directory .* \(tensorboard\) cannot be written: .*No space left"):
            report.log(1, {"loss": 1.0, "images_per_second": 1.0, "skipped_steps": 0}, [])


def test_tensorboard_has_what_was_logged_at_once(tmp_path):
    report = ChiefReport(tmp_path, total_steps=3, verbose=False)
    with report.opened(0, TINY):
        report.log(1, {"loss": 0.25, "images_per_second": 1.0, "skipped_steps": 0}, [])
        (path,) = (tmp_path / "tensorboard").iterdir()
        events = [event for event in tf.compat.v1.train.summary_iterator(str(path)) if event.step == 1]
    values = {value.tag: float(tf.make_ndarray(value.tensor)) for event in events for value in event.summary.value}
    assert values == {"loss": 0.25, "images_per_second": 1.0, "skipped_steps": 0.0}


def test_a_folder_that_tensorboard_cannot_have_is_one_line(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with (
        pytest.raises(UserError, match=r"\(tensorboard\) cannot be written"),
        ChiefReport(tmp_path, 3, False).opened(0, TINY),
    ):
        pass


def test_a_worker_that_is_not_chief_says_nothing(capsys):
    report = Report()
    with report.opened(0, TINY), report.doing("compiling"):
        report.say("x")
    assert capsys.readouterr() == ("", "")


def test_the_block_that_is_traced_is_known():
    timer = StepTimer()
    assert timer.is_new
    timer.add(1, seconds=9.0)
    assert not timer.is_new
    timer.read_and_reset()
    assert not timer.is_new
