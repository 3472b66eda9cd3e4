"""What tf_blurdiff does on a GPU: whether it runs and computes right, how fast, in how much memory, beside diffusers.

    python benchmarks/gpu --seconds 400 --out runs/gpu

Works through its parts in order of worth, each in a process of its own and within a share of the time that is left:

    first      trains digits.yaml with the strategies auto and mirrored, samples, and compares images with a processor's
    training   steps of DDPM's network for CIFAR-10: compiled and not, blurring and gaussian, beside diffusers
    compiling  how long XLA compiles digits.yaml's step and how fast it is then, under several of XLA's flags
    layers     normalisation, attention and the DCT, as they are and in the ways they could be
    sampling   20 steps: model.sample compiled and not, the exported SavedModel, diffusers' pipeline
    memory     lsun.yaml at full size: speed and peak memory of several batches, the largest that fits
    long       trains --config, with --set, in --run_dir, for its share of the time, and brings the weights home
    resume     killed and resumed, and two runs that were not: how far apart the weights are

After each part its results are in OUT/<part>.json, also what failed and why; the tables are printed last, also after
SIGTERM. A part that hangs is ended, with all that it started, and the next goes on. Where there is no GPU it needs
--small: tiny networks and few steps, to try the program out; its figures mean nothing.

The interpreter of --diffusers_python, by default this one, needs torch and diffusers; without, the tables say so.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

import card
import markdown_tables
from part_process import Stopped, not_started, run_in_group, run_part

_FOLDER = pathlib.Path(__file__).resolve().parent
# Each part's share of the time that is left, in order of worth. The last that is chosen gets all of it.
PARTS = {
    "first": 0.5,
    "training": 0.6,
    "compiling": 0.4,
    "layers": 0.4,
    "sampling": 0.5,
    "memory": 0.6,
    "long": 0.7,
    "resume": 1.0,
}
# What printing the tables may take, and the first import of TensorFlow on a machine.
_TO_PRINT, _TO_IMPORT = 2.0, 180.0
# With less left no part is begun.
_LEAST_SECONDS = 2.0


def main():
    """Runs the chosen parts and prints their tables; the status is 0 if all are done."""
    options = _options()
    deadline = time.monotonic() + options.seconds - _TO_PRINT
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(_refuse(f"--out {options.out} cannot be made: {error.strerror}"))
    _on_signals(_stop)
    results, machine, stopped = [], None, None
    try:
        machine = _machine(options, deadline - time.monotonic())
        for name in options.parts:
            if deadline - time.monotonic() < _LEAST_SECONDS:
                results.append(not_started(name))
                continue
            result, stopped = _run(name, options, deadline, machine)
            print(f"{name}: {result['state']}, {result['seconds']:.0f} s", flush=True)
            results.append(result)
            if stopped:
                break
    except Stopped as error:  # Between two parts.
        stopped = error
    _on_signals(signal.SIG_IGN)
    print(f"\n{markdown_tables.markdown(card.line(machine) if machine else 'unknown machine', results)}", flush=True)
    sys.exit(128 + signal.Signals[str(stopped)] if stopped else int(any(each["state"] != "done" for each in results)))


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"gpu: {message}\n")


def _options():
    parser = _Parser("gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=400.0, help="for all parts together (400)")
    parser.add_argument("--out", type=pathlib.Path, default="runs/gpu", help="folder for results (runs/gpu)")
    parser.add_argument("--parts", type=_part_names, default=list(PARTS), help=f"of {','.join(PARTS)}; all")
    parser.add_argument("--small", action="store_true", help="tiny networks and few steps, for a processor")
    parser.add_argument("--diffusers_python", default=sys.executable, help="a Python with torch and diffusers")
    parser.add_argument("--config", type=_words, default=["digits.yaml"], help="for long: one or several, by commas")
    parser.add_argument("--set", action="append", default=[], help="for long: overrides, as in data.root=DIR")
    parser.add_argument("--run_dir", default="runs/gpu_long", help="for long: a folder for the run directories")
    return parser.parse_args()


def _words(text):
    return text.split(",")


def _part_names(text):
    unknown = [name for name in _words(text) if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"parts are {', '.join(PARTS)}. Received: {unknown[0]}")
    return [name for name in PARTS if name in _words(text)]


def _on_signals(handler):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _stop(number, frame):
    _on_signals(signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


def _machine(options, left):
    """What is known of the machine; ends the program if it has no GPU and needs one."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "card.json")
        command = [sys.executable, str(_FOLDER / "card.py"), str(path)]
        end, stopped = run_in_group(command, min(left, _TO_IMPORT), _environment())
        if stopped:
            raise stopped
        about = json.loads(path.read_text()) if end.state == "done" else None
    if about is None:
        why = f"TensorFlow cannot be asked for its GPUs: {end.state}; {(end.last_lines or ['it said nothing'])[-1]}"
        sys.exit(_refuse(why))
    if not about["cards"] and not options.small:
        sys.exit(_refuse("TensorFlow finds no GPU here; --small runs on a processor"))
    return about


def _refuse(why):
    print(f"gpu: {why}", file=sys.stderr)
    return 2


def _run(name, options, deadline, machine):
    share = 1.0 if name == options.parts[-1] else PARTS[name]
    limit = share * (deadline - time.monotonic())
    request = {
        "small": options.small,
        "diffusers_python": options.diffusers_python,
        "config": options.config,
        "set": options.set,
        "run_dir": options.run_dir,
        "card_mib": machine.get("memory in MiB"),
    }
    program = _FOLDER / f"part_{name}.py"
    return run_part(name, program, options.out, limit, request, _environment(), machine)


def _environment():
    """Of every process: it finds this repository and benchmarks/speed, and takes of the card what it needs."""
    places = [_FOLDER, _FOLDER.parent / "speed", _FOLDER.parents[1], os.environ.get("PYTHONPATH", "")]
    return {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "1",  # As the command lines do.
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(place) for place in places if str(place)),
    }


if __name__ == "__main__":
    main()
