"""Fetch UT-FSOCTA from Zenodo, verify it and unpack it. The command is part of `dataset_load_mod.py`:

    python dataset_load_mod.py download [DIR]               # into data/, or DIR
    python dataset_load_mod.py download --archive FILE      # if you downloaded the archive with a browser

The data set's folder UT-FSOCTA-v1 appears only when it is complete. Until then all files are in .UT-FSOCTA-v1.part*.
"""

import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch
import requests

from basics.command_line import UserError, progress_bar
from basics.files import disk_errors_name, hold
from retina.ut_fsocta import DATASET_NAME

PAGE = "https://doi.org/10.5281/zenodo.6476639"
TERMS = (
    f"{DATASET_NAME} ({PAGE}) is free to use for non-commercial scientific research only. "
    "Cite Coronado et al., Sci Rep 2023;13:15325, https://doi.org/10.1038/s41598-023-42062-9"
)
ARCHIVE, HIDDEN = f"{DATASET_NAME}.zip", f".{DATASET_NAME}.part"  # HIDDEN: how names of temporary folders begin
USER_AGENT = "synthetic-octa/1.0 (+https://doi.org/10.1038/s41598-023-42062-9)"  # Zenodo wants programs to give a name
TIMEOUT = 20, 60  # s to connect, s without a byte
CHUNK = 1 << 16  # bytes between two updates of the progress bar
UNPACKED = 1_200_000_000  # bytes, approximately


@dataclass(frozen=True)
class Source:
    """Where the archive is, and how to recognise it."""

    url: str = "https://zenodo.org/api/records/6476639/files/UT-FSOCTA-v1.zip/content"
    md5: str = "c0f4987a8c5676d01e14a6a012fae01e"
    size: int = 1_151_391_295  # bytes


def holds_dataset(folder: Path) -> bool:
    """Whether a folder contains `cropped/fundus` and `cropped/octa`."""
    return all((folder / "cropped" / kind).is_dir() for kind in ("fundus", "octa"))


def download(folder: Path, archive: Path | None = None, source: Source = Source()) -> Path:
    """Fetch and unpack the data set, unless it exists. Prints its terms, its citation and the progress.

    Args:
        folder: created if missing. The data set becomes its subfolder `UT-FSOCTA-v1`.
        archive: the archive, if downloaded by hand; it is not changed or removed. None: fetch it, unless the folder
            contains it under its own name.
        source: where to fetch the archive, and the md5 that it must have.

    Returns:
        The data set's folder.

    Raises:
        UserError: the archive cannot be fetched, is not the data set's or does not fit on the disk; another file has
            the data set's name; or another download into the folder is running.
        OSError: from the disk; names the file.
    """
    target = folder / DATASET_NAME
    for place in (folder, target):
        if holds_dataset(place):
            print(f"{place} already exists")
            return place
    if os.path.lexists(target):
        raise UserError(f"{target}: exists, but is not a data set; move it away, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    print(TERMS)
    if archive is None and (folder / ARCHIVE).is_file():
        archive = folder / ARCHIVE
    busy = f"{folder}: another download into this folder is running; wait for it"
    with hold(folder / f".{DATASET_NAME}.lock", busy), disk_errors_name(archive or target):
        for left in folder.glob(f"{HIDDEN}*"):  # by a killed call; it takes up space
            shutil.rmtree(left, ignore_errors=True)
        needed, free = UNPACKED + (0 if archive else source.size), shutil.disk_usage(folder).free
        if free < needed:
            space = f"needs {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free"
            raise UserError(f"{folder}: {space}; make room, or use another folder")
        with TemporaryDirectory(prefix=HIDDEN, dir=folder.resolve()) as hidden:
            if archive is None:
                archive = fetch(source, Path(hidden))
            elif (found := pooch.file_hash(archive, alg="md5")) != source.md5:
                advice = f"move it away, and run without --archive, or get it from {PAGE}"
                raise UserError(f"{archive}: has md5 {found}, but {ARCHIVE} has {source.md5}; {advice}")
            top = Path(hidden, "unpacked")  # made by the zip, so with the user's usual permissions
            with zipfile.ZipFile(archive) as file:
                for name in progress_bar(file.namelist(), desc="unpacking", unit="file"):
                    file.extract(name, top)
            os.rename(next(place for place in (top, *top.glob("*")) if holds_dataset(place)), target)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")
    return target


def fetch(source: Source, folder: Path) -> Path:
    """Fetch the archive into a folder, and return its path.

    Raises:
        UserError: the connection fails or breaks, or the server refuses or sends another file.
    """
    advice = f"try later, or download {ARCHIVE} with a browser from {PAGE} and pass it with --archive"
    pooch.get_logger().setLevel("WARNING")  # it would print the name of the temporary file
    try:
        with progress_bar(desc=ARCHIVE, total=source.size, unit="B", unit_scale=True, leave=False) as bar:
            http = pooch.HTTPDownloader(bar, CHUNK, headers={"User-Agent": USER_AGENT}, timeout=TIMEOUT)
            return Path(pooch.retrieve(source.url, f"md5:{source.md5}", ARCHIVE, folder, downloader=http))
    except requests.RequestException as error:
        if isinstance(error, requests.exceptions.SSLError):  # a hospital's proxy, or no root certificates
            advice = f"behind a proxy, set REQUESTS_CA_BUNDLE to its certificate file; or {advice}"
        cause = error
        while deeper := cause.__cause__ or cause.__context__:  # without the layers of libraries around it
            cause = deeper
        reason = str(cause).partition(" for url: ")[0] or type(cause).__name__
        raise UserError(f"{source.url}: {reason}; {advice}") from error
    except ValueError as error:
        raise UserError(f"{source.url}: sent another file: its md5 is not {source.md5}; {advice}") from error
