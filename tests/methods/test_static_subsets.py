"""Static subset methods: against naive algorithms with whole matrices, and against the peers' own outputs."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from dpbench import catalog, kernels
from dpbench import greedy as blocks
from dpbench.method import Signals
from dpbench.signals import compute

N = 400
FROM_ZERO = ["herding", "graph_cut", "facility_location", "glister", "d2", "infomax"]  # no random first pick, no tie


@pytest.fixture(scope="module")
def gold():
    return np.load(Path(__file__).parent.parent / "data" / "static.npz")


@pytest.fixture(scope="module")
def digits(gold):
    logits, h = torch.from_numpy(gold["digits/logits"]), torch.from_numpy(gold["digits/embedding"])
    return SimpleNamespace(logits=logits, embedding=h, labels=torch.from_numpy(gold["digits/labels"]).long())


@pytest.fixture(scope="module")
def synthetic(gold):
    logits, h = torch.from_numpy(gold["synthetic/logits"][-1]), torch.from_numpy(gold["synthetic/embeddings"])
    return SimpleNamespace(logits=logits, embedding=h, labels=torch.from_numpy(gold["synthetic/labels"]).long())


@pytest.fixture(scope="module")
def answer(make):
    """Give `answer(text, data, keep)`: the selection after one recorded pass."""

    def select(text, data, keep):
        method = make(text, n=len(data.labels), keep=keep, labels=data.labels)
        loss = torch.nn.functional.cross_entropy(data.logits, data.labels, reduction="none")
        values = compute(method.requires().signals, data.logits, data.labels, loss, data.embedding)
        method.observe(Signals(torch.arange(len(data.labels)), values, 29, 0))
        selection = method.select(0)
        assert len(selection.indices.unique()) == method.task.k
        return selection

    return select


def same(indices, peer):
    return set(indices.tolist()) == set(peer.tolist())


def gradients(data):
    g = kernels.last_layer(data.logits.double(), data.labels, data.embedding.double())
    return torch.einsum("ic,id->icd", g.e, g.f).flatten(1)


def cosine(x):
    return 0.5 + 0.5 * torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T


def of_class(data, c):
    rows = (data.labels == c).nonzero().squeeze(1)
    return rows, SimpleNamespace(**{name: value[rows] for name, value in vars(data).items()})


@pytest.mark.parametrize("name", ["k_center", "contextual_diversity"])
def test_k_center_methods(name, synthetic, answer):
    picks = answer(name, synthetic, 0.1).indices.tolist()
    if name == "k_center":
        d = torch.cdist(synthetic.embedding.double(), synthetic.embedding.double())
    else:
        log_p = synthetic.logits.double().log_softmax(1)
        kl = (log_p.exp()[:, None] * (log_p[:, None] - log_p)).sum(2)
        d = (kl + kl.T) / 2
    expected = picks[:1]
    while len(expected) < 40:
        expected.append(int(d[expected].amin(0).argmax()))
    assert picks == expected


def test_k_center_starts_anywhere(synthetic, make, answer):
    starts = set()
    for seed in range(8):
        method = make("k_center", seed, n=N, keep=0.1, labels=synthetic.labels)
        method.observe(Signals(torch.arange(N), {"embedding": synthetic.embedding}, 29, 0))
        starts.add(int(method.select(0).indices[0]))
    assert len(starts) > 4


def test_k_center_agrees_with_deepcore(gold, synthetic, digits):
    first = int(gold["deepcore/direct/k_center_first_index_seed0_n400"])
    for k in (10, 40):
        picks = blocks.k_center(kernels.euclidean(synthetic.embedding), N, k, first)
        assert same(picks, gold[f"deepcore/direct/k_center_greedy_seed0_b{k}"])
    first = int(np.random.RandomState(0).randint(0, 1797))
    picks = blocks.k_center(kernels.euclidean(digits.embedding), 1797, 180, first)
    assert same(picks, gold["deepcore/kCenterGreedy/f0.1_bal0/indices"])
    picks = blocks.k_center(kernels.symmetric_kl(digits.logits), 1797, 180, first)
    assert same(picks, gold["deepcore/ContextualDiversity/f0.1_bal0/indices"])


@pytest.mark.parametrize(("k", "peer_distance"), [(10, 9.34), (40, 6.34)])
def test_herding_where_deepcore_takes_the_farthest(gold, synthetic, answer, k, peer_distance):
    """DEFECT of DeepCore: argmax of the distance to the target in place of argmin; its mean is far from the mean."""
    h = synthetic.embedding.double()
    picks = answer("herding", synthetic, k / N).indices.tolist()
    expected: list[int] = []
    for t in range(k):
        distance = ((t + 1) * h.mean(0) - h[expected].sum(0) - h).norm(dim=1)
        distance[expected] = np.inf
        expected.append(int(distance.argmin()))
    assert picks == expected
    peer = torch.from_numpy(gold[f"deepcore/direct/herding_b{k}"]).long()
    assert float((h[peer].mean(0) - h.mean(0)).norm()) == pytest.approx(peer_distance, abs=0.01)
    assert float((h[picks].mean(0) - h.mean(0)).norm()) < 0.8
    assert same(peer, answer("herding[deepcore_compatible=true]", synthetic, k / N).indices)


def test_graph_cut_and_facility_location_agree_with_apricot_and_deepcore(gold, synthetic, answer):
    cut = answer("graph_cut[on=embedding]", synthetic, 20 / N).indices
    assert cut.tolist() == gold["peers/apricot/GC_alpha1.0_cossim05_naive_k20_ranking"].tolist()
    assert same(cut, gold["deepcore/direct/GraphCut_NaiveGreedy_cossim_b20"])
    double = answer("graph_cut[on=embedding,lam=2.0]", synthetic, 20 / N).indices
    assert double.tolist() == gold["peers/apricot/GC_alpha2.0_cossim05_naive_k20_ranking"].tolist()
    location = answer("facility_location[on=embedding]", synthetic, 20 / N).indices
    assert location.tolist() == gold["peers/apricot/FL_cossim05_naive_k20_ranking"].tolist()
    assert same(location, gold["deepcore/direct/FacilityLocation_NaiveGreedy_cossim_b20"])


def test_submodular_on_gradients(gold, digits, answer):
    """Our sets are at least as good as DeepCore's by the exact objective.

    Its gradients are in single precision, where p - 1 cancels: for 31 samples it is 0 however p is rounded, and for
    other confident ones the direction is rounding noise, which the cosine blows up to full length.
    """
    s = cosine(gradients(digits))
    peers = {
        "graph_cut": gold["deepcore/Submodular_GraphCut_NaiveGreedy/f0.1_bal0/indices"],
        "facility_location": gold["deepcore/Submodular_FacilityLocation_NaiveGreedy/f0.1_bal0/indices"],
    }
    value = {
        "graph_cut": lambda rows: float(s[rows].sum() - s[rows][:, rows].sum() + s[rows, rows].sum()),
        "facility_location": lambda rows: float(s[rows].amax(0).sum()),
    }
    for name, peer in peers.items():
        rows, theirs = answer(name, digits, 180 / 1797).indices, torch.from_numpy(peer).long()
        assert value[name](rows) >= value[name](theirs) * (1 - 1e-6)
        assert len(set(rows.tolist()) & set(theirs.tolist())) > 120
    label = digits.labels[:, None]
    rest = digits.logits.double().softmax(1).scatter(1, label, 0.0).sum(1)  # 1 - p without cancellation
    lost = rest <= 2.0**-25  # half the distance from 1 to the next smaller number
    assert int(lost.count_nonzero()) == 31
    assert bool((digits.logits.softmax(1).gather(1, label)[lost] == 1).all())


def test_craig(gold, synthetic, digits, answer):
    """DEFECT of DeepCore: its weights start from 1 and add 1 for each member, so they sum to n + budget."""
    x = kernels.vectors(synthetic.embedding.double())
    distance, bound = kernels.squared_distance(x), 2 * x.squares().max().sqrt()

    def kernel(i, j=kernels.EVERY):  # as craig's, on embeddings
        return bound - distance(i, j).sqrt()

    picks = blocks.facility_location(kernel, kernel(torch.arange(N)).sum(1), 40)
    assert same(picks, gold["deepcore/direct/craig_eucl_b40_sel"])
    theirs = dict(
        zip(
            gold["deepcore/direct/craig_eucl_b40_sel"].tolist(),
            gold["deepcore/direct/craig_eucl_b40_weights"].tolist(),
            strict=True,
        )
    )
    sizes = blocks.covering(kernel, picks, N).bincount(minlength=40).tolist()
    assert [theirs[i] for i in picks.tolist()] == [size + 1 for size in sizes]
    assert sum(theirs.values()) == 440
    selection = answer("craig", digits, 179 / 1797)
    peer = gold["deepcore/Craig/f0.1_bal1/indices"].tolist()
    assert len(set(selection.indices.tolist()) & set(peer)) >= 173  # its gradients are in single precision
    assert float(selection.weights.mean()) == pytest.approx(1)
    weights = selection.weights * 1797 / 179  # back to counts
    torch.testing.assert_close(weights, weights.round(), atol=1e-3, rtol=0)
    for c in (0, 7):
        rows, part = of_class(digits, c)
        mine = torch.isin(selection.indices, rows)
        assert float(weights[mine].sum()) == pytest.approx(len(rows))
        g = gradients(part)
        d = torch.cdist(g, g)
        k, chosen = int(mine.sum()), torch.searchsorted(rows, selection.indices[mine])
        similar = d.max() - d
        greedy: list[int] = []
        for _ in range(k):
            covered = similar[greedy].amax(0) if greedy else torch.zeros(len(rows), dtype=torch.float64)
            gain = (similar - covered).clamp(min=0).sum(1)
            gain[greedy] = -1
            greedy.append(int(gain.argmax()))
        assert float(similar[chosen].amax(0).sum()) > 0.9999 * float(similar[greedy].amax(0).sum())


def test_gradmatch(gold, digits, synthetic, answer):
    """DeepCore's gradients are of the batch mean: divided by n, so that lam = 1 leaves the first order only."""
    labels = digits.labels
    g = kernels.last_layer(digits.logits.double(), labels, digits.embedding.double())
    scaled = kernels.Factored(g.e / 1797, g.f)
    picks, _ = blocks.matching_pursuit(scaled, scaled.sum() / 1797, 180, 1.0)
    assert same(picks, gold["deepcore/GradMatch/f0.1_bal0/indices"])
    along = g.dot(g.sum())
    assert same(along.topk(180).indices, gold["deepcore/GradMatch/f0.1_bal0/indices"])
    x = kernels.vectors(synthetic.embedding[:200].double())
    for target, key in (
        (x.sum() / 200, "omp_np_b10_lam1.0_x"),
        (x.sum() / 200, "omp_np_b10_lam0.1_x"),
        (x.sum(), "omp_np_sumtarget_b10_lam1.0_x"),
    ):
        picks, weights = blocks.matching_pursuit(x, target, 10, 0.1 if "0.1" in key else 1.0)
        expected = gold[f"deepcore/direct/{key}"]
        assert same(picks, np.flatnonzero(expected))
        np.testing.assert_allclose(weights, expected[picks], atol=1e-5)
    torch_support, support = (
        np.flatnonzero(gold[f"deepcore/direct/omp_{kind}_b10_lam1.0_x"]) for kind in ("torch_patched", "np")
    )
    assert same(torch_support, support)
    selection = answer("gradmatch[lam=0.001]", synthetic, 0.1)
    assert float(selection.weights.min()) >= 0
    assert float(selection.weights.mean()) == pytest.approx(1, abs=1e-5)
    full = gradients(synthetic)
    mean = full.mean(0)

    def direction(weights, rows):
        return float(torch.nn.functional.cosine_similarity(weights.double() @ full[rows], mean, dim=0))

    rng = torch.Generator().manual_seed(0)
    random = [direction(torch.ones(40), torch.randperm(N, generator=rng)[:40]) for _ in range(50)]
    assert direction(selection.weights, selection.indices) > max(0.9, *random)


def test_glister_updates_the_gradient_where_deepcore_does_not(gold, digits, synthetic, answer):
    """DEFECT of DeepCore: a misspelt keyword; its picks are the k largest <g_i, G> with G never updated."""
    once = answer("glister[deepcore_compatible=true]", digits, 180 / 1797).indices
    assert same(once, gold["deepcore/Glister/f0.1_bal0/indices"])
    assert not same(answer("glister[rate=0.1]", digits, 180 / 1797).indices, once)
    weight = torch.randn(10, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.cat([synthetic.embedding.double(), torch.ones(N, 1, dtype=torch.float64)], 1)
    made = SimpleNamespace(logits=f @ weight.T, embedding=synthetic.embedding, labels=synthetic.labels)
    open_ = torch.ones(N, dtype=torch.bool)
    g = gradients(made).view(N, 10, 33)
    for _ in range(4):  # a real step in the weights, and autograd's gradient there
        moved = (weight - 0.01 * g[~open_].sum(0)).requires_grad_()
        loss = torch.nn.functional.cross_entropy(f @ moved.T, made.labels)
        gain = (g * torch.autograd.grad(loss, moved)[0]).sum((1, 2)).masked_fill(~open_, -np.inf)
        open_[gain.topk(10).indices] = False
    picks = answer("glister[rounds=4]", made, 0.1).indices
    assert same(picks, (~open_).nonzero().squeeze(1))


def test_log_determinant(gold, synthetic, answer):
    """DEFECT of DeepCore: its gain is what the subset explains already, so it picks the most redundant samples."""
    k = cosine(synthetic.embedding.double())

    def volume(rows):
        return float(torch.logdet(torch.eye(len(rows)) + k[rows][:, rows]))

    picks = answer("log_determinant", synthetic, 20 / N).indices.tolist()
    expected = picks[:1]  # the first is a tie of all
    while len(expected) < 20:
        expected.append(max((i for i in range(N) if i not in expected), key=lambda i: volume([*expected, i])))
    assert picks == expected
    peer = gold["deepcore/direct/LogDeterminant_NaiveGreedy_cossim_b20"].tolist()
    rng = np.random.default_rng(0)
    random = [volume(rng.choice(N, 20, False).tolist()) for _ in range(20)]
    assert volume(peer) < min(random) < max(random) < volume(picks)


def test_d2_agrees_with_the_released_code(gold, synthetic):
    from dpbench.methods.d2 import edges, reverse

    importance = torch.from_numpy(gold["peers/d2/importance"]).double()
    start, end, distance = edges(0.25 * synthetic.embedding, 10)
    spread = torch.zeros(N, dtype=torch.float64).index_add(0, start, (-distance).exp() * importance[end])
    for mode, density in (("sum", importance + spread), ("product", importance * spread)):
        if mode == "sum":
            np.testing.assert_allclose(density, gold["peers/d2/sum_starting_density"], atol=1e-5)
        density = torch.from_numpy(gold[f"peers/d2/{mode}_starting_density"])
        for gamma in (1.0, 0.1):
            picks = reverse(density.clone(), start, end, (-gamma * distance).exp(), 120)
            assert same(picks, gold[f"peers/d2/{mode}_weighted_gamma{gamma}_n120_set"])


def test_d2_cut(synthetic, answer):
    error = (synthetic.logits.softmax(1) - torch.eye(10)[synthetic.labels]).norm(dim=1)
    picks = answer("d2[cut=0.2]", synthetic, 0.3).indices
    assert not set(picks.tolist()) & set(error.topk(80).indices.tolist())


def nearest(x, near):
    """The distances (n, n), and which are to one of a row's `near` nearest others."""
    d = torch.cdist(x, x)
    which = d.clone().fill_diagonal_(np.inf).argsort(1)[:, :near]
    return d, torch.zeros_like(d, dtype=torch.bool).scatter_(1, which, True)


@pytest.mark.parametrize(("cut", "keep", "hard"), [(0.0, 0.3, 0), (0.114, 0.3, 45), (0.145, 0.3, 58), (0.2, 0.9, 40)])
def test_d2_passes_messages_as_with_whole_matrices(cut, keep, hard, synthetic, answer):
    small = SimpleNamespace(**{**vars(synthetic), "embedding": 0.1 * synthetic.embedding})  # distances below 1
    error = (small.logits.double().softmax(1) - torch.eye(10)[small.labels]).norm(dim=1)
    d, joined = nearest(small.embedding.double(), 5)
    joined = joined | joined.T
    x = error + (joined * torch.exp(-d)) @ error
    x[error.topk(hard).indices] = -np.inf
    expected: list[int] = []
    for _ in range(round(keep * N)):
        expected.append(int(x.argmax()))
        x = x - joined[expected[-1]] * torch.exp(-0.5 * d[expected[-1]]) * x[expected[-1]]
        x[expected] = -np.inf
    assert answer(f"d2[cut={cut},gamma=0.5]", small, keep).indices.tolist() == expected


@pytest.mark.parametrize("rounds", [1, 20])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("empty", [0, 2])
def test_infomax_iterates_as_with_the_whole_kernel(rounds, alpha, empty, synthetic, answer):
    embedding = synthetic.embedding.clone()
    embedding[:empty] = 0.0  # similar to nothing, not even to each other
    synthetic = SimpleNamespace(**{**vars(synthetic), "embedding": embedding})
    unit = torch.nn.functional.normalize(synthetic.embedding.double())
    k = torch.where(nearest(unit, 5)[1], unit @ unit.T, 0.0)
    information = (synthetic.logits.double().softmax(1) - torch.eye(10)[synthetic.labels]).norm(dim=1)
    x = torch.full((N,), 0.3, dtype=torch.float64)
    for _ in range(rounds):
        value = information - alpha * (k + k.T) @ x
        x = (120 * value.softmax(0)).clamp(max=1.0)
    picks = answer(f"infomax[alpha={alpha},rounds={rounds}]", synthetic, 0.3).indices
    assert same(picks, value.topk(120).indices)


@pytest.mark.parametrize("lam", [0.01, 0.3])
def test_gradmatch_weights_are_the_ridge_solution_in_each_class(lam, synthetic, answer):
    rows = ((synthetic.labels < 5) | (torch.arange(N) % 3 == 0)).nonzero().squeeze(1)  # classes of unequal sizes
    data = SimpleNamespace(**{name: value[rows] for name, value in vars(synthetic).items()})
    selection = answer(f"gradmatch[lam={lam}]", data, 0.3)
    full, expected = gradients(data), torch.zeros(len(rows), dtype=torch.float64)
    for c in range(10):
        members = (data.labels == c).nonzero().squeeze(1)
        g, support = full[members], selection.indices[data.labels[selection.indices] == c]
        ridge = lam * g.square().sum(1).mean() * torch.eye(len(support), dtype=torch.float64)
        stacked = torch.cat([full[support].T, ridge.sqrt()])
        target = torch.cat([g.mean(0), torch.zeros(len(support), dtype=torch.float64)])
        expected[support] = len(members) * torch.from_numpy(nnls(stacked.numpy(), target.numpy())[0])
    expected = expected[selection.indices]
    np.testing.assert_allclose(selection.weights, expected / expected.mean(), atol=1e-4)


@pytest.mark.parametrize("name", [*FROM_ZERO, "k_center", "contextual_diversity", "log_determinant"])
def test_balanced_is_each_class_by_itself(name, synthetic, answer):
    whole = answer(f"{name}[balanced=true]", synthetic, 0.1).indices
    share = synthetic.labels[whole].bincount(minlength=10)
    assert (share - 0.1 * synthetic.labels.bincount(minlength=10)).abs().max() < 1
    if name not in FROM_ZERO:
        return
    rows, part = of_class(synthetic, 3)
    alone = rows[answer(name, part, float(share[3]) / len(rows)).indices]
    assert set(alone.tolist()) == set(whole.tolist()) & set(rows.tolist())


@pytest.mark.parametrize(
    "name", [*FROM_ZERO, "k_center", "contextual_diversity", "log_determinant", "craig", "gradmatch", "cal"]
)
def test_what_would_take_too_long_is_refused(name, synthetic, answer, monkeypatch):
    monkeypatch.setenv("DPBENCH_SELECT_HOURS", "1e-10")
    with pytest.raises(TimeoutError, match=f"{name} would take"):
        answer(name, synthetic, 0.1)


def test_facility_location_falls_back_to_stochastic_greedy(synthetic, answer, monkeypatch):
    exact = answer("facility_location", synthetic, 0.1).indices
    module = sys.modules[type(catalog.load_method("facility_location")).__module__]
    monkeypatch.setattr(module, "EXACT", 1.0)
    monkeypatch.setattr(blocks, "KEPT", 1)  # so that passes differ
    with pytest.warns(UserWarning, match=r"above 1e\+00: it falls back to stochastic greedy"):
        lazier = answer("facility_location", synthetic, 0.1).indices
    s = cosine(gradients(synthetic))
    value = [float(s[rows].amax(0).sum()) for rows in (exact, lazier)]
    assert 0.9 * value[0] < value[1] < value[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # here it is no faster
        answer("facility_location", synthetic, 0.7)
