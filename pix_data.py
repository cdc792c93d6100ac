"""What a training run reads: which data, loaded and announced, and the batches cut from them."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_load_mod import (
    DATA_FOLDERS,
    SAMPLE_SET,
    DataError,
    Pair,
    continue_outside,
    find_dataset,
    in_own_pages,
    load_data_cases,
    load_pairs,
    read_fundus,
    validation_full_field,
)
from patch_batches import SamplePatches, TrainingPatches, training_image
from phantom.dataset import DEFAULT_SUBJECTS, write_dataset
from phantom.stream import stream
from pix_settings import SAMPLE_RETINAS, Settings
from ut_fsocta import CROP_PX, REGIONS, parse_subjects

MAX_DRAWING = 8  # processes that draw sample retinas: enough for nearly 200 patches a second


@dataclass(frozen=True)
class RunData:
    """What a run reads."""

    train: list[np.ndarray]  # of `training_image`
    validation: list[Pair]
    full_field: np.ndarray | None  # whole photograph (height, width, 3), uint8, of the first validation eye with one
    digest: str  # of the training and validation images: the same data give the same


def choose_data(given: str | None) -> str:
    """The data set that was named, else the one in its usual place, else the word for sample retinas.

    Raises:
        DataError: the named folder contains no data set.
    """
    found = None if given == SAMPLE_RETINAS else find_dataset(given, "--data")
    return SAMPLE_RETINAS if found is None else str(found)


def use_sample_retinas() -> None:
    """Print, in a box that no one can miss, that a run uses sample retinas; make their set if it does not exist yet."""
    lines = [
        "NO REAL DATA: THIS RUN USES SAMPLE RETINAS, drawn by this program.",
        "Use it to try the program; what it learns is nothing to publish.",
        "",
        f"Real data are expected in {DATA_FOLDERS[0]} (or give --data DIR).",
        "  python dataset_load_mod.py download    fetches them from Zenodo: 1.2 GB,",
        "                                         free for non-commercial research;",
        "  python dataset_load_mod.py check [DIR] reports whether training could start.",
        "",
        f"Sample retinas to validate on: {SAMPLE_SET}",
    ]
    width = max(map(len, lines))
    print("\n".join(["#" * (width + 4), *(f"# {line:<{width}} #" for line in lines), "#" * (width + 4)]))
    if not SAMPLE_SET.exists():
        try:
            write_dataset(SAMPLE_SET, parse_subjects(DEFAULT_SUBJECTS))
        except OSError:
            if not SAMPLE_SET.exists():  # else another run was faster
                raise


def load_run_data(settings: Settings, verbose: bool) -> RunData:
    """Read all images that a run needs, and print what there is. A run on sample retinas validates on their set.

    Raises:
        DataError: no training case, or a file that cannot be used.
    """
    splits = settings.splits()
    sample_only = settings.data == SAMPLE_RETINAS
    if sample_only:
        print("Training: sample retinas, drawn as needed, each for a few patches. Validation:")
        splits["train"] = []
    data_fold = SAMPLE_SET if sample_only else Path(settings.data)
    cases, unpaired = load_data_cases(data_fold, splits)
    chosen = {split: cases[cases["split"] == split] for split in splits}
    if chosen["train"].empty and not sample_only:
        subjects = ", ".join(map(str, sorted(cases["subject"].unique()))) or "none"
        raise DataError(f"{data_fold}: no case of --train-subjects {settings.train_subjects}; it has: {subjects}")

    if settings.mix:
        print(f"Training: {settings.mix:.0%} of each batch are sample retinas, drawn as needed")
    print(f"Data: {data_fold}")
    for split, rows in chosen.items():
        if sample_only and split == "train":
            continue
        regions = ", ".join(f"{region} {(rows['region'] == region).sum()}" for region in REGIONS)
        print(f"  {split:<10} {rows['subject'].nunique():>3} subjects, {len(rows):>3} pairs ({regions})")
    if not sample_only and (unused := int(cases["split"].isna().sum())):
        print(f"  unused     {unused} pairs of subjects that no split names")
    if unpaired:
        print(f"  {len(unpaired)} files have no partner" + ("" if verbose else "; --verbose names them"))
        for path in unpaired if verbose else ():
            print(f"    {path}")
    if chosen["validation"].empty:
        print("  NOTE: no validation pair: no scores, pictures or best checkpoint; see --validation-subjects")

    digest = 0

    def read(split: str) -> Iterator[Pair]:
        nonlocal digest
        for pair in load_pairs(chosen[split], settings.octa_channels, settings.fov_mask):
            for image in (pair.fundus, pair.octa):
                digest = zlib.crc32(np.ascontiguousarray(image), zlib.crc32(repr(image.shape).encode(), digest))
            yield pair

    train = [in_own_pages(training_image(pair, settings.patch_size)) for pair in read("train")]
    validation = list(read("validation"))
    full_field = validation_full_field(data_fold, cases)
    return RunData(train, validation, None if full_field is None else read_fundus(full_field), digest=f"{digest:08x}")


def training_patches(images: list[np.ndarray], settings: Settings) -> TrainingPatches | SamplePatches:
    """The batches that the settings ask for: from real pairs, from sample retinas, or from both."""
    real = None
    if settings.data != SAMPLE_RETINAS:
        real = TrainingPatches(images, settings.patch_size, settings.batch_size, settings.seed, settings.augment)
        if not settings.mix:
            return real
    workers = min(max(1, (os.cpu_count() or 1) - 1), MAX_DRAWING)

    def draw(first: int) -> Iterator[np.ndarray]:
        for retina in stream(settings.seed, first, workers):  # (400, 400, 3 + 1 + 1)
            pair = continue_outside(retina[..., :-1], retina[..., -1] > 0)  # as in `training_image`
            if settings.octa_channels == 4:  # as in UT-FSOCTA's files: grey, with an alpha that carries nothing
                grey = pair[..., -1]
                pair = np.dstack([pair, grey, grey, np.full_like(grey, 255)])
            yield pair

    return SamplePatches(
        draw=draw,
        size=CROP_PX,
        channels=settings.octa_channels,
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        real=real,
        share=settings.mix,
    )
