"""A long training: of each of --config, with --set, for an equal share of the time, and the averaged weights.

Training is the command line's, in a folder of --run_dir for each config, and goes on there if it was begun; SIGTERM
ends it with a checkpoint. The averaged model, a .keras file, is cut into pieces of at most 16 MiB beside this part's
results: `cat NAME.keras.* > NAME.keras` joins them, and the results have its SHA-256.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import programs
import yaml
from part import Part

PIECE_BYTES = 16 * 2**20
# What is left of a training's share for its last checkpoint, and for a process that takes the averages.
_TO_SAVE, _TO_AVERAGE = 40.0, 30.0
_SMALL = (*programs.TINY, "train.steps=4", "train.decay_steps=null", "train.warmup_steps=0", "train.log_every=2")
_AVERAGE = "import sys; import tf_blurdiff as bd; bd.load_model(sys.argv[1]).averaged().save(sys.argv[2])"


def main(part):
    """A row for each config."""
    table = part.table(
        "Long trainings", "config", "steps", "of", "loss", "loss of the averages", "images/s", "ended by", "pieces",
        "SHA-256 of the averaged model",
    )  # fmt: skip
    configs = part.request["config"]
    for number, config in enumerate(configs):
        run_dir = pathlib.Path(part.request["run_dir"], pathlib.Path(config).stem)
        share = part.left() / (len(configs) - number)
        reserve = min(_TO_SAVE + _TO_AVERAGE, 0.4 * share)
        try:
            ended_by = _train(part, config, run_dir, share - reserve, reserve / 2)
            table.put(config, config, *_progress(part, run_dir), ended_by, *_bring_home(part, run_dir))
        except (programs.Failure, OSError) as failure:
            part.problem(f"{config}: {failure}")


def _train(part, config, run_dir, seconds, to_save):
    """Trains; says what ended it."""
    settings = [*(_SMALL if part.small else ()), *part.request["set"]]
    command = [sys.executable, "-m", "tf_blurdiff.train", "--config", config, "--run_dir", str(run_dir)]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen([*command, *programs.overrides(*settings)], stdout=log, stderr=log)
        try:
            status, ended_by = process.wait(max(1.0, seconds)), "its last step"
        except subprocess.TimeoutExpired:
            status, ended_by = _stop(process, to_save)
        log.seek(0)
        last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
    if status not in (0, os.EX_TEMPFAIL, -signal.SIGKILL):
        raise programs.Failure(f"training ended with status {status}: {last}")
    return ended_by


def _stop(process, seconds):
    """Asks for the last checkpoint, and takes the one before where that takes too long; (status, what ended it)."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(max(1.0, seconds)), "the time"
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(), "SIGKILL: it did not end in time"


def _progress(part, run_dir):
    """(step, steps, loss, loss of the averages, images/s), the last of each that there is."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    part.detail(f"metrics of {run_dir.name}", rows[:: max(1, len(rows) // 200)])
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    part.detail(f"config of {run_dir.name}", config)
    last = {key: value for row in rows for key, value in row.items() if value is not None}
    figures = (f"{last.get(key, float('nan')):.4g}" for key in ("loss", "averaged_loss", "images_per_second"))
    return last["step"], config["train"]["steps"], *figures


def _bring_home(part, run_dir):
    """Writes the pieces; (how many, the whole's SHA-256)."""
    with tempfile.TemporaryDirectory() as folder:
        averaged = pathlib.Path(folder, "averaged.keras")
        programs.run(["-c", _AVERAGE, run_dir / "model.keras", averaged], part.left())
        return cut(averaged, part.out.with_name(f"{run_dir.name}.keras"))


def cut(path, target):
    """Cuts a file into `TARGET.00`, `TARGET.01`, ..., of at most `PIECE_BYTES` each.

    Returns:
        (how many, the whole's SHA-256 in hexadecimal digits).
    """
    for old in target.parent.glob(f"{target.name}.[0-9][0-9]"):
        old.unlink()
    whole = path.read_bytes()
    starts = range(0, len(whole), PIECE_BYTES)
    for number, start in enumerate(starts):
        pathlib.Path(f"{target}.{number:02d}").write_bytes(whole[start : start + PIECE_BYTES])
    return len(starts), hashlib.sha256(whole).hexdigest()


if __name__ == "__main__":
    main(Part.from_command_line())
