"""IES, instance-dependent early stopping: leave out samples whose loss curve has become straight."""

import torch

from dpbench.draws import others, top
from dpbench.method import PruningMethod, Requires, Selection, Signals, Task, param


class IES(PruningMethod):
    """Drop sample i while the mean of its last three |l_i(t) - 2 l_i(t-1) + l_i(t-2)| is below `threshold`.

    Dropped samples are forwarded after the epoch, so they may return and no forward pass is saved; nothing is
    dropped in the first five epochs. The paper fixes the threshold, 1e-3 for CIFAR-10 and 2e-3 for CIFAR-100, and
    so does not control the share that it keeps; where none is given, it is set anew each epoch to drop exactly
    n - k samples. The released code waits for one more epoch than it averages over.
    """

    threshold: float | None = param(None, low=1e-5, high=1e-1, log=True)

    paper = "Yuan et al., Instance-dependent early stopping (ICLR 2025)"

    def requires(self) -> Requires:
        return Requires({"loss"})

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.losses = torch.full((task.n, 5), float("nan"))  # column t % 5 is epoch t

    def select(self, epoch: int) -> Selection:
        n = self.task.n
        recent = self.losses[:, torch.arange(epoch, epoch + 5) % 5]  # from the oldest to the newest
        bend = recent.diff(n=2, dim=1).abs().mean(1).nan_to_num(nan=float("inf"))
        if self.threshold is None:
            count = min(n - self.task.k, int(bend.isfinite().sum()))
        else:
            count = min(n - 1, int((bend < self.threshold).sum()))
        dropped = top(-bend, count, self.rng)
        return Selection(others(n, dropped), refresh=dropped)

    def observe(self, signals: Signals) -> None:
        self.losses[signals.indices, signals.epoch % 5] = signals["loss"].float()
