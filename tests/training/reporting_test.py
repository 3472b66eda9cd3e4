"""What a run shows of itself."""

from tests.support.runs import TINY
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
