"""All settings of a training run, with their reasons; without TensorFlow, so that mistakes are said at once.

The command line of `pix_pix_train.py` is made from them, and a run's run.json keeps them.
"""

import argparse
import math
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NoReturn

from dataset_download import DATASET_NAME
from phantom_retina import CROP_PX, DRAWN, parse_subjects

CHECKPOINTS = "training_checkpoints"
UPSAMPLING = ("transposed", "resize")  # ways of the generator to double: the study's; without its checkerboard
SIZE_MULTIPLE = 64  # px: the generator's six halvings must come out even
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
# Beyond these no machine goes; they keep a slip of the finger, or a hostile run.json, from taking all memory.
MOST = {"patch_size": 2048, "epochs": 10**7, "batch_size": 10**4, "keep": 10**5}


class SettingsError(ValueError):
    """Settings that make no run; the message is one line that names the option."""


class OptionError(ValueError):
    """Options or inputs that make no sense; the message is one line that names them."""


def setting(default, reason: str, **argument):
    """A field of Settings; its reason is the command line's help, `argument` goes to argparse."""
    return field(default=default, metadata={"help": reason, **argument})


@dataclass(frozen=True)
class Settings:
    """All settings of a run; the command line is made from them, and run.json keeps them."""

    # Data
    data: str | None = setting(
        None,
        f"folder that is, or holds, {DATASET_NAME}; or {DRAWN}: sample retinas, new ones all the time (default: "
        f"data/{DATASET_NAME}, then {DATASET_NAME}, then {DRAWN})",
        metavar="DIR",
    )
    train_subjects: str = setting("1-25", "subject ids to train on; the published split", metavar="IDS")
    val_subjects: str = setting("26-30", "subject ids to validate on after each epoch; published", metavar="IDS")
    test_subjects: str = setting("31-112", "subject ids that training never reads; published", metavar="IDS")
    octa_channels: int = setting(
        1, "1: grey, the study's own choice (the files' alpha carries nothing); 4: RGBA, as published", choices=(1, 4)
    )
    fov_mask: bool = setting(
        True,
        "keep what the OCT-A shows outside the camera's field, as published; else it is black and never counted, "
        "since the fundus holds nothing to predict it from",
        flag="--no-fov-mask",
    )
    cache: str = setting(
        "memory",
        "where decoded images are held: 0.6 MB a crop; disk: in a nameless file in --checkpoints, for data larger than "
        "memory",
        choices=("memory", "disk"),
    )
    augment: bool = setting(
        True, "the published fixed grid of patches; else random crops, flips and right-angle turns", flag="--no-augment"
    )
    mix: float = setting(
        0.0,
        "share of sample retinas, new ones all the time, in each batch of a run on real pairs, so that few pairs do "
        "not make it forget what it learned from them",
        metavar="SHARE",
    )
    # Model and losses
    patch_size: int = setting(256, "side of a square patch in px, a multiple of 64; published", metavar="PX")
    upsampling: str = setting(
        "transposed",
        "of the generator: the published transposed convolutions; or repeated pixels and a convolution, which leave no "
        "checkerboard",
        choices=UPSAMPLING,
    )
    lambda_l1: float = setting(100.0, "weight of the mean absolute error in the generator's loss; published")
    # Training
    epochs: int = setting(250, "passes over the training images, in all; published", metavar="N")
    batch_size: int = setting(32, "patches per step; published, take less if memory is short", metavar="N")
    learning_rate: float = setting(2e-4, "of both Adam optimisers (beta_1 is 0.5); published")
    warm_up: float = setting(
        0.0,
        "share of the run, at its start, in which the generator learns by the mean absolute error alone, which takes a "
        "third of the time; 0, published, is without",
        metavar="SHARE",
    )
    decay: float = setting(
        0.0,
        "share of the run, at its end, over which the rate falls to 0 in a line; 0, published, keeps it",
        metavar="SHARE",
    )
    precision: str = setting(
        "auto",
        "auto: bfloat16 where the processor or GPU computes in it, since it is about twice as fast, else float32",
        choices=PRECISIONS,
    )
    devices: int = setting(
        0,
        "GPUs to share each batch among, or, without a GPU, parts of the CPU, to try it; 0: all GPUs, else the CPU; "
        "but for the masks of dropout without influence on what is learned",
        metavar="N",
    )
    seed: int = setting(0, "of weights, crops, shuffling and dropout: one seed, one result", metavar="N")
    init_from: str | None = setting(
        None, "run folder whose best weights to start from (fine-tuning), with fresh optimisers", metavar="DIR"
    )
    # What is kept where
    name: str | None = setting(None, "of the run and its folders (default: date and time)", metavar="NAME")
    logs: str = setting("logs", "TensorBoard's folder; a run writes to its fit/NAME", metavar="DIR")
    checkpoints: str = setting(CHECKPOINTS, "a run keeps its checkpoints in its NAME", metavar="DIR")
    keep: int = setting(3, "newest periodic checkpoints to keep, 0.4 GB each, besides the best", metavar="N")

    def __post_init__(self):
        """Raises SettingsError for a value that makes no sense, or that contradicts another."""
        self._check_types()
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise SettingsError(f"{flag(name)} {getattr(self, name)}: must be from 1 to {most}")
        if self.patch_size % SIZE_MULTIPLE:
            raise SettingsError(f"--patch-size {self.patch_size}: must be a multiple of {SIZE_MULTIPLE} px")
        if not 0 <= self.devices <= self.batch_size:
            raise SettingsError(f"--devices {self.devices}: must be from 0 to the --batch-size, {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise SettingsError(f"--learning-rate {self.learning_rate}: must be above 0")
        for name in ("warm_up", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{flag(name)} {getattr(self, name)}: must be from 0 to 1")
        if not (self.lambda_l1 >= 0 and math.isfinite(self.lambda_l1)):
            raise SettingsError(f"--lambda-l1 {self.lambda_l1}: must not be negative")
        if self.name is not None and (self.name in ("", ".", "..") or set(self.name) & set('/\\\0\n\r:*?"<>|')):
            raise SettingsError(f"--name {self.name!r}: must be a plain folder name")
        if not 0 <= self.mix < 1:
            raise SettingsError(f"--mix {self.mix}: must be from 0 to below 1")
        if self.mix and self.data == DRAWN:
            raise SettingsError(f"--mix and --data {DRAWN}: all are sample retinas already")
        if self.mix and self.batch_size < 2:
            raise SettingsError(f"--mix {self.mix}: a --batch-size of 1 can't be mixed; take 2 or more, or --mix 0")
        draws = self.mix or self.data == DRAWN
        if draws and not self.augment:
            raise SettingsError("--no-augment: sample retinas are always cut at random; leave it out, or give --mix 0")
        if draws and self.patch_size > CROP_PX:
            raise SettingsError(f"--patch-size {self.patch_size}: sample retinas have {CROP_PX} px")
        splits = self.splits()
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if both := sorted(set(splits[one]) & set(splits[other])):
                flags = f"{SPLIT_FLAGS[one]} and {SPLIT_FLAGS[other]}"
                raise SettingsError(f"{flags}: subject {both[0]} stands in both ({len(both)} in all); give both flags")

    def _check_types(self) -> None:
        """Raises SettingsError for a value of another type, or one that is no choice: run.json may hold anything."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            fits = isinstance(value, (int, float) if spec.type is float else spec.type)
            if not fits or (isinstance(value, bool) and spec.type is not bool) or "\0" in str(value):
                raise SettingsError(f"{flag(spec.name)} {str(value)[:40]!r}: is not what it should be")
            choices = spec.metadata.get("choices")
            if choices and value not in choices:
                raise SettingsError(f"{flag(spec.name)} {value}: must be one of {', '.join(map(str, choices))}")

    def splits(self) -> dict[str, list[int]]:
        """Subject ids of `train`, `validation` and `test`. Raises SettingsError for ids that cannot be read."""
        splits = {}
        for split, name in SPLIT_FLAGS.items():
            try:
                splits[split] = parse_subjects(getattr(self, name[2:].replace("-", "_")))
            except ValueError as error:
                raise SettingsError(f"{name}: {error}") from error
        return splits


SPLIT_FLAGS = {"train": "--train-subjects", "validation": "--val-subjects", "test": "--test-subjects"}
SPLITS = tuple(SPLIT_FLAGS)
# Sample retinas: at most eight minutes on two cores. A discriminator that starts from nothing takes two thirds of that
# time and teaches a checkerboard; after a warm-up it does not.
SAMPLE_RUN = {"epochs": 3, "batch_size": 2, "warm_up": 0.75, "decay": 0.5}
# With --init-from: few pairs at the full rate make a run forget what it has learned from many. The generator alone, for
# on few pairs a discriminator teaches nothing that a step three times as fast does not.
FINE_TUNING = {"epochs": 50, "batch_size": 4, "mix": 0.5, "learning_rate": 2e-5, "warm_up": 1.0, "decay": 0.5}
# What a resumed run may be given anew; the data by its content.
CHANGEABLE = {"epochs", "keep", "data", "devices", "cache"}


def flag(name: str) -> str:
    """The command line's name of a field of Settings."""
    return "--" + name.replace("_", "-")


class OneLineParser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def prepare_process() -> None:
    """What every program does first: end cleanly at SIGTERM, print in step with progress bars, keep Pillow quiet."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what is half made is removed
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    warnings.filterwarnings("ignore", module="PIL")  # what matters of it is raised


def one_line(message: object) -> str:
    """What an error says, in one line: names of files may hold line breaks."""
    return " ".join(str(message).split())


def parse_command_line(argv: Sequence[str] | None, program: str, description: str) -> dict:
    """The options that were given, by field of Settings, and `resume` (a folder, or "" for the newest), `verbose`.

    Ends the program with status 2 and one line for what makes no run.
    """
    parser = OneLineParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for spec in fields(Settings):
        argument = dict(spec.metadata)
        reason = argument.pop("help")
        if name := argument.pop("flag", None):
            parser.add_argument(name, dest=spec.name, action="store_false", help=reason)
            continue
        if spec.default is not None:
            reason += f" (default: {spec.default})"
        kind = type(spec.default) if spec.default is not None else str
        parser.add_argument(flag(spec.name), type=kind, help=reason.replace("%", "%%"), **argument)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with a run, to --epochs in all: its folder of checkpoints (default: the newest run)",
    )
    parser.add_argument("--verbose", action="store_true", help="name the files that have no partner")
    given = vars(parser.parse_args(argv))
    if "resume" not in given:
        try:
            Settings(**{name: value for name, value in given.items() if name != "verbose"})
        except SettingsError as error:
            parser.error(str(error))
    return given
