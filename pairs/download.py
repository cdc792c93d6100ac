"""Fetch UT-FSOCTA from Zenodo, verify it and unpack it. The command is part of `dataset_load_mod.py`:

    python dataset_load_mod.py download [DIR]               # into data/, or DIR
    python dataset_load_mod.py download --archive FILE      # if you downloaded the archive by hand

In the folder it writes

    UT-FSOCTA-v1/          the data set; appears only when it is complete
    UT-FSOCTA-v1.zip       the archive, once it is fetched and verified; removed when it is unpacked
    .UT-FSOCTA-v1.part*    what is being fetched or unpacked; removed at the end
    .UT-FSOCTA-v1.lock     prevents a second download at the same time
"""

import os
import re
import shutil
import zipfile
import zlib
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
MAC_LEFTOVER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$)")


@dataclass(frozen=True)
class Source:
    """Where the archive is, and how to recognise it; sizes in bytes."""

    url: str = "https://zenodo.org/api/records/6476639/files/UT-FSOCTA-v1.zip/content"
    md5: str = "c0f4987a8c5676d01e14a6a012fae01e"
    size: int = 1_151_391_295
    unpacked: int = 1_200_000_000  # approximately


class DownloadError(UserError):
    """The data set cannot be fetched or unpacked."""


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
        DownloadError: the archive cannot be fetched, is not the data set's or does not fit on the disk; or another
            file has the data set's name.
        OptionError: another download into the folder is running.
        OSError: from the disk; names the file.
    """
    target, fetched = folder / DATASET_NAME, folder / ARCHIVE
    for place in (folder, target):
        if holds_dataset(place):
            print(f"{place} already exists")
            return place
    if os.path.lexists(target):
        raise DownloadError(f"{target}: exists, but is not a data set; move it away, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another download into this folder is running; wait for it"
    with hold(folder / f".{DATASET_NAME}.lock", busy):
        print(TERMS)
        for left in folder.glob(f"{HIDDEN}*"):  # by a killed call; it takes up space
            shutil.rmtree(left, ignore_errors=True)
        if archive is None and fetched.is_file():
            archive = fetched
        to_fetch = 0 if archive else source.size
        amounts = f"{to_fetch / 1e9:.2f} GB to fetch, {source.unpacked / 1e9:.2f} GB to unpack"
        if (free := shutil.disk_usage(folder).free) < to_fetch + source.unpacked:
            raise DownloadError(f"{folder}: {amounts}, but {free / 1e9:.2f} GB free; make room, or use another folder")
        print(amounts)
        if archive:
            check_archive(archive, source.md5)
        else:
            fetch(source, fetched)
        unpack(archive or fetched, target)
        if not archive:
            fetched.unlink()
    return target


def check_archive(archive: Path, md5: str) -> None:
    """Raise DownloadError if a file that the user downloaded has another md5."""
    with disk_errors_name(archive):
        found = pooch.file_hash(archive, alg="md5")
    if found != md5:
        advice = f"move it away, and run without --archive, or get it from {PAGE}"
        raise DownloadError(f"{archive}: has md5 {found}, but {ARCHIVE} has {md5}; {advice}")
    print(f"{archive} is the data set's archive; it is kept")


def fetch(source: Source, archive: Path) -> None:
    """Fetch the archive, which appears only when it is complete and verified.

    Raises:
        DownloadError: the connection fails or breaks, or the server refuses or sends another file.
        OSError: from the disk; names the file.
    """
    advice = f"try later, or download {ARCHIVE} by hand from {PAGE} and pass it with --archive"
    progress = {"desc": ARCHIVE, "total": source.size, "unit": "B", "unit_scale": True, "leave": False}
    pooch.get_logger().setLevel("WARNING")  # it would print the name of the temporary file
    with (
        disk_errors_name(archive),
        TemporaryDirectory(prefix=HIDDEN, dir=archive.parent.resolve()) as hidden,
        progress_bar(**progress) as bar,
    ):
        http = pooch.HTTPDownloader(bar, CHUNK, headers={"User-Agent": USER_AGENT}, timeout=TIMEOUT)
        try:
            part = pooch.retrieve(source.url, f"md5:{source.md5}", ARCHIVE, hidden, downloader=http)
        except requests.RequestException as error:
            if isinstance(error, requests.exceptions.SSLError):  # a hospital's proxy, or no root certificates
                advice = f"behind a proxy, set REQUESTS_CA_BUNDLE to its certificate file; or {advice}"
            raise DownloadError(f"{source.url}: {root_cause(error)}; {advice}") from error
        except ValueError as error:
            raise DownloadError(f"{source.url}: sent another file: its md5 is not {source.md5}; {advice}") from error
        os.replace(part, archive)


def root_cause(error: BaseException) -> str:
    """Why a connection failed, without the layers of libraries around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error).partition(" for url: ")[0] or type(error).__name__


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive so that the data set appears only when it is complete; no file leaves its folder.

    Args:
        archive: a zip file. The data set is its top level, or a folder of any name. Leftovers of macOS are skipped.
        target: the data set's folder; must not exist.

    Raises:
        DownloadError: the archive is damaged or contains no data set.
        OSError: from the disk; names the file.
    """
    with disk_errors_name(target), TemporaryDirectory(prefix=HIDDEN, dir=target.parent) as hidden:
        top = Path(hidden, DATASET_NAME)  # made by the zip, so with the user's usual permissions
        try:
            with zipfile.ZipFile(archive) as file:
                names = [name for name in file.namelist() if not MAC_LEFTOVER.search(name)]
                for name in progress_bar(names, desc="unpacking", unit="file"):
                    file.extract(name, top)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DownloadError(f"{archive}: damaged, or not a zip archive ({error}); download it again") from error
        roots = [place for place in (top, *top.glob("*")) if holds_dataset(place)]
        if len(roots) != 1:
            raise DownloadError(f"{archive}: not {DATASET_NAME}: not one folder with cropped/fundus and cropped/octa")
        os.rename(roots[0], target)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")
