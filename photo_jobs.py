"""Which photographs to turn into OCT-A, where their results go and how they were made, and the table of densities."""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_choice import choose, load_cases
from dataset_load_mod import FORMATS, list_eyes, list_full_fields, visible_below
from pair_table import FILES, is_table, readings, table_rows
from pix_command import OptionError, atomic_file, one_line, read_table, write_table
from pix_settings import Settings
from ut_fsocta import REGIONS

DENSITY_COLUMNS = (
    "path",
    "vessel_density",
    "vessel_px",
    "field_px",
    "threshold",
    "disagreement",
    "disagreeing_share",
    "field_share",
    "sharpness",
    "contrast",
    "verdict",
    "made_with",
)
MAPS = ("vessels", "probability")  # kinds of results with --vessels
DISAGREEMENT = "disagreement"  # the same, if there are several passes
FIGURE = "figure"
SHEET = "sheet_{}.png"  # of the figures of several photographs, next to the results; numbered from 1
MADE_WITH = "made_with"  # the key of a text in every PNG of the program: how it was made


@dataclass(frozen=True)
class Job:
    """One photograph and where its results go."""

    source: Path
    target: Path  # the synthetic OCT-A; relative to the output folder
    region: str | None = None  # of a crop, which is predicted at its own scale; None: a photograph of any scale
    width_mm: float | None = None  # of a crop; None: unknown

    def beside(self, kind: str) -> Path:
        """Where a further result goes; relative to the output folder."""
        return self.target.with_name(f"{self.target.stem}_{kind}.png")


def list_jobs(inputs: Sequence[str], output: Path) -> list[Job]:
    """Photographs given as files, in folders (with subfolders, which are kept) and in CSV tables with a `path` column.

    In folders, hidden files are skipped, and so are the output folder and results of earlier commands; the number of
    these results is printed. Relative paths in a table start at the table, and keep their subfolders.

    Raises:
        OptionError: an input does not exist, contains no photograph, or is the output folder.
    """
    jobs = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            if path.resolve() == output.resolve():
                raise OptionError(f"--output {output}: is an input; choose another folder")
            files = photographs_below(path, output)
            photographs = [file for file in files if read_made_with(file) is None]
            if results := len(files) - len(photographs):
                print(one_line(f"{name}: skipped {results} results of earlier commands; to use one, give its own path"))
            found = [Job(file, file.relative_to(path).with_suffix(".png")) for file in photographs]
            if not found:
                raise OptionError(f"{name}: contains no photograph ({', '.join(FORMATS)})")
        elif path.suffix.lower() == ".csv" and path.is_file():
            found = [Job(path.parent / row, target_of_row(Path(row))) for row in paths_of_table(path)]
        elif path.exists():
            found = [Job(path, Path(path.stem + ".png"))]
        else:
            raise OptionError(f"{name}: no such file or folder")
        jobs += found
    return list(dict.fromkeys(jobs))


def target_of_row(path: Path) -> Path:
    """Where the result for a path of a table goes: into the same subfolder if the path is relative and stays below."""
    inside = not path.is_absolute() and ".." not in path.parts
    return (path if inside else Path(path.name)).with_suffix(".png")


def photographs_below(folder: Path, output: Path) -> list[Path]:
    """Image files in a folder and below, sorted; without hidden ones and those in an output folder below.

    Raises:
        OSError: a folder cannot be read.
    """
    found = [path for path in visible_below(folder) if path.suffix.lower() in FORMATS and path.is_file()]
    if folder.resolve() not in output.resolve().parents:
        return found
    return [path for path in found if output.resolve() not in path.resolve().parents]


def paths_of_table(path: Path) -> list[str]:
    """The `path` column of a CSV file, read as the paths in tables of pairs; empty cells are left out.

    Returns:
        The paths, absolute or from the table on. If no file exists for any reading of a cell, the cell as it is.

    Raises:
        OptionError: the file cannot be read, has no such column or an empty one, or a cell names no file.
    """
    table = [row for _, row in table_rows(path, files=("path",))]
    cells = [row["path"] for row in table if row.get("path")]
    if not cells:
        is_of_pairs = table and set(FILES) <= table[0].keys()
        advice = f"; it is a table of pairs: use --dataset {path} --split all" if is_of_pairs else ""
        raise OptionError(f"{path}: has no column named path, or an empty one{advice}")
    # os.path.isfile, because Path.is_file raises an error for some names, such as too long ones, and would stop all.
    rows = [next((text for text in readings(cell) if os.path.isfile(path.parent / text)), cell) for cell in cells]
    if wrong := [row for row in rows if Path(row).name in ("", "..")]:
        raise OptionError(f"{path}: {wrong[0]!r} in the column path names no file")
    return rows


def list_dataset_jobs(dataset: Path, split: str | None, settings: Settings, seen: Collection[str] = ()) -> list[Job]:
    """The photographs of a data set by split, see `data_choice.choose`; prints which subjects these are of.

    Results are named as in UT-FSOCTA, or as a table's pairs. Without a wanted split, subjects that the run has `seen`
    (see `pix_run.seen_by`) are left out.

    Raises:
        OptionError: there is none.
        PairTableError: see there.
    """
    if is_table(dataset):
        cases, _ = load_cases(dataset, split, settings)
        jobs = [
            Job(case.fundus, Path(f"{case.name}.png"), case.region, None if pd.isna(case.octa_mm) else case.octa_mm)
            for case in cases.itertuples(index=False)
        ]
        listed = cases[["subject", "split", "fundus", "original_digest"]].assign(job=jobs)
    else:
        split_of = {subject: name for name, subjects in settings.splits().items() for subject in subjects}
        rows = [(who, split_of.get(who), job.source, "", job) for who, job in list_folder_jobs(dataset)]
        listed = pd.DataFrame(rows, columns=["subject", "split", "fundus", "original_digest", "job"])
    choice = choose(dataset, listed, split, seen, "--split all" if split is None else None)
    print(choice)
    return list(choice.photographs["job"])


def list_folder_jobs(dataset: Path) -> list[tuple[int, Job]]:
    """The crops and whole photographs in the layout of UT-FSOCTA, each with its subject."""
    jobs = []
    for region in REGIONS:
        for (subject, eye), path in list_eyes(dataset / "cropped" / "fundus" / region).items():
            target = Path("cropped", "synthetic_octa", region, f"{subject}_{eye}.png")
            jobs.append((subject, Job(path, target, region)))
    for (subject, eye), path in list_full_fields(dataset).items():
        jobs.append((subject, Job(path, Path("fov45", "synthetic_octa", f"{subject}_{eye}.png"))))
    return jobs


def check_jobs(jobs: Sequence[Job], output: Path) -> None:
    """Raises OptionError if two photographs, or a photograph and a result, would be one file."""
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    sheet = re.compile(re.escape(SHEET).replace(r"\{\}", r"\d+"), re.IGNORECASE)
    if clash := [job.source for job in jobs if len(job.target.parts) == 1 and sheet.fullmatch(job.target.name)]:
        raise OptionError(f"{clash[0]}: its result would have the name of a sheet of figures; rename it")
    for job in jobs:
        for target in (job.target, *map(job.beside, (*MAPS, DISAGREEMENT, FIGURE))):
            place = output / target
            if place.resolve() in sources:
                raise OptionError(f"{place}: would overwrite an input; choose another --output")
            other = taken.setdefault(place, job.source)
            if other != job.source:
                raise OptionError(
                    f"{other} and {job.source} would both be written to {place}; "
                    "rename one, or process it separately with another --output"
                )


def printable(path: Path) -> str:
    """A path as text that every table can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def write_png(image: np.ndarray, path: Path, made_with: str) -> None:
    """Write (height, width), uint8 or bool, or (height, width, 3), uint8, with a text that says how it was made.

    The text is without bytes that are not UTF-8, see `printable`.
    """
    text = PngInfo()
    text.add_text(MADE_WITH, made_with)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format="PNG", pnginfo=text)


def read_made_with(path: Path) -> str | None:
    """How a PNG of the program was made, read without its pixels; None: another file, or of an earlier version."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(MADE_WITH)
    except (OSError, ValueError, Image.DecompressionBombError):  # no PNG, or a damaged one
        return None


class Densities:
    """The table of vessel densities, one row per photograph; rows of an earlier call are kept."""

    def __init__(self, path: Path):
        """Read the existing table, which Excel may have saved. Photographs with incomplete rows are processed again.

        Raises:
            OptionError: it cannot be read, or has other columns.
        """
        self.path = path
        self.rows: dict[str, dict] = {}
        for row in read_table(path) if path.exists() else ():
            if set(row) != set(DENSITY_COLUMNS):
                raise OptionError(f"{path}: has other columns than this version writes; move it, or change --output")
            if all(row.values()):
                self.rows[row["path"]] = row

    def __contains__(self, target: Path) -> bool:
        """Whether the photograph with this OCT-A has a row."""
        return printable(target) in self.rows

    def add(self, target: Path, values: Sequence) -> None:
        """Set the row of the photograph with this OCT-A to `values` (DENSITY_COLUMNS without path); write the table."""
        path = printable(target)
        self.rows[path] = dict(zip(DENSITY_COLUMNS, (path, *values), strict=True))
        write_table(self.path, DENSITY_COLUMNS, self.rows.values())
