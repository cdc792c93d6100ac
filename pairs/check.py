"""List what a data set contains, and whether training could start: the command `python dataset_load_mod.py check`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basics.command_line import one_line, progress_bar
from pairs.dataset import (
    CUT,
    PUBLISHED_SPLITS,
    list_eyes,
    list_full_fields,
    load_data_cases,
    load_pair,
    validation_full_field,
)
from pairs.table import DEFAULT_SHARES, is_table, origin_of_splits, unknown_columns
from retina.images import DataError, is_leftover, read_fundus, visible_below
from retina.ut_fsocta import OTHER_REGION, PUBLISHED_SUBJECTS, REGIONS


@dataclass(frozen=True)
class Findings:
    """What `check` finds in a data set."""

    folders: dict[str, dict[str, int]]  # images by folder and region
    pairs: dict[str, int]  # by split, "unused" included
    origin: str  # of the splits
    unpaired: list[Path]
    ignored: list[Path]  # files of a folder that are not named as eyes
    faults: list[str]  # pairs and photographs that cannot be used, one line each
    sizes: dict[str, int]  # pairs by size
    unknown: dict[str, int]  # pairs without eye, without region
    black: list[float]  # share of each usable crop that is outside the field of view
    whole: int  # photographs that show the camera's whole field
    registered: int  # pairs with an unmoved OCT-A
    cropped: int  # pairs whose photograph is known to be cropped from another one
    obstacles: list[str]  # why training could not start; empty if it could
    columns: list[str]  # of a table that no program uses


def check_dataset(dataset: Path) -> Findings:
    """Check every image that training, validation or evaluation would read; the split is the published or the table's.

    Raises:
        DataError: two files of one folder are the same eye.
        PairTableError: see `pairs.table.read_pairs`.
        OSError: a folder cannot be read.
    """
    folders, ignored = {}, []
    below = [] if is_table(dataset) else visible_below(dataset)
    for folder in (path for path in below if path.is_dir()):
        eyes = list_eyes(folder)
        name, region = folder.relative_to(dataset), ""
        if name.name in REGIONS:
            name, region = name.parent, name.name
        if eyes:
            folders.setdefault(name.as_posix(), {})[region] = len(eyes)
        files = {path for path in folder.iterdir() if path.is_file() and not is_leftover(path.name)}
        ignored += sorted(files - set(eyes.values()))
    cases, unpaired = load_data_cases(dataset)
    obstacles, faults, sizes, black, whole = [], [], {}, [], 0
    for case in progress_bar(list(cases.itertuples(index=False)), unit="pair"):
        try:
            pair = load_pair(case.fundus, case.octa, octa_channels=1, fov_mask=True)
            if case.octa_unmoved:
                load_pair(case.fundus, case.octa_unmoved, octa_channels=1, fov_mask=False)
        except DataError as error:
            faults.append(str(error))
            if case.split in ("train", "validation"):
                obstacles.append(str(error))
            continue
        size = f"{pair.fov.shape[1]} x {pair.fov.shape[0]} px" + (", OCT-A resized" if pair.resized else "")
        sizes[size] = sizes.get(size, 0) + 1
        black.append(1 - pair.fov.mean())
        whole += not pair.fov[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # its corners
    for path in list_full_fields(dataset).values():
        try:
            read_fundus(path)
        except DataError as error:
            faults.append(str(error))
            if path == validation_full_field(dataset, cases):
                obstacles.append(str(error))
    splits = cases["split"].fillna("unused").value_counts()
    origin = f"subjects {', '.join(PUBLISHED_SUBJECTS.values())}, as published"
    if is_table(dataset):
        origin = origin_of_splits(dataset, DEFAULT_SHARES)
    if not splits.get("train"):
        advice = "see --train-subjects"
        if is_table(dataset):
            advice = f"enter train in that column, or delete it to divide the subjects {DEFAULT_SHARES}"
        obstacles.append(f"no pair to train on; the split is: {origin}; {advice}")
    pairs = {split: int(splits.get(split, 0)) for split in (*PUBLISHED_SPLITS, "unused")}
    unknown = {"eye": int((cases["eye"] == "").sum()), "region": int((cases["region"] == OTHER_REGION).sum())}
    columns = unknown_columns(dataset) if is_table(dataset) else []
    added = int(cases["octa_unmoved"].notna().sum()), int((cases["original_digest"] != "").sum())
    counts = folders, pairs, origin, unpaired, ignored, faults, sizes, unknown, black, whole, *added
    return Findings(*counts, obstacles, columns)


def print_findings(dataset: Path, found: Findings) -> None:
    """Print the findings on a data set."""
    print(f"Data set: {dataset}\n")
    if found.folders:
        width = max(map(len, found.folders))
        print(f"{'images':{width}}" + "".join(f"{region:>8}" for region in (*REGIONS, "whole")))
        for name, counts in found.folders.items():
            print(f"{name:{width}}" + "".join(f"{counts.get(region, 0) or '-':>8}" for region in (*REGIONS, "")))
        print()
    print("pairs: " + ", ".join(f"{split} {number}" for split, number in found.pairs.items()))
    print(f"split: {found.origin}")
    if found.columns:
        print(one_line(f"columns that are not used: {', '.join(found.columns)}"))
    for what, number in found.unknown.items():
        if number:
            print(f"{what}: unknown for {number} pairs; scores that depend on it are left out")
    for what, number in (("cropped from a known photograph", found.cropped), ("registered", found.registered)):
        if number:
            print(f"{what}: {number} pairs")
    print("sizes: " + (", ".join(f"{size} ({number})" for size, number in found.sizes.items()) or "none"))
    if found.black:
        shares = np.array(found.black)
        print(f"black background: {shares.mean():.1%} of a crop, from {shares.min():.1%} to {shares.max():.1%}")
    if found.whole:
        print(f"whole photographs: {found.whole}; if an OCT-A shows less of the eye, {CUT}")
    of_folder = ("without partner", found.unpaired), ("ignored: not named <subject>_<OD|OS>.png", found.ignored)
    for title, lines in (*(of_folder if found.folders else ()), ("cannot be used", found.faults)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print("  " + one_line(line))
