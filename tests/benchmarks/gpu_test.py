"""The program for a GPU: that it ends in time and says what it has, whatever its parts do; and its small form."""

import hashlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import part_first
import part_long
import part_memory
import pytest

from tests.benchmarks import BENCHMARKS
from tests.support import models

GPU = BENCHMARKS / "gpu"
# The main program with parts of ours, and without asking TensorFlow for its GPUs.
MAIN = f"""
import importlib.util, json, pathlib, sys
sys.path.insert(0, {str(GPU)!r})
spec = importlib.util.spec_from_file_location("gpu_main", {str(GPU / "__main__.py")!r})
main = importlib.util.module_from_spec(spec)
spec.loader.exec_module(main)
main._machine = lambda *arguments: dict(cards=["a card"], driver="1.2")
main._FOLDER = pathlib.Path("parts").resolve()
main.PARTS = json.loads(sys.argv.pop(1))
main.main()
"""
BEGIN = f"""
import sys
sys.path.insert(0, {str(GPU)!r})
from part import Part
part = Part.from_command_line()
"""
PARTS = {
    "rows": """part.table("Figures", "what", "ms").put("a", "a | b", 12)""",
    "fails": """part.table("Half", "what").put("a", "half"); raise ValueError("what went wrong")""",
    "hangs": """
import pathlib, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
part.table("Begun", "what").put("a", "begun")
pathlib.Path("child").write_text(str(child.pid))
time.sleep(1000)""",
}


def start(folder, shares, *arguments):
    (folder / "parts").mkdir(exist_ok=True)
    for name, program in PARTS.items():
        (folder / "parts" / f"part_{name}.py").write_text(BEGIN + program)
    words = [sys.executable, "-c", MAIN, json.dumps(shares), "--out", "out", *arguments]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)


def results(folder, name):
    return json.loads((folder / "out" / f"{name}.json").read_text())


def assert_gone(pid):
    """Whether or not somebody has taken note of its end."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return
    assert state == "Z"


def test_a_part_that_hangs_or_fails_costs_its_own_share_only(tmp_path):
    shares, started = {"hangs": 0.4, "fails": 0.5, "rows": 1.0}, time.monotonic()
    with start(tmp_path, shares, "--seconds", "12") as process:
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 12
    assert process.returncode == 1
    hung, failed, done = (results(tmp_path, name) for name in shares)
    assert hung["state"] == "ended after 4 s, its limit" and hung["tables"][0]["rows"] == [["begun"]]
    assert failed["state"] == "failed with status 1" and failed["last_lines"][-1] == "ValueError: what went wrong"
    assert done["state"] == "done" and done["machine"]["driver"] == "1.2"
    assert_gone((tmp_path / "child").read_text())
    last = output[output.index("a card; driver 1.2") :]
    assert "| begun |" in last and "    ValueError: what went wrong\n" in last
    assert "### Figures\n\n| what | ms |\n|---|---|\n| a / b | 12 |" in last


def test_where_no_time_is_left_no_part_is_begun(tmp_path):
    with start(tmp_path, {"hangs": 1.0, "rows": 1.0}, "--seconds", "5") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "## rows: not started, for no time was left, 0 s" in output
    assert not (tmp_path / "out" / "rows.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_it_ends_its_part_and_prints_what_it_has(tmp_path, number):
    with start(tmp_path, {"rows": 0.5, "hangs": 0.5, "fails": 1.0}, "--seconds", "300") as process:
        while not ((tmp_path / "child").exists() and (tmp_path / "child").read_text()):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert results(tmp_path, "hangs")["state"] == f"stopped by {number.name}"
    assert_gone((tmp_path / "child").read_text())
    assert "| a / b | 12 |" in output and "| begun |" in output
    assert not (tmp_path / "out" / "fails.json").exists()


def test_the_pieces_of_a_model_make_it_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(part_long, "PIECE_BYTES", 1000)
    whole = np.random.default_rng(0).bytes(2500)
    (tmp_path / "model").write_bytes(whole)
    (tmp_path / "a.keras.07").touch()  # of an earlier, larger one
    assert part_long.cut(tmp_path / "model", tmp_path / "a.keras") == (3, hashlib.sha256(whole).hexdigest())
    pieces = sorted(tmp_path.glob("a.keras.*"))
    assert [piece.stat().st_size for piece in pieces] == [1000, 1000, 500]
    assert b"".join(piece.read_bytes() for piece in pieces) == whole


@pytest.mark.parametrize(
    "largest, tried", [(150, [100, 110, 120]), (105, [100, 110]), (95, [100, 90]), (1, [100, 90, 75])]
)
def test_the_largest_batch_is_looked_for_around_what_is_expected(largest, tried):
    assert part_memory.expected_largest({8: 3.0, 16: 5.0, 32: 9.0}, 26.0) == 100
    assert part_memory.expected_largest({8: 3.0, 16: None}, 26.0) is None
    fitted, refused = [], []
    for batch in part_memory.candidates(100, fitted, refused):
        (fitted if batch <= largest else refused).append(batch)
    assert sorted(fitted + refused) == sorted(tried)


def test_differences_are_in_grey_levels():
    black = np.full((2, 5), -1.0)
    other = black + 2.0 / 255.0 * np.array([0.0, 0.4, 1.0, 3.0, 0.0])
    assert part_first.differences(other, black) == ("3.000", "3", "40.00 %")


def test_weights_are_compared_without_keras(tmp_path):
    import part_resume

    model = models.randomized(models.make())
    model.save(tmp_path / "a.keras")
    assert part_resume.differences(tmp_path / "a.keras", tmp_path / "a.keras") == ("0.0e+00", "0.0e+00", True)
    # The averages are 0.1 times normal numbers, the statistics and the other weights as large; one of them moves.
    model.ema_weights[0].assign(model.ema_weights[0] + 0.25)
    model.save(tmp_path / "b.keras")
    largest, relative, are_equal = part_resume.differences(tmp_path / "a.keras", tmp_path / "b.keras")
    assert largest == "2.5e-01" and 0.0 < float(relative) < 1.0 and not are_equal


def tables(output):
    """The tables by their titles: rows, each a dict of the columns."""
    found = {}
    for title, table in re.findall(r"### (.*)\n\n((?:\|.*\n?)+)", output):
        columns, _, *rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
        found[title] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


def small(folder, *arguments, timeout):
    words = [sys.executable, str(GPU), "--small", "--out", "out", "--seconds", str(timeout - 10), *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return tables(done.stdout)


@pytest.mark.slow
def test_layers_are_measured_and_right(tmp_path):
    found = small(tmp_path, "--parts=layers", timeout=120)
    norms, attentions, dcts = found.values()
    assert [row["how"] for row in norms] == ["as it is, gradient by hand", "plain formula"]
    assert all(float(row["difference"]) < 1e-6 and float(row["us a call"]) > 0 for row in norms + attentions[:2])
    assert "Flash attention is not supported" in attentions[2]["why not measured"]
    assert [(row["TF32"], float(row["error"]) < 1e-6) for row in dcts] == 2 * [("on", True)] + 2 * [("off", True)]


@pytest.mark.slow
def test_all_of_it_in_its_small_form(tmp_path):
    found = small(tmp_path, timeout=1500)
    assert all(found.values()) and len(found) == 13
    assert [row["strategy"] for row in found["Training digits.yaml, the two side by side"]] == ["auto", "mirrored"]
    images = next(rows for title, rows in found.items() if title.startswith("Images of the same seeds"))
    assert [(row["on"], row["compiled"]) for row in images] == [
        ("GPU, none here", "False"), ("GPU, none here", "True"), ("processor", "True"),
    ]  # fmt: skip
    assert all(float(row["largest difference, grey levels"]) < 1.0 for row in images)
    for title in ("Training steps in float32", "Sampling, 20 steps of ddim"):
        ours, theirs = found[title][:2], found[title][2:]
        assert all(float(row["images/s"]) > 0 and row["why not measured"].strip() == "" for row in ours)
        # diffusers is of another environment, as a rule.
        assert all(row["images/s"].strip() or "No module named" in row["why not measured"] for row in theirs)
    (resumed,) = found["Weights at the end"]
    assert (resumed["largest difference"], resumed["equal, bit for bit"]) == ("0.0e+00", "True")
    assert 0 < int(resumed["killed at step"]) < 40
    names = {path.name for path in (tmp_path / "out").iterdir()}
    parts = {
        f"{name}.json" for name in ("first", "training", "compiling", "layers", "sampling", "memory", "long", "resume")
    }
    assert names == parts | {"first_samples.png", "digits.keras.00"}
    for name in parts:
        assert json.loads((tmp_path / "out" / name).read_text())["problems"] == []
    assert (tmp_path / "runs" / "gpu_long" / "digits" / "model.keras").is_file()
