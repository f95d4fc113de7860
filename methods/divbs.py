"""DivBS, diversified batch selection: the rows that together span the batch's mean gradient best."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench.draws import others, sample
from dpbench.method import Picks, PruningMethod, Requires, Selection, Signals, Task, param


class DivBS(PruningMethod):
    """Greedily pick the row with the largest |<g_i, R>|, R what the picked rows leave of the batch's mean gradient.

    g_i = (p_i - y_i) (x) h_i is the gradient in the last layer's weights. Each picked g is orthonormalised against
    those before and R loses its projection; a batch gives the share `keep` of its rows. All inner products come from
    <g_i, g_j> = <p_i - y_i, p_j - y_j> <h_i, h_j>, no g_i is formed. `draw="multinomial"` is the released code, which
    draws a row in proportion to |<g_i, R>|. If R vanishes before, the other rows are drawn uniformly.
    1 / keep batches are offered per trained batch, so that it has about the usual size.
    """

    draw: str = param("argmax", choices=("argmax", "multinomial"))

    paper = "Hong et al., Diversified batch selection for training acceleration (ICML 2024)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        if task.labels is None:
            raise ValueError("divbs needs the labels of the samples")

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        assert self.task.labels is not None
        logits, h = signals["logits"].double(), signals["embedding"].double()
        error = logits.softmax(1) - F.one_hot(self.task.labels[signals.indices], logits.shape[1])
        gram = ((error @ error.T) * (h @ h.T)).nan_to_num(0.0, 0.0, 0.0)
        return Picks(self._greedy(gram, max(1, round(self.task.keep * len(gram))), rng))

    def _greedy(self, gram: Tensor, k: int, rng: torch.Generator) -> Tensor:
        residual = gram.mean(1)  # <g_i, R>
        basis = gram.new_zeros(k, len(gram))  # <e_m, g_i>, e_m the orthonormalised pick m
        free = torch.ones(len(gram), dtype=torch.bool)
        nothing = 1e-10 * residual.abs().max()
        picked: list[int] = []
        while len(picked) < k and (score := residual.abs() * free).max() > nothing:
            row = int(score.argmax() if self.draw == "argmax" else torch.multinomial(score, 1, generator=rng))
            along = gram[row] - basis[: len(picked), row] @ basis[: len(picked)]
            length = along[row].clamp(min=1e-12 * gram[row, row]).sqrt()
            basis[len(picked)] = along / length
            residual = residual - residual[row] / length * basis[len(picked)]
            free[row] = False
            picked.append(row)
        chosen = torch.tensor(picked, dtype=torch.int64)
        rest = others(len(gram), chosen)
        return torch.cat([chosen, rest[sample(len(rest), k - len(picked), rng)]])
