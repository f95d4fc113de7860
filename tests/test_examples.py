"""The examples run, learn, and send backward what their method asked for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "examples"))


def test_examples_are_short() -> None:
    for file in (Path(__file__).parent / "examples").glob("*.py"):
        assert len(file.read_text().splitlines()) < 60, file.name


def test_plain_pytorch() -> None:
    import plain_pytorch

    accuracy, backward = plain_pytorch.train("orderdp")
    assert backward == plain_pytorch.EPOCHS * round(0.5 * 1797)
    assert accuracy > 0.8


def test_lightning_trains_as_plain_pytorch(tmp_path: Path) -> None:
    lightning_module = pytest.importorskip("lightning_module", reason="Lightning is not installed")
    import plain_pytorch

    assert lightning_module.train(str(tmp_path)) == pytest.approx(plain_pytorch.train("orderdp"), abs=0.01)
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    import torch

    assert torch.load(checkpoint, weights_only=False)["pruning"]["next"] == lightning_module.EPOCHS


def test_hugging_face_trainer(tmp_path: Path) -> None:
    hugging_face_trainer = pytest.importorskip("hugging_face_trainer", reason="transformers is not installed")
    accuracy, sampler = hugging_face_trainer.train(str(tmp_path))
    assert sampler.epoch == hugging_face_trainer.EPOCHS - 1
    assert accuracy > 0.8
    assert bool(sampler.method.scores.isfinite().any())


def test_detection() -> None:
    import detection

    means = detection.train()
    assert len(means) == detection.EPOCHS
    assert means[1] < means[0]
