"""dynams: the smallest margins, all of them fresh."""

import torch


def test_selection_and_refresh(make, drive, world):
    traces = drive(make("dynams[every=2]"))
    for epoch, trace in enumerate(traces):
        chosen = trace.selection.indices
        assert len(chosen) == 24
        if epoch % 2:
            assert torch.equal(chosen, traces[epoch - 1].selection.indices)
        elif epoch:
            logits = world.signals(frozenset({"logits"}), torch.arange(60), epoch - 1)["logits"]
            two = logits.topk(2).values
            own = logits.gather(1, world.labels[:, None]).squeeze(1)
            other = torch.where(own == two[:, 0], two[:, 1], two[:, 0])
            assert set(chosen.tolist()) == set((own - other).abs().argsort()[:24].tolist())
        assert trace.saw_all == (epoch in (1, 3, 5))


def test_state_and_order(resumes, order_free):
    resumes("dynams[every=2]")
    order_free("dynams[every=2]")
