"""Two folders -> a table of pairs: the command `python dataset_load_mod.py pair`."""

import os
import re
from collections import defaultdict
from pathlib import Path

from basics.command_line import OptionError, one_line
from basics.files import write_table
from pairs.table import FILES, WIDTH
from retina.dicom import facts_of
from retina.images import FORMATS, left_out, visible_below

COLUMNS = (*FILES, "subject", "eye", WIDTH)
# At the end of a name: the eye. What is before it names the subject.
EYE = re.compile(r"(?P<subject>.*?)[-_. ]*(?<![A-Za-z])(?P<eye>OD|OS|R|L|RE|LE|right|left)$", re.IGNORECASE)
SIDES = dict.fromkeys(("OD", "R", "RE", "RIGHT"), "OD") | dict.fromkeys(("OS", "L", "LE", "LEFT"), "OS")


def pair_folders(fundus: Path, octa: Path, table: Path) -> list[str]:
    """Write a table of the photographs and OCT-A whose names are equal without their suffixes; subfolders count.

    A name that ends with an eye (12_OD, 12-left, 12R) names subject and eye; otherwise it is the subject. DICOM files
    may state the eye, and the width of the OCT-A.

    Returns:
        What was written and what is left over, in lines to print.

    Raises:
        OptionError: the table exists, a folder is none, no names are equal, or two files of a folder have one name.
        OSError: a folder cannot be read, or the table cannot be written.
    """
    if table.exists():
        raise OptionError(f"--output {table}: exists; choose another name")
    if fundus.resolve() == octa.resolve():
        raise OptionError(
            f"{octa}: is the folder of the photographs, too; OCT-A of the same names need one of their own"
        )
    (photographs, of_fundus), (scans, of_octa) = images_by_name(fundus), images_by_name(octa)
    names = sorted(photographs.keys() & scans.keys())
    if not names:
        raise OptionError(f"{fundus} and {octa}: no two images have the same name without suffix")
    rows = []
    for name in names:
        match = EYE.fullmatch(Path(name).name)
        known = match and match["subject"]
        subject = Path(name).with_name(match["subject"]).as_posix() if known else name
        files = (os.path.relpath(images[name], table.parent) for images in (photographs, scans))
        of_photograph, of_scan = facts_of(photographs[name]), facts_of(scans[name])
        eye = SIDES[match["eye"].upper()] if known else of_photograph.eye or of_scan.eye
        width = "" if of_scan.width_mm is None else f"{of_scan.width_mm:.3f}"
        rows.append(dict(zip(COLUMNS, (*files, subject, eye, width), strict=True)))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, COLUMNS, rows)
    lines = [f"{len(rows)} pairs of {len({row['subject'] for row in rows})} subjects -> {table}"]
    for partner, images, others in (("OCT-A", photographs, scans), ("photograph", scans, photographs)):
        left = sorted(images.keys() - others.keys())
        lines += [f"left over, without {partner} of its name: {images[name]}" for name in left]
    lines += [f"left over in {folder}: {text}" for folder, text in ((fundus, of_fundus), (octa, of_octa)) if text]
    lines.append("Look at the column subject: rows of one person must have the same, whatever their files are called.")
    return list(map(one_line, lines))


def images_by_name(folder: Path) -> tuple[dict[str, Path], str]:
    """The images in a folder and below by their paths in it without suffix, and how many other files, in words.

    Raises:
        OptionError: it is no folder, or two images have one name.
        OSError: it cannot be read.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder}: no such folder")
    files = [path for path in visible_below(folder) if path.is_file()]
    named = defaultdict(list)
    for path in files:
        if path.suffix.lower() in FORMATS:
            named[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    if double := next((paths for paths in named.values() if len(paths) > 1), None):
        raise OptionError(f"{double[0]} and {double[1]}: have the same name without suffix; rename or move one")
    others = [path for path in files if path.suffix.lower() not in FORMATS]
    return {name: paths[0] for name, paths in named.items()}, left_out(others)
