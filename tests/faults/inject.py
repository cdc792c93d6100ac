"""Run a program with a fault in it: a call of a function raises an error, or ends its process.

    python tests/faults/inject.py simulation.stream.Popen 1 OSError pix_pix_train.py --data simulated  # its first call
    python tests/faults/inject.py "" 0 "" pix_pix_train.py --data simulated                           # no fault

Networks are narrow, and an epoch on simulated retinas is short. For `compiled`, the call is one of the step that it
returns. Only the calls of one process are counted: workers of joblib begin again.
"""

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

# What is raised, by its name, with a message as the libraries have; of TensorFlow unless Python has that error.
ERRORS = {
    "AbortedError": "Operation received an exception:Status: 1, message: could not create a primitive, in file x.cc",
    "ResourceExhaustedError": "OOM when allocating tensor with shape[2,64,64,64]",
    "NotFoundError": "No algorithm worked!  Error messages:\n  Profiling failure on CUDNN engine 1",
    "InternalError": "Failed to call cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "UnknownError": "Failed to get convolution algorithm. This is probably because cuDNN failed to initialize",
    "MemoryError": "std::bad_alloc",
    "OSError": "Cannot allocate memory",
}
KILLED = "killed"  # a worker process, as the system does when memory runs out


def failing(function: Callable, call: int, error: str) -> Callable:
    """A function whose `call`-th call, from 1, raises one of ERRORS, or ends the process unless it is this one."""
    import tensorflow as tf

    left, program = [call], os.getpid()

    def called(*arguments, **options):
        left[0] -= 1
        if left[0]:
            return function(*arguments, **options)
        if error == KILLED and os.getpid() != program:
            os.kill(os.getpid(), signal.SIGKILL)
        kind = {"MemoryError": MemoryError, "OSError": OSError}.get(error) or getattr(tf.errors, error)
        codes = {"OSError": (12,), "MemoryError": ()}.get(error, (None, None))
        raise kind(*codes, ERRORS[error])

    return called


def inject(name: str, call: int, error: str) -> None:
    """Replace a function, MODULE.NAME or MODULE.Class.NAME, by one that fails."""
    *path, last = name.split(".")
    place = importlib.import_module(".".join(part for part in path if part.islower()))
    for part in path:
        place = place if part.islower() else getattr(place, part)
    original = getattr(place, last)

    def failing_step(*arguments):
        return failing(original(*arguments), call, error)

    setattr(place, last, failing_step if last == "compiled" else failing(original, call, error))


if __name__ == "__main__":
    name, call, error, PROGRAM, *options = sys.argv[1:]
    from basics.command_line import load_tensorflow

    load_tensorflow()
    from narrow import narrow_networks

    import run.batches
    import run.data

    narrow_networks()
    run.batches.SIMULATED_PATCHES_PER_EPOCH, run.data.VALIDATION_RETINAS = 12, 2
    if name:
        inject(name, int(call), error)
    sys.argv = [PROGRAM, *options]
    runpy.run_path(str(PROJECT / PROGRAM), run_name="__main__")
