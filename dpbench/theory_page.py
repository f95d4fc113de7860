"""The page that describes what `dpbench theory` found; all its numbers come from there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Numbers = dict[str, Any]


def page(found: Numbers) -> str:
    """Write the page in Markdown."""
    one, two, three, four, stale = (
        found[name] for name in ("theorem_1", "proposition_2", "theorem_3", "theorem_4", "staleness")
    )
    parts = [
        "# OrderDP's theorems, run",
        "Made by `dpbench theory`; the numbers are in `theory.json`. OrderDP draws s of n samples uniformly and trains "
        "on the q of largest loss; it prunes 1 - q/n. The problem is softmax regression on scikit-learn's digits. The "
        "paper's full text was not at hand: the statements are those of a digest, the proofs' constants our own.",
        _table(["statement", "result"], [(title, _verdict(found[name])) for name, title in TITLES.items()]),
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
        "## Not here",
        "Stationarity in a network, momentum and batch size: see the grid `theory` (`dpbench run theory`). The bound "
        "of "
        "Theorem 4 with its constants.",
    ]
    return "\n\n".join(parts) + "\n"


TITLES = {
    "theorem_1": "Theorem 1: the gradient is unbiased for L_q, and biased for the plain loss",
    "proposition_2": "Proposition 2: n gamma_j tends to a Beta curve",
    "theorem_3": "Theorem 3: on convex problems L_q comes within O(1/sqrt(T)) of its minimum",
    "theorem_4": "Theorem 4: the generalisation gap",
    "staleness": "Beyond the paper: stale losses",
}


def _verdict(study: Numbers) -> str:
    return {True: "held", False: "did not hold", None: "not decidable from the digest"}[study["held"]]


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
