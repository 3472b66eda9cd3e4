"""What the command lines share: flags, --help, and errors without tracebacks."""

import errno
import faulthandler
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from tf_blurdiff.devices import STRATEGIES
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.networks import PRECISIONS
from tf_blurdiff.own_code import import_packages

# Flags belong to the modules that call what is below.
flags.disclaim_key_flags()

# What more than one command takes, by name: which of absl's DEFINE functions it is, and its arguments.
_SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "config": ("string", {"help": "YAML file, or the name of one that is shipped."}),
    "set": ("multi_string", {"default": [], "help": "Overrides one value of the config, as in data.split=test"}),
    "model": (
        "string",
        {
            "help": "A .keras file, a run directory, hf://user/model, or a shipped one: digits, digits_4, emoji, "
            "fashion_mnist, fashion_mnist_4."
        },
    ),
    "imports": ("multi_string", {"default": [], "help": "A package of your own to import first. That runs its code"}),
    "precision": (
        "enum",
        {"enum_values": list(PRECISIONS), "help": "Of the network's arithmetic (default: as the model was trained)."},
    ),
    "num_steps": ("integer", {"help": "Calls of the network (default: the model's own)."}),
    # No enum: packages of the user's own may bring others.
    "sampler": ("string", {"help": f"The sampler: {', '.join(SAMPLERS)} (default: the model's own)."}),
    "grid": (
        "enum",
        {"enum_values": list(GRIDS), "help": "Times of the steps (default: the model's or sampler's own)."},
    ),
    "eta": ("float", {"default": 0.0, "help": "Noise of ddim, from 0 (deterministic) to 1 (ancestral)."}),
    "delta": ("float", {"help": "Noise of heat (default: 1.25 times the process's sigma)."}),
    "seed": ("integer", {"default": 0, "help": "The first image's seed."}),
    "labels": ("list", {"help": "Labels to take in turn, for a model with labels (default: all classes)."}),
    "label": ("multi_string", {"help": "One of the labels to take in turn: the name of a class, or its number"}),
    "guidance_scale": ("float", {"default": 1.0, "help": "Above 1: images more typical of their label."}),
    "batch_size": ("integer", {"lower_bound": 1, "help": "Images at once on a device (default: by their size)."}),
    "strategy": (
        "enum",
        {
            "default": "auto",
            "enum_values": list(STRATEGIES),
            "help": "Devices; auto: the workers of TF_CONFIG, or all GPUs.",
        },
    ),
    "replicas": ("integer", {"help": "With --strategy mirrored: how many devices (default: all GPUs)."}),
}
_SAMPLING = "sampler", "num_steps", "grid", "eta", "delta"


class Flags:
    """The flags of one command. Those of other commands in the same process may have the same names.

    A method for each kind, `integer`, `enum` and so on, is absl's `DEFINE_integer`, `DEFINE_enum` and so on.

    Example:
        >>> options = Flags()
        >>> count, grid = options.integer("count", 3, "How many."), options.shared("grid")
        >>> options.values(["program", "--grid=uniform"])
        ['program']
        >>> count.value, grid.value, options.sampling_arguments()
        (3, 'uniform', {'grid': 'uniform'})
    """

    def __init__(self) -> None:
        self.values = flags.FlagValues()

    def __getattr__(self, kind: str) -> Callable[..., flags.FlagHolder]:
        define = getattr(flags, f"DEFINE_{kind}")
        return lambda *arguments, **more: define(*arguments, flag_values=self.values, **more)

    def shared(self, name: str, repeatable: bool = False, required: bool = False) -> flags.FlagHolder:
        """Defines a flag that other commands have too.

        Args:
            name: "model", "num_steps", "sampler" and others.
            repeatable: whether it may be given several times; its value is then a list.
            required: whether it must be given.

        Returns:
            absl's holder of its value.
        """
        kind, arguments = _SHARED[name]
        if repeatable:
            kind, arguments = f"multi_{kind}", {**arguments, "help": arguments["help"].removesuffix(".")}
        return getattr(self, kind)(name, **{"default": None, **arguments}, required=required)

    def sampling(self) -> None:
        """Defines --sampler, --num_steps, --grid, --eta and --delta."""
        for name in _SAMPLING:
            self.shared(name)

    def sampling_arguments(self) -> dict[str, Any]:
        """Those of sampler, num_steps, grid, eta and delta that are among these flags, as arguments by name."""
        return {name: self.values[name].value for name in _SAMPLING if name in self.values}


def integers(flag: flags.FlagHolder, least: int | None = None) -> list[int]:
    """The integers of a flag that is a list of words.

    Raises:
        UserError: if it has none, for a word that is no integer, and for one below `least`.
    """
    words = flag.value
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or (least is not None and min(numbers) < least):
        wanted = "integers" if least is None else f"integers of {least} or more"
        raise UserError(f"--{flag.name} must be {wanted}. Received: {','.join(words) or 'nothing'}")
    return numbers


def labels_in_turn(
    flag: flags.FlagHolder,
    num_classes: int | None,
    count: int,
    named: flags.FlagHolder | None = None,
    class_names: Sequence[str] | None = None,
) -> list[int] | None:
    """So many labels: those of --labels and --label in turn, or all; None if there are none and none are given.

    Args:
        flag: of numbers, --labels.
        num_classes: of the model.
        count: how many labels.
        named: of names or numbers, --label; None where there is no such flag.
        class_names: of the model's labels, or None.

    Raises:
        UserError: for a name that the model does not have.
    """
    words = [] if named is None else named.value or []
    if num_classes is None and flag.value is None and not words:
        return None
    labels = [] if flag.value is None else integers(flag)
    labels += [_label(word, class_names or (), num_classes) for word in words]
    labels = labels or list(range(num_classes or 1))
    return [labels[i % len(labels)] for i in range(count)]


def _label(word, class_names, num_classes):
    if word in class_names:
        return class_names.index(word)  # A name goes before a number.
    if word.isdecimal():
        return int(word)
    if num_classes is None:
        allowed = "left out, for the model has no labels"
    else:
        number = f"a number from 0 to {num_classes - 1}"
        names = ", ".join(class_names)
        allowed = f"one of {names}; or {number}" if names else f"{number}, for the model's labels have no names"
    raise UserError(f"--label must be {allowed}. Received: {word}")


# Of a path through a folder that may not be entered, or that is too long to be one, wherever it is looked at.
_NO_WAY_THERE = (errno.EACCES, errno.ENAMETOOLONG)


def run(main: Callable[[], None], values: flags.FlagValues = flags.FLAGS, takes_command: bool = False) -> None:
    """Runs `main()` with the flags parsed, those before `--` if a command follows it.

    The status is 0 when all is well and after --help; 2 for a user's mistake, 75 for work that stopped before its end
    and can be gone on with, 130 after Ctrl-C, each with one message on stderr.

    Args:
        main: a function of a module whose docstring is the help.
        values: of the flags.
        takes_command: whether the rest of the command line, after `--`, is another command.
    """
    if sys.stderr is not None:
        faulthandler.enable(file=2)  # By number: what is in the place of sys.stderr may have none.
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    _parse(main, values, takes_command)
    try:
        if "imports" in values:
            import_packages(values["imports"].value or ())
        main()
    except UserError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in _NO_WAY_THERE:
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except Unfinished as unfinished:
        _fail(unfinished, unfinished.status)
    except KeyboardInterrupt:
        _fail("interrupted", Unfinished.INTERRUPTED)


def _parse(main, values, takes_command):
    argv = sys.argv
    if takes_command and "--" in argv:
        argv = argv[: argv.index("--")]
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        module = sys.modules[main.__module__]
        # absl calls the main module as the command line does.
        name = argv[0] if module.__name__ == "__main__" else module.__name__
        print(f"{(module.__doc__ or '').strip()}\n\nflags:\n{values.module_help(name)}")
        sys.exit(0)
    try:
        rest = values(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument: {rest[1]}")
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")


def _fail(message, status=2):
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(status)
