"""Shared by all programs: command lines, errors in one line, signals, progress bars.

It imports no other module of the project, and nothing that takes long to load.
"""

import argparse
import errno
import importlib
import mmap
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from tqdm import tqdm

VERSION = "2.0.0"  # of the program; also in CITATION.cff and CHANGELOG.md
LOADED_BYTES = 1_900_000_000  # of address space that TensorFlow and the other libraries take
# Advice for disk errors.
NO_PERMISSION = "; choose another location, or change its permissions"
TO_DO = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NO_PERMISSION)
TO_DO[errno.ENOSPC] = "; make room, or choose another location"
OUT_OF_MEMORY, DISK_FULL = "out of memory", "the disk is full"
NEEDS_LESS = "close other programs, or use a computer with more memory"
# Errors about the computer by name, and which of their messages are about it: others have the same name.
MACHINE = {
    "AbortedError": "",  # of oneDNN, TensorFlow's library for processors
    "InternalError": "",  # of CUDA and its libraries
    "UnknownError": r"(?s)^(?!.*Traceback)",  # the same; a Python error within TensorFlow has its traceback
    "NotFoundError": "No algorithm worked",  # of cuDNN
    "FailedPreconditionError": "DNN library",
    "UnimplementedError": "DNN library",
    "RuntimeError": "can't start new thread",
    "ImportError": "failed to map segment|[Cc]annot allocate memory",
}
# What the messages of those say if memory ran out, on a GPU or a processor
NO_MEMORY = (
    "(?i)out of memory|out_of_memory|OOM|alloc|operation received an exception|no algorithm worked|"
    "tensor is not initialized|failed to map segment|start new thread"
)


class UserError(ValueError):
    """An error that the user can fix; the message is one line with the file or option, and what to do."""


class OptionError(UserError):
    """Invalid options or inputs."""


class OneLineParser(argparse.ArgumentParser):
    """argparse with `--version`; an error is one line, options cannot be abbreviated, descriptions keep their lines."""

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{"allow_abbrev": False} | options)
        version = f"{options.get('prog', self.prog)} {VERSION}"
        self.add_argument("--version", action="version", version=version, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


SCALES = {"field_degrees": (10, 200), "px_per_mm": (5, 2000)}  # least and most


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the scale of the photographs."""
    add = parser.add_argument
    add("--field-degrees", type=float, metavar="DEG", help="angle of the field of view (default: 45)")
    add("--px-per-mm", type=float, metavar="N", help="scale of the photographs (default: from the field's diameter)")


def fault_of_scales(given: Mapping[str, float | None], named: Callable[[str], str] = str) -> str:
    """What is wrong with scales by name: both are given, or one is out of its range; "" if nothing."""
    if None not in map(given.get, SCALES):
        return f"{' and '.join(map(named, SCALES))}: give only one of them"
    for name, (low, high) in SCALES.items():
        value = given.get(name)
        if value is not None and not low <= value <= high:
            return f"{named(name)} {value:g}: must be from {low} to {high}"
    return ""


def flag(name: str) -> str:
    """The name of an option on the command line."""
    return "--" + name.replace("_", "-")


def one_line(message: object) -> str:
    """A message in one line: names of files may contain line breaks."""
    return " ".join(str(message).split())


def why(error: Exception) -> str:
    """The message of an error; for disk errors, without number and file name."""
    return getattr(error, "strerror", None) or str(error) or fault_of_machine(error) or type(error).__name__


def report_error(program: str, error: object) -> None:
    """Print an error as every program does: one line on standard error."""
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}{TO_DO.get(error.errno, '')}"
    print(f"{program}: error: {one_line(error)}", file=sys.stderr)


def exit_status(program: str, work: Callable[[], int], if_stopped: str, needs_less: str = NEEDS_LESS) -> int:
    """Do a program's work and return its exit status.

    Args:
        program: its file name.
        work: returns the exit status.
        if_stopped: what to tell the user after Ctrl-C or SIGTERM.
        needs_less: what to do if the computer has too little memory, or its GPU fails.

    Returns:
        What `work` returns; 2, with one line on standard error, for an error that the user can fix or a fault of the
        computer; 128 + the signal that stopped it (130 Ctrl-C, 143 SIGTERM).
    """
    stopped = []  # the signals that were received

    def stop(number: int, _frame) -> NoReturn:
        stopped.append(number)
        raise KeyboardInterrupt  # so that partial files are removed

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # in step with progress bars
    warnings.filterwarnings("ignore", module="PIL")  # what matters is raised as an error
    try:
        return work()
    except UserError as error:
        report_error(program, error)
    except (KeyboardInterrupt, Exception) as error:  # a library may turn Ctrl-C into its own error
        if stopped or isinstance(error, KeyboardInterrupt):
            print(f"\n{program}: {if_stopped}", file=sys.stderr)
            return 128 + (stopped or [signal.SIGINT])[0]
        if fault := fault_of_machine(error):
            error = f"{fault}{TO_DO[errno.ENOSPC]}" if fault == DISK_FULL else f"{fault}; {needs_less}"
        elif not isinstance(error, OSError):
            raise
        report_error(program, error)
    return 2


def fault_of_machine(error: BaseException | None) -> str | None:
    """What a computer lacks, or what of it failed, in a few words; None: the error has another reason.

    Out of memory has as many names as there are libraries. They are recognised by name, because this module does not
    load them. An error that was raised while another one was handled, as libraries wrap them, may have its reason.
    """
    while error is not None:
        names, message = {kind.__name__ for kind in type(error).__mro__}, str(error)
        if names & {"MemoryError", "ResourceExhaustedError"} or getattr(error, "errno", None) == errno.ENOMEM:
            return DISK_FULL if "No space left" in message else OUT_OF_MEMORY  # TensorFlow's error for both
        if "BrokenProcessPool" in names:  # joblib's TerminatedWorkerError is one
            return "a worker process was ended, most probably because memory ran out"
        if any(re.search(MACHINE[name], message) for name in names & MACHINE.keys()):
            said = one_line((message.splitlines() or [""])[0])
            return OUT_OF_MEMORY if re.search(NO_MEMORY, message) else f"the computation failed ({said})"
        error = error.__cause__ or error.__context__
    return None


class StopRequest:
    """Takes the first Ctrl-C or SIGTERM as a request to stop soon; a second one ends the program at once."""

    number = 0  # of the signal; 0: none was received
    at_hand = "step"  # what the program finishes before it stops

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame) -> None:
        """The signals' handler."""
        self.number = number
        for other in self.before:
            signal.signal(other, signal.SIG_DFL)
        advice = "Ctrl-C again stops without saving."
        print(f"\nStopping: finishing the {self.at_hand}, then saving. {advice}", file=sys.stderr)


def progress_bar(items: Iterable | None = None, **options) -> tqdm:
    """A progress bar, redrawn rarely if the output goes to a log file."""
    return tqdm(items, mininterval=0.5 if sys.stderr.isatty() else 30, **options)  # s


def load_tensorflow() -> None:
    """Import TensorFlow and Keras without their notes; call it before `exit_status`, and before other imports of them.

    While a program loads them, Ctrl-C ends it at once, and too little memory with one line: a traceback would not help
    the user.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # only fatal errors
    program = getattr(sys.modules["__main__"], "PROGRAM", None)
    if program and "keras" not in sys.modules:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            need(LOADED_BYTES)
        except OSError:
            report_error(program, f"{OUT_OF_MEMORY}; {NEEDS_LESS}")
            sys.exit(2)
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # TensorFlow writes six lines before it reads the variable
    try:
        importlib.import_module("keras")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def need(size: int) -> None:
    """Raise an error if a limit (`ulimit -v`) leaves the program less than that many bytes of address space.

    It takes no memory. Without that much, OpenBLAS and TensorFlow would try again for ever.

    Raises:
        OSError: with the code ENOMEM.
    """
    if hasattr(mmap, "PROT_READ"):  # which Windows lacks
        mmap.mmap(-1, size, mmap.MAP_PRIVATE, prot=0).close()
