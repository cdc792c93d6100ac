"""Kill a training run at random moments, above all while it writes a checkpoint, and compare it with an unbroken one.

    python tests/faults/kill.py              # 30 kills: about a quarter of an hour on two cores
    python tests/faults/kill.py --kills 5 --seed 1

Trains two tiny runs in a temporary folder. One is killed (SIGKILL) and resumed repeatedly; each time it must resume at
most one checkpoint interval back. In the end both must have the same values to the last bit. Prints a table, and exits
with 1 if anything was lost.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from basics.command_line import ENDED

INTERVAL = 2  # epochs between checkpoints here
EPOCHS = 120
PATIENCE = 120  # s: a step, a checkpoint and TensorFlow's start take less by far
# The program itself, except for the interval between its checkpoints.
PROGRAM = (
    f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import pix_pix_train; "
    f"pix_pix_train.CHECKPOINT_EPOCHS = {INTERVAL}; sys.exit(pix_pix_train.main())"
)
NEW_RUN = ["--patch-size", "64", "--batch-size", "4", "--precision", "float32"]


def start(folder: Path, options: list[str]) -> subprocess.Popen:
    """Start training in a folder; its output, line by line, is the process's stdout."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_while_writing(process: subprocess.Popen, folder: Path, delay: float) -> bool:
    """Kill a process when a checkpoint is being written in a folder or below, `delay` s after that began.

    Returns:
        Whether it was killed; it may have ended before.
    """
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if any(folder.rglob("ckpt-*_temp")):
            time.sleep(delay)
            process.kill()
            return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    process.kill()
    process.wait()
    return False


def epochs_done(output: str) -> int:
    """How many epochs are done by an output: those before the run was resumed, and those validated since."""
    resumed = re.search(r"Continuing after epoch (\d+)", output)
    return int(resumed[1] if resumed else 0) + output.count("  validation:")


def kill_at_random(folder: Path, options: list[str], chance: random.Random) -> tuple[str, str]:
    """Train until a random moment, and kill; returns what was aimed at and the output."""
    process = start(folder, options)
    aim = chance.choice(["checkpoint", "checkpoint", "training", "start"])
    if aim == "start":
        time.sleep(chance.uniform(0, 10))
        process.kill()
        process.wait()
        return aim, process.stdout.read()
    head = ""
    for line in process.stdout:
        head += line
        if "validation:" in line:
            break
    time.sleep(chance.uniform(0, 6))
    if aim == "checkpoint":
        kill_while_writing(process, folder / "training_checkpoints", chance.uniform(0, 0.6))
    process.kill()
    process.wait()
    return aim, head + process.stdout.read()


def main() -> int:
    """Kill, resume, compare; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    from conftest import different_values, write_tiny_dataset

    chance, lost = random.Random(args.seed), False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tiny_dataset(folder / "data")
        whole = start(folder, [*NEW_RUN, "--epochs", str(EPOCHS), "--name", "whole"])
        whole.communicate()
        print("| kill | aimed at | epochs done | resumed after | at most an interval lost |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        options, done, aim = [*NEW_RUN, "--epochs", str(EPOCHS), "--name", "killed"], 0, "-"
        for number in range(args.kills + 1):
            if number < args.kills:
                next_aim, output = kill_at_random(folder, options, chance)
            else:
                next_aim, output = "-", start(folder, options).communicate()[0]
            if number and "Device:" in output and ("Continuing" in output or "beginning" in output):
                resumed = re.search(r"Continuing after epoch (\d+)", output)
                after = int(resumed[1]) if resumed else 0
                kept = done - after <= INTERVAL
                lost |= not kept
                print(f"| {number} | {aim} | {done} | {after} | {'yes' if kept else 'NO'} |", flush=True)
                done = after
            if "Traceback" in output or "error:" in output.replace(f"error: {ENDED}", ""):
                lost = True
                print(output, flush=True)
            done, aim = max(done, epochs_done(output)), next_aim
            if (folder / "training_checkpoints" / "killed").exists():
                options = ["--resume", "training_checkpoints/killed"]
        runs = [folder / "training_checkpoints" / name for name in ("whole", "killed")]
        different = [] if lost else different_values(*runs) + different_values(*(run / "best" for run in runs))
        print(f"\n{len(different)} values differ from those of the unbroken run" if not lost else "\nLOST")
        return 1 if lost or different else 0


if __name__ == "__main__":
    sys.exit(main())
