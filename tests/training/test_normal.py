"""Statistics of what is normal, also where a column never moves or windows are few."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.events import Float32, Float64
from training.data import periods
from training.normal import RESIDUAL_FLOOR, error_statistics


def correlated(count: int, seed: int = 0) -> tuple[Float32, Float64]:
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
    drawn = np.random.default_rng(seed).multivariate_normal([0.3, 0.0, -1.0], covariance, (count, 10))
    return drawn.astype(np.float32), covariance


def test_whitening_whitens() -> None:
    residuals, covariance = correlated(4000)
    found = error_statistics("mahalanobis", residuals)
    white = np.array(found.whitening)
    np.testing.assert_allclose(np.linalg.inv(white @ white.T), covariance, atol=0.06)
    np.testing.assert_allclose(found.mean, [0.3, 0.0, -1.0], atol=0.03)
    assert found.shrinkage < 0.02
    distance = (((residuals - np.array(found.mean)) @ white) ** 2).sum(2)
    assert distance.mean() == pytest.approx(3, rel=0.02)


def test_few_windows_shrink_more() -> None:
    def mean(count: int) -> float:
        drawn = (correlated(count, seed)[0] for seed in range(20))
        return float(np.mean([error_statistics("mahalanobis", residuals).shrinkage for residuals in drawn]))

    assert 1 > mean(3) > mean(15) > mean(60) > 0
    assert error_statistics("mahalanobis", correlated(1)[0]).shrinkage == 1
    residuals = correlated(40)[0]
    assert (
        error_statistics("mahalanobis", residuals, 8).shrinkage > error_statistics("mahalanobis", residuals).shrinkage
    )


@pytest.mark.parametrize("count", [1, 50])
def test_degenerate_residuals(count: int) -> None:
    """A column without residual, and two that are the same: still a finite, positive definite distance."""
    residuals = np.zeros((count, 10, 4), np.float32)
    residuals[..., 1] = residuals[..., 2] = np.random.default_rng(0).normal(size=(count, 10))
    white = np.array(error_statistics("mahalanobis", residuals).whitening)
    precision = white @ white.T
    assert np.isfinite(precision).all()
    assert np.linalg.eigvalsh(precision).min() > 0
    assert precision[0, 0] == pytest.approx(RESIDUAL_FLOOR**-2)


def test_residuals_of_a_model_s_own_are_judged_by_their_own_size() -> None:
    """Deviations of a thousandth count in full; a unit that never moves is given a hundredth of the others' size."""
    residuals = np.random.default_rng(0).normal(0.3, 1e-3, (2_000, 4)).astype(np.float32)
    residuals[:, 3] = 0.5
    found = error_statistics("mahalanobis", residuals)
    precision = np.array(found.whitening) @ np.array(found.whitening).T
    np.testing.assert_allclose(np.diag(precision)[:3], 1e6, rtol=0.1)
    usual = np.sqrt(3 / 4) * 1e-3
    assert precision[3, 3] == pytest.approx((RESIDUAL_FLOOR * usual) ** -2, rel=0.1)
    np.testing.assert_allclose(found.mean, [0.3, 0.3, 0.3, 0.5], atol=1e-3)
    still = error_statistics("mahalanobis", np.zeros((5, 4), np.float32))
    assert np.isfinite(still.whitening).all()


def test_other_kinds_learn_nothing() -> None:
    found = error_statistics("mse", correlated(5)[0])
    assert found.mean == ()
    assert found.whitening == ()


def test_periods() -> None:
    ends = np.arange(20) * 2_000 + 9_000
    times = np.stack([ends - 9_000, ends], 1)
    ten = np.repeat(np.arange(2, dtype=np.int32), 10)
    found = periods(["a", "b"], ten, np.concatenate([times[:10], times[:10] * 3]), 10, 2)
    assert found == {"a": 1_000, "b": 3_000}
    assert periods(["a"], 0 * np.append(ten, ten)[:20], times[:, [1, 1]], 1, 2) == {"a": 1_000}
    assert periods(["a", "b"], ten[[0, 10]], np.array([[0, 900], [5, 5]]), 10, 2) == {"a": 100, "b": 100}
    assert periods(["b"], ten[:1], np.array([[5, 5]]), 10, 2) == {"b": 1_000}
