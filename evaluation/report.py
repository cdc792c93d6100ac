"""The report of an evaluation: sentences and tables, one page of HTML with its figures, CSV files.

`per_eye` has a row for each case, candidate and sector (`measures.measure_eye`), `summary` a row for each region,
candidate, sector and measure (`statistics.summarise`). `kind` says in a few words what the reference is.
"""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from basics.files import disk_errors_name
from evaluation.evaluate import MONTAGE, Evaluation
from evaluation.inputs import regions_of
from evaluation.measures import AGREEMENTS, DENSITY_NAMES, OURS, REAL, SIMILARITY_NAMES, VESSEL_SCORE_NAMES, WAYS
from evaluation.statistics import CONFIDENCE, MIN_SUBJECTS, RESAMPLES
from pairs.dataset import is_simulated
from retina.ut_fsocta import OTHER_REGION
from retina.vessels import OCTA_CLASSES, SECTORS, VESSEL_MAP_SIGMA, WHOLE
from run.data import HAS_SEEN, Choice

DPI = 200  # figures are up to 8.4 inches wide: 300 in the 5.6 inches of a page
HEADINGS = {"mae": "MAE", "psnr": "PSNR, dB", "ssim": "SSIM", "roc_auc": "ROC AUC", "dice": "Dice", "cldice": "clDice"}
HEADINGS |= {"vessel_auc": "vessel AUC", "skeleton_density": "skeleton density, mm/mm²", "pearson": "Pearson's r"}
HEADINGS |= {"limit_low": "limits of agreement: low", "limit_high": "high"}
STATISTICS = ("mean", "pearson", "bias", "limit_low", "limit_high")  # of a density
PRINTED = ("roc_auc", "dice", "cldice", "vessel_density")
COMPARED = ("roc_auc", "average_precision", "dice", "cldice")  # with this run, in the table of differences
DIGITS = {"vessel_density": 3, "grey_levels": 3}  # after the point; of other measures two
MONTAGE_CAPTION = (
    "Eyes with the best, the median and the worst Dice of this run. Where a pair is displaced, vessels are missed on "
    "one side and invented on the other."
)
CAPTIONS = {
    "density_scatter": "Vessel density of each eye against the reference's; on the line they are equal.",
    "bland_altman": "Difference of each eye's vessel density from the reference's: mean (line), limits within which "
    "95 % of the differences lie (dashed), the limits' own 95 % intervals (bands).",
}
STYLE = """body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: .25em .6em; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% } figcaption { color: #555 }
@media print { body { font-size: 11px; margin: 0 } table { font-size: 8px } td { white-space: nowrap }
tr, figure { break-inside: avoid } p, h2 { break-after: avoid } }"""


def heading(name: str) -> str:
    """The name of a measure or statistic for readers."""
    return HEADINGS.get(name, name.replace("_", " "))


def counted(things: int, noun: str) -> str:
    """A number of things, with their noun, whose plural ends with an s."""
    return f"{things} {noun}{'' if things == 1 else 's'}"


def number(value: float, form: str = ".2f") -> str:
    """A number for a table, 0 without a sign; a dash for nan."""
    if not np.isfinite(value):
        return "-"
    text = f"{value:{form}}"
    return text if float(text) else text.lstrip("-")


def with_interval(row: Mapping, name: str) -> str:
    """A statistic of a row of `summary`, with its interval if it has one; a correlation has no unit, and two digits."""
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    digits = 2 if name == "pearson" else DIGITS.get(row["measure"], 3 if name == "difference" else 2)
    form = f".{digits}f"
    value, least, most = (number(row.get(column, np.nan), form) for column in (name, low, high))
    return value if least == "-" else f"{value} [{least}, {most}]"


def as_text(summary: pd.DataFrame) -> pd.DataFrame:
    """`summary` with its statistics as text; those that it lacks are dashes."""
    rows = summary.to_dict("records")
    texts = {name: [with_interval(row, name) for row in rows] for name in (*STATISTICS, "difference")}
    texts["p"] = [number(row.get("p", np.nan), ".2g") for row in rows]
    return summary[["region", "candidate", "sector", "measure", "eyes"]].assign(**texts)


def spread(texts: pd.DataFrame, statistic: str, index: Sequence[str] = ("candidate",), columns: str = "measure"):
    """A statistic as a table, by candidate and measure or otherwise, in the order of the rows; nan for those absent."""
    return texts.pivot_table(statistic, list(index), columns, aggfunc="first", sort=False)


# --- what was evaluated, and how -------------------------------------------------------------------------------------


def opening(evaluation: Evaluation, choice: Choice, per_eye: pd.DataFrame, weights: str) -> list[str]:
    """What is evaluated, and what a reader must know first; a sentence each."""
    real = per_eye[(per_eye["sector"] == WHOLE) & (per_eye["candidate"] == REAL)]
    regions = regions_of(real)
    eyes = ", ".join(f"{counted((real['region'] == region).sum(), 'eye')}, {region}" for region in regions)
    subjects = counted(real["subject"].nunique(), "subject")
    found = [f"{subjects} ({eyes}) of {evaluation.data}: {choice.why}; weights: {weights}."]
    if is_simulated(evaluation.data):
        found.append("NO REAL EYES: these are simulated retinas, photographs as well as OCT-A.")
    if real["subject"].nunique() < MIN_SUBJECTS:
        found.append(
            f"ONLY {subjects.upper()}: correlations, intervals, limits of agreement and tests would be misleading and "
            f"are left out (below {MIN_SUBJECTS}); take the means as examples."
        )
    if known := evaluation.cases[evaluation.cases["seen"]]["subject"].nunique():
        number_of_all = evaluation.cases["subject"].nunique()
        found.append(f"NOT A TEST: {HAS_SEEN.format(f'{known} of {number_of_all} subjects')}.")
    return found


def remarks(evaluation: Evaluation, per_eye: pd.DataFrame) -> list[str]:
    """What is missing; a line each."""
    cases, measured = evaluation.cases, per_eye[per_eye["sector"] == WHOLE]["candidate"].value_counts()
    crops, unnamed = measured[REAL], (cases["region"] == OTHER_REGION).sum()
    numbers = {
        "left out, without a usable pair or ground truth": (len(cases) - crops, f"{len(cases)} crops"),
        "without a region, and so without sectors": (unnamed, f"{len(cases)} pairs"),
    }
    for comparator in evaluation.comparators:
        numbers[f"without {comparator.name}"] = crops - measured.get(comparator.name, 0), f"{crops} crops"
    found = [f"{what}: {number_of} of {out_of}" for what, (number_of, out_of) in numbers.items() if number_of]
    return found + [f"unusable: {fault}" for fault in evaluation.faults]


def conditions(evaluation: Evaluation, widths: Mapping[str, str]) -> list[str]:
    """How the evaluation was made; a line each. `widths` are the origins of `with_widths`."""
    classes = " and ".join(f"{OCTA_CLASSES[region]} classes ({region})" for region in widths)
    return [
        f"reference: {evaluation.truth.origin}",
        f"segmenter, the same for every OCT-A: Gaussian of {VESSEL_MAP_SIGMA:g} px, then the brightest of {classes} "
        "(multi-Otsu); vessel probabilities: above Otsu's threshold, or the binary map that comes with them",
        "registered: the real OCT-A is registered to the prediction. Real pairs are some pixels apart, which lowers "
        "the scores of any prediction. Registration also hides errors of position; the prediction for another eye "
        "shows its effect alone. Everything else is measured without it",
        *(["of registered pairs, the unmoved OCT-A"] if evaluation.cases["octa_unmoved"].notna().any() else []),
        "what each measure is, and which way is better: docs/evaluation.md",
        f"width of a crop: {'; '.join(widths.values())}",
        f"intervals: {CONFIDENCE:.0%}, bootstrap over subjects, {RESAMPLES:,} resamples; p: signed-rank test "
        "over subjects, not corrected for multiple tests",
    ]


# --- results ---------------------------------------------------------------------------------------------------------


def sentences(texts: pd.DataFrame, kind: str) -> list[str]:
    """What was found, a sentence for each region."""
    found = []
    for region, part in texts[texts["sector"] == WHOLE].groupby("region", sort=False):
        means, eyes = spread(part, "mean"), part[part["candidate"] == OURS]["eyes"].iloc[0]
        ours, density = means.loc[OURS], means["vessel_density"]
        aucs = "; ".join(f"{label} {ours[f'{way}vessel_auc']}" for way, label in WAYS.items())
        found.append(
            f"{region.capitalize()}, {counted(eyes, 'eye')}: Dice of this run {ours['dice']} (reference: {kind}); "
            f"vessel density {density[OURS]}, reference {density[REAL]}; vessel AUC with the real OCT-A: {aucs}."
        )
    return found


def results_to_print(texts: pd.DataFrame) -> str:
    """The main results of every candidate, as a table for a terminal."""
    whole, index = texts[(texts["sector"] == WHOLE) & (texts["candidate"] != REAL)], ("region", "candidate")
    table = with_eyes(whole, PRINTED, index)
    table["pearson"] = spread(whole, "pearson", index)["vessel_density"]
    return table.rename(columns=heading).rename_axis(index=(None, None), columns=None).to_string()


def with_eyes(whole: pd.DataFrame, measures: Sequence[str], index: Sequence[str]) -> pd.DataFrame:
    """Means of some measures of whole crops, after the number of eyes that have them: a method may lack some eyes."""
    table = spread(whole, "mean", index)[list(measures)].dropna()
    table.insert(0, "eyes", whole[whole["measure"] == measures[0]].set_index(list(index))["eyes"])
    return table


def tables_of(texts: pd.DataFrame, region: str, kind: str) -> dict[str, pd.DataFrame]:
    """The tables of a region by their titles."""
    part = texts[texts["region"] == region]
    whole, means = part[part["sector"] == WHOLE], spread(part[part["sector"] == WHOLE], "mean")
    large = {label: [means.loc[OURS, way + name] for name in AGREEMENTS] for way, label in WAYS.items()}
    tables = {
        f"Vessels compared with the reference ({kind}); mean": with_eyes(whole, VESSEL_SCORE_NAMES, ["candidate"]),
        "Pixels and texture compared with the real OCT-A; mean": with_eyes(whole, SIMILARITY_NAMES, ["candidate"]),
        "Large vessels of this run compared with the real OCT-A; mean": pd.DataFrame(large, map(heading, AGREEMENTS)),
    }
    for measure in DENSITY_NAMES:
        rows = whole[whole["measure"] == measure].set_index("candidate")
        tables[f"{heading(measure)}, whole crop; reference: {kind}"] = rows[["eyes", *STATISTICS]]
    if sectors := SECTORS[region][1:]:
        rows = part[(part["measure"] == "vessel_density") & (part["candidate"] != REAL)]
        rows = rows.assign(r=rows["pearson"].str.split().str[0] + " (" + rows["eyes"].astype(str) + ")")
        title = "Vessel density by sector: Pearson's r with the reference (eyes with the sector)"
        tables[title] = spread(rows, "r", columns="sector")[list(sectors)]
    rows = whole[whole["measure"].isin(COMPARED) & (whole["candidate"] != OURS)]
    differences = spread(rows.assign(text=rows["difference"] + "; p " + rows["p"]), "text")
    return tables | {"Difference, method - this run, on the eyes that both have": differences}


# --- files -----------------------------------------------------------------------------------------------------------


def as_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    content = BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    return content.getvalue()


def as_picture(png: bytes, caption: str) -> str:
    """A PNG file in HTML that needs no other file."""
    image = f"<img alt='{escape(caption)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def make_page(
    title: str,
    paragraphs: Sequence[str],
    tables: Mapping[str, Mapping[str, pd.DataFrame]],
    pictures: Mapping[str, bytes],
    notes: Sequence[str],
) -> str:
    """The report, a page of HTML that needs no other file: paragraphs, `tables_of` each region, PNG files, notes."""
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"]
    parts += [f"<style>{STYLE}</style><h1>{escape(title)}</h1>", *(f"<p>{escape(text)}</p>" for text in paragraphs)]
    for region, of_region in tables.items():
        parts += [f"<h2>{region.capitalize()}</h2>", as_picture(pictures[MONTAGE + region], MONTAGE_CAPTION)]
        for title_of_table, table in of_region.items():
            shown = table.rename(columns=heading).rename_axis(index=None, columns=None)
            parts.append(f"<p>{escape(title_of_table)}</p>{shown.to_html(border=0)}")
    parts += ["<h2>Figures</h2>", *(as_picture(pictures[name], caption) for name, caption in CAPTIONS.items())]
    items = "".join(f"<li>{escape(text)}</li>" for text in notes)
    return "\n".join([*parts, f"<h2>How it was made</h2><ul>{items}</ul>"])


def write_results(folder: Path, tables: Mapping[str, pd.DataFrame], page: str, pictures: Mapping[str, bytes]) -> None:
    """Write NAME.csv for each table, report.html, and NAME.png for each picture.

    The folder appears only when it is complete. An OSError names it, and nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors_name(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as hidden:
        made = Path(hidden) / "results"
        made.mkdir()
        for name, table in tables.items():
            table.to_csv(made / f"{name}.csv", index=False, float_format="%.6g")
        for name, png in pictures.items():
            (made / f"{name}.png").write_bytes(png)
        (made / "report.html").write_text(page, encoding="utf-8")
        made.rename(folder)
