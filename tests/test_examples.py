"""The examples run, learn, and send backward what their method asked for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from forks import on_ranks

sys.path.insert(0, str(Path(__file__).parent / "examples"))


def test_examples_are_short() -> None:
    for file in (Path(__file__).parent / "examples").glob("*.py"):
        assert len(file.read_text().splitlines()) < 60, file.name


def test_plain_pytorch() -> None:
    import plain_pytorch

    accuracy, backward = plain_pytorch.train("orderdp")
    assert backward == plain_pytorch.EPOCHS * round(0.5 * 1797)
    assert accuracy > 0.8


def test_distributed_under_torchrun() -> None:
    file = Path(__file__).parent / "examples" / "distributed.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    found = re.search(r"accuracy (\S+) after (\d+) samples on each process", said.stdout)
    assert found is not None, said.stdout
    assert float(found[1]) > 0.8
    assert 8 * 899 // 2 < int(found[2]) < 8 * 899


def _accelerated(rank: int) -> tuple[float, int]:
    import accelerated

    return accelerated.train()


def test_accelerated_on_two_ranks(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed")
    (accuracy, backward), other = on_ranks(2, _accelerated, tmp_path)
    assert other == (accuracy, backward), "the ranks hold the same parameters and have equal shares"
    assert accuracy > 0.8
    assert 8 * 899 // 2 < backward < 8 * 899


def _sharded(rank: int) -> tuple[float, int]:
    import sharded

    return sharded.train("orderdp")


def test_sharded_on_two_ranks(tmp_path: Path) -> None:
    (accuracy, backward), (other, rest) = on_ranks(2, _sharded, tmp_path)
    assert min(accuracy, other) > 0.8
    assert backward + rest == 8 * round(0.5 * 1797), "each epoch keeps exactly k of all"


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


@pytest.mark.parametrize("prepared", [False, True])
def test_hugging_face_trainer_resumes_within_an_epoch(tmp_path: Path, prepared: bool) -> None:
    example = pytest.importorskip("hugging_face_trainer", reason="transformers is not installed")
    import torch
    from transformers import TrainerCallback, TrainingArguments

    from dpbench import IndexedDataset, PruningSampler

    class KeepState(TrainerCallback):
        def on_save(self, args, state, control, **kwargs) -> None:  # type: ignore[no-untyped-def]
            torch.save(trainer.sampler.state_dict(), tmp_path / f"{state.global_step}.pt")

    class Trainer(example.PruningTrainer):  # type: ignore[misc, name-defined]
        def get_train_dataloader(self):  # type: ignore[no-untyped-def]
            loader = super().get_train_dataloader()
            return self.accelerator.prepare(loader) if prepared else loader

        def compute_loss(self, model, inputs, *args, **kwargs):  # type: ignore[no-untyped-def]
            seen.append(inputs["index"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    data = IndexedDataset([{"x": torch.rand(64), "labels": i % 10} for i in range(64)])
    options = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "no", "save_steps": 3}
    seen: list[list[int]] = []
    whole: list[list[int]] = []
    for step in (0, 3, 6, 9):  # an epoch has 4 steps, so these are within epochs 0, 1 and 2
        arguments = TrainingArguments(str(tmp_path), num_train_epochs=4, remove_unused_columns=False, **options)
        trainer = Trainer(torch.nn.Linear(64, 10), arguments, train_dataset=data, callbacks=[KeepState()])
        trainer.sampler = PruningSampler("uniform_epoch", n=64, epochs=4, batch_size=8)
        if step:
            trainer.sampler.load_state_dict(torch.load(tmp_path / f"{step}.pt"))
            trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
            assert seen == whole[step:], step
        else:
            trainer.train()
            whole += seen
            assert len(whole) == 16
        seen.clear()


def test_detection() -> None:
    import detection

    means = detection.train()
    assert len(means) == detection.EPOCHS
    assert means[1] < means[0]


def test_static_method() -> None:
    import static_method

    accuracy = static_method.train()
    assert accuracy.keys() == {"EL2N", "Forgetting"}
    assert min(accuracy.values()) > 0.5
