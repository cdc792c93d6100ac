"""End the programs by too little memory, by errors of TensorFlow and by signals, and check how they end.

    python tests/faults/memory.py              # fifty runs: about twenty minutes on two cores (Linux only)
    python tests/faults/memory.py --runs 3,7   # some of the runs again

Each run is a program on a few simulated retinas, in a folder of its own. It must end within seconds, with its status
and one line, without a traceback; no process that it started may be left, and no partial file. Prints a table; exits
with 1 if a run did not end so.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from inject import KILLED

PATIENCE = 150  # s for a whole run: libraries try for 10 s to get memory
AFTER_SIGNAL = 15  # s to the end, of programs that share two cores
AFTER_END = 10  # s until what the program has started must have ended, too
MARK = "MEMORY_TRIAL"  # in the environment of a run and of all that it starts
# Without memory, TensorFlow, LLVM and the C library end the program themselves: 127 is the C library's status.
BY_LIBRARIES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, 127)
SUBJECTS = (1, 2, 3, 4, 5, 6, 26, 27, 31, 32)
MB = 10**6

DATA = "data/UT-FSOCTA-v1"
TRAIN = "pix_pix_train.py --data pairs.csv --patch-size 64 --batch-size 2 --precision float32 --epochs 9"
SAMPLES = TRAIN.replace("pairs.csv", "simulated")
SYNTHESIS = "pix_pix_gen.py photographs --vessels"
CROP = "dataset_load_mod.py crop whole.csv --output cropped"
REGISTER = f"dataset_load_mod.py register {DATA} --output registered"
EVALUATE = f"pix_pix_eval.py --data {DATA} --split all --include-seen --resamples 100"


@dataclass(frozen=True)
class Trial:
    """A run, and how it is ended: by a limit of `resource`, by a fault, or by signals."""

    command: str
    limit: tuple[str, int] | None = None  # MB
    fault: tuple[str, int, str] | None = None  # see `inject`
    signals: Sequence[int] = ()

    @property
    def way(self) -> str:
        """How the run is ended, in words."""
        if self.limit:
            return f"{self.limit[0]} {self.limit[1]} MB"
        if self.fault:
            function, call, error = self.fault
            return f"{error} in {function.rpartition('.')[2]}, call {call}"
        return ", then ".join(signal.Signals(number).name for number in self.signals)

    @property
    def statuses(self) -> Sequence[int]:
        """The exit statuses that it may have."""
        if self.limit:
            return 2, *BY_LIBRARIES
        if self.fault:
            return (2,)
        by_itself = self.command in (TRAIN, SAMPLES) and self.signals[1:]  # the second one ends a training run at once
        return (-self.signals[-1] if by_itself else 128 + self.signals[0],)

    @property
    def words(self) -> list[str]:
        """The command line: with limits the program as it is, otherwise with narrow networks."""
        name, *options = self.command.split()
        run = [] if name == "pix_pix_train.py" else ["--run", str(PROJECT / "weights") if self.limit else "run"]
        if self.limit and self.command != SAMPLES:
            return [sys.executable, "-u", str(PROJECT / name), *options, *run]
        fault = map(str, self.fault or ("", 0, ""))
        return [sys.executable, "-u", str(PROJECT / "tests/faults/inject.py"), *fault, name, *options, *run]


def limited(command: str, *sizes: int, kind: str = "RLIMIT_AS") -> list[Trial]:
    """Runs of a program with at most so many MB, of address space or of a file."""
    return [Trial(command, limit=(kind, size)) for size in sizes]


def faulty(command: str, function: str, call: int, *errors: str) -> list[Trial]:
    """Runs of a program in which a call of a function raises each of these errors."""
    return [Trial(command, fault=(function, call, error)) for error in errors]


def stopped(command: str, *signals: int) -> Trial:
    """A run that signals end at a random moment."""
    return Trial(command, signals=signals)


STEP, PREDICTION = "run.devices.compiled", "run.predict.Predictor.generated"
TRIALS = [
    *limited(SAMPLES, 1300, 1700, 1900, 2200, 2400, 2600, 2800),
    *limited(TRAIN, 1200, 1700, 2200, 3000),
    *limited(SYNTHESIS, 1200, 1800, 2200),
    *limited(CROP, 1200, 2200),
    *limited(REGISTER, 1200, 2200),
    *limited(EVALUATE, 1200, 2200),
    *limited(SAMPLES, 1, kind="RLIMIT_FSIZE"),
    *faulty(SAMPLES, STEP, 3, "AbortedError", "NotFoundError", "InternalError", "UnknownError", "MemoryError"),
    *faulty(SAMPLES, PREDICTION, 2, "ResourceExhaustedError", "AbortedError"),
    *faulty(SAMPLES, "run.batches.SimulatedPatches.plan", 1, "MemoryError"),
    *faulty(SAMPLES, "simulation.stream.Popen", 1, "OSError"),
    *faulty(TRAIN, STEP, 5, "AbortedError", "ResourceExhaustedError"),
    *faulty(TRAIN, "run.batches.TrainingPatches.plan", 1, "MemoryError"),
    *faulty(SYNTHESIS, PREDICTION, 3, "AbortedError", "UnknownError"),
    *faulty(CROP, "alignment.find_octa.find_place", 2, "MemoryError"),
    *faulty(CROP, PREDICTION, 2, "NotFoundError"),
    *faulty(REGISTER, "alignment.registration.fit_all", 1, KILLED, "MemoryError"),
    *faulty(EVALUATE, "evaluation.measures.measure_eye", 1, KILLED),
    *faulty(EVALUATE, PREDICTION, 4, "InternalError"),
    stopped(SAMPLES, signal.SIGINT),
    stopped(SAMPLES, signal.SIGTERM),
    stopped(SAMPLES, signal.SIGINT, signal.SIGINT),
    stopped(TRAIN, signal.SIGINT),
    stopped(SYNTHESIS, signal.SIGINT),
    stopped(SYNTHESIS, signal.SIGTERM),
    stopped(CROP, signal.SIGTERM),
    stopped(REGISTER, signal.SIGINT),
    stopped(EVALUATE, signal.SIGTERM),
]


def write_inputs(folder: Path) -> None:
    """Write simulated retinas in UT-FSOCTA's layout, as tables of crops and of photographs, and an untrained run."""
    from narrow import narrow_networks

    narrow_networks()
    import tensorflow as tf

    import run.checkpoints as pix_run
    from basics.files import write_table
    from pairs.table import NEEDED
    from pix_generator import Generator
    from run.settings import Settings
    from simulation.dataset import eye_of, write_dataset

    write_dataset(folder / DATA, SUBJECTS)
    (folder / "data/simulated").symlink_to("UT-FSOCTA-v1")
    (folder / "photographs").symlink_to(f"{DATA}/fov45/fundus")
    for name, fundus in (("pairs.csv", "cropped/fundus/disc/{}.png"), ("whole.csv", "fov45/fundus/{}.jpg")):
        rows = []
        for subject in SUBJECTS:
            eye = f"{subject}_{eye_of(subject)}"
            octa = f"{DATA}/cropped/octa/disc/{eye}.png"
            split = "train" if subject < 26 else "validation"
            rows.append({"fundus": f"{DATA}/{fundus.format(eye)}", "octa": octa, "subject": subject, "split": split})
            rows[-1]["octa_mm"] = 6
        write_table(folder / name, (*NEEDED, "split", "octa_mm"), rows)
    pix_run.save(tf.train.Checkpoint(generator=Generator(3, (None, None), 1)), folder / "run", step=1, keep=1)
    pix_run.write_run(folder / "run", Settings(data="simulated", precision="float32", name="run"), "0")


def left_of(trial: str) -> list[int]:
    """The processes that a run has started and that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if f"{MARK}={trial}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def partial_files(folder: Path) -> list[str]:
    """Files and folders that a program has not completed."""
    unfinished = ("*.part", "*_temp", ".export-*", ".*-????????")
    return [path.name for pattern in unfinished for path in folder.rglob(pattern)]


def limit_of(trial: Trial) -> Callable[[], None] | None:
    """Sets the limit in the new process."""
    if trial.limit is None:
        return None
    kind, size = getattr(resource, trial.limit[0]), trial.limit[1] * MB
    return lambda: resource.setrlimit(kind, (size, size))


def run(trial: Trial, folder: Path, chance: random.Random) -> tuple[list[str], str]:
    """Run and end a program in a folder; returns what is wrong, and a summary of how it ended."""
    mark = f"{os.getpid()}-{folder.name}"
    environment = os.environ | {MARK: mark, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output, started = folder / "output.txt", time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(
            trial.words,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=limit_of(trial),
            start_new_session=True,
        )
    if trial.signals:
        while process.poll() is None and not any(word in output.read_text() for word in ("Run: ", "Weights: ")):
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 8 if "train" in trial.command else 3))
        started = time.monotonic()
        for place, number in enumerate(trial.signals):
            while place and process.poll() is None and "Stopping" not in output.read_text():  # until one is answered
                time.sleep(0.1)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)  # to the group, as a terminal does
    wrong = []
    try:
        process.wait(AFTER_SIGNAL if trial.signals else PATIENCE)
    except subprocess.TimeoutExpired:
        wrong.append("did not end")
    seconds, until = time.monotonic() - started, time.monotonic() + AFTER_END
    while (left := left_of(mark)) and time.monotonic() < until and not wrong:
        time.sleep(0.1)
    for number in left:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    status, said = process.wait(), output.read_text(errors="replace")
    name = trial.command.split()[0]
    last = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
    wrong += [f"status {status}"] if status not in trial.statuses else []
    wrong += ["a traceback"] if "Traceback" in said else []
    wrong += [f"{len(left)} processes left"] if left else []
    wrong += [f"partial: {', '.join(partial)}"] if status > 0 and (partial := partial_files(folder)) else []
    if trial.signals:
        last = last or [line for line in said.splitlines() if line.startswith(("Stopped", "Stopping"))][-1:]
    several = "the photographs" if trial.command == SYNTHESIS and len(last) > 1 else ""  # each has its line
    wrong += [f"{len(last)} lines"] if len(last) != 1 and not several else []
    if wrong:
        print(said[-1500:], file=sys.stderr, flush=True)
    return wrong, f"{seconds:.0f} | {status} | {' '.join(last[:1])[:160] or said[-80:]}"


def main() -> int:
    """End each run; returns 1 if one did not end as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", metavar="LIST", help="numbers of the runs (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments of the signals")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    wanted = [int(number) for number in args.runs.split(",")] if args.runs else range(1, len(TRIALS) + 1)
    held = True
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary, "inputs")
        write_inputs(inputs)
        print(
            "| run | program | ended by | s | status | its line | as it must |\n|---|---|---|---|---|---|---|",
            flush=True,
        )
        for number in wanted:
            trial, folder = TRIALS[number - 1], Path(temporary, f"run{number}")
            folder.mkdir()
            for path in inputs.iterdir():
                (folder / path.name).symlink_to(path)
            wrong, ended = run(trial, folder, chance)
            held &= not wrong
            what = {SAMPLES: "training, simulated retinas", TRAIN: "training, pairs"}.get(trial.command)
            what = what or trial.command.split()[0]
            print(f"| {number} | {what} | {trial.way} | {ended} | {'; '.join(wrong) or 'yes'} |", flush=True)
            subprocess.run(["rm", "-rf", folder], check=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
