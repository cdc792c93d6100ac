"""What an evaluation compares: the widths of its pairs, images of other methods, and the reference for the vessels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from basics.command_line import OptionError, flag
from evaluation.measures import BASELINES, OURS, REAL, SEGMENTED
from pairs.dataset import list_eyes
from pairs.table import WIDTH, is_table
from retina.ut_fsocta import CROP_MM

# Other methods in the data set: the folder of their images below cropped/, whether these are OCT-A, their binary maps
PUBLISHED = {
    "synthetic_octa": ("synthetic_octa", True, None),
    "denoised_synthetic_octa": ("denoised_synthetic_octa/noThresh", False, "denoised_synthetic_octa/Thresh"),
    "SA_Unet": ("SA_Unet", False, None),
    "Iternet": ("Iternet", False, None),
}
# Folders below cropped/, by preference: a short description, and a full one
SIMULATED_TRUTH = "truth"  # only simulated retinas have it
TRUTH_FOLDERS = {
    SIMULATED_TRUTH: ("exact map", "the exact vessels of the simulated retinas (cropped/truth)"),
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
    averaged: dict[str, Path] = field(default_factory=dict)  # NAME_probability.png next to OCT-A, as NAME_vessels.png


@dataclass(frozen=True)
class Truth:
    """The vessels that all candidates are compared with."""

    kind: str  # what it is, in a word or two
    origin: str  # and in full
    maps: dict[str, Path] | None  # by the name of the case; None: the segmenter's map of the real OCT-A


def regions_of(table: pd.DataFrame) -> list[str]:
    """The regions in a table's column `region`, in their usual order."""
    return [region for region in CROP_MM if region in set(table["region"])]


def list_images(folder: Path, regions: Sequence[str]) -> dict[str, Path]:
    """The images of a folder in the layout by the name of the case.

    They are in its subfolders disc/ and macula/, or in the folder itself if the data have one region only.
    """
    places = {region: list_eyes(folder / region) for region in regions}
    if len(regions) == 1 and not places[regions[0]]:
        places = {regions[0]: list_eyes(folder)}
    return {f"{region}/{subject}_{eye}": path for region in places for (subject, eye), path in places[region].items()}


def find_comparators(
    data: Path, cases: pd.DataFrame, compare: Sequence[str], compare_vessels: Sequence[str]
) -> list[Comparator]:
    """The other methods in the data, and the folders of the options of these names, each NAME=DIR.

    A folder of a table's images has a NAME.png for each case; any other is in the data's layout.

    Raises:
        OptionError: such a folder is missing, has no image of the cases, or a name that is taken.
    """
    found, regions = [], regions_of(cases)
    for name, (images, is_octa, binary) in PUBLISHED.items():
        if paths := list_images(data / "cropped" / images, regions):
            maps = list_images(data / "cropped" / binary, regions) if binary else {}
            found.append(Comparator(name, is_octa, paths, maps))
    taken = {REAL, SEGMENTED, OURS, *BASELINES, *PUBLISHED}
    given = [("compare", text) for text in compare] + [("compare_vessels", text) for text in compare_vessels]
    for option, text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise OptionError(f"{flag(option)} {text}: write it as NAME=DIR")
        if name in taken:
            raise OptionError(f"{flag(option)} {text}: the name {name} is taken; choose another")
        if not Path(folder).is_dir():
            raise OptionError(f"{flag(option)} {text}: no such folder")
        if is_table(data):
            images = {case: path for case in cases["name"] if (path := Path(folder, f"{case}.png")).is_file()}
        else:
            images = list_images(Path(folder), regions)
        if not images:
            example = f"{cases['name'].iloc[0]}.png"
            raise OptionError(f"{flag(option)} {text}: has no image of these cases, such as {example}")
        taken.add(name)
        is_octa = option == "compare"
        vessels, probability = (images_beside(images, kind) for kind in ("vessels", "probability"))
        if is_octa:
            found.append(Comparator(name, is_octa, images, vessels, probability))
        else:  # of this program's results, the OCT-A is no vessel probability
            found.append(Comparator(name, is_octa, images | probability, vessels))
    return found


def images_beside(images: dict[str, Path], kind: str) -> dict[str, Path]:
    """Of some OCT-A by the name of the case, the further results of this program next to them: NAME_KIND.png."""
    beside = {key: path.with_name(f"{path.stem}_{kind}.png") for key, path in images.items()}
    return {key: path for key, path in beside.items() if path.exists()}


def find_truth(data: Path, regions: Sequence[str], segmenter: bool) -> Truth:
    """The first of TRUTH_FOLDERS that exists; without any, or on request, the segmenter's map."""
    for folder, (kind, origin) in TRUTH_FOLDERS.items():
        maps = list_images(data / "cropped" / folder, regions)
        if maps and not segmenter:
            return Truth(kind, origin, maps)
    return Truth("segmenter's map", "the segmenter's map of the real OCT-A", None)


def with_widths(
    data: Path, cases: pd.DataFrame, given: Mapping[str, float | None]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Complete the widths of the crops, mm, where the data do not state them.

    `given` is the width by region, from the options `--REGION-mm`; None: CROP_MM's. Returns the cases, each with its
    width, and for each region where the widths come from, in words.

    Raises:
        OptionError: an option gives the width for a region in which the table states that of each pair.
    """
    widths, origins = cases[WIDTH].astype(float), {}
    for region in regions_of(cases):
        of_region = cases["region"] == region
        missing, pairs = int(widths[of_region].isna().sum()), int(of_region.sum())
        width = CROP_MM[region] if given[region] is None else given[region]
        if given[region] is not None and not missing:
            raise OptionError(
                f"--{region}-mm {width:g}: {data} has the {WIDTH} of each pair of this region; drop the option, or "
                "change that column"
            )
        general = f"{width:g} mm, " + ("assumed" if given[region] is None else f"from --{region}-mm")
        some = f" ({missing} of {pairs} pairs without it: {general})" if missing else ""
        origins[region] = f"{region} " + (general if missing == pairs else f"as in the table's {WIDTH}{some}")
        widths = widths.mask(of_region & widths.isna(), width)
    return cases.assign(**{WIDTH: widths}), origins
