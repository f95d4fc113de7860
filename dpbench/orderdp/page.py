"""The page that describes what `dpbench theory` found; all its numbers come from there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpbench.analysis.stats import ALPHA

Numbers = dict[str, Any]


def page(found: Numbers) -> str:
    """Write the page in Markdown."""
    one, two, three, four, network, momentum, noise, stale, stale_momentum = (found[name] for name in TITLES)
    parts = [
        "# OrderDP's theorems, run",
        "Made by `dpbench theory`; the numbers are in `theory.json`. OrderDP draws s of n samples uniformly and trains "
        "on the q of largest loss; it prunes 1 - q/n. The problem is softmax regression on scikit-learn's digits. The "
        "paper's full text was not at hand: the statements are those of a digest, the proofs' constants our own.",
        _table(
            ["statement", "result"],
            [(title, _verdict(found[name])) for name, title in (TITLES | FORMS).items() if name in found],
        ),
        f"## {TITLES['theorem_1']}",
        f"At one point of the training, n = {one['n']}, {one['draws']:,} draws a row. Distances are of the mean "
        "drawn "
        "gradient, in units of the plain gradient's norm. *Error* is the squared distance to the gradient of L_q over "
        "the variance of that mean: 1 is what an unbiased gradient has. The bias against the plain loss is not small: "
        "it grows with s at fixed q, up to several times the plain gradient itself. OrderDP is unbiased for L_q only.",
        _table(
            ["s", "q", "to L_q", "to the plain loss", "bias, computed", "error ± s.e.", "L_q - L"],
            [
                (
                    row["s"],
                    row["q"],
                    f"{row['distance_to_surrogate']:.3f}",
                    f"{row['distance_to_plain']:.3f}",
                    f"{row['bias']:.3f}",
                    "no variance" if row["error"] is None else f"{row['error']:.2f} ± {row['error_se']:.2f}",
                    f"{row['loss_gap']:.3f}",
                )
                for row in one["rows"]
            ],
        ),
        "![Theorem 1](theorem_1.png)",
        f"## {TITLES['proposition_2']}",
        f"With s = 20 and q = 8 fixed the largest distance falls as n to the power {two['slope']:.3f}: the limit "
        "holds, with "
        "error O(1/n). A pruning run is another case: s is a share of n. With s = n/2 and q = n/5 the distance does "
        "not "
        f"vanish ({_last(two['growing'], 'distance'):.3f} at n = {_last(two['growing'], 'n'):,}), because the rank "
        "at which "
        f"P_j falls varies less than the Beta variable, by the factor {_last(two['growing'], 'variance_ratio'):.3f} "
        "= 1 - s/n. "
        "For the released code's sizes use the exact P_j (`dpbench explain`), not the Beta curve.",
        "![Proposition 2](proposition_2.png)",
        f"## {TITLES['theorem_3']}",
        "SGD from 0 with the constant step D / (G sqrt(T)), fresh losses and a fresh draw each step; the best of up "
        "to 40 "
        "iterates spread over the T, mean over seeds. A small L2 penalty gives L_q a minimum and makes it strongly "
        "convex, so a faster "
        "fall than T^-1/2 is no surprise.",
        _table(
            ["s", "q", "slope", *(f"T = {horizon:,}" for horizon in three["curves"][0]["T"])],
            [
                (curve["s"], curve["q"], f"{curve['slope']:.2f}", *(f"{gap:.2g}" for gap in curve["gap"]))
                for curve in three["curves"]
            ],
        ),
        "![Theorem 3](theorem_3.png)",
        f"## {TITLES['theorem_4']}",
        f"L_q minimised on {four['n']} samples, tested on the others. The digest prints the bias term "
        "sqrt(2) C_s B sqrt((n-s)/(s(n-1)) - Q_n) but defines neither C_s nor Q_n, so the bound itself cannot be "
        "refuted "
        "here; what can be seen is whether the gap goes with its computable factor (C_s B = 1, Q_n = 0). Test loss "
        "less "
        f"L_q on the training samples does fall with it (rank correlation {four['correlation_surrogate']:+.2f}); "
        "test loss less "
        f"the plain training loss goes the other way ({four['correlation_plain']:+.2f}). The factor does not depend "
        "on q, "
        "and is not 0 at s = q, where L_q is the plain loss; the measured gap depends on q/s.",
        _table(
            ["s", "q", "test loss", "less plain", "less L_q", "L_q - L", "factor"],
            [
                (
                    row["s"],
                    row["q"],
                    f"{row['test']:.4f}",
                    f"{row['plain']:.4f} ± {row['plain_se']:.4f}",
                    f"{row['surrogate']:.4f} ± {row['surrogate_se']:.4f}",
                    f"{max(0.0, row['correction']):.4f}",
                    f"{row['bias_factor']:.4f}",
                )
                for row in four["rows"]
            ],
        ),
        "![Theorem 4](theorem_4.png)",
        f"## {TITLES['network']}",
        "A hidden layer of 16 tanh units between the pixels and the classes: L_q is not convex any more, so only a "
        "small gradient can be asked for. SGD with the constant step 3 / sqrt(T) and fresh losses; L_q's gradient is "
        "computed exactly, on all samples, at up to 40 iterates. For smooth losses theory has the mean squared norm "
        "over the iterates, and so the best of them, within O(1/sqrt(T)); L_q has kinks where losses tie, near which a "
        "subgradient need not be small. *Best* is the squared norm of the best iterate, mean over seeds, as in "
        "Theorem 3; *mean* is over all iterates. The verdict is on the best.",
        _table(
            ["s", "q", "", "slope", *(f"T = {horizon:,}" for horizon in network["curves"][0]["T"])],
            [
                (curve["s"], curve["q"], name, f"{curve[slope]:.2f}", *(f"{norm:.2g}" for norm in curve[name]))
                for curve in network["curves"]
                for name, slope in (("best", "slope"), ("mean", "slope_of_mean"))
            ],
        ),
        "![A network](network.png)",
        f"## {TITLES['momentum']}",
        "Theorem 3's problem and measure with heavy-ball momentum, for batches of s candidates of which a quarter is "
        "kept. All runs of a line's T go equally far: the step is (1 - momentum) times that of Theorem 3. Momenta "
        "share their draws, so that their differences are not chance.",
        _table(
            ["s", "q", "momentum", "slope", *(f"T = {horizon:,}" for horizon in momentum["curves"][0]["T"])],
            [
                (
                    curve["s"],
                    curve["q"],
                    f"{curve['momentum']:g}",
                    f"{curve['slope']:.2f}",
                    *(f"{gap:.2g}" for gap in curve["gap"]),
                )
                for curve in momentum["curves"]
            ],
        ),
        "![Momentum and batch size](momentum.png)",
        f"## {TITLES['noise']}",
        f"From the minimum of L_q {noise['steps']:,} steps at the constant effective rate {noise['rate']:g}; *above* "
        "is the mean of L_q over the last two thirds, less its minimum. Held means an exponent of q within 0.25 of -1 "
        "at each momentum and, at each batch size, within a quarter of what no momentum leaves. Exponents: "
        + ", ".join(
            f"{slope:.2f} (momentum {m:g})"
            for slope, m in zip(noise["slopes"], _values(noise["rows"], "momentum"), strict=True)
        )
        + ". But the batch size also moves the goal: s and q are those of one step, and L_q depends on them, not on "
        "q/s alone. *Shift* is the total variation between its weights and those of the smallest batch; the larger the "
        "batch, the closer is L_q to the mean over the hardest q/s of all samples.",
        _table(
            ["s", "q", "momentum", "above ± s.e.", "over no momentum", "minimum of L_q", "shift"],
            [
                (
                    row["s"],
                    row["q"],
                    f"{row['momentum']:g}",
                    f"{row['gap']:.4f} ± {row['gap_se']:.4f}",
                    f"{row['to_none']:.2f}",
                    f"{row['least']:.3f}",
                    f"{row['shift']:.3f}",
                )
                for row in noise["rows"]
            ],
        ),
        "![Noise left](noise.png)",
        f"## {TITLES['staleness']}",
        "The released code draws once an epoch and ranks by the loss that a sample had when it was last trained on. "
        "In "
        f"{stale['epochs']} epochs of SGD (the last two thirds are counted), *distance* is the total variation "
        "between the kept shares "
        "by true rank and P_j; that of the fresh losses is what chance and the order of updates leave, that of uniform "
        "sampling the largest to be expected. Where most samples were seen, the hardest tenth is kept nearly as "
        "often as in theory (with start 1 and the small rate it is not: samples never trained on stay behind); "
        "what moves is the other end: easy samples with old, large losses are kept, so the method is closer to uniform "
        "than its theory. The columns *top 10 %* and *theory* are for scores that rank unseen samples first.",
        _table(
            [
                "keep",
                "explore",
                "rate",
                "fresh",
                "stale, unseen first",
                "start 3",
                "start 1",
                "uniform",
                "top 10 %",
                "theory",
            ],
            _by_setting(stale["rows"]),
        ),
        "![Staleness](staleness.png)",
        f"## {TITLES['stale_momentum']}",
        "Keep 0.3, explore 0.8, unseen samples first, otherwise as above; the number is again the distance between the "
        "kept shares and P_j. In the first three lines the rate grows with the batch, so that an epoch moves the "
        "parameters equally far, to first order; held means that these are within a quarter of each other. They are "
        "alike while an epoch has many more steps than the momentum remembers, 1 / (1 - momentum); a batch of 128 "
        "leaves 4 steps an epoch. In the last three lines every step has the same rate: large batches train less in an "
        "epoch, and what they keep is further from P_j.",
        _table(
            ["rate", "batch", *(f"momentum {m:g}" for m in _values(stale_momentum["rows"], "momentum"))],
            [
                (
                    f"{rate:g} a step",
                    batch,
                    *(
                        f"{row['distance']:.3f}"
                        for row in stale_momentum["rows"]
                        if (row["scaled"], row["batch"]) == (scaled, batch)
                    ),
                )
                for scaled, batch, rate in dict.fromkeys(
                    (row["scaled"], row["batch"], row["rate"]) for row in stale_momentum["rows"]
                )
            ],
        ),
        "![Staleness with momentum](stale_momentum.png)",
        f"## {FORMS['forms']}",
        *(
            _forms(found["forms"])
            if "forms" in found
            else ["Not run here: `dpbench run theory`, then `dpbench theory`."]
        ),
        "## Not here",
        "The bound of Theorem 4 with its constants.",
    ]
    return "\n\n".join(parts) + "\n"


def _forms(found: Numbers) -> list[str]:
    """The section on the grid `theory`."""
    return [
        "The grid `theory` (`dpbench run theory`, a CNN with momentum and a learning rate schedule): OrderDP as the "
        "released code has it, candidates drawn once an epoch and ranked by the losses last seen, less the paper's "
        "form, candidates drawn and ranked at each step by their losses of that step, at equal decompositions of one "
        "keep. Differences are paired by seed; their 95 % intervals hold all at once, the verdicts are read from them, "
        "and held means equivalent within half a point everywhere. At explore = keep both are uniform sampling. The "
        "cosine is that of the gradient of the samples trained on to that of all samples, mean over the epochs. What "
        "fresh losses cost is the forward passes of all candidates: *forward saved* is the share that is saved "
        "against full training.",
        _table(
            [
                "explore",
                "seeds",
                "accuracy stale, %",
                "fresh, %",
                "difference, points",
                "verdict",
                "cosine stale",
                "fresh",
                "difference",
                "verdict",
                "forward saved stale",
                "fresh",
            ],
            [
                (
                    f"{row['explore']:g}",
                    row["accuracy"]["n"],
                    f"{row['accuracy_stale']:.2f}",
                    f"{row['accuracy_fresh']:.2f}",
                    f"{row['accuracy']['mean']:+.2f} ± {row['accuracy']['half_width']:.2f}",
                    f"{row['accuracy']['verdict']}; {row['accuracy']['equivalence']}",
                    f"{row['gradient_cosine_stale']:.3f}",
                    f"{row['gradient_cosine_fresh']:.3f}",
                    f"{row['gradient_cosine']['mean']:+.3f} ± {row['gradient_cosine']['half_width']:.3f}",
                    "separable" if row["gradient_cosine"]["p"] < ALPHA else "not separable",
                    f"{row['forward_saving_stale']:.2f}",
                    f"{row['forward_saving_fresh']:.2f}",
                )
                for row in found["rows"]
            ],
        ),
        "![The two forms](forms.png)",
    ]


TITLES = {
    "theorem_1": "Theorem 1: the gradient is unbiased for L_q, and biased for the plain loss",
    "proposition_2": "Proposition 2: n gamma_j tends to a Beta curve",
    "theorem_3": "Theorem 3: on convex problems L_q comes within O(1/sqrt(T)) of its minimum",
    "theorem_4": "Theorem 4: the generalisation gap",
    "network": "Beyond the paper: in a network the best iterate's squared gradient of L_q falls as 1/sqrt(T)",
    "momentum": "Beyond the paper: Theorem 3's rate with momentum and any batch size",
    "noise": "Beyond the paper: at a constant rate the noise left falls as 1/q, whatever the momentum",
    "staleness": "Beyond the paper: stale losses keep samples as Theorem 1 has it",
    "stale_momentum": "Beyond the paper: staleness does not depend on momentum and batch size",
}
FORMS = {"forms": "Beyond the paper: in a network stale losses do as well as fresh ones"}


VERDICTS = {True: "held", False: "refuted", None: "open"}  # as of claims


def _verdict(study: Numbers) -> str:
    return VERDICTS[study["held"]]


def _values(rows: list[Numbers], name: str) -> list[Any]:
    """The different values of a column, in order."""
    return list(dict.fromkeys(row[name] for row in rows))


def _last(rows: list[Numbers], name: str) -> Any:
    return rows[-1][name]


def _by_setting(rows: list[Numbers]) -> list[tuple[Any, ...]]:
    """One line a setting: the distance for each kind of score, and the hardest tenth's share with stale losses."""
    settings: dict[tuple[float, float, float], dict[Any, Numbers]] = {}
    for row in rows:
        settings.setdefault((row["keep"], row["explore"], row["rate"]), {})[row["scores"]] = row
    return [
        (
            *setting,
            *(f"{kinds[kind]['distance']:.3f}" for kind in ("fresh", "first", 3.0, 1.0)),
            f"{kinds['first']['distance_of_uniform']:.3f}",
            f"{kinds['first']['top_10']:.3f}",
            f"{kinds['first']['top_10_theory']:.3f}",
        )
        for setting, kinds in settings.items()
    ]


def _table(header: list[str], lines: Iterable[tuple[Any, ...]]) -> str:
    rows = [header, ["---"] * len(header), *([str(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
