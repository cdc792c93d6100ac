"""Statistics across eyes: bootstrap over subjects, intervals, correlations, agreement and differences, in one table.

The two eyes of a subject are alike. So the bootstrap draws subjects with all their eyes (Davison and Hinkley, Bootstrap
Methods and their Application, 1997, 3.8); intervals are percentiles.
"""

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, wilcoxon

from evaluation.measures import (
    AGREEMENT_NAMES,
    DENSITY_NAMES,
    MEASURES,
    OURS,
    REAL,
    SIMILARITY_NAMES,
    VESSEL_SCORE_NAMES,
)
from retina.vessels import WHOLE

MIN_SUBJECTS = 10  # intervals, correlations and tests of fewer would be misleading
RESAMPLES = 2000  # of the bootstrap
CONFIDENCE = 0.95
LIMITS_OF_AGREEMENT = 1.96  # standard deviations: 95 % of normal differences


def resample_subjects(subjects: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each resample draws each eye: (resamples, eyes), int; `subjects` (eyes,) are those of the eyes."""
    names, owner = np.unique(subjects, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, owner]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values (resamples,), without those that are nan; nan if all are."""
    values = values[np.isfinite(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def mean_of_eyes(values: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """`mean`, `sd` and the interval `low` to `high` of the mean, of (eyes,); `drawn` is from `resample_subjects`."""
    low, high = interval(drawn @ values / drawn.sum(axis=1))
    sd = float(np.std(values, ddof=1)) if values.size > 1 else np.nan
    return {"mean": float(np.mean(values)), "sd": sd, "low": low, "high": high}


def correlation(real: np.ndarray, other: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Pearson's correlation of (eyes,) with (eyes,) and its interval: `pearson`, `pearson_low`, `pearson_high`.

    Nan if one of the two is the same in all eyes.
    """
    if np.ptp(real) == 0 or np.ptp(other) == 0:
        return dict.fromkeys(("pearson", "pearson_low", "pearson_high"), np.nan)
    low, high = interval(weighted_pearson(real, other, drawn))
    return {"pearson": float(pearsonr(real, other).statistic), "pearson_low": low, "pearson_high": high}


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r of each resample (resamples,), where each eye counts as often as `weights` (resamples, eyes)."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total  # (resamples, eyes)
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xy, xx, yy = ((weights * product).sum(axis=1) for product in (x * y, x * x, y * y))
    with np.errstate(invalid="ignore", divide="ignore"):  # all eyes of a resample may have the same value
        return np.where((xx > 1e-18) & (yy > 1e-18), xy / np.sqrt(xx * yy), np.nan)


def bland_altman(real: np.ndarray, other: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Agreement of `other` (eyes,) with `real` (eyes,): Bland and Altman, Lancet 1986;327:307.

    Returns:
        `bias`, the mean of other - real, with its interval `bias_low` to `bias_high`; `limit_low` and `limit_high`,
        between which 95 % of the differences lie, each with its interval.
    """
    differences = other - real
    found, eyes = mean_of_eyes(differences, drawn), drawn.sum(axis=1)
    statistics = {"bias": found["mean"], "bias_low": found["low"], "bias_high": found["high"]}
    means = drawn @ differences / eyes  # (resamples,)
    squares = np.maximum(drawn @ differences**2 / eyes - means**2, 0)
    sds = np.sqrt(squares * eyes / np.maximum(eyes - 1, 1))
    for name, sign in (("limit_low", -1), ("limit_high", 1)):
        low, high = interval(means + sign * LIMITS_OF_AGREEMENT * sds)
        limit = found["mean"] + sign * LIMITS_OF_AGREEMENT * found["sd"]
        statistics |= {name: limit, f"{name}_low": low, f"{name}_high": high}
    return statistics


def paired_difference(one: np.ndarray, other: np.ndarray, subjects: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """How much larger `one` (eyes,) is than `other` (eyes,).

    Returns:
        `difference`, its mean over the eyes, with the interval `difference_low` to `difference_high`; `p` of the
        two-sided signed-rank test (Wilcoxon, Biometrics Bull 1945;1:80) on the subjects' mean differences, 1 without
        any difference.
    """
    found = mean_of_eyes(one - other, drawn)
    _, owner = np.unique(subjects, return_inverse=True)
    by_subject = np.bincount(owner, one - other) / np.bincount(owner)
    p = float(wilcoxon(by_subject).pvalue) if by_subject.any() else 1.0
    return {"difference": found["mean"], "difference_low": found["low"], "difference_high": found["high"], "p": p}


# --- the table -------------------------------------------------------------------------------------------------------


def summarise(per_eye: pd.DataFrame) -> pd.DataFrame:
    """A row for each region, candidate, sector and measure.

    `eyes` and `subjects` count those with the measure, `missing` the eyes without it. Intervals, correlations and tests
    are nan with fewer than MIN_SUBJECTS subjects. The last columns compare a candidate with this run, on the eyes that
    both have.

    `per_eye` are the rows of `measure_eye`, with `region`, `subject` and `name`.
    """
    rows = []
    for (region, sector), part in per_eye.groupby(["region", "sector"], sort=False):
        table = part.pivot(index=["subject", "name"], columns="candidate", values=list(MEASURES))
        subjects = table.index.get_level_values("subject").to_numpy()
        for name in part["candidate"].unique():
            measures = list(DENSITY_NAMES)
            if sector == WHOLE and name != REAL:
                measures += VESSEL_SCORE_NAMES
                measures += SIMILARITY_NAMES if table["mae", name].notna().any() else ()  # an OCT-A
                measures += AGREEMENT_NAMES if name == OURS else ()
            for measure in measures:
                values = table[measure, name].to_numpy()
                found = np.isfinite(values)
                row = {"region": region, "candidate": name, "sector": sector, "measure": measure}
                row |= {"missing": int(np.sum(~found)), "eyes": int(found.sum())}
                row["subjects"] = len(np.unique(subjects[found]))
                real = table[measure, REAL].to_numpy() if name != REAL and measure in DENSITY_NAMES else None
                ours = table[measure, OURS].to_numpy() if name not in (REAL, OURS) else None
                rows.append(row | across_eyes(values, real, ours, subjects))
    return pd.DataFrame(rows)


def across_eyes(
    values: np.ndarray, real: np.ndarray | None, ours: np.ndarray | None, subject: np.ndarray
) -> dict[str, float]:
    """The statistics of one measure of one candidate, with the names that the functions above return.

    Arrays are (eyes,): `values` of the candidate, nan for an eye without the measure; the same of the `real` OCT-A, and
    of this run (`ours`), None if there is nothing to compare with. With fewer than MIN_SUBJECTS subjects, no more than
    means are returned.
    """

    def resampled(eyes: np.ndarray) -> np.ndarray:
        """Resamples of some eyes: none with too few subjects, which makes the intervals nan."""
        enough = len(np.unique(subject[eyes])) >= MIN_SUBJECTS
        return resample_subjects(subject[eyes], RESAMPLES if enough else 0)

    found = np.isfinite(values)
    if not found.any():
        return {}
    statistics = mean_of_eyes(values[found], resampled(found))
    if real is not None and (both := found & np.isfinite(real)).any():
        if len(drawn := resampled(both)):
            statistics |= correlation(real[both], values[both], drawn) | bland_altman(real[both], values[both], drawn)
        else:
            statistics["bias"] = float(np.mean(values[both] - real[both]))
    if ours is not None and (both := found & np.isfinite(ours)).any():
        if len(drawn := resampled(both)):
            statistics |= paired_difference(values[both], ours[both], subject[both], drawn)
        else:
            statistics["difference"] = float(np.mean(values[both] - ours[both]))
    return statistics
