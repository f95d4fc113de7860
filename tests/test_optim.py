"""The schedules against torch's and the closed form, and the optimizers' steps against formula and torch."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dpbench import optim
from dpbench.optim import schedule
from dpbench.spec import Recipe


def recipe(**changes: object) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.2} | changes))  # type: ignore[arg-type]


def torchs(steps: int, **options: float) -> list[tuple[float, float]]:
    """Learning rate and momentum of torch's OneCycleLR at each step."""
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.2, total_steps=steps, **options)  # type: ignore[arg-type]
    found = []
    for step in range(steps):
        found.append((sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]))
        sgd.step()
        if step + 1 < steps:
            cycle.step()
    return found


@pytest.mark.parametrize("steps", [10, 57, 1000])
@pytest.mark.parametrize("momentum", [None, (0.7, 0.9)])
def test_onecycle_is_torchs_step_by_step(steps: int, momentum: tuple[float, float] | None) -> None:
    """Torch turns at step 0.3 T - 1 and ends at step T - 1: its step is ours at the progress of the step's end."""
    ours = recipe() if momentum is None else recipe(momentum=momentum)
    options = {} if momentum is None else {"base_momentum": momentum[0], "max_momentum": momentum[1]}
    turn = 0.3 * steps - 1
    for step, expected in enumerate(torchs(steps, **options)):
        progress = 0.3 * step / turn if step <= turn else (step + 1) / steps
        assert schedule(ours, progress) == pytest.approx(expected, rel=1e-9), step


def test_onecycle_as_the_runner_steps_it_is_torchs_to_one_step() -> None:
    steps = 2000
    for step, (rate, momentum) in enumerate(torchs(steps)):
        found = schedule(recipe(), step / steps)
        assert found.learning_rate == pytest.approx(rate, abs=0.2 * 6 / steps), step
        assert found.momentum == pytest.approx(momentum, abs=0.1 * 6 / steps), step


def test_onecycle_at_its_turning_points() -> None:
    rates, momenta = zip(*(schedule(recipe(), progress) for progress in (0, 0.3, 0.65, 1)), strict=True)
    assert rates == pytest.approx((0.2 / 25, 0.2, (0.2 + 0.2 / 250_000) / 2, 0.2 / 250_000))
    assert momenta == pytest.approx((0.95, 0.85, 0.9, 0.95))


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_one_momentum_is_constant(name: str) -> None:
    constant = recipe(schedule=name, momentum=0.8)
    assert {schedule(constant, progress).momentum for progress in (0, 0.2, 0.3, 0.9, 1)} == {0.8}
    assert recipe(schedule="cosine").momentum == (0.9, 0.9)


def test_a_scale_is_of_the_rate_only() -> None:
    one, scaled = schedule(recipe(), 0.4), schedule(recipe(), 0.4, scale=3.0)
    assert scaled.learning_rate == 3 * one.learning_rate
    assert scaled.momentum == one.momentum


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": [0.9, 0.8]}, "one number or a range"),
        ({"schedule": "cosine", "momentum": [0.8, 0.9]}, "a range is for onecycle"),
        ({"momentum": 0}, "nesterov needs a momentum above 0"),
        ({"momentum": [0.9, 1.0]}, "less than 1"),
        ({"momentum": "high"}, "valid tuple"),
    ],
)
def test_a_wrong_momentum_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("progress", [0, 0.1, 1 / 3, 0.5, 0.99, 1])
def test_cosine_is_the_closed_form(progress: float) -> None:
    expected = 0.2 * (1 + math.cos(math.pi * progress)) / 2
    assert schedule(recipe(schedule="cosine"), progress).learning_rate == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_beyond_the_end_the_rate_stays(name: str) -> None:
    last = recipe(schedule=name)
    assert schedule(last, 1.1) == pytest.approx(schedule(last, 1.0), abs=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_the_formula(nesterov: bool) -> None:
    model = nn.Linear(2, 1, bias=False)
    sgd = optim.sgd(model.parameters(), recipe(momentum=0.9, nesterov=nesterov, weight_decay=0.01))
    weight, velocity = model.weight.detach().clone().double(), torch.zeros(1, 2, dtype=torch.float64)
    for step in range(1, 4):
        model.weight.grad = torch.full((1, 2), float(step))
        sgd.step()
        gradient = step + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.2 * (gradient + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-6, atol=1e-6)


def test_adamw_is_torchs_with_onecycle_cycling_its_first_beta() -> None:
    ours, theirs = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    mine = optim.adamw(ours.parameters(), recipe(optimizer="adamw", weight_decay=0.01))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1.0, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(reference, max_lr=0.2, total_steps=10)
    for step in range(3):
        rate, beta = reference.param_groups[0]["lr"], reference.param_groups[0]["betas"][0]
        optim.set_step(mine, optim.Step(rate, beta))
        for model in (ours, theirs):
            model.weight.grad = torch.full((1, 2), step - 0.5)
        mine.step()
        reference.step()
        cycle.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_an_optimizer_is_one_of_those_known_and_the_default_one_changes_no_hash() -> None:
    assert "optimizer" not in recipe().model_dump()
    assert Recipe(**recipe(optimizer="adamw").model_dump()).optimizer == "adamw"
    with pytest.raises(ValidationError, match="unknown optimizer 'adam'; known: sgd, adamw"):
        recipe(optimizer="adam")
