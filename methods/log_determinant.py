"""Log-determinant: samples whose features span the largest volume."""

import torch
from torch.nn.functional import normalize

from dpbench.greedy import FLAT, guard
from dpbench.method import Proxy, Requires, Selection, param
from dpbench.scores import SubsetMethod


class LogDeterminant(SubsetMethod):
    """Greedily add argmax_i of the gain in log det(I + K_S), K_ij = (1 + cos(h_i, h_j)) / 2. O(n k d) time.

    K = Phi Phi^T with phi_i = [h_i / ||h_i||, 1] / sqrt 2, so the gain is log(1 + q_i) with q_i = phi_i^T A^-1 phi_i
    and A = I + sum_{s in S} phi_s phi_s^T, whose inverse each pick updates by rank one. DeepCore maximises what the
    subset explains already, without the sign.
    """

    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Iyer et al., Submodular combinatorial information measures (ALT 2021)"

    def requires(self) -> Requires:
        return Requires({"embedding"}, Proxy(self.proxy_epochs), period=0)

    def among(self, members: torch.Tensor, seen: dict[str, torch.Tensor], k: int) -> Selection:
        h = seen["embedding"].double()
        n, d = h.shape
        guard("log_determinant", 2 * FLAT * n * k * d + k * d * d, 8 * n * d + 2 * d * d)
        phi = torch.cat([normalize(h).T, torch.ones(1, n, dtype=h.dtype)]) / 2**0.5  # a sample is a column
        inverse = torch.eye(d + 1, dtype=h.dtype)
        q = phi.square().sum(0)
        picks = torch.zeros(k, dtype=torch.int64)
        for t in range(k):
            picks[t] = best = int(q.argmax())
            direction = inverse @ phi[:, best] / (1 + q[best]).sqrt()
            inverse -= direction.outer(direction)
            q -= (direction @ phi).square()
            q[best] = float("-inf")
        return Selection(picks)
