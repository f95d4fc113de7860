"""What Holm's correction costs: the power to find a method that is better by two standard deviations, as markdown.

python tests/benchmarks/power.py
"""

from __future__ import annotations

import numpy as np

from dpbench.stats import power_table

GAP = 2.0  # standard deviations of the paired difference between two methods


def markdown() -> str:
    """One line a number of seeds, one column a number of methods compared with the same control."""
    table = power_table(np.random.default_rng(0), comparisons=(1, 5, 10, 20, 40), gaps=(GAP,)).loc[GAP]
    lines = [["seeds", *(f"{m} method{'s' * (m > 1)}" for m in table.columns)], ["---"] * (1 + len(table.columns))]
    lines += [
        [str(seeds), *(f"{power:.2f}" for power in row)]
        for seeds, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(markdown())
