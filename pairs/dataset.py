"""Which pairs a data set has: files on disk -> table of cases -> images.

A data set is a table of pairs (`pairs.table`), or laid out as UT-FSOCTA (Zenodo, doi 10.5281/zenodo.6476639):

    UT-FSOCTA-v1/cropped/{fundus,octa}/{disc,macula}/<subject>_<OD|OS>.png    aligned pairs
    UT-FSOCTA-v1/fov45/fundus/<subject>_<OD|OS>.jpg                           whole photographs (`fov_45` too)
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from PIL.Image import Resampling

from basics.command_line import UserError
from pairs.download import holds_dataset
from pairs.table import DEFAULT_SHARES, REGISTRATION, SIMULATED, PairRow, is_table, read_pairs, readings, table_rows
from retina.field_of_view import ENTIRELY_DARK, field_to_use
from retina.images import FORMATS, DataError, photo_digest, read_fundus, read_octa, resized, same_aspect_ratio
from retina.ut_fsocta import DATASET_NAME, FILE_NAME, PUBLISHED_SUBJECTS, REGIONS, SIMULATED_NOTE, parse_subjects

DATA_FOLDERS = (Path("data") / DATASET_NAME, Path(DATASET_NAME))  # where the program looks for the data set
SIMULATED_SET = Path("data", "simulated", DATASET_NAME)  # simulated retinas on disk, to try the programs on
FULL_FIELD_FOLDERS = ("fov45", "fov_45")  # the Zenodo record's name, and the one that the published script reads
PUBLISHED_SPLITS = {split: parse_subjects(subjects) for split, subjects in PUBLISHED_SUBJECTS.items()}
CUT = "crop the photograph to the area of its OCT-A (with dataset_load_mod.py crop)"
READ_AHEAD = 16  # pairs that are read at once, so that memory does not grow with the number of pairs


@dataclass(frozen=True)
class Pair:
    """One case in memory."""

    fundus: np.ndarray  # (height, width, 3), uint8
    octa: np.ndarray  # (height, width, 1 or 4), uint8
    fov: np.ndarray  # (height, width), bool: inside the field of view
    resized: bool = False  # the OCT-A, to the size of its photograph
    drawn: np.ndarray | None = None  # (height, width), bool: the vessels to find, of a simulated retina


def find_dataset(named: str | Path | None, option: str) -> Path | None:
    """Find a data set.

    Args:
        named: a table of pairs; a folder that is, or contains, `UT-FSOCTA-v1`; or SIMULATED, for the simulated set
            on disk. None: search DATA_FOLDERS.
        option: the option that `named` comes from, for the error.

    Returns:
        The table, or the folder that contains `cropped`; None if `named` is None and none is found.

    Raises:
        DataError: there is no such table, or the named folder contains no data set.
    """
    if named not in (None, SIMULATED) and not Path(named).exists():
        raise DataError(f"{option} {named}: no such file or folder")
    if named is not None and is_table(named):
        return Path(named)
    folders = DATA_FOLDERS if named is None else (SIMULATED_SET if str(named) == SIMULATED else Path(named),)
    places = (place for folder in folders for place in (folder, folder / DATASET_NAME))
    found = next(filter(holds_dataset, places), None)
    if found is None and named is not None:
        raise DataError(
            f"{option} {folders[0]}: is neither a table of pairs (.csv) nor a folder with cropped/{{fundus,octa}}/"
            "{disc,macula}/<subject>_<OD|OS>.png; for other files write a table (see docs/data.md); `python "
            f"dataset_load_mod.py download` fetches {DATASET_NAME}"
        )
    return found


def is_simulated(data: str | Path | None) -> bool:
    """Whether data are simulated retinas, on which no result about eyes may rest.

    Args:
        data: the word SIMULATED, or a data set as `find_dataset` finds it. A folder counts by its SIMULATED_NOTE or, if
            version 1.1.0 made it, by `cropped/truth`; a table by its own folder, or by that of one of its photographs.

    Returns:
        False for data that cannot be found or read: a run may name some that have moved since.
    """
    if str(data) == SIMULATED:
        return True
    try:
        found = find_dataset(data, "--data")
        folders = {found} - {None}
        if found and is_table(found):
            cells = chain.from_iterable(readings(row.get("fundus", "")) for _, row in table_rows(found))
            photographs = (found.absolute().parent / cell for cell in cells)
            # FOLDER/cropped/fundus/REGION/FILE, FOLDER/fov45/fundus/FILE, FOLDER/fundus/FILE
            folders = {found.parent, *(folder for file in photographs for folder in file.parents[1:4])}
    except UserError:
        return False
    return any((folder / SIMULATED_NOTE).is_file() or (folder / "cropped" / "truth").is_dir() for folder in folders)


def load_data_cases(
    data_fold: Path, splits: Mapping[str, Sequence[int]] = PUBLISHED_SPLITS, shares: str = DEFAULT_SHARES
) -> tuple[pd.DataFrame, list[Path]]:
    """List the pairs of a data set.

    Args:
        data_fold: the folder that contains `cropped`, or a table of pairs.
        splits: subject ids of `train`, `validation` and `test`, for a folder.
        shares: of the subjects in these splits, for a table without a column `split`.

    Returns:
        The cases, one row each with the attributes of `PairRow`, sorted. In a folder `subject` is an int, and names are
        like "disc/37_OS".
        And the files of a folder that have no partner, except hidden files and those with other names.

    Raises:
        DataError: two files of one folder are the same case, or an earlier version has registered the folder.
        PairTableError: see `pairs.table.read_pairs`.
    """
    if is_table(data_fold):
        return pd.DataFrame(read_pairs(data_fold, shares), columns=PairRow._fields), []
    if any((folder / REGISTRATION).exists() for folder in (data_fold, data_fold.parent)):
        advice = "register the original data again, which writes a table, or use those"
        raise DataError(f"{data_fold}: was registered by an earlier version, which moved its OCT-A; {advice}")
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    rows, unpaired = [], []
    for region in REGIONS:
        fundus = list_eyes(data_fold / "cropped" / "fundus" / region)
        octa = list_eyes(data_fold / "cropped" / "octa" / region)
        for key in fundus.keys() & octa.keys():
            name, split = f"{region}/{key[0]}_{key[1]}", split_of.get(key[0])
            rows.append((*key, region, split, fundus[key], octa[key], None, None, "", name))
        unpaired += [(fundus.get(key) or octa[key]) for key in fundus.keys() ^ octa.keys()]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:3]), columns=PairRow._fields), sorted(unpaired)


def list_full_fields(data_fold: Path) -> dict[tuple[int, str], Path]:
    """The whole photographs of a data set by (subject, eye); empty if it has none."""
    listed = [list_eyes(data_fold / name / "fundus") for name in FULL_FIELD_FOLDERS]
    return {eye: path for found in listed for eye, path in found.items()}


def validation_full_field(data_fold: Path, cases: pd.DataFrame) -> Path | None:
    """The whole photograph of the first validation eye of `cases` that has one: the one that training shows."""
    full_fields = list_full_fields(data_fold)
    validation = cases[cases["split"] == "validation"]
    eyes = zip(validation["subject"], validation["eye"], strict=True)
    return next((full_fields[eye] for eye in eyes if eye in full_fields), None)


def list_eyes(folder: Path) -> dict[tuple[int, str], Path]:
    """Images of a folder that are named `<subject>_<eye>`, by (subject, eye); empty if there is no such folder.

    Raises:
        DataError: two files are of the same eye, such as `7_OD.png` and `7_OD.jpg`.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = FILE_NAME.fullmatch(path.name)
        if not match or path.suffix.lower() not in FORMATS:
            continue
        key = (int(match["subject"]), match["eye"].upper())
        if key in found:
            raise DataError(f"{found[key]} and {path.name} are the same eye: remove one")
        found[key] = path
    return found


def load_pair(fundus_path: Path, octa_path: Path, octa_channels: int, fov_mask: bool) -> Pair:
    """Read one case; with `fov_mask` find the field of view, otherwise use the whole image.

    An OCT-A of another size, but the same aspect ratio, is resized to its photograph's size.

    Raises:
        DataError: a file cannot be read, the two differ in aspect ratio, or the photograph shows nothing.
    """
    fundus, octa = read_fundus(fundus_path), read_octa(octa_path, octa_channels)
    if not same_aspect_ratio(octa.shape, fundus.shape):
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]} px" for image in (fundus, octa))
        raise DataError(f"{fundus_path} and {octa_path} have different aspect ratios, {sizes}; {CUT}")
    fov = field_to_use(fundus, fov_mask).mask
    if not fov.any():
        raise DataError(f"{fundus_path}: {ENTIRELY_DARK}")
    fitting = resized(octa, fundus.shape[:2], Resampling.BILINEAR)
    return Pair(fundus, fitting, fov, fitting is not octa)


def seen_subjects(cases: pd.DataFrame, seen: Collection[str]) -> set:
    """Subjects of some cases whose photograph, or the original that it was cropped from, is in `seen`.

    Args:
        cases: with the columns `subject`, `fundus` and `original_digest`. Unreadable photographs do not count.
        seen: see `run.checkpoints.read_run`.
    """

    def digest(path: Path) -> str:
        try:
            return photo_digest(read_fundus(path)) if seen else ""
        except DataError:
            return ""

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, cases["fundus"]))
    known = zip(cases["subject"], cases["original_digest"], digests, strict=True)
    return {subject for subject, *found in known if any(one in seen for one in found)}


def load_pairs(cases: pd.DataFrame, octa_channels: int, fov_mask: bool) -> Iterator[Pair]:
    """Read the cases of a table in order, a few ahead. Raises DataError at the first faulty one, as `load_pair`."""
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(cases), READ_AHEAD):
            yield from pool.map(
                lambda case: load_pair(case.fundus, case.octa, octa_channels, fov_mask),
                cases[first : first + READ_AHEAD].itertuples(index=False),
            )
