"""A side's end of the conversation: commands in, one JSON object a line; answers out, one a line.

Standard library only. The commands, each with the key "do":

    describe   nothing more                     -> {"resident_mib", "threads"}
    prepare    "what", "size", "precision"      -> {"key", "parameters"}; what follows refers to it by "key"
    run        "key", "count"                   -> {"seconds": [...]}, of each run
    release    nothing more                     -> {}; all that was prepared is forgotten
    memory     nothing more                     -> {"resident_mib", "peak_mib"} of this process

and those of the side's own. A command that fails is answered with {"error": "..."}.
"""

import gc
import json
import os
import sys

from rounds import times_of


def take_stdout():
    """The file that answers go to: standard output as it is now. What libraries print from here on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def memory():
    """Resident memory of this process and its peak, in MiB.

    The kernel's ru_maxrss would not do: a process inherits it from the one that started it.
    """
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    mib = {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}
    return {"resident_mib": mib["VmRSS"], "peak_mib": mib["VmHWM"]}


class Conversation:
    """Answers commands until standard input ends.

    Args:
        answers: what `take_stdout` gave.
        make: a function of (what, size, precision) that returns an action without arguments and a number of parameters.
            An action returns when its work is done.
        own: further commands: name -> a function of the command's other keys that returns a dict.
    """

    def __init__(self, answers, make, **own):
        self._answers, self._make = answers, make
        commands = (self.describe, self.prepare, self.run, self.release)
        self._commands = {**{command.__name__: command for command in commands}, "memory": memory, **own}
        self._actions = {}

    def hold(self):
        """Reads and answers."""
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = self._commands[command.pop("do")](**command)
            except Exception as error:  # Whatever it is, the one who asks must hear of it.
                answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            print(json.dumps(answer), file=self._answers)

    def describe(self):
        """The state right after the imports."""
        return {"resident_mib": memory()["resident_mib"], "threads": os.cpu_count()}

    def prepare(self, what, size, precision):
        """Makes a model and an action on it."""
        key = f"{what}, {size}, {precision}"
        self._actions[key], parameters = self._make(what, size, precision)
        return {"key": key, "parameters": parameters}

    def run(self, key, count):
        """Times an action."""
        return {"seconds": times_of(self._actions[key], count)}

    def release(self):
        """Makes room for the next size."""
        self._actions.clear()
        gc.collect()
        return {}
