"""DeepCore: any selection method of a checkout of github.com/PatrickZH/DeepCore, on our proxy record."""

from functools import cache
from types import ModuleType

import torch

from dpbench.deepcore import checkout, cost, run, theirs
from dpbench.draws import sample
from dpbench.errors import UsageError
from dpbench.greedy import guard
from dpbench.method import Proxy, Requires, Selection, Signals, param
from dpbench.scores import Static, mean_one


class DeepCore(Static):
    """Run the class `name` of the checkout that DPBENCH_DEEPCORE names, unmodified: deepcore:kCenterGreedy.

    Its own training is left out (epochs = 0): its images are the recorded embeddings and its network is the last
    layer that maps them to the recorded logits, found by least squares. So embeddings, logits and gradients of the
    last layer are those of our record; DeepFool moves, and Cal finds neighbours, among embeddings. `option` is what
    Submodular calls function and Uncertainty selection_method. All samples go through in one batch, where some of
    its defects do not show. Budgets are rounded class by class if `balanced`, so k is not kept exactly; Full keeps all.
    Forgetting is refused, since it counts what happens in a training of its own. It runs on the GPU where there is
    one, GradMatch always on the CPU.
    """

    name: str = param("kCenterGreedy")
    option: str = param("")
    balanced: bool = param(False)
    proxy_epochs: int = param(30, low=1, high=200)

    paper = "Guo et al., DeepCore: a comprehensive library for coreset selection in deep learning (DEXA 2022)"

    def requires(self) -> Requires:
        return Requires({"logits", "embedding"}, Proxy(self.proxy_epochs), period=0)

    def ready(self) -> None:
        names = {method.__name__ for method in theirs().values()}
        if self.name.lower() not in theirs():
            raise UsageError(
                f"deepcore has no method {self.name!r} that selects from a record; known: {', '.join(sorted(names))}"
            )

    def modules(self) -> tuple[ModuleType, ...]:
        return checkout()

    def take(self, seen: Signals) -> None:
        if self.task.k in (1, self.task.n):  # where several of its methods fail
            self.found = {"indices": sample(self.task.n, self.task.k, self.rng)}
            return
        self.affordable(seen["logits"].shape[1], seen["embedding"].shape[1])
        seed = int(torch.randint(2**31, (1,), generator=self.rng))
        data = seen["embedding"], seen["logits"], self.labels()
        self.found = run(self.name, self.option, *data, self.task.keep, self.balanced, seed)

    def affordable(self, classes: int, d: int) -> None:
        """Refuse what their code is predicted to take too long for, or too much memory."""
        whole = not self.balanced or self.name.lower() in ("deepfool", "grand")  # these score all samples at once
        n = self.task.n if whole else int(self.labels().bincount().max())
        k = max(1, round(self.task.keep * n))
        products, floats = cost(self.name.lower(), self.option, n, k, classes, d)
        guard(f"deepcore:{self.name}", products * self.task.n / n, floats)

    def choose(self) -> Selection:
        weights = self.found.get("weights")
        indices = self.found["indices"].long()
        return Selection(indices, None if weights is None else mean_one(weights.float().clamp(min=0.0)))


@cache
def __getattr__(name: str) -> type[DeepCore]:
    """DeepCore with `name` as its default, so that deepcore:NAME is a method of its own."""
    if name.startswith("_"):
        raise AttributeError(name)
    fields = {"__annotations__": {"name": str}, "name": param(name)}
    return type(name, (DeepCore,), {"__module__": __name__, "__doc__": DeepCore.__doc__} | fields)
