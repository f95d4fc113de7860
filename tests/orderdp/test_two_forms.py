"""OrderDP's two forms: a known difference is found, equal ones are equivalent, what has no pair is left out."""

from typing import Any

import pytest

from dpbench.orderdp import two_forms


def runs(lead: float, noise: float = 0.0, seeds: int = 5) -> list[dict[str, Any]]:
    """Runs in which the stale form leads by `lead` points at explore 0.5 and by none at 0.9."""
    found = []
    for seed in range(seeds):
        for method, explore in [(name, e) for name in ("orderdp", "orderdp_step") for e in (0.5, 0.9)]:
            more = lead * (explore == 0.5) * (method == "orderdp") + noise * (-1) ** seed * (method == "orderdp")
            metrics = {"accuracy": 0.8 + seed / 50 + more / 100, "time_total_s": 1.0, "jaccard_epochs": 0.5}
            metrics |= {"gradient_cosine": 0.9 - 0.1 * (method == "orderdp") + seed / 100, "forward_saving": 0.7}
            spec = {"dataset": "d", "model": "m", "method": f"{method}[explore={explore}]", "keep": 0.3, "seed": seed}
            given = {"hyperparameters": {"explore": explore}, "samples": {"test": 10_000}, "status": "FINISHED"}
            found.append({"spec": spec, "metrics": metrics} | given)
    return found


@pytest.mark.parametrize(("lead", "noise", "held"), [(0.0, 0.0, True), (3.0, 0.0, False), (0.0, 2.0, None)])
def test_equal_different_and_neither_shown(lead, noise, held):
    found = two_forms.compare(runs(lead, noise))
    assert found["held"] is held
    first, second = found["rows"]
    assert (first["explore"], second["explore"]) == (0.5, 0.9)
    expected = noise / 5  # three of five seeds are above
    assert first["accuracy"]["mean"] == pytest.approx(lead + expected)
    assert second["accuracy"]["mean"] == pytest.approx(expected)
    assert first["gradient_cosine"]["mean"] == pytest.approx(-0.1)
    assert first["gradient_cosine"]["p"] < 0.01
    assert first["accuracy_stale"] - first["accuracy_fresh"] == pytest.approx(lead + expected)


def test_what_has_no_pair_is_left_out():
    only_stale = [one for one in runs(0.0) if one["spec"]["method"].startswith("orderdp[")]
    assert two_forms.compare(only_stale) is None
    assert two_forms.compare([]) is None
    assert two_forms.compare(runs(0.0, seeds=1)) is None
    without = [one for one in runs(0.0) if one["spec"]["method"] != "orderdp_step[explore=0.9]"]
    assert [row["explore"] for row in two_forms.compare(without)["rows"]] == [0.5]
