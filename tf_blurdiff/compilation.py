"""What a function is traced for, where it matters: XLA, which compiles it, or runtimes that know fewer operations."""

import contextlib
import contextvars
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_blurdiff.errors import one_of

CHOICES = ("auto", "on", "off")
# Compiling DDPM's network for CIFAR-10 takes a minute or more on one H200, and then saves 20 ms a call.
_CALLS_WORTH_COMPILING = 3000
_COMPILING = contextvars.ContextVar("compiling", default=False)
_FOR_OTHER_RUNTIMES = contextvars.ContextVar("for_other_runtimes", default=False)


def is_wanted(choice: str = "auto", calls: int | None = None) -> bool:
    """Whether to compile: "on" or "off", or with "auto" if there is a GPU and enough to do.

    Not on processors of its own accord: their convolutions are oneDNN's, and compiling a U-Net's step takes long.

    Args:
        choice: of `CHOICES`.
        calls: of the network, as far as is known; None for many, as in training.

    Raises:
        UserError: for another choice.

    Example:
        >>> is_wanted("on"), is_wanted("off"), is_wanted("auto", calls=20)
        (True, False, False)
    """
    one_of("compile", choice, CHOICES)
    if choice == "auto" and calls is not None and calls < _CALLS_WORTH_COMPILING:
        return False
    return choice == "on" or (choice == "auto" and bool(tf.config.list_physical_devices("GPU")))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run through XLA, of tensors; called while another is traced.

    Within, `is_compiling()` is true: XLA's own random numbers of a key are not TensorFlow's.

    Example:
        >>> float(compiled(lambda x: 2.0 * x)(tf.constant(3.0)))
        6.0
    """

    def noted(*arguments):
        with _noted(_COMPILING):
            return function(*arguments)

    return tf.function(noted, jit_compile=True, autograph=False)


def may_be_clustered() -> bool:
    """Whether TensorFlow may give parts of any graph to XLA by itself: TF_XLA_FLAGS, or `tf.config.optimizer.set_jit`.

    Example:
        >>> may_be_clustered()
        False
    """
    chosen = re.findall(r"tf_xla_auto_jit=(\S+)", os.environ.get("TF_XLA_FLAGS", ""))
    return bool(tf.config.optimizer.get_jit()) or bool(chosen and chosen[-1] not in ("0", "-1"))


def never_clustered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of which TensorFlow gives nothing to XLA by itself; called while another is traced.

    For what works on shapes that are not known, or draws with TensorFlow's own Philox. What is traced within, such as
    the body of a loop, is a function of its own, and wants the same.

    Example:
        >>> int(tf.function(never_clustered(lambda x: x + 1))(tf.constant(1)))
        2
    """

    @functools.wraps(function)
    def apart(*arguments):
        with tf.xla.experimental.jit_scope(compile_ops=False):
            return function(*arguments)

    return apart


def is_compiling() -> bool:
    """Whether what is traced now is inside of `compiled` or `for_other_runtimes`: no kernels of TensorFlow's run it."""
    return _COMPILING.get() or _FOR_OTHER_RUNTIMES.get()


def for_other_runtimes() -> contextlib.AbstractContextManager[None]:
    """Within, what is traced has no Fourier transform in it either, which ONNX has no operation for."""
    return _noted(_FOR_OTHER_RUNTIMES)


def is_for_other_runtimes() -> bool:
    """Whether what is traced now is inside of `for_other_runtimes`."""
    return _FOR_OTHER_RUNTIMES.get()


@contextlib.contextmanager
def _noted(variable: contextvars.ContextVar[bool]) -> Iterator[None]:
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)
