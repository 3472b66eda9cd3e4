"""Runs a command as several workers on this machine, and all of them again when one is lost.

    python -m tf_blurdiff.launch --num_workers 2 -- python -m tf_blurdiff.train --config digits.yaml

Each worker gets a TF_CONFIG with addresses on this machine's loopback interface, and its lines are marked with its
number. For several machines, set TF_CONFIG on each and start the command there (docs/training.md).

The status is 0 when every worker ended with 0; else that of one that did not, after the restarts are used up. A
signal to stop is passed on to all workers.
"""

import sys

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.workers import run_workers

_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "How many processes.", lower_bound=1)
_MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 3, "How often all are started again.", lower_bound=0)


def main():
    """Launches, and ends with the workers' status."""
    if "--" not in sys.argv or sys.argv[-1] == "--":
        raise UserError("give the command after --, such as -- python -m tf_blurdiff.train --config digits.yaml")
    command = sys.argv[sys.argv.index("--") + 1 :]
    sys.exit(run_workers(command, _NUM_WORKERS.value, _MAX_RESTARTS.value))


if __name__ == "__main__":
    command_line.run(main, takes_command=True)
