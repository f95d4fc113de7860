"""infobatch: the released code's always-kept set, counts and weights; unbiasedness; exact control."""

import pytest
import torch

TRIALS = 20_000


def test_released_codes_sets_and_counts(make, show, peers):
    always = set(peers["infobatch_always_kept"].tolist())
    for r, kept, below, weight in peers["infobatch_counts"].tolist():
        text = f"infobatch[r={r}]" if r <= 0.9 else "infobatch"  # r = 0.95 is taken for 0.9
        method = make(text, n=1000, keep=1 - r, labels=None)
        show(method, loss=peers["infobatch_scores"])
        chosen = method.select(0)
        ones = set(chosen.indices[chosen.weights == 1].tolist())
        others = chosen.weights[chosen.weights != 1]
        assert always <= set(chosen.indices.tolist())
        assert len(chosen.indices) == kept
        if r > 0:
            assert ones == always
            assert len(others) == below
            assert others.unique().item() == pytest.approx(weight, rel=1 / below)  # m / kept, not 1 / (1 - r)
            assert float(chosen.weights.double().sum()) == pytest.approx(1000, abs=1e-3)
    assert float(torch.from_numpy(peers["infobatch_scores"]).mean()) == peers["infobatch_mean"]


def test_a_loss_equal_to_the_mean_is_kept(make, show, peers):
    method = make("infobatch[r=0.9]", n=3, labels=None)
    show(method, loss=peers["infobatch_tie_scores"])
    for epoch in range(9):
        assert set(peers["infobatch_tie_kept"].tolist()) <= set(method.select(epoch).indices.tolist())


def test_draw_below_the_mean_is_uniform(make, show, frequency):
    method = make("infobatch[r=0.6]", n=12, labels=None)
    show(method, loss=[0.1] * 10 + [9.0] * 2)
    often = frequency(lambda: method.select(1).indices, 12, 4000)
    assert (often[10:] == 1).all()
    assert ((often[:10] - 0.4).abs() < 4 * (0.24 / 4000) ** 0.5).all()


def test_sum_of_weighted_gradients_is_unbiased(make, show, small, deviation):
    method = make("infobatch", n=12, keep=0.6, labels=None)
    show(method, loss=small.loss)
    found = torch.empty(TRIALS, 9, dtype=torch.float64)
    for trial in range(TRIALS):
        chosen = method.select(1)
        found[trial] = (chosen.weights[:, None] * small.gradients[chosen.indices]).sum(0) / 12
    assert deviation(found, small.gradients.mean(0)) < 4


def test_exact_control(make, show):
    method = make("infobatch[control=exact]", n=100, keep=0.5, labels=None)
    assert len(method.select(0).indices) == 100  # nothing seen yet
    show(method, loss=[0.1] * 80 + [5.0] * 20)
    chosen = method.select(1)
    assert len(chosen.indices) == 50
    assert set(range(80, 100)) <= set(chosen.indices[chosen.weights == 1].tolist())
    assert chosen.weights[chosen.indices < 80].tolist() == pytest.approx([80 / 30] * 30)
    show(method, loss=[0.1] * 40 + [5.0] * 60)  # 60 are always kept, and at least a tenth of the 40
    assert len(method.select(2).indices) == 64
    assert method.missed == [0, 2]


def test_all_data_and_no_weights_at_the_end(make, drive):
    traces = drive(make("infobatch[delta=0.75]"))
    assert [t.selection.weights is None for t in traces] == [True] + [False] * 5 + [True] * 2
    assert len(traces[-1].selection.indices) == 60


@pytest.mark.parametrize("text", ["infobatch", "infobatch[control=exact]"])
def test_state_and_order(resumes, order_free, text):
    resumes(text)
    order_free(text)
