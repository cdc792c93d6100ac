"""The statistics across eyes, compared with SciPy, with cases worked by hand and with simulated eyes."""

import numpy as np
import pytest
from scipy.stats import pearsonr

import evaluation.statistics as vs


def test_both_eyes_of_a_subject_are_drawn_together():
    drawn = vs.resample_subjects(np.array([5, 5, 7, 9, 9, 9]), 500, 0)
    assert np.array_equal(drawn[:, [0, 3, 3]], drawn[:, [1, 4, 5]])
    assert set(drawn[:, [0, 2, 3]].sum(axis=1)) == {3}


def simulated(random, subjects, rho, within):
    """Two values for both eyes of subjects, correlated by rho; the eyes of a subject by `within`."""
    covariance = np.array([[1, rho], [rho, 1]])
    shared = random.multivariate_normal([0, 0], within * covariance, subjects)
    own = random.multivariate_normal([0, 0], (1 - within) * covariance, 2 * subjects)
    return (np.repeat(shared, 2, axis=0) + own).T


@pytest.fixture
def correlated():
    return simulated(np.random.default_rng(0), 300, 0.8, 0.7)


def test_correlation_of_a_resample_is_that_of_the_repeated_eyes(correlated):
    real, other = correlated
    one = np.ones((1, len(real)), dtype=int)
    one[0, :4], one[0, 10] = 3, 0
    repeated = np.repeat(np.arange(len(real)), one[0])  # each eye as often as it is drawn
    found = vs.correlation(real, other, one)
    assert found["pearson_low"] == pytest.approx(pearsonr(real[repeated], other[repeated]).statistic)


def test_correlation_with_equal_eyes_is_nan(correlated):
    assert np.isnan(list(vs.correlation(correlated[0], np.ones(600), np.ones((1, 600), dtype=int)).values())).all()


def test_intervals_contain_the_truth_about_as_often_as_they_should():
    """Drawing eyes instead of subjects would not do: two eyes that are nearly equal tell little more than one."""
    random, subjects = np.random.default_rng(1), np.repeat(np.arange(40), 2)
    hits = {"mean": 0, "pearson": 0, "mean, eyes drawn": 0}
    for trial in range(300):
        real, other = simulated(random, 40, 0.7, 0.9)
        drawn = vs.resample_subjects(subjects, 300, trial)
        mean, r = vs.mean_of_eyes(other, drawn), vs.correlation(real, other, drawn)
        eyes = vs.mean_of_eyes(other, vs.resample_subjects(np.arange(80), 300, trial))
        hits["mean"] += mean["low"] < 0 < mean["high"]
        hits["pearson"] += r["pearson_low"] < 0.7 < r["pearson_high"]
        hits["mean, eyes drawn"] += eyes["low"] < 0 < eyes["high"]
    assert 0.90 < hits["mean"] / 300 < 0.98
    assert 0.89 < hits["pearson"] / 300 < 0.98
    assert hits["mean, eyes drawn"] / 300 < 0.88


def test_bland_altman_by_hand():
    real, difference = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.01, 0.03, 0.01, 0.03])
    found = vs.bland_altman(real, real + difference, vs.resample_subjects(np.arange(4), 1000, 0))
    reach = 1.96 * np.sqrt(4 * 0.01**2 / 3)
    expected = {"bias": 0.02, "limit_low": 0.02 - reach, "limit_high": 0.02 + reach}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert 0.0099 < found["bias_low"] < 0.02 < found["bias_high"] < 0.0301


def test_paired_difference_is_tested_over_subjects():
    subjects = np.repeat(np.arange(12), 2)
    one, drawn = np.random.default_rng(2).uniform(0.7, 0.9, 24), vs.resample_subjects(subjects, 200, 0)
    found = vs.paired_difference(one, one - 0.01 * np.arange(1, 25), subjects, drawn)
    # All of 12 subjects are on one side; 24 eyes would give 2 / 2**24
    assert (found["difference"], found["p"]) == pytest.approx((0.125, 2 / 2**12))
    assert vs.paired_difference(one, one, subjects, drawn)["p"] == 1


def test_eyes_without_the_measure_are_left_out():
    values, subjects = np.arange(24.0), np.repeat(np.arange(12), 2)
    real, values[0] = values + 1, np.nan
    found = vs.across_eyes(values, real, None, subjects)
    assert (found["mean"], found["bias"]) == pytest.approx((np.arange(1, 24).mean(), -1))
    assert vs.across_eyes(np.full(24, np.nan), real, None, subjects) == {}


def test_few_subjects_have_means_only():
    values, subjects = np.arange(2.0 * (vs.MIN_SUBJECTS - 1)), np.repeat(np.arange(vs.MIN_SUBJECTS - 1), 2)
    found = vs.across_eyes(values, values + 1, values - 1, subjects)
    assert {name for name, value in found.items() if np.isfinite(value)} == {"mean", "sd", "bias", "difference"}
    assert (found["bias"], found["difference"]) == (-1, 1)
