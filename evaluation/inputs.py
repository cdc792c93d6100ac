"""What an evaluation compares: the pairs of a split, images of other methods, and the reference for the vessels."""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from basics.command_line import OptionError, flag
from evaluation.measures import BASELINES, OURS, REAL, SEGMENTED
from evaluation.report import regions_of
from pairs.dataset import UNMOVED_FOLDER, list_eyes
from pairs.table import WIDTH, is_table
from retina.ut_fsocta import CROP_MM
from run.data import Choice, choose, load_cases
from run.settings import Settings

# Other methods in the data set: the folder of their images below cropped/, whether these are OCT-A, their binary maps
PUBLISHED = {
    "synthetic_octa": ("synthetic_octa", True, None),
    "denoised_synthetic_octa": ("denoised_synthetic_octa/noThresh", False, "denoised_synthetic_octa/Thresh"),
    "SA_Unet": ("SA_Unet", False, None),
    "Iternet": ("Iternet", False, None),
}
# Folders below cropped/, by preference: a short description, and a full one
DRAWN = "truth"  # only simulated retinas have it
TRUTH_FOLDERS = {
    DRAWN: ("exact map", "the exact vessels of the simulated retinas (cropped/truth)"),
    "GT_OCT_net/Thresh": ("data set's map", "the data set's map of the real OCT-A (GT_OCT_net/Thresh)"),
    "GT_OCT_net/noThresh": ("data set's map", "the data set's map of the real OCT-A (GT_OCT_net/noThresh)"),
}


@dataclass(frozen=True)
class Comparator:
    """Images of another method, by the name of the case."""

    name: str
    is_octa: bool
    images: dict[str, Path]
    binary: dict[str, Path] = field(default_factory=dict)
    averaged: dict[str, Path] = field(default_factory=dict)  # NAME_probability.png next to OCT-A


def list_images(folder: Path, regions: Sequence[str]) -> dict[str, Path]:
    """The images of a folder in the layout by the name of the case.

    They are in its subfolders disc/ and macula/, or in the folder itself if the data have one region only.
    """
    places = {region: list_eyes(folder / region) for region in regions}
    if len(regions) == 1 and not places[regions[0]]:
        places = {regions[0]: list_eyes(folder)}
    return {f"{region}/{subject}_{eye}": path for region in places for (subject, eye), path in places[region].items()}


def list_compared(folder: Path, data: Path, cases: pd.DataFrame) -> dict[str, Path]:
    """The images of a folder of another method by the name of the case: NAME.png, or as in the data's layout."""
    if not is_table(data):
        return list_images(folder, regions_of(cases))
    paths = {name: folder / f"{name}.png" for name in cases["name"]}
    return {name: path for name, path in paths.items() if path.is_file()}


def find_comparators(data: Path, cases: pd.DataFrame, options: argparse.Namespace) -> list[Comparator]:
    """The other methods in the data, and the folders of --compare and --compare-vessels.

    Raises:
        OptionError: such a folder is missing, has no image of the cases, or a name that is taken.
    """
    found, regions = [], regions_of(cases)
    for name, (images, is_octa, binary) in PUBLISHED.items():
        if paths := list_images(data / "cropped" / images, regions):
            maps = list_images(data / "cropped" / binary, regions) if binary else {}
            found.append(Comparator(name, is_octa, paths, maps))
    taken = {REAL, SEGMENTED, OURS, *BASELINES, *PUBLISHED}
    for option, is_octa in (("compare", True), ("compare_vessels", False)):
        for text in getattr(options, option):
            name, _, folder = text.partition("=")
            if not name or not folder:
                raise OptionError(f"{flag(option)} {text}: write it as NAME=DIR")
            if name in taken:
                raise OptionError(f"{flag(option)} {text}: the name {name} is taken; choose another")
            if not Path(folder).is_dir():
                raise OptionError(f"{flag(option)} {text}: no such folder")
            images = list_compared(Path(folder), data, cases)
            if not images:
                example = f"{cases['name'].iloc[0]}.png"
                raise OptionError(f"{flag(option)} {text}: has no image of these cases, such as {example}")
            taken.add(name)
            beside = {key: path.with_name(f"{path.stem}_probability.png") for key, path in images.items()}
            averaged = {key: path for key, path in beside.items() if is_octa and path.exists()}
            found.append(Comparator(name, is_octa, images, averaged=averaged))
    return found


@dataclass(frozen=True)
class Truth:
    """The vessels that all candidates are compared with."""

    kind: str  # what it is, in a word or two
    origin: str  # and in full
    maps: dict[str, Path] | None  # by the name of the case; None: the segmenter's map of the real OCT-A


def find_truth(dataset: Path, regions: Sequence[str], segmenter: bool) -> Truth:
    """The first of TRUTH_FOLDERS that exists; without any, or on request, the segmenter's map.

    Of a map that registration has moved with its OCT-A, the unmoved one.
    """
    for folder, (kind, origin) in TRUTH_FOLDERS.items():
        places = dataset / "cropped" / folder, dataset / "cropped" / UNMOVED_FOLDER / folder
        maps = {name: path for place in places for name, path in list_images(place, regions).items()}
        if maps and not segmenter:
            return Truth(kind, origin, maps)
    return Truth("segmenter's map", "the segmenter's map of the real OCT-A", None)


def find_cases(
    options: argparse.Namespace, data: Path, settings: Settings, seen: Collection[str]
) -> tuple[Choice, int]:
    """The pairs to evaluate, see `run.data.choose`, and how many files of the data have no partner.

    Args:
        options: of the command line.
        data: the data set.
        settings: of the run.
        seen: what the run has seen, see `run.checkpoints.read_run`.

    Raises:
        OptionError: there is no such pair.
    """
    cases, unpaired = load_cases(data, options.split, settings)
    keep = options.include_seen or options.split not in (None, "test", "all")
    return choose(data, cases, options.split, seen, None if keep else "--include-seen"), len(unpaired)


def find_widths(cases: pd.DataFrame, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """The width of a crop by region, mm, for pairs of which the data do not state it.

    Raises:
        OptionError: an option gives the width for a region in which the table states that of each pair.
    """
    widths = {}
    for region, assumed in CROP_MM.items():
        given, stated = getattr(options, f"{region}_mm"), cases[cases["region"] == region][WIDTH].notna()
        if given is not None and len(stated) and stated.all():
            raise OptionError(
                f"--{region}-mm {given:g}: {data} has the {WIDTH} of each pair of this region; drop the option, or "
                "change that column"
            )
        widths[region] = assumed if given is None else given
    return widths
