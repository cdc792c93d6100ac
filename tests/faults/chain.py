"""Every option, and every pair of options, through the whole chain: train, stop, resume, synthesise, evaluate, export.

    python tests/faults/chain.py              # about half an hour on two cores
    python tests/faults/chain.py --rows 3,7   # some of the rows again

Each row is a combination of options for all programs, on a tiny data set; together the rows contain each pair of
choices at least once. A row holds if every program ends with status 0 and writes what it should, and if a run that was
interrupted and resumed has the same values, to the last bit, as one that was not. Prints a table; exits with 1 if a row
does not hold.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from allpairspy import AllPairs
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from conftest import different_values, fake_fundus, program, write_tiny_dataset

from basics.command_line import load_tensorflow
from basics.files import write_table
from pairs.table import NEEDED

LAYOUT, SAMPLES = "data/UT-FSOCTA-v1", "simulated"
START = "start"  # the run that others start from
# The choices for each option; the first is the default, or what keeps the trial small.
TRAINING = {
    "--data": (LAYOUT, "split.csv", "pairs.csv --split 50/25/25", SAMPLES),
    "--octa-channels": ("1", "4"),
    "--fov-mask": ("", "--no-fov-mask"),
    "--augment": ("", "--no-augment"),
    "--mix": ("0", "0.5"),
    "--patch-size": ("64", "128"),
    "--lambda-l1": ("100", "8"),
    "--l1-scale": ("1", "8"),
    "--input-noise": ("0", "0.08"),
    "--batch-size": ("2", "4"),
    "--l1-only": ("0", "0.5"),
    "--decay": ("0", "0.5"),
    "--precision": ("float32", "mixed_bfloat16"),
    "--devices": ("1", "2"),
    "--init-from": ("", START),
    "--best-by": ("vessel_auc", "texture"),
}
AFTERWARDS = {
    "weights": ("", "--weights last"),
    "synthesis": ("", "--vessels --figure", "--vessels --fast --overwrite", "--dataset --published --stride 2"),
    "evaluation": ("", "--split all --include-seen", "--segmenter --resamples 100"),
    "export": ("saved_model", "keras", "onnx", "litert", "weights"),
}
EPOCHS = "6"
# Training as it is, except for the size of an epoch, of validation and of the simulated set of a run on simulated
# retinas.
PROGRAM = (
    f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import run.batches, run.data, run.new_run, pix_pix_train; "
    "run.batches.SIMULATED_PATCHES_PER_EPOCH = 12; run.data.VALIDATION_RETINAS = 2; "
    "run.new_run.DEFAULT_SUBJECTS = '1,26,31'; sys.exit(pix_pix_train.main())"
)
TRAINS = [sys.executable, "-u", "-c", PROGRAM]


def is_possible(chosen: Sequence[str]) -> bool:
    """Whether the first choices of a row, in the order of the options, go together; the programs refuse the others."""
    row = dict(zip([*TRAINING, *AFTERWARDS], chosen, strict=False))
    only_simulated, mixed = row["--data"] == SAMPLES, row.get("--mix", "0") != "0"
    return not (only_simulated and mixed) and not ((only_simulated or mixed) and row.get("--augment"))


def rows() -> list[dict[str, str]]:
    """Combinations with each possible pair of choices."""
    names = [*TRAINING, *AFTERWARDS]
    choices = [*TRAINING.values(), *AFTERWARDS.values()]
    return [dict(zip(names, row, strict=True)) for row in AllPairs(choices, filter_func=is_possible)]


def write_data(folder: Path) -> None:
    """Write the tiny data set, the same as two tables of pairs, and a photograph of its own."""
    write_tiny_dataset(folder / "data")
    splits = {"1_OD": "train", "2_OS": "train", "26_OD": "validation", "31_OD": "test"}
    pairs = [
        {kind: f"{LAYOUT}/cropped/{kind}/disc/{eye}.png" for kind in ("fundus", "octa")}
        | {"subject": eye, "split": split}
        for eye, split in splits.items()
    ]
    for name, columns in (("pairs.csv", NEEDED), ("split.csv", (*NEEDED, "split"))):
        write_table(folder / name, columns, [{column: pair[column] for column in columns} for pair in pairs])
    Image.fromarray(fake_fundus(np.random.default_rng(1), 120, 160)).save(folder / "photo.png")


def training_options(row: dict[str, str]) -> list[str]:
    """The options of `pix_pix_train.py`, all named, so that no run on simulated retinas or from weights has its own."""
    words = ["--epochs", EPOCHS]
    for name in TRAINING:
        value = f"{START}{row['--octa-channels']}" if row[name] == START else row[name]
        words += value.split() if value.startswith("--") else [name, *value.split()] if value else []
    return words


def call(folder: Path, *words: str) -> str:
    """Call a program in a folder. Raises RuntimeError, with its last line, unless it ends with status 0."""
    return finished(subprocess.run(program(*words), cwd=folder, capture_output=True, text=True))


def train(folder: Path, *options: str) -> str:
    """Train in a folder. Raises RuntimeError as `call`."""
    return finished(subprocess.run([*TRAINS, *options], cwd=folder, capture_output=True, text=True))


def finished(done: subprocess.CompletedProcess) -> str:
    """What a program has printed. Raises RuntimeError, with its last line, unless it ended with status 0."""
    if done.returncode:
        last = (done.stderr.strip() or done.stdout).splitlines()[-1]
        raise RuntimeError(f"status {done.returncode}: {last}")
    return done.stdout


def stop_and_resume(folder: Path, options: list[str]) -> str:
    """Train, stop after the first epoch by Ctrl-C, and resume; returns where it went on."""
    with subprocess.Popen(
        [*TRAINS, *options], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        next((line for line in process.stdout if "validation:" in line), None)
        process.send_signal(signal.SIGINT)
        process.communicate()
    if process.returncode != 128 + signal.SIGINT:
        raise RuntimeError(f"pix_pix_train.py: status {process.returncode} after Ctrl-C")
    said = train(folder, "--resume", "training_checkpoints/stopped")
    line = next(line for line in said.splitlines() if line.startswith("Continuing"))
    return line.partition(", from")[0].removeprefix("Continuing ")


def must_be(path: Path, pattern: str) -> None:
    """Raises RuntimeError unless a folder has a file like that, or below."""
    if not any(path.rglob(pattern)):
        raise RuntimeError(f"{path.name}: nothing like {pattern}")


def chain(folder: Path, row: dict[str, str]) -> str:
    """Take a row through all programs, in an empty folder; returns where it was stopped. Raises RuntimeError."""
    write_data(folder)
    if row["--init-from"]:
        first = ["--epochs", "1", "--patch-size", "64", "--batch-size", "4", "--octa-channels", row["--octa-channels"]]
        name = f"{START}{row['--octa-channels']}"
        train(folder, "--data", LAYOUT, *first, "--name", name, "--checkpoints", ".")
    options = training_options(row)
    train(folder, *options, "--name", "whole")
    went_on = stop_and_resume(folder, [*options, "--name", "stopped"])
    runs = [folder / "training_checkpoints" / name for name in ("whole", "stopped")]
    if different := different_values(*runs):
        raise RuntimeError(f"resumed {went_on}: {len(different)} values differ, such as {min(different)}")
    run = ["--run", "training_checkpoints/stopped", *row["weights"].split()]

    inputs = [] if "--dataset" in row["synthesis"] else ["photo.png"]
    call(folder, "pix_pix_gen.py", *inputs, *run, *row["synthesis"].split(), "--output", "out")
    must_be(folder / "out", "*.png" if inputs == [] else "photo.png")
    for option, pattern in (("--vessels", "photo_probability.png"), ("--figure", "photo_figure.png")):
        if option in row["synthesis"]:
            must_be(folder / "out", pattern)
    call(folder, "pix_pix_eval.py", *run, *row["evaluation"].split(), "--output", "eval")
    must_be(folder / "eval", "report.html")
    call(folder, "pix_pix_gen.py", *run, "--export", "model", "--format", row["export"])
    must_be(folder / "model", "*")
    return went_on


def main() -> int:
    """Take each row through the chain; returns 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="LIST", help="numbers of the rows to take (default: all)")
    args = parser.parse_args()
    load_tensorflow()  # without its messages between the rows
    numbered = dict(enumerate(rows(), 1))
    wanted = [int(number) for number in args.rows.split(",")] if args.rows else list(numbered)
    print("| row | options | resumed | result |\n|---|---|---|---|", flush=True)
    held = True
    for number in wanted:
        row = numbered[number]
        said = " ".join([*training_options(row), *(row[name] for name in AFTERWARDS if row[name])])
        with tempfile.TemporaryDirectory() as folder:
            try:
                resumed, result = chain(Path(folder), row), "held"
            except RuntimeError as error:
                held, resumed, result = False, "-", str(error)
        print(f"| {number} | `{said}` | {resumed} | {result} |", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
