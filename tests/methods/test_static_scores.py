"""Static scores: each against its formula written out in NumPy, and against the peers' own outputs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from dpbench import load_method
from dpbench.draws import others
from dpbench.errors import UsageError
from dpbench.kernels import kronecker_inverse, last_layer
from dpbench.method import Signals
from dpbench.scores import beta_weights, strata_budgets
from dpbench.signals import RECORD_SIGNALS, compute
from dpbench.spec import Recipe, RunSpec
from dpbench.training.ledger import Ledger
from dpbench.training.loading import load_data
from dpbench.training.runner import prepare

EPOCHS, N = 20, 400


@pytest.fixture(scope="module")
def gold():
    return np.load(Path(__file__).parent.parent / "data" / "static.npz")


@pytest.fixture(scope="module")
def history(gold):
    """20 epochs of logits of 400 samples, 8 % of them mislabelled, with embeddings."""
    logits = torch.from_numpy(gold["synthetic/logits"])
    labels = torch.from_numpy(gold["synthetic/labels"]).long()
    embedding = torch.from_numpy(gold["synthetic/embeddings"])
    p = logits.double().softmax(2).numpy()
    own = labels.numpy()[None, :, None]
    p_y = np.take_along_axis(p, own, 2)[..., 0]
    correct = logits.argmax(2).numpy() == labels.numpy()
    return SimpleNamespace(logits=logits, labels=labels, embedding=embedding, p=p, p_y=p_y, correct=correct)


@pytest.fixture(scope="module")
def digits(gold):
    """The logits and embeddings of a small trained network on all 1,797 digits, one pass."""
    logits, embedding = torch.from_numpy(gold["digits/logits"]), torch.from_numpy(gold["digits/embedding"])
    return SimpleNamespace(
        logits=logits[None], labels=torch.from_numpy(gold["digits/labels"]).long(), embedding=embedding
    )


@pytest.fixture(scope="module")
def play(make):
    """Give `play(text, data, keep)`: a method that was shown the passes it asks for, as far as they go."""

    def show(text, data, keep=0.3):
        n, asked = len(data.labels), load_method(text)
        method = make(text, n=n, keep=keep, labels=data.labels)
        proxy = asked.requires().proxy
        last = min(proxy.epochs, len(data.logits)) - 1
        for epoch in [last] if proxy.at == "end" else range(last + 1):
            logits = data.logits[epoch]
            loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="none")
            values = compute(method.requires().signals - RECORD_SIGNALS, logits, data.labels, loss, data.embedding)
            values["learning_rate"] = torch.full((n,), epoch + 1.0)
            method.observe(Signals(torch.arange(n), values, epoch, 0))
        return method

    return show


def chosen(method):
    return set(method.select(0).indices.tolist())


def highest(scores, k):
    return set(np.argsort(-scores, kind="stable")[:k].tolist())


def margins(x, labels):
    own = np.take_along_axis(x, labels[None, :, None], 2)
    others = x.copy()
    np.put_along_axis(others, labels[None, :, None], -np.inf, 2)
    return own[..., 0] - others.max(2)


def window_means(values, width, function):
    return np.mean([function(values[s : s + width]) for s in range(len(values) - width + 1)], 0)


def formulas(history):
    """Scores of 20 epochs by their definitions; high is kept."""
    p, p_y, labels = history.p, history.p_y, history.labels.numpy()
    final, error = p[-1], np.linalg.norm(p - np.eye(10)[labels], axis=2)
    ordered = np.sort(final, 1)
    h = history.embedding.double().numpy()
    events = (history.correct[:-1] & ~history.correct[1:]).sum(0).astype(float)
    events[~history.correct.any(0)] = np.inf
    change = np.abs(p[1:] * np.log(p[1:] / p[:-1])).sum(2)
    spread = [np.linalg.norm(change[s : s + 9] - change[s : s + 9].mean(0), axis=0) for s in range(11)]
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    means = np.stack([h[labels == c].mean(0) for c in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    g = [np.einsum("ic,id->icd", q - np.eye(10)[labels], np.c_[h, np.ones(N)]).reshape(N, -1) for q in p]
    return {
        "least_confidence": 1 - final.max(1),
        "entropy": -(final * np.log(final)).sum(1),
        "margin": 1 + ordered[:, -2] - ordered[:, -1],
        "el2n[at_epoch=20]": error[-1],
        "el2n[summed=true]": error[:10].sum(0),
        "grand": np.linalg.norm(g[3], axis=1),
        "aum": -margins(history.logits.double().numpy(), labels).mean(0),
        "forgetting": events,
        "dyn_unc": window_means(p_y, 10, lambda w: w.std(0, ddof=1)),
        "dual": window_means(p_y, 10, lambda w: w.std(0, ddof=1) * (1 - w.mean(0))),
        "tdds": sum(0.9 * 0.1 ** (10 - w) * spread[w] for w in range(11)),
        "supervised_prototypes": 1 - (unit * means[labels]).sum(1),
        "moso[proxy_epochs=20]": sum(  # learning rate <the others' mean, own>
            (epoch + 1) * ((x.sum(0) - x) * x).sum(1) / (N - 1) for epoch, x in enumerate(g)
        ),
    }


NAMES = [
    "least_confidence",
    "entropy",
    "margin",
    "el2n[at_epoch=20]",
    "el2n[summed=true]",
    "grand",
    "aum",
    "forgetting",
    "dyn_unc",
    "dual",
    "tdds",
    "supervised_prototypes",
    "moso[proxy_epochs=20]",
]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_formulas(name, history, play):
    expected = formulas(history)[name]
    method = play(name, history)
    method.select(0)
    got = method.scores().double().numpy()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    usual = np.isfinite(expected)
    np.testing.assert_allclose(got[usual], expected[usual], rtol=2e-4, atol=2e-5 * np.abs(expected[usual]).max())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dual", "forgetting")])
def test_the_highest_scores_are_kept(name, history, play):
    scores = formulas(history)[name]
    assert len(chosen(play(name, history)) & highest(scores, 120)) >= 119  # float32 may swap the last two
    plain, option = name.rstrip("]").partition("[")[::2]
    balanced = chosen(play(f"{plain}[{option + ',' if option else ''}balanced=true]", history))
    labels = history.labels.numpy()
    for c in range(10):
        members = np.flatnonzero(labels == c)
        kept = [i for i in members if i in balanced]
        assert abs(len(kept) - 0.3 * len(members)) < 1
        assert len(set(kept) & {int(members[i]) for i in highest(scores[members], len(kept))}) >= len(kept) - 1


@pytest.mark.parametrize("name", ["el2n[runs=2]", "el2n[runs=2,at_epoch=3,summed=true]", "grand[runs=2]"])
def test_scores_are_means_over_runs(name, history, make):
    p, labels = history.p, history.labels.numpy()
    error = np.linalg.norm(p - np.eye(10)[labels], axis=2)
    each = {"el2n": error, "grand": error * np.sqrt((history.embedding.double().numpy() ** 2).sum(1) + 1)}
    passes = [[2, 3, 4], [11, 12, 13]] if "summed" in name else [[3], [12]]
    method = make(name, n=N, keep=0.3, labels=history.labels)
    for run, epochs in enumerate(passes):
        for epoch in epochs:
            loss = torch.nn.functional.cross_entropy(history.logits[epoch], history.labels, reduction="none")
            values = compute(method.requires().signals, history.logits[epoch], history.labels, loss, history.embedding)
            method.observe(Signals(torch.arange(N), values, epoch - epochs[0], run))
    method.select(0)
    expected = np.mean([each[name.partition("[")[0]][epochs].sum(0) for epochs in passes], 0)
    np.testing.assert_allclose(method.scores(), expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_forgetting_keeps_what_was_never_learnt_where_deepcore_drops_it(history, play, gold):
    """DEFECT of DeepCore: samples that are never right count no event, and go first; the paper ranks them on top."""
    never = ~history.correct.any(0)
    assert never.sum() == 25
    method, peer = play("forgetting", history), play("forgetting[deepcore_compatible=true]", history)
    peer.select(0)
    assert set(np.flatnonzero(never)) <= chosen(method)
    assert not peer.scores()[torch.from_numpy(never)].any()
    for key in ("deepcore/direct/forgetting_events", "peers/ccs/forgetting"):
        np.testing.assert_array_equal(peer.scores().numpy(), gold[key])


def test_peers_scores(history, play, gold):
    """Where CCS and TDDS compute what their papers say."""
    el2n, tdds = play("el2n[summed=true]", history), play("tdds", history)
    for method in (el2n, tdds):
        method.select(0)
    np.testing.assert_allclose(el2n.scores(), gold["peers/ccs/el2n"], atol=1e-5)
    official = gold["peers/tdds/score_T20_W10_decay0.9"]
    np.testing.assert_allclose(tdds.scores(), official, atol=1e-4)  # it adds 1e-8 to the probabilities
    short = play("tdds[width=5,proxy_epochs=10]", history)
    short.select(0)
    np.testing.assert_allclose(short.scores(), gold["peers/tdds/score_T10_W5_decay0.9"], atol=1e-3)
    # CCS's "AUM" sums margins of probabilities; the paper that defines AUM takes logits, and so do we
    np.testing.assert_allclose(
        margins(history.p, history.labels.numpy()).sum(0), gold["peers/ccs/accumulated_margin"], atol=1e-5
    )
    aum = play("aum", history)
    aum.select(0)
    assert 0.5 < spearmanr(-aum.scores(), gold["peers/ccs/accumulated_margin"])[0] < 0.999


@pytest.mark.parametrize("key", ["mis0_n120", "mis40_n120", "mis80_n40", "mis40_n200"])
def test_ccs_strata(gold, key):
    """The reference removes the same hard samples; its strata reach up to 1.0001 times the highest score."""
    cut, n = int(key[3:].partition("_")[0]), int(key.rpartition("n")[2])
    margin = torch.from_numpy(gold["peers/ccs/accumulated_margin"])
    hard = (-margin).topk(cut).indices
    assert set(hard.tolist()) == set(gold[f"peers/ccs/strat_{key}_hard_removed"].tolist())
    rest = margin[others(N, hard)]
    sizes = torch.histc(rest, 50, float(rest.min()), float(rest.max() * 1.0001)).long()
    np.testing.assert_array_equal(sizes, gold[f"peers/ccs/strat_{key}_bin_sizes"])
    budget = strata_budgets(sizes, n)
    assert int(budget.sum()) == n
    # equal as multisets: among strata of one size the reference's sort is not stable
    theirs = torch.from_numpy(gold[f"peers/ccs/strat_{key}_bin_budgets"])
    assert torch.equal((1000 * sizes + budget).sort().values, (1000 * sizes + theirs).sort().values)


def test_ccs_cuts_and_spreads(history, play):
    aum = margins(history.logits.double().numpy(), history.labels.numpy()).mean(0)
    selected = chosen(play("ccs[cut=0.2]", history))
    assert len(selected) == 120
    assert not selected & highest(-aum, 80)
    rest = np.array(sorted(set(range(N)) - highest(-aum, 80)))
    stratum = np.minimum(((aum[rest].max() - aum[rest]) / np.ptp(aum[rest]) * 50).astype(int), 49)
    for s in np.unique(stratum):  # small strata are kept whole
        members = rest[stratum == s]
        kept = len(selected & set(members.tolist()))
        assert kept == len(members) or kept >= 2


@pytest.mark.parametrize(
    ("name", "key"), [("least_confidence", "LeastConfidence"), ("entropy", "Entropy"), ("margin", "Margin")]
)
def test_uncertainty_agrees_with_deepcore_class_by_class(digits, play, gold, name, key):
    """DEFECT (minor): DeepCore's least confidence compares logits, not probabilities."""
    keep = 179 / 1797
    selected = chosen(play(f"{name}[balanced=true]", digits, keep))
    peer = set(gold[f"deepcore/Uncertainty_{key}/f0.1_bal1/indices"].tolist())
    if name != "least_confidence":
        assert selected == peer
        return
    assert selected != peer
    logit = digits.logits[0].max(1).values.numpy()
    members = [np.flatnonzero(digits.labels.numpy() == c) for c in range(10)]
    assert peer == set().union(*({int(m[i]) for i in highest(-logit[m], round(0.1 * len(m)))} for m in members))


def test_deepcore_without_classes_keeps_the_most_certain(digits, play, gold):
    """DEFECT: with balance=False it sorts the other way; the set has no sample in common with the uncertain ones."""
    peer = set(gold["deepcore/Uncertainty_Entropy/f0.1_bal0/indices"].tolist())
    assert not peer & chosen(play("entropy", digits, 180 / 1797))


def test_grand_agrees_with_deepcore_in_one_batch_only(digits, play, gold):
    """DEFECT: its gradients are those of the batch mean, so the five samples of a short last batch score 51.2 times."""
    method = play("grand", digits, 180 / 1797)
    assert chosen(method) == set(gold["deepcore/GraNd_b1797/f0.1_bal0/indices"].tolist())
    scores = method.scores().numpy()
    np.testing.assert_allclose(1797 * gold["deepcore/GraNd_b1797/f0.1_bal0/scores"], scores, atol=1e-5)
    batched = gold["deepcore/GraNd_b256/f0.1_bal0/scores"]
    np.testing.assert_allclose(256 * batched[:1792], scores[:1792], atol=1e-5)
    np.testing.assert_allclose(5 * batched[1792:], scores[1792:], atol=1e-5)


def symmetric_kl_to_neighbours(digits, members, near=10):
    h = digits.embedding.double().numpy()[members]
    p = digits.logits[0].double().softmax(1).numpy()[members]
    d = np.linalg.norm(h[:, None] - h, axis=2)
    np.fill_diagonal(d, np.inf)
    q = np.argsort(d, 1)[:, :near]
    log = np.log(p)
    forward = (p[q] * (log[q] - log[:, None])).sum(2).mean(1)
    return forward, 0.5 * ((p[:, None] - p[q]) * (log[:, None] - log[q])).sum(2).mean(1)


def test_cal(digits, play, gold):
    """DEFECT: DeepCore keeps the least contrastive samples; its scores agree with ours for its divergence."""
    labels = digits.labels.numpy()
    forward, symmetric = np.zeros(1797), np.zeros(1797)
    for c in range(10):
        members = np.flatnonzero(labels == c)
        forward[members], symmetric[members] = symmetric_kl_to_neighbours(digits, members)
    ours = play("cal[balanced=true]", digits, 179 / 1797)
    selected = chosen(ours)
    np.testing.assert_allclose(ours.scores(), forward, atol=1e-4)
    classes = [np.flatnonzero(labels == c) for c in range(10)]
    most = [m[np.argsort(-forward[m])[: round(0.1 * len(m))]] for m in classes]
    assert len(selected & set(np.concatenate(most).tolist())) >= 178
    peer = play("cal[balanced=true,deepcore_compatible=true]", digits, 179 / 1797)
    other = chosen(peer)
    np.testing.assert_allclose(peer.scores(), -symmetric, atol=1e-4)
    np.testing.assert_allclose(
        -peer.scores().numpy()[np.concatenate(classes)], gold["deepcore/Cal_euclidean/f0.1_bal1/scores"], atol=1e-4
    )
    theirs = set(gold["deepcore/Cal_euclidean/f0.1_bal1/indices"].tolist())
    assert len(theirs & other) >= 0.98 * len(theirs), "classes' shares are rounded in another way"
    assert len(theirs & selected) < 0.1 * len(theirs)


def test_memorization_is_what_membership_adds_to_the_chance_of_being_right(make):
    n, runs = 60, 5
    rng = np.random.default_rng(0)
    member, correct = rng.random((runs, n)) < 0.7, rng.random((runs, n)) < 0.5
    member[:, 0], member[:, 1] = True, False
    method = make("memorization[runs=5]", n=n, keep=0.2)
    for run in range(runs):
        values = {"member": torch.tensor(member[run]).float(), "correct": torch.tensor(correct[run]).float()}
        method.observe(Signals(torch.arange(n), values, 29, run))
    kept = chosen(method)
    expected = [
        correct[inside, i].mean() - correct[~inside, i].mean() if inside.any() and not inside.all() else 0.0
        for i, inside in enumerate(member.T)
    ]
    np.testing.assert_allclose(method.scores(), expected, atol=1e-6)
    assert min(expected[i] for i in kept) >= sorted(expected, reverse=True)[12 - 1] - 1e-6
    assert len(kept) == 12


def test_memorization_finds_wrong_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_HOME", str(tmp_path))
    spec = RunSpec(
        dataset="synthetic[n=300,n_test=50,d=16,classes=4,label_noise=0.1]",
        model="mlp[width=64,depth=1]",
        method="memorization[runs=8]",
        keep=0.1,
        seed=0,
        recipe=Recipe(epochs=30, batch_size=16, lr=0.2),
    )
    data = load_data(spec.dataset, None)
    spec = spec.model_copy(update={"data": data.fingerprint})
    method = prepare(spec, data, torch.device("cpu"), Ledger()).method
    kept = method.select(0).indices
    assert data.noisy is not None
    assert float(data.noisy[kept].float().mean()) > 0.6, "they are right only where they were trained on"
    assert roc_auc_score(data.noisy, method.scores()) > 0.9


def test_moderate_keeps_the_middle(history, play):
    h, labels = history.embedding.double().numpy(), history.labels.numpy()
    distance = np.zeros(N)
    for c in range(10):
        distance[labels == c] = np.linalg.norm(h[labels == c] - np.median(h[labels == c], 0), axis=1)
    assert len(chosen(play("moderate", history)) & set(np.argsort(distance)[140:260].tolist())) >= 118


def test_ssp_measures_the_cosine_to_the_nearest_centre(history, play):
    method = play("ssp[clusters=1]", history)
    far = chosen(method)
    h = history.embedding.double().numpy()
    mean = h.mean(0)
    distance = 1 - h @ mean / np.linalg.norm(h, axis=1) / np.linalg.norm(mean)
    assert len(far & highest(distance, 120)) >= 119
    assert len(chosen(play("ssp[clusters=1,prefer=near]", history)) & highest(-distance, 120)) >= 119


@pytest.mark.parametrize("name", ["ssp", "ssp[clusters=3]"])
def test_ssp_takes_the_centre_of_the_own_cluster(name, make):
    """Three clusters far apart, found from one start or another; by default there are as many as classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    h = (30 * np.eye(3)[labels] * [1, 2, 3] + rng.normal(size=(90, 3))).astype(np.float32)
    means = np.stack([h[labels == c].mean(0, dtype=np.float64) for c in range(3)])[labels]
    expected = 1 - (h * means).sum(1) / np.linalg.norm(h, axis=1) / np.linalg.norm(means, axis=1)
    found = 0
    for seed in range(20):
        method = make(name, seed, n=90, keep=0.3, labels=torch.from_numpy(labels if name == "ssp" else labels % 2))
        method.observe(Signals(torch.arange(90), {"embedding": torch.from_numpy(h)}, 29, 0))
        picks = chosen(method)
        if np.allclose(method.scores(), expected, atol=1e-6):
            found += 1
            assert len(picks & highest(expected, 27)) >= 26
    assert found >= 2


def test_influence_is_the_mean_gradient_times_the_inverse_hessian(history, play):
    data = SimpleNamespace(**{**vars(history), "logits": history.logits[-1:]})
    method = play("influence[damping=0.1]", data)
    selected = chosen(method)
    p, labels = history.p[-1], history.labels.numpy()
    f = np.c_[history.embedding.double().numpy(), np.ones(N)]
    g = np.einsum("ic,id->icd", p - np.eye(10)[labels], f).reshape(N, -1)
    a, b = np.diag(p.mean(0)) - p.T @ p / N, f.T @ f / N
    a, b = a + 0.1 * np.diag(a).mean() * np.eye(10), b + 0.1 * np.diag(b).mean() * np.eye(33)
    expected = g @ np.linalg.solve(np.kron(a, b), g.mean(0))
    np.testing.assert_allclose(method.scores(), expected, atol=1e-4 * np.abs(expected).max())
    assert len(selected & highest(expected, 120)) >= 119


def test_dp_prunes_what_cancels(history, play):
    """The pruned influences add up to less than those of the smallest norms, where it starts, and of random sets."""
    data = SimpleNamespace(**{**vars(history), "logits": history.logits[-1:]})
    g = last_layer(data.logits[0], data.labels, data.embedding)
    influence = kronecker_inverse(g, data.logits[0], 0.01)

    def norm(pruned):
        return float(influence.sum(pruned.float()).norm())

    kept = torch.zeros(N, dtype=torch.bool)
    kept[play("dp", data).select(0).indices] = True
    assert int(kept.sum()) == 120
    start = influence.squares().argsort()[:280]
    assert norm(~kept) < 0.95 * norm(torch.zeros(N, dtype=torch.bool).index_fill(0, start, True))
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        random = torch.rand(N, generator=rng).argsort() < 280
        assert norm(~kept) < norm(random)


def anneal(x, pruned, kept):
    load_method("dp")._anneal(np.ones((len(x), 1)), x, pruned, kept)
    assert sorted([*pruned, *kept]) == list(range(len(x)))


def after_each_swap(x, pruned, kept):
    """||sum of the pruned x||^2 after each swap of a pruned and a kept one."""
    return np.sum((x[pruned].sum(0) + x[kept][:, None] - x[pruned]) ** 2, 2)


def test_dp_leaves_a_minimum_that_every_swap_makes_worse():
    """From 1, the first of two swaps to 0 takes the squared norm up by 0.005, half of the first temperature."""
    x = np.array([[0.5, 0, -5], [0.5, 0, 5], [0, 0.755**0.5, -5], [0, -(0.755**0.5), 5]])
    pruned, kept = np.array([0, 1]), np.array([2, 3])
    assert np.sum(x[pruned].sum(0) ** 2) == 1
    np.testing.assert_allclose(np.sort(after_each_swap(x, pruned, kept).ravel())[:3], [1.005, 1.005, 101.005])
    anneal(x, pruned, kept)
    np.testing.assert_allclose(x[pruned].sum(0), 0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_dp_ends_where_no_swap_helps(seed):
    x = np.random.default_rng(seed).normal(size=(20, 6))
    pruned, kept = np.split(np.argsort((x**2).sum(1)), 2)
    start = np.sum(x[pruned].sum(0) ** 2)
    anneal(x, pruned, kept)
    end = np.sum(x[pruned].sum(0) ** 2)
    assert end < 0.9 * start
    assert after_each_swap(x, pruned, kept).min() >= end - 1e-4 * start


def test_infomax_trades_information_for_redundancy(history, play):
    data = SimpleNamespace(**{**vars(history), "logits": history.logits[-1:]})
    error = np.linalg.norm(history.p[-1] - np.eye(10)[history.labels.numpy()], axis=1)
    h = history.embedding.double().numpy()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    d = np.linalg.norm(unit[:, None] - unit, axis=2) + 10 * np.eye(N)
    k = np.zeros((N, N))
    for i in range(N):
        for j in np.argsort(d[i])[:5]:
            k[i, j] = unit[i] @ unit[j]
    k = k + k.T

    def objective(selected, alpha):
        x = np.isin(np.arange(N), list(selected)).astype(float)
        return x @ error - alpha * (x @ k @ x) / 2

    plain, spread = chosen(play("infomax[alpha=0]", data)), chosen(play("infomax", data))
    assert len(plain & highest(error, 120)) >= 119
    assert objective(spread, 0.3) > objective(plain, 0.3)
    rng = np.random.default_rng(0)
    assert objective(spread, 0.3) > max(objective(rng.choice(N, 120, False), 0.3) for _ in range(50))


def test_metriq_quotas(history, play):
    wrong = 1 - history.correct[:5].mean(0)
    labels = history.labels.numpy()
    error = np.array([wrong[labels == c].mean() for c in range(10)])
    counts = history.labels[play("metriq", history).select(0).indices].bincount(minlength=10).numpy()
    assert counts.sum() == 120
    np.testing.assert_allclose(counts, 120 * error / error.sum(), atol=1)
    assert np.ptp(error) > 0.1  # so that the quotas differ from equal ones


def test_dual_draws_by_score_and_ease(history, play):
    scores = torch.from_numpy(formulas(history)["dual"])
    assert chosen(play("dual[sampling=top]", history)) == highest(scores.numpy(), 120)
    expected = beta_weights(scores, torch.from_numpy(history.p_y.mean(0)), 1 / N, 4.0).numpy()
    expected /= expected.sum()
    method, counts = play("dual", history, keep=1 / N), np.zeros(N)
    method.select(0)
    for _ in range(1000):  # single draws follow the weights themselves
        counts[method.choose().indices] += 1
    parts = np.array_split(np.argsort(expected), 10)
    often, wanted = (np.array([x[part].sum() for part in parts]) for x in (counts / 1000, expected))
    assert (np.abs(often - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / 1000) + 1e-3).all()
    assert wanted[-1] > 0.15


@pytest.mark.parametrize("rule", ["hardest", "easiest", "moderate", "stratified", "beta"])
@pytest.mark.parametrize("balanced", ["false", "true"])
def test_any_score_with_any_rule(history, play, rule, balanced):
    method = play(f"score[by=aum,rule={rule},balanced={balanced}]", history)
    selected = chosen(method)
    assert len(selected) == 120
    hardness = -margins(history.logits.double().numpy(), history.labels.numpy()).mean(0)
    order = np.argsort(hardness)
    expected = {"hardest": order[280:], "easiest": order[:120], "moderate": order[140:260]}
    if rule in expected and balanced == "false":
        assert len(selected & set(expected[rule].tolist())) >= 118
    if balanced == "true":
        share = np.bincount(history.labels.numpy()[list(selected)]) / np.bincount(history.labels.numpy())
        assert (np.abs(share - 0.3) * np.bincount(history.labels.numpy()) < 1).all()


@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_beta_counts_scores_from_the_lowest(history, make, shift):
    """DUAL's draw, of scores of any sign: the higher of two as easy samples is kept more often, by its score."""
    n, rng = 400, torch.Generator().manual_seed(1)
    scores, ease = torch.rand(n, generator=rng), torch.full((n,), 0.5)
    method = make("score[by=entropy,rule=beta]", n=n, keep=0.05, labels=history.labels)
    counts = torch.zeros(n)
    method.observe(Signals(torch.arange(n), {"entropy": scores + shift, "prob_y": ease}, 0, 0))
    for _ in range(600):
        counts[method.select(0).indices] += 1
    expected = draws(scores - scores.min(), 20, 600)
    assert spearmanr(counts, scores)[0] > 0.9
    bins = scores.argsort().view(10, 40)
    torch.testing.assert_close(counts[bins].sum(1), expected[bins].sum(1), rtol=0.1, atol=60)


def draws(weights, k, times):
    """How often each is among k drawn one after the other in proportion to `weights`."""
    rng, p = np.random.default_rng(0), (weights.double() + 1e-12).numpy()
    counts = np.zeros(len(p), dtype=np.float32)
    for _ in range(times):
        counts[rng.choice(len(p), k, replace=False, p=p / p.sum())] += 1
    return torch.from_numpy(counts)


def test_tdds_of_one_epoch_has_nothing_to_tell(history, make):
    method = make("tdds", n=N, keep=0.3, labels=history.labels)
    method.observe(Signals(torch.arange(N), {"logits": history.logits[0]}, 0, 0))
    assert len(chosen(method)) == 120
    assert method.scores().eq(0).all()


def test_score_takes_user_scores_and_refuses_the_rest(make, history, play):
    assert chosen(play("score[by=entropy]", history)) == chosen(play("entropy", history))
    with pytest.raises(UsageError, match="uniform is not a score"):
        make("score[by=uniform]")


def test_uniform_balanced(make):
    labels = torch.tensor([0] * 40 + [1] * 20)
    method = make("uniform[balanced=true]", n=60, keep=0.5, labels=labels)
    counts = torch.zeros(60)
    for _ in range(1000):
        indices = method.select(0).indices
        assert labels[indices].bincount().tolist() == [20, 10]
        counts[indices] += 1
    assert ((counts / 1000 - 0.5).abs() < 4.5 * (0.25 / 1000) ** 0.5).all()
