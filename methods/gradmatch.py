"""GradMatch: a few weighted gradients that add up to the mean gradient."""

import torch

from dpbench.greedy import FLAT, guard, matching_pursuit
from dpbench.kernels import Factored, last_layer
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class GradMatch(SubsetMethod):
    """Orthogonal matching pursuit for min ||sum_i w_i g_i - g||^2 + lam s ||w||^2, w >= 0, g the mean; in each class.

    g_i is the gradient in the last layer. s, the mean of ||g_i||^2, is ours: gradients vanish as training ends, and the
    paper's lam alone would then leave weights in proportion to <g_i, g>, of which a few diverge. (DeepCore's g_i are
    divided by n, where lam = 1 drowns everything else.) The weights are scaled to a mean of 1; samples of weight 0 are
    kept in the selection, which stays of k samples.
    """

    balanced: bool = param(True)
    lam: float = param(0.01, low=1e-6, high=10.0, log=True)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Killamsetty et al., GRAD-MATCH: gradient matching based data subset selection (ICML 2021)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h, logits = seen["embedding"], seen["logits"]
        flops = FLAT * k * h.numel() * logits.shape[1] + 64 * k**3  # triangular solves are far from BLAS's speed
        guard("gradmatch", flops, 3 * h.numel() + 4 * k**2)
        g = last_layer(logits, self.labels()[members], h)
        g = Factored(g.e.double(), g.f.double())
        picks, weights = matching_pursuit(g, g.sum() / len(g), k, self.lam * float(g.squares().mean()))
        return Selection(picks, weights * len(g))  # a class counts by its size
