"""The schedules against torch's and the closed form, and the optimizer's step against its formula."""

import math

import pytest
import torch
from torch import nn

from dpbench.optim import learning_rate, optimizer
from dpbench.spec import Recipe


def recipe(**changes: object) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.2} | changes))  # type: ignore[arg-type]


def test_onecycle_is_torchs_with_its_defaults() -> None:
    steps = 20_000  # torch reaches its turning points one step early, which vanishes with the number of steps
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.2, total_steps=steps, cycle_momentum=False)
    for step in range(steps - 1):
        found = learning_rate(recipe(), step / steps)
        assert found == pytest.approx(sgd.param_groups[0]["lr"], abs=0.2 * 5 / steps), step
        sgd.step()
        schedule.step()


def test_onecycle_at_its_turning_points() -> None:
    found = [learning_rate(recipe(), progress) for progress in (0, 0.3, 0.65, 1)]
    assert found == pytest.approx([0.2 / 25, 0.2, (0.2 + 0.2 / 250_000) / 2, 0.2 / 250_000])


@pytest.mark.parametrize("progress", [0, 0.1, 1 / 3, 0.5, 0.99, 1])
def test_cosine_is_the_closed_form(progress: float) -> None:
    expected = 0.2 * (1 + math.cos(math.pi * progress)) / 2
    assert learning_rate(recipe(schedule="cosine"), progress) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_beyond_the_end_the_rate_stays(schedule: str) -> None:
    last = recipe(schedule=schedule)
    assert learning_rate(last, 1.1) == pytest.approx(learning_rate(last, 1.0), abs=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_the_formula(nesterov: bool) -> None:
    model = nn.Linear(2, 1, bias=False)
    sgd = optimizer(model, recipe(momentum=0.9, nesterov=nesterov, weight_decay=0.01))
    weight, velocity = model.weight.detach().clone().double(), torch.zeros(1, 2, dtype=torch.float64)
    for step in range(1, 4):
        model.weight.grad = torch.full((1, 2), float(step))
        sgd.step()
        gradient = step + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.2 * (gradient + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-6, atol=1e-6)
