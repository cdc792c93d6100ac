"""End the programs by too little memory, a full disk, errors of TensorFlow and signals, and check how they end.

    python tests/faults/fifty_runs.py              # fifty runs: about six minutes on two cores (Linux only)
    python tests/faults/fifty_runs.py --runs 3,7   # some of the runs again

Each run is a program on a few simulated retinas, in a folder of its own. It must end within seconds, with its status
and one line, without a traceback; no process that it started may be left, and no partial file. Prints a table; exits
with 1 if a run did not end so.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from inject import KILLED

PATIENCE = 150  # s for a whole run: libraries try for 10 s to get memory
AFTER_SIGNAL = 15  # s to the end, of programs that share two cores
AFTER_END = 10  # s until what the program has started must have ended, too
MARK = "FAULT_TRIAL"  # in the environment of a run and of all that it starts
# Without memory, TensorFlow, LLVM and the C library end the program without its line: 127 is the C library's status.
BY_LIBRARIES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, 127)
SUBJECTS = (1, 2, 3, 4, 5, 6, 26, 27, 31, 32)
MB = 10**6
FULL = "full"  # the folder that a small disk is mounted on; what is on it in the end is copied to "left"
ON_SMALL_DISK = f'mount -t tmpfs -o size=$0m tmpfs {FULL} && "$@"; status=$?; cp -r {FULL} left; exit $status'

DATA = "data/UT-FSOCTA-v1"
TRAIN = "pix_pix_train.py --data pairs.csv --patch-size 64 --batch-size 2 --precision float32 --epochs 9"
SIMULATED = TRAIN.replace("pairs.csv", "simulated")
SYNTHESIS = "pix_pix_gen.py photographs --vessels"
CROP = "dataset_load_mod.py crop whole.csv --output cropped"
REGISTER = f"dataset_load_mod.py register {DATA} --output registered"
EVALUATE = f"pix_pix_eval.py --data {DATA} --split all --include-seen"


@dataclass(frozen=True)
class Trial:
    """A run, and how it is ended: by a limit of `resource`, a small disk, a fault, or signals."""

    command: str
    limit: tuple[str, int] | None = None  # MB
    disk: int | None = None  # MB
    fault: tuple[str, int, str] | None = None  # see `inject`
    signals: Sequence[int] = ()

    @property
    def way(self) -> str:
        """How the run is ended, in words."""
        if self.limit or self.disk:
            return "{} {} MB".format(*(self.limit or ("disk", self.disk)))
        if self.fault:
            function, call, error = self.fault
            return f"{error} in {function.rpartition('.')[2]}, call {call}"
        return ", then ".join(signal.Signals(number).name for number in self.signals)

    @property
    def statuses(self) -> Sequence[int]:
        """The exit statuses that it may have."""
        if not self.signals:
            return (2, *BY_LIBRARIES) if self.limit else (2,)
        by_itself = "train" in self.command and self.signals[1:]  # the second one ends a training run at once
        return (-self.signals[-1] if by_itself else 128 + self.signals[0],)

    @property
    def words(self) -> list[str]:
        """The command line: with a limit of memory the program as it is, otherwise with narrow networks."""
        name, *options = self.command.split()
        if name not in ("pix_pix_train.py", "simulate_retinas.py"):
            options += ["--run", str(PROJECT / "weights") if self.limit else "run"]
        if self.limit and self.command != SIMULATED:
            return [sys.executable, "-u", str(PROJECT / name), *options]
        fault = map(str, self.fault or ("", 0, ""))
        words = [sys.executable, "-u", str(PROJECT / "tests/faults/inject.py"), *fault, name, *options]
        return ["unshare", "-rm", "sh", "-c", ON_SMALL_DISK, str(self.disk), *words] if self.disk else words


def limited(command: str, *sizes: int, kind: str = "RLIMIT_AS") -> list[Trial]:
    """Runs of a program with at most so many MB, of address space or of a file."""
    return [Trial(command, limit=(kind, size)) for size in sizes]


def faulty(command: str, function: str, call: int, *errors: str) -> list[Trial]:
    """Runs of a program in which a call of a function raises each of these errors."""
    return [Trial(command, fault=(function, call, error)) for error in errors]


STEP, PREDICTION = "run.devices.compiled", "run.predict.Predictor.generated"
INT, TERM = signal.SIGINT, signal.SIGTERM
TRIALS = [
    *limited(SIMULATED, 1300, 2200, 2600, 2800),
    *limited(TRAIN, 1200, 2200, 3000),
    *limited(SYNTHESIS, 1200, 2200),
    *limited(CROP, 1200, 2200),
    *limited(REGISTER, 2200),
    *limited(EVALUATE, 2200),
    *limited(SIMULATED, 1, kind="RLIMIT_FSIZE"),
    Trial(f"{TRAIN} --logs {FULL}/logs", disk=1),
    Trial(f"{TRAIN} --checkpoints {FULL}/first", disk=3),
    Trial(f"{TRAIN} --checkpoints {FULL}/later", disk=10),
    Trial(f"{SYNTHESIS} --output {FULL}/out", disk=1),
    Trial(f"pix_pix_gen.py --export {FULL}/model", disk=1),
    Trial(f"{EVALUATE} --output {FULL}/evaluation", disk=1),
    Trial(f"simulate_retinas.py --output {FULL}/set --subjects 1-4", disk=1),
    *faulty(SIMULATED, STEP, 3, "AbortedError", "NotFoundError", "InternalError", "UnknownError", "MemoryError"),
    *faulty(SIMULATED, PREDICTION, 2, "ResourceExhaustedError", "AbortedError"),
    *faulty(SIMULATED, "run.batches.SimulatedPatches.plan", 1, "MemoryError"),
    *faulty(SIMULATED, "simulation.stream.Popen", 1, "OSError"),
    *faulty(TRAIN, STEP, 5, "AbortedError", "ResourceExhaustedError"),
    *faulty(TRAIN, "run.batches.TrainingPatches.plan", 1, "MemoryError"),
    *faulty(SYNTHESIS, PREDICTION, 3, "AbortedError", "UnknownError"),
    *faulty(CROP, "alignment.find_octa.find_place", 2, "MemoryError"),
    *faulty(CROP, PREDICTION, 2, "NotFoundError"),
    *faulty(REGISTER, "alignment.registration.fit_all", 1, KILLED, "MemoryError"),
    *faulty(EVALUATE, "evaluation.measures.measure_eye", 1, KILLED),
    *faulty(EVALUATE, PREDICTION, 4, "InternalError"),
    *(Trial(SIMULATED, signals=numbers) for numbers in ((INT,), (TERM,), (INT, INT))),
    *(Trial(command, signals=(INT,)) for command in (TRAIN, SYNTHESIS, REGISTER)),
    *(Trial(command, signals=(TERM,)) for command in (SYNTHESIS, CROP, EVALUATE)),
]


def write_inputs(folder: Path) -> None:
    """Write simulated retinas in UT-FSOCTA's layout, as tables of crops and of photographs, and an untrained run."""
    from narrow import narrow_networks

    narrow_networks()
    import tensorflow as tf

    from basics.files import write_table
    from pairs.table import NEEDED
    from pix_generator import Generator
    from run import checkpoints
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
    tf.train.Checkpoint(generator=Generator(3, (None, None), 1)).write(str(folder / "run" / "ckpt-1"))
    checkpoints.write_run(folder / "run", Settings(data="simulated", precision="float32", name="run"), "0")


def left_of(trial: str) -> list[int]:
    """The processes that a run has started and that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if f"{MARK}={trial}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def send(signals: Sequence[int], process: subprocess.Popen, output: Path) -> None:
    """Send signals to a program's group, as a terminal does; each after the one before was answered."""
    for place, number in enumerate(signals):
        while place and process.poll() is None and "Stopping" not in output.read_text():
            time.sleep(0.1)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def run(trial: Trial, folder: Path, chance: random.Random) -> tuple[list[str], str]:
    """Run and end a program in a folder; returns what is wrong, and a summary of how it ended."""
    mark, output, started = f"{os.getpid()}-{folder.name}", folder / "output.txt", time.monotonic()
    size = trial.limit and (trial.limit[1] * MB,) * 2
    with output.open("w") as file:
        process = subprocess.Popen(
            trial.words,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK: mark},
            preexec_fn=size and (lambda: resource.setrlimit(getattr(resource, trial.limit[0]), size)),
            start_new_session=True,
        )
    if trial.signals:
        while process.poll() is None and not any(word in output.read_text() for word in ("Run: ", "Weights: ")):
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 8 if "train" in trial.command else 3))
        started = time.monotonic()
        send(trial.signals, process, output)
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
    last = [line for line in said.splitlines() if line.startswith(f"{trial.command.split()[0]}: ")]
    if trial.signals:
        last = last or [line for line in said.splitlines() if line.startswith(("Stopped", "Stopping"))][-1:]
    unfinished = ("*.part", "*_temp", ".export-*", ".*-????????")
    partial = [path.name for pattern in unfinished for path in folder.rglob(pattern)] if status > 0 else []
    wrong += [f"status {status}"] if status not in trial.statuses else []
    wrong += ["a traceback"] if "Traceback" in said else []
    wrong += [f"{len(left)} processes left"] if left else []
    wrong += [f"partial: {', '.join(partial)}"] if partial else []
    lines = 1 if SYNTHESIS not in trial.command else max(1, len(last))  # there, each photograph has its line
    wrong += [f"{len(last)} lines"] if len(last) != lines and status not in BY_LIBRARIES else []
    wrong += ["no path"] if trial.disk and last and not any(word in last[0] for word in (FULL, "--output")) else []
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
            "| run | command | ended by | s | status | its line | as it must |\n|---|---|---|---|---|---|---|",
            flush=True,
        )
        for number in wanted:
            trial, folder = TRIALS[number - 1], Path(temporary, f"run{number}")
            (folder / FULL).mkdir(parents=True)
            for path in inputs.iterdir():
                (folder / path.name).symlink_to(path)
            wrong, ended = run(trial, folder, chance)
            held &= not wrong
            print(f"| {number} | {trial.command} | {trial.way} | {ended} | {'; '.join(wrong) or 'yes'} |", flush=True)
            shutil.rmtree(folder)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
