"""List what a data set contains, and whether training could start: the command `python dataset_load_mod.py check`."""

from collections import Counter
from pathlib import Path

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
from pairs.table import DEFAULT_SHARES, KNOWN, columns_of, is_table, origin_of_splits
from retina.images import DataError, is_leftover, read_fundus, visible_below
from retina.ut_fsocta import OTHER_REGION, PUBLISHED_SUBJECTS


def check_dataset(dataset: Path) -> tuple[list[str], list[str]]:
    """Check every image that training, validation or evaluation would read; the split is the published or the table's.

    Returns:
        What the data set contains, in lines to print; and why training could not start, empty if it could.

    Raises:
        DataError: two files of one folder are the same eye.
        PairTableError: see `pairs.table.read_pairs`.
        OSError: a folder cannot be read.
    """
    cases, unpaired = load_data_cases(dataset)
    obstacles, faults, sizes, whole = [], [], Counter(), 0
    for case in progress_bar(list(cases.itertuples(index=False)), unit="pair"):
        try:
            pair = load_pair(case.fundus, case.octa, octa_channels=1, fov_mask=True)
            if case.octa_unmoved:
                load_pair(case.fundus, case.octa_unmoved, octa_channels=1, fov_mask=False)
        except DataError as error:
            faults.append(str(error))
            obstacles += [str(error)] if case.split in ("train", "validation") else []
            continue
        sizes[f"{pair.fov.shape[1]} x {pair.fov.shape[0]} px" + (", OCT-A resized" if pair.resized else "")] += 1
        whole += not pair.fov[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # its corners
    for path in list_full_fields(dataset).values():
        try:
            read_fundus(path)
        except DataError as error:
            faults.append(str(error))
            obstacles += [str(error)] if path == validation_full_field(dataset, cases) else []

    counts = cases["split"].fillna("unused").value_counts()
    origin, advice = f"subjects {', '.join(PUBLISHED_SUBJECTS.values())}, as published", "see --train-subjects"
    lines, listed = [], [("cannot be used", faults)]
    if is_table(dataset):
        origin = origin_of_splits(dataset, DEFAULT_SHARES)
        advice = f"enter train in that column, or delete it to divide the subjects {DEFAULT_SHARES}"
    else:
        lines, ignored = list_folders(dataset)
        listed = [("without partner", unpaired), ("ignored: not named <subject>_<OD|OS>.png", ignored), *listed]
    if not counts.get("train"):
        obstacles.append(f"no pair to train on; the split is: {origin}; {advice}")
    lines.append("pairs: " + ", ".join(f"{split} {counts.get(split, 0)}" for split in (*PUBLISHED_SPLITS, "unused")))
    lines.append(f"split: {origin}")
    if is_table(dataset) and (unused := [column for column in columns_of(dataset) if column not in KNOWN]):
        lines.append(one_line(f"columns that are not used: {', '.join(unused)}"))
    for text, some in (
        ("eye: unknown for {} pairs; scores that depend on it are left out", cases["eye"] == ""),
        ("region: unknown for {} pairs; scores that depend on it are left out", cases["region"] == OTHER_REGION),
        ("cropped from a known photograph: {} pairs", cases["original_digest"] != ""),
        ("registered: {} pairs", cases["octa_unmoved"].notna()),
    ):
        lines += [text.format(some.sum())] if some.any() else []
    lines.append("sizes: " + (", ".join(f"{size} ({number})" for size, number in sizes.items()) or "none"))
    if whole:
        lines.append(f"whole photographs: {whole}; if an OCT-A shows less of the eye, {CUT}")
    for title, found in listed:
        lines += [f"{title}: {len(found) or 'none'}", *(f"  {one_line(one)}" for one in found)]
    return lines, obstacles


def list_folders(dataset: Path) -> tuple[list[str], list[Path]]:
    """How many images each folder of a data set contains, in lines; and the files that are not named as eyes.

    Raises:
        DataError: two files of one folder are the same eye.
        OSError: a folder cannot be read.
    """
    lines, ignored = [], []
    for folder in (path for path in visible_below(dataset) if path.is_dir()):
        eyes = list_eyes(folder)
        lines += [f"{folder.relative_to(dataset).as_posix()}: {len(eyes)} images"] if eyes else []
        files = {path for path in folder.iterdir() if path.is_file() and not is_leftover(path.name)}
        ignored += sorted(files - set(eyes.values()))
    return lines, ignored
