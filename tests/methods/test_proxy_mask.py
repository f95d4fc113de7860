"""proxy_mask: the batches trained on are the proxy's picks bit for bit, and each pass is paid for."""

import math

import pytest
import torch

from dpbench import load_method
from dpbench.experiments.estimate import Size, Speed, _work
from dpbench.method import Proxy, Signals
from dpbench.rng import derive, generator, seeded
from dpbench.spec import canonical
from dpbench.training import conformance, loading, proxy, runner
from dpbench.training.train import Learner, train_epoch
from dpbench.training.workload import workload

CPU, N = torch.device("cpu"), 90
SMALL = "mlp[width=16,depth=1]"  # of a few units, many die, and equal losses are drawn among
TEXT = f"proxy_mask[every=2,proxy_model={SMALL}]"


@pytest.fixture
def trained_on(monkeypatch, home):
    """Give `trained_on(spec)`: the batches of each epoch of the run, in order, and its ledger."""

    def carry_out(spec):
        epochs = []

        def watch(*arguments, **options):
            done = train_epoch(*arguments, **options)
            epochs.append(done.trained)
            return done

        inner = runner._Run(spec, CPU, None, home)
        with monkeypatch.context() as patch:
            patch.setattr(runner, "train_epoch", watch)
            inner.train(1e9, None)
        return epochs, inner.ledger

    return carry_out


def proxys_picks(spec, every):
    """The published loop: what each batch's rows of highest loss are, and a step on them in every `every`-th."""
    data, recipe, keep = loading.load_data(spec.dataset, None), spec.recipe, spec.keep
    seed = derive(spec.seed, "proxy", 0)
    learner = Learner(SMALL, recipe, workload(data, recipe), data.shape, seed, CPU)
    loader = data.train.loader(data.train, recipe, CPU, augment=True)
    size = recipe.batch_size * round(1 / keep)
    steps = math.ceil(N / size)
    picks, t = [], 0
    for epoch in range(recipe.epochs):
        loader.start_epoch(generator(spec.seed, "augment", epoch))
        order = torch.randperm(N, generator=generator(spec.seed, "order", epoch))
        picks.append([])
        with seeded(derive(seed, "train", epoch), CPU):
            for step, (rows, inputs, labels) in enumerate(loader.batches(list(order.split(size)))):
                learner.model.eval()
                with torch.no_grad():
                    losses = learner.workload.losses(learner.forward(inputs), labels)
                hardest = losses.argsort(descending=True)[: round(keep * len(rows))].sort().values
                picks[-1].append(rows[hardest])
                if t % every == 0:
                    learner.model.train()
                    loss = learner.workload.losses(learner.forward(inputs[hardest]), labels[hardest]).mean()
                    learner.backward(loss)
                    learner.step(proxy.optim.schedule(recipe, (epoch + step / steps) / recipe.epochs))
                t += 1
    return picks


@pytest.mark.parametrize(("keep", "every"), [(0.5, 2), (0.5, 1), (0.3, 4)])
def test_the_batches_are_the_proxys_picks_bit_for_bit(spec, trained_on, keep, every):
    wanted = spec(f"proxy_mask[every={every},proxy_model={SMALL}]", keep=keep)
    got, _ = trained_on(wanted)
    expected = proxys_picks(wanted, every)
    assert [len(epoch) for epoch in got] == [len(epoch) for epoch in expected]
    for epoch, batches in zip(got, expected, strict=True):
        for rows, picked in zip(epoch, batches, strict=True):
            assert torch.equal(rows, picked)
    assert len({tuple(sorted(torch.cat(epoch).tolist())) for epoch in got}) > 1, "they change from epoch to epoch"


def test_each_pass_is_paid_for(spec, trained_on):
    """Batches of 32, 32 and 26 of 90: the proxy forwards all, and trains on half of every second one of 12."""
    epochs, ledger = trained_on(spec(TEXT, keep=0.5))
    assert [len(rows) for rows in epochs[0]] == [16, 16, 13]
    assert (ledger.backward, ledger.forward) == (4 * 45, 4 * 45), "the model forwards nothing to choose by"
    trained = 2 * (16 + 13 + 16)  # steps 0 and 2 of the even epochs, 1 of the odd ones
    assert ledger.proxy_backward == trained
    assert ledger.proxy_forward == 4 * 90 + trained


def test_the_estimate_counts_no_passes_to_choose_by(spec):
    speed, size = Speed(1.0), Size(90, 10, 50)
    work = _work(spec(TEXT, keep=0.5), size, speed)
    assert (work.forward, work.backward) == (0, 180)
    assert _work(spec("big_loss", keep=0.5), size, speed).forward == 360


def test_a_record_is_of_its_keep_and_leaves_others_as_they_were(spec):
    [half], [third] = (proxy.requests(spec(TEXT, keep=keep)) for keep in (0.5, 0.3))
    assert half.hash != third.hash
    assert (half.model, half.training["keep"], half.training["hardest"]) == (SMALL, 0.5, 2)
    [other] = proxy.requests(spec("aum"))
    assert not {"keep", "hardest"} & other.training.keys()


def test_a_training_stopped_in_the_middle_goes_on_bit_for_bit(spec, run, home):
    wanted = spec(TEXT, keep=0.5, epochs=6)
    whole = run(wanted)
    (home / "runs").rename(home / "first")
    seen = []

    def stop(record):
        seen.append(record)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(wanted, checkpoint_s=0, on_epoch=stop)
    again = run(wanted)
    for one, two in zip(whole["epochs"], again["epochs"], strict=True):
        untimed = [{k: v for k, v in epoch.items() if not k.startswith("time")} for epoch in (one, two)]
        assert untimed[0] == untimed[1]
    assert whole["diagnostics"] == again["diagnostics"]


def test_its_state_resumes_and_it_is_a_method_as_any_other(make):
    assert not any(conformance.check("proxy_mask").values())
    method = make("proxy_mask", n=6, keep=0.5)
    with pytest.raises(ValueError, match="no proxy"):
        method.select(0)
    for epoch, picked in enumerate(([1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0])):
        method.observe(Signals(torch.arange(6), {"member": torch.tensor(picked).float()}, epoch, 0))
    second = make("proxy_mask", n=6, keep=0.5)
    second.load_state_dict(method.state_dict())
    rows = torch.tensor([5, 4, 3, 2])
    for epoch, positions in ((0, [0, 3]), (1, [1, 2]), (2, [0, 3])):
        assert second.pick(Signals(rows, {}, epoch), torch.Generator()).positions.tolist() == positions


def test_what_is_refused():
    assert load_method("proxy_mask").requires().proxy == Proxy(10_000, at="steps", hardest=4)
    with pytest.raises(ValueError, match="hardest=1"):
        Proxy(3, hardest=1)
    with pytest.raises(Exception, match="sets its share once"):
        load_method("proxy_mask[keep_schedule=rising]")
    assert canonical("proxy_mask[every=4]") == "proxy_mask"
