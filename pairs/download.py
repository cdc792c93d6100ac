"""Fetch UT-FSOCTA from Zenodo, verify it and unpack it: the command `python dataset_load_mod.py download`.

The data set's folder UT-FSOCTA-v1 appears only when it is complete. Until then all files are in .UT-FSOCTA-v1.part*.
"""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch
import requests

from basics.command_line import UserError, progress_bar
from basics.files import disk_errors_name
from retina.ut_fsocta import DATASET_NAME

PAGE = "https://doi.org/10.5281/zenodo.6476639"
TERMS = (
    f"{DATASET_NAME} ({PAGE}) is free to use for non-commercial scientific research only. "
    "Cite Coronado et al., Sci Rep 2023;13:15325, https://doi.org/10.1038/s41598-023-42062-9"
)
ARCHIVE = f"{DATASET_NAME}.zip"
URL = "https://zenodo.org/api/records/6476639/files/UT-FSOCTA-v1.zip/content"
MD5, SIZE = "c0f4987a8c5676d01e14a6a012fae01e", 1_151_391_295  # of the archive; bytes
USER_AGENT = "synthetic-octa/1.0 (+https://doi.org/10.1038/s41598-023-42062-9)"  # Zenodo wants programs to give a name
TIMEOUT = 20, 60  # s to connect, s without a byte
CHUNK = 1 << 16  # bytes between two updates of the progress bar


def holds_dataset(folder: Path) -> bool:
    """Whether a folder contains `cropped/fundus` and `cropped/octa`."""
    return all((folder / "cropped" / kind).is_dir() for kind in ("fundus", "octa"))


def download(folder: Path, archive: Path | None = None) -> Path:
    """Fetch and unpack the data set, unless it exists. Prints its terms, its citation and the progress.

    Args:
        folder: created if missing. The data set becomes its subfolder `UT-FSOCTA-v1`.
        archive: the archive, if downloaded by hand; it is not changed or removed.

    Returns:
        The data set's folder.

    Raises:
        UserError: the archive cannot be fetched or is not the data set's, or another file has the data set's name.
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
    hidden = TemporaryDirectory(prefix=f".{DATASET_NAME}.part", dir=folder.resolve())
    with disk_errors_name(archive or target), hidden as part:
        if archive is None:
            archive = fetch(Path(part))
        elif (found := pooch.file_hash(archive, alg="md5")) != MD5:
            advice = f"run without --archive, or get it from {PAGE}"
            raise UserError(f"{archive}: has md5 {found}, but {ARCHIVE} has {MD5}; {advice}")
        top = Path(part, "unpacked")  # made by the zip, so with the user's usual permissions
        shutil.unpack_archive(archive, top, "zip")
        os.rename(next(place for place in (top, *top.glob("*")) if holds_dataset(place)), target)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")
    return target


def fetch(folder: Path) -> Path:
    """Fetch the archive into a folder, and return its path.

    Raises:
        UserError: the connection fails or breaks, or the server refuses or sends another file.
    """
    advice = f"try later, or download {ARCHIVE} with a browser from {PAGE} and pass it with --archive"
    pooch.get_logger().setLevel("WARNING")  # it would print the name of the temporary file
    try:
        with progress_bar(desc=ARCHIVE, total=SIZE, unit="B", unit_scale=True, leave=False) as bar:
            http = pooch.HTTPDownloader(bar, CHUNK, headers={"User-Agent": USER_AGENT}, timeout=TIMEOUT)
            return Path(pooch.retrieve(URL, f"md5:{MD5}", ARCHIVE, folder, downloader=http))
    except requests.RequestException as error:
        if isinstance(error, requests.exceptions.SSLError):  # a hospital's proxy, or no root certificates
            advice = f"behind a proxy, set REQUESTS_CA_BUNDLE to its certificate file; or {advice}"
        cause = error
        while deeper := cause.__cause__ or cause.__context__:  # without the layers of libraries around it
            cause = deeper
        reason = str(cause).partition(" for url: ")[0] or type(cause).__name__
        raise UserError(f"{URL}: {reason}; {advice}") from error
    except ValueError as error:
        raise UserError(f"{URL}: sent another file: its md5 is not {MD5}; {advice}") from error
