"""Files of predictions: what is kept of a test sample, and the calibration error."""

from pathlib import Path

import numpy as np
import pytest

from dpbench.predictions import Predictions


def predictions(labels: list[int], classes: list[int], confidences: list[float]) -> Predictions:
    sure = np.array(confidences, dtype=np.float16)
    return Predictions(np.array(labels), np.array(classes), sure, -np.log(sure))


def test_calibration_error_is_that_of_a_hand_computation() -> None:
    # bin 9 of 15 has 0.62 and 0.64, of which one is right: |0.63 - 0.5| of 2; bin 13 has 0.9, wrong; 1.0 is right
    found = predictions([0, 1, 1, 1], [0, 0, 0, 1], [0.62, 0.64, 0.9, 1.0])
    assert found.calibration_error() == pytest.approx((2 * 0.13 + 0.9 + 0) / 4, abs=1e-3)


def test_a_model_whose_probabilities_are_true_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 1, 100_000).astype(np.float16)
    right = rng.random(100_000) < sure
    true = Predictions(right.astype(int), np.ones(100_000, dtype=int), sure, -np.log(sure))
    assert true.calibration_error() < 0.005
    assert Predictions(true.labels, true.classes, sure**2, true.losses).calibration_error() > 0.1


def test_a_file_holds_what_was_written_in_some_six_bytes_a_sample(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "predictions.npz"
    labels = rng.integers(0, 100, 10_000)
    sure = rng.random(10_000).astype(np.float16)
    written = Predictions(labels, rng.permutation(labels), sure, -np.log(sure))
    written.write(path)
    found = Predictions.read(path)
    for name, values in vars(written).items():
        assert np.array_equal(getattr(found, name), values), name
    assert path.stat().st_size < 61_000
    assert found.labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"losses": np.zeros(2, np.float16)}, "different lengths"),
        ({"confidences": np.array([0.5, 1.5, 0.1], np.float16)}, "outside of 0 to 1"),
        ({"confidences": np.array([0.5, np.nan, 0.1], np.float16)}, "outside of 0 to 1"),
        ({"losses": np.array([0.5, -1.5, 0.1], np.float16)}, "negative"),
        ({"classes": np.array([0.5, 1.5, 0.1])}, "classes are float64"),
        ({"labels": np.zeros((3, 1), int)}, "shape"),
        ({"more": np.zeros(3)}, "KeyError|unpacked"),
        ({"labels": None}, "labels"),
    ],
)
def test_what_is_no_file_of_predictions_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path, half = tmp_path / "predictions.npz", np.full(3, 0.5, np.float16)
    arrays = {"labels": np.arange(3), "classes": np.arange(3), "confidences": half, "losses": half} | change
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=f"not a file of predictions.*({reason})"):
        Predictions.read(path)
