"""Proxy masks: train on the rows of each batch that were the hardest for a small model at the same step."""

import torch

from dpbench.method import Picks, Proxy, PruningMethod, Requires, Selection, Signals, Task, param

EPOCHS = 10_000  # of the proxy: as many as the run has


class ProxyMask(PruningMethod):
    """Replay, batch by batch, which share `keep` of the rows had the highest loss under a small proxy.

    The proxy goes through the run's batches B_t, 1 / keep of the usual ones at once: M_t are the keep |B_t| rows of
    largest loss, and if t is a multiple of `every`, it makes one step on the loss over M_t. Then the model goes
    through the same B_t, in the same order and with the same augmentation, makes one step on the loss over each M_t,
    and measures nothing to choose by.

    The released code has keep 1/2, 512 of 1,024 samples, and 4 for `every`; its proxy has fewer and narrower layers
    than the model: see `proxy_model`. It takes the loss that the training step itself forwards, in training mode; here
    it is measured in evaluation mode, as for all that choose within a batch. A run that goes on longer than its recipe
    begins again with the masks of the first epoch.
    """

    every: int = param(4, low=1, high=32)

    paper = "Jordan, airbench96_faster (repository KellerJordan/cifar10-airbench, commit f1c599c)"

    def requires(self) -> Requires:
        return Requires({"member"}, Proxy(EPOCHS, at="steps", hardest=self.every))

    def setup(self, task: Task, rng: torch.Generator) -> None:
        super().setup(task, rng)
        self.masks: list[torch.Tensor] = []  # (n,) of each epoch

    def pool(self, task: Task) -> int:
        return max(1, round(1 / task.keep))

    def select(self, epoch: int) -> Selection:
        if not self.masks:
            raise ValueError("no proxy training was replayed")
        return Selection(torch.arange(self.task.n))

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        mask = self.masks[signals.epoch % len(self.masks)]
        return Picks(mask[signals.indices].nonzero().squeeze(1))

    def observe(self, signals: Signals) -> None:
        if signals.proxy_run is None:
            return
        while len(self.masks) <= signals.epoch:
            self.masks.append(torch.zeros(self.task.n, dtype=torch.bool))
        self.masks[signals.epoch][signals.indices] = signals["member"] > 0
