"""The report of an evaluation: Markdown, a page of HTML, CSV, figures as PNG and PDF.

`per_eye` has a row for each case, candidate and sector (`measures.measure_eye`), `summary` a row for each region,
candidate, sector and measure (`statistics.summarise`), and `counts` the pixels at each vessel probability for
each (region, candidate). `reference` describes in a few words what the densities and vessels are compared with.
"""

import base64
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import chain, count
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from basics.files import disk_errors_name
from evaluation.measures import AGREEMENTS, DENSITY_NAMES, OURS, PROPERTIES, REAL, SEGMENTED, SIMILARITY_NAMES, WAYS
from retina.ut_fsocta import CROP_MM, OTHER_REGION
from retina.vessels import SECTORS, VESSEL_SCORE_NAMES, WHOLE

DPI, SCREEN_DPI = 300, 130
SYMBOLS = {"mae": "MAE", "psnr": "PSNR, dB", "ssim": "SSIM", "roc_auc": "ROC AUC", "dice": "Dice", "cldice": "clDice"}
HEADINGS = SYMBOLS | {"skeleton_density": "skeleton density, mm/mm²", "faz_mm2": "avascular zone, mm²"}
COMPARED = ("roc_auc", "average_precision", "dice", "cldice")  # with this run, in the table of differences
CORRELATIONS = ("pearson", "spearman")
DIGITS = {"vessel_density": 3, "grey_levels": 3}  # after the point; of other measures two
LEAST_P = "\\*"  # after a p value that is the smallest possible with that many subjects
MONTAGE = "montage_"  # before a region: the name of a figure
STYLE = """body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: .25em .6em; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% } figcaption { color: #555 }"""


# --- blocks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1."""

    text: str
    level: int


@dataclass(frozen=True)
class Table:
    """A table with a title."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure by the name of its file, without suffix."""

    name: str
    caption: str


Block = Heading | Table | Picture | str | tuple  # text is a paragraph, a tuple of texts a list


def as_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown; its figures are files in the same folder."""
    lines = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += ["#" * block.level + " " + block.text, ""]
        elif isinstance(block, Table):
            cells = (block.header, ["---"] * len(block.header), *block.rows)
            lines += [block.title, "", *("| " + " | ".join(row) + " |" for row in cells), ""]
        elif isinstance(block, Picture):
            lines += [f"![{block.caption}]({block.name}.png)", "", f"*{block.caption}*", ""]
        elif isinstance(block, tuple):
            lines += [*(f"- {text}" for text in block), ""]
        else:
            lines += [block, ""]
    return "\n".join(lines)


def as_html(title: str, blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """Blocks as an HTML page that needs no other file; `pictures` are PNG by name."""
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"]
    parts.append(f"<style>{STYLE}</style>")
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"<h{block.level}>{escape(block.text)}</h{block.level}>")
        elif isinstance(block, Table):
            lines = ["".join(f"<th>{escape(cell)}</th>" for cell in block.header)]
            lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in block.rows]
            body = "".join(f"<tr>{line}</tr>" for line in lines).replace(LEAST_P, "*")
            title_of_table = escape(block.title).replace(LEAST_P, "*")
            parts.append(f"<p>{title_of_table}</p><table>{body}</table>")
        elif isinstance(block, Picture):
            content = base64.b64encode(pictures[block.name]).decode()
            image = f"<img alt='{escape(block.name)}' src='data:image/png;base64,{content}'>"
            parts.append(f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>")
        elif isinstance(block, tuple):
            parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in block) + "</ul>")
        else:
            parts.append(f"<p>{escape(block)}</p>")
    return "\n".join(parts) + "\n"


# --- numbers ---------------------------------------------------------------------------------------------------------


def heading(measure: str) -> str:
    """A measure's name in a table."""
    return HEADINGS.get(measure, measure.replace("_", " "))


def shown_name(candidate: str, reference: str) -> str:
    """A candidate's name for readers: that of the reference says what it is."""
    return f"reference ({reference})" if candidate == REAL else candidate


def number(value: float, form: str = ".3f") -> str:
    """A number for a table, 0 without a sign; a dash for nan."""
    if not np.isfinite(value):
        return "-"
    text = f"{value:{form}}"
    return text if float(text) else text.lstrip("-")


def counted(things: int, noun: str) -> str:
    """A number of things, with their noun, whose plural ends with an s."""
    return f"{things} {noun}{'' if things == 1 else 's'}"


def with_interval(row: Mapping, name: str) -> str:
    """A statistic of a row of `summary`: with its interval two decimals, or as in DIGITS; without an interval three.

    Correlations have no unit, so with an interval they always have two.
    """
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    if not np.isfinite(row[low]):
        return number(row[name])
    digits = 2 if name in CORRELATIONS else DIGITS.get(row["measure"], 2)
    value, least, most = (number(row[column], f".{digits}f") for column in (name, low, high))
    return f"{value} [{least}, {most}]"


def p_value(row: Mapping) -> str:
    """The p value of a row of `summary`, marked if no smaller one is possible with that many subjects."""
    least = 2 / 2 ** row["subjects"]
    return number(row["p"], ".2g") + (LEAST_P if row["p"] <= least * 1.001 else "")


def regions_of(table: pd.DataFrame) -> list[str]:
    """The regions of `per_eye` or `summary`, in their usual order."""
    return [region for region in CROP_MM if region in set(table["region"])]


class Rows:
    """The rows of one region of `summary`."""

    def __init__(self, summary: pd.DataFrame, region: str):
        part = summary[summary["region"] == region].set_index(["candidate", "sector", "measure"], drop=False)
        self.rows = {key: row.to_dict() for key, row in part.iterrows()}
        self.names = list(dict.fromkeys(name for name, _, _ in self.rows))
        self.others = [name for name in self.names if name != REAL]

    def __call__(self, name: str, measure: str, sector: str = WHOLE) -> Mapping:
        """A row, nan for the statistics that it lacks."""
        return defaultdict(lambda: np.nan, self.rows.get((name, sector, measure), {"eyes": 0, "subjects": 0}))


# --- the report ------------------------------------------------------------------------------------------------------


def describe(
    title: str,
    opening: Sequence[str],
    notes: Sequence[str],
    summary: pd.DataFrame,
    reference: str,
    captions: Mapping[str, str],
    ways: Mapping[str, str],
) -> list[Block]:
    """The complete report: for each region three sentences, tables and a montage; the figures; how it was made.

    Args:
        title: of the page.
        opening: paragraphs: what was evaluated, and what a reader must know first.
        notes: how it was made, an item each.
        summary: see the top of this file.
        reference: see there.
        captions: of the figures, by name; the name of a region's montage is MONTAGE + region.
        ways: `evaluation.measures.WAYS`, or WAYS_IF_MOVED.
    """
    blocks: list[Block] = [Heading(title, 1), *opening]
    regions = regions_of(summary)
    blocks += [sentences(Rows(summary, region), region, reference) for region in regions]
    for region in regions:
        blocks.append(Heading(title_of(region), 2))
        if (name := MONTAGE + region) in captions:
            blocks.append(Picture(name, captions[name]))
        blocks += tables(Rows(summary, region), region, reference, ways)
    blocks.append(Heading("Figures", 2))
    blocks += [Picture(name, text) for name, text in captions.items() if not name.startswith(MONTAGE)]
    return [*blocks, Heading("How it was made", 2), tuple(notes)]


def title_of(region: str) -> str:
    """A region's heading."""
    return "Pairs without a region" if region == OTHER_REGION else region.capitalize()


def sentences(rows: Rows, region: str, reference: str) -> str:
    """What was found in a region, in three sentences; a Dice always has as many digits as this run's."""
    ours = rows(OURS, "dice")
    form = ".2f" if np.isfinite(ours["low"]) else ".3f"  # as in `with_interval`
    dice = {name: rows(name, "dice")["mean"] for name in rows.others if name not in (OURS, SEGMENTED)}
    best = max(dice, key=lambda name: -1 if np.isnan(dice[name]) else dice[name])
    limit = f" (the segmented OCT-A itself: {number(rows(SEGMENTED, 'dice')['mean'], form)})"
    density, skeleton = ((rows(OURS, name), rows(REAL, name)["mean"]) for name in DENSITY_NAMES)
    correlated = "" if np.isnan(density[0]["pearson"]) else f", r across eyes {with_interval(density[0], 'pearson')}"
    agreement = {way: number(rows(OURS, f"{way}vessel_auc")["mean"], ".2f") for way in WAYS}
    return (
        f"{title_of(region)}, {counted(ours['eyes'], 'eye')}: the vessels of this run overlap those of the "
        f"{shown_name(REAL, reference)} with a Dice of {with_interval(ours, 'mean')}"
        f"{limit if SEGMENTED in rows.names else ''}; the best of the other methods, {best}, has "
        f"{number(dice[best], form)}. "
        f"The run's vessel density is {compared(density[0]['mean'], density[1], '.3f')}"
        f"{correlated}, "
        f"and its skeleton density {compared(skeleton[0]['mean'], skeleton[1], '.2f')} mm/mm². "
        f"Compared with the large vessels in the OCT-A itself, the run has an AUC of {agreement['']}, and of "
        f"{agreement['registered_']} with the OCT-A registered to its prediction; another eye's prediction reaches "
        f"{agreement['control_']}, which is the effect of registration alone."
    )


def compared(value: float, reference: float, form: str) -> str:
    """A density and the reference's, and by how many percent they differ."""
    text = f"{number(value, form)} (reference {number(reference, form)}"
    return text + (f": {100 * (value / reference - 1):+.0f} %)" if reference > 0 and np.isfinite(value) else ")")


def tables(rows: Rows, region: str, reference: str, ways: Mapping[str, str]) -> list[Block]:
    """The tables of one region; `ways` as in `describe`."""
    found: list[Block] = []
    for title, measures in (
        (f"Vessels compared with the {shown_name(REAL, reference)}; mean", VESSEL_SCORE_NAMES),
        ("Pixels and texture compared with the real OCT-A; mean", SIMILARITY_NAMES),
    ):
        cells = []
        for name in rows.others:
            if rows(name, measures[0])["eyes"]:
                means = [with_interval(rows(name, measure), "mean") for measure in measures]
                cells.append([name, f"{rows(name, measures[0])['eyes']:.0f}", *means])
        found.append(Table(title, ["", "eyes", *map(heading, measures)], cells))
    cells = []
    for measure, name in AGREEMENTS.items():
        cells.append([name, *(with_interval(rows(OURS, f"{way}{measure}"), "mean") for way in ways)])
    found.append(Table("This run's large vessels and those of the real OCT-A; mean", ["", *ways.values()], cells))
    found += [properties(rows, measure, reference) for measure in PROPERTIES if (REAL, WHOLE, measure) in rows.rows]
    if sectors := SECTORS[region][1:]:
        cells = []
        for name in rows.others:
            by_sector = [rows(name, "vessel_density", sector) for sector in sectors]
            cells.append([name, *(f"{number(row['pearson'], '.2f')} ({row['eyes']:.0f})" for row in by_sector)])
        title = "Vessel density by sector: Pearson's r with the reference (eyes with the sector)"
        found.append(Table(title, ["", *sectors], cells))
    cells = []
    for name in rows.others:
        if name != OURS:
            of_name = [rows(name, measure) for measure in COMPARED]
            cells.append([name, *chain(*((with_interval(row, "difference"), p_value(row)) for row in of_name))])
    headings = chain(*((heading(measure), "p") for measure in COMPARED))
    title = "Difference from this run, on the eyes that both have"
    if any(LEAST_P in cell for row in cells for cell in row):
        title += f" ({LEAST_P} the smallest p possible with so few subjects)"
    return [*found, Table(title, ["", *headings], cells)]


def properties(rows: Rows, measure: str, reference: str) -> Table:
    """A property of each image compared with the reference's, or with that of the real OCT-A itself."""
    cells = []
    for name in rows.names:
        if (name, WHOLE, measure) not in rows.rows:
            continue
        row = rows(name, measure)
        label = shown_name(name, reference) if measure in DENSITY_NAMES else name.replace(REAL, "real OCT-A")
        if not row["eyes"]:
            cells.append([label, f"found in 0 of {row['missing']:.0f}", *["-"] * 5])
            continue
        statistics = [with_interval(row, kind) for kind in ("mean", "pearson", "spearman", "bias")]
        limits = [with_interval(row, f"limit_{side}") for side in ("low", "high")]
        eyes = f"{row['eyes']:.0f}" + (f" of {row['eyes'] + row['missing']:.0f}" if row["missing"] else "")
        cells.append([label, eyes, *statistics, " to ".join(limits) if limits != ["-", "-"] else "-"])
    columns = ["mean", "Pearson's r", "Spearman's rho", "bias", "limits of agreement"]
    title = heading(measure)
    return Table(f"{title[0].upper()}{title[1:]}, whole crop", ["", "eyes", *columns], cells)


def headlines(summary: pd.DataFrame, ways: Mapping[str, str]) -> list[str]:
    """Lines to print: ROC AUC, Dice, clDice, density and its correlation of every candidate.

    And how this run agrees with the real OCT-A, unregistered and registered; `ways` as in `describe`.
    """
    lines = []
    for region, part in summary[summary["sector"] == WHOLE].groupby("region", sort=False):
        lines.append(f"{region:26} ROC AUC    Dice  clDice  density  Pearson's r")
        for name, rows in part[part["candidate"] != REAL].groupby("candidate", sort=False):
            of = rows.set_index("measure")
            means = [number(of.loc[measure, "mean"]) for measure in ("roc_auc", "dice", "cldice", "vessel_density")]
            r = number(of.loc["vessel_density"].get("pearson", np.nan))
            lines.append(f"  {name:24} {means[0]:>7} {means[1]:>7} {means[2]:>7} {means[3]:>8} {r:>12}")
        ours = part[part["candidate"] == OURS].set_index("measure")["mean"]
        for measure, name in AGREEMENTS.items():
            by_way = (f"{label} {number(ours[way + measure])}" for way, label in ways.items())
            lines.append(f"  {OURS}, {name} with the real OCT-A: {'; '.join(by_way)}")
    return lines


# --- files -----------------------------------------------------------------------------------------------------------


def as_png(figure: Figure) -> bytes:
    """A figure as PNG for a screen."""
    content = BytesIO()
    figure.savefig(content, dpi=SCREEN_DPI, format="png")
    return content.getvalue()


def write_results(
    folder: Path, tables: Mapping[str, pd.DataFrame], blocks: Sequence[Block], figures: Mapping[str, Figure]
) -> Path:
    """Write NAME.csv for each table, summary.md, report.html, NAME.png and NAME.pdf for each figure, atomically.

    Returns:
        The new folder; with a number after its name if the name was taken.

    Raises:
        OSError: from the disk; names the folder, and nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors_name(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as hidden:
        made = Path(hidden) / "results"
        made.mkdir()
        for name, table in tables.items():
            table.to_csv(made / f"{name}.csv", index=False, float_format="%.6g")
        for name, figure in figures.items():
            figure.savefig(made / f"{name}.png", dpi=DPI)
            figure.savefig(made / f"{name}.pdf", dpi=DPI)
        pictures = {name: as_png(figure) for name, figure in figures.items()}
        (made / "summary.md").write_text(as_markdown(blocks), encoding="utf-8")
        (made / "report.html").write_text(as_html(blocks[0].text, blocks, pictures), encoding="utf-8")
        names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
        return made.rename(next(name for name in names if not name.exists()))
