"""The measures of a run, each declared once; whatever shows, sorts, sends or explains them reads MEASURES."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from dpbench.training import derived
from dpbench.training.results import RunResult


@dataclass(frozen=True)
class Measure:
    """A number of a run, of which a row of the board has the mean over its seeds.

    A measure that has `derive` is computed from a result; it returns None for what is not known or never happened. The
    others are recorded by the runner, or with `of_row` computed by the table from all runs. What is recorded by epoch
    has as the run's value that of the last epoch, the mean, or what was counted over the whole run.
    """

    name: str  # in results, in tables and in MLflow
    label: str
    meaning: str  # in Markdown
    unit: str = ""  # of the number as it is shown: shares are shown in "%" or, where they are differences, in "points"
    digits: int = 3  # after the point
    better: Literal["up", "down", ""] = ""
    column: str = ""  # its name in --columns and --sort, and whether wide tables and comparisons have it
    by_epoch: Literal["last", "mean", "total", ""] = ""
    derive: Callable[[RunResult], float | None] | None = None
    of_row: bool = False
    in_table: bool = True
    main: bool = False  # one of the few that MLflow shows of a row at once
    drawn: bool = False  # the page and MLflow have a row's curve of it

    @property
    def header(self) -> str:
        """Its label with its unit."""
        return f"{self.label} {self.unit}".strip()

    @property
    def factor(self) -> int:
        """By what the number is multiplied to be shown."""
        return 100 if self.unit in ("%", "points") else 1

    def shown(self, value: float | None) -> str:
        """The number as text, a dash for what is not known."""
        return "-" if value is None or value != value else f"{self.factor * value:.{self.digits}f}"

    def of(self, result: RunResult) -> float | None:
        """Its value of a finished run."""
        return result["metrics"].get(self.name) if self.derive is None else self.derive(result)


MEASURES = (  # in the order in which wide tables show them
    Measure(
        "accuracy",
        "test accuracy",
        "test accuracy after the last epoch; a row shows the mean over seeds and its 95 % t interval",
        unit="%",
        digits=2,
        better="up",
        by_epoch="last",
        in_table=False,
        drawn=True,
    ),
    Measure(
        "accuracy_validation",
        "validation accuracy",
        "accuracy on the validation samples after the last epoch, by which only tuning chooses",
        unit="%",
        digits=2,
        better="up",
        by_epoch="last",
        in_table=False,
    ),
    Measure(
        "loss_test", "test loss", "mean loss on the test samples after the last epoch", better="down", by_epoch="last"
    ),
    Measure(
        "loss_train",
        "training loss",
        "mean loss of what the epoch trained on",
        better="down",
        by_epoch="last",
        in_table=False,
    ),
    Measure(
        "cost",
        "cost",
        "(forward + 2 backward) / (3 n epochs), as counted, without the proxy; full training's is 1",
        digits=2,
        better="down",
        column="cost",
        derive=derived.cost,
    ),
    Measure(
        "cost_with_proxy",
        "total cost",
        "`cost` with the passes of the proxy's training",
        digits=2,
        better="down",
        column="cost_with_proxy",
        derive=derived.cost_with_proxy,
        main=True,
    ),
    Measure(
        "time_total_s",
        "time",
        "what the method takes: select + observe + train + proxy. Evaluation and probes are timed separately",
        unit="s",
        digits=2,
        better="down",
        column="time",
        main=True,
    ),
    Measure(
        "speedup",
        "times faster",
        "full training's `time_total_s` divided by the row's",
        digits=2,
        better="up",
        column="speedup",
        of_row=True,
    ),
    Measure(
        "speedup_ideal",
        "times faster by cost",
        "full training's `cost_with_proxy` divided by the row's: what the time would be if choosing took none",
        digits=2,
        better="up",
        of_row=True,
    ),
    Measure(
        "prune_ratio",
        "pruned",
        "1 - samples sent backward / (n x epochs): what was really pruned, beside the requested `keep`",
        better="up",
        column="prune",
        by_epoch="total",
        main=True,
        drawn=True,
    ),
    Measure(
        "forward_saving",
        "forward saving",
        "1 - samples forwarded / (n x epochs); negative for batch-level methods, which forward every sample, and the "
        "picked ones once more",
        better="up",
        column="forward_saving",
    ),
    Measure(
        "jaccard_epochs",
        "Jaccard",
        "|A and B| / |A or B| of consecutive epochs' selections, mean over the run",
        column="jaccard",
        by_epoch="mean",
        main=True,
    ),
    Measure(
        "jaccard_epochs_chance",
        "chance",
        "`jaccard_epochs` at the expected overlap of independent uniform draws of those sizes",
        column="chance",
        by_epoch="mean",
    ),
    Measure(
        "jaccard_seeds",
        "Jaccard of seeds",
        "|A and B| / |A or B| of two seeds' selections of the same epoch, mean over epochs and pairs of seeds",
        of_row=True,
    ),
    Measure("jaccard_seeds_chance", "chance of seeds", "`jaccard_seeds` of independent uniform draws", of_row=True),
    Measure(
        "gradient_cosine",
        "cosine",
        "cosine between the (weighted) mean gradient of the selected samples and that of all samples, at the same "
        "parameters, before every `probe.every`-th epoch; the run's value is the mean over epochs. Up to "
        "`probe.samples` (2048) samples all are probed; beyond that, that many fixed, seeded ones, from which the "
        "cosine over all is estimated without bias (so it may exceed 1)",
        better="up",
        column="cosine",
        by_epoch="mean",
        main=True,
        drawn=True,
    ),
    Measure(
        "gradient_cosine_ci95",
        "cosine interval",
        "half the 95 % interval of `gradient_cosine`, by a jackknife over parts of the probe; 0 where all are probed",
        by_epoch="mean",
        in_table=False,
    ),
    Measure(
        "gradient_cosine_surrogate",
        "cosine to surrogate",
        "`gradient_cosine` against the gradient of the loss that the method states to minimise "
        "(`PruningMethod.surrogate`; for instance the losses weighted by their ranks). One selection is a sample of "
        "it, so the cosine stays below 1",
        better="up",
        column="surrogate",
        by_epoch="mean",
    ),
    Measure(
        "gradient_norm_ratio",
        "norm ratio",
        "the norm of the selected samples' (weighted) mean gradient divided by that of all samples' mean gradient",
        by_epoch="mean",
    ),
    Measure(
        "gradient_norm_ratio_surrogate",
        "norm ratio to surrogate",
        "`gradient_norm_ratio` against the gradient of the loss that the method states to minimise",
        by_epoch="mean",
    ),
    Measure("gradient_norm", "gradient norm", "the norm of the full gradient at the last probe", by_epoch="last"),
    Measure(
        "gradient_norm_r",
        "r of norm and accuracy",
        "Pearson's correlation of gradient norm and accuracy over the epochs of a run",
        digits=2,
        derive=lambda result: derived.pooled_gradient_norm_r([result]),
    ),
    Measure(
        "gradient_norm_r_pooled",
        "r, pooled",
        "Pearson's correlation of gradient norm and accuracy over the epochs of all seeds",
        digits=2,
        of_row=True,
    ),
    Measure(
        "accuracy_worst_class",
        "worst class",
        "test accuracy of the class that has the lowest",
        unit="%",
        digits=2,
        better="up",
        column="worst_class",
        derive=lambda result: derived.diagnostics(result).get("accuracy_worst_class"),
    ),
    Measure(
        "calibration_error",
        "calibration error",
        "mean gap between the probability of the predicted class and the share that was right, over 15 bins of that "
        "probability, on the test samples after the last epoch",
        unit="points",
        digits=2,
        better="down",
        column="calibration",
        derive=lambda result: derived.diagnostics(result).get("calibration_error"),
    ),
    Measure(
        "accuracy_shifted",
        "shifted accuracy",
        "accuracy on corrupted test images after the last epoch, for grids with `shifts: true`: the mean over noise, "
        "blur, contrast and JPEG, each at three strengths, with the same corrupted images for every run",
        unit="%",
        digits=2,
        better="up",
        column="shifted",
    ),
    *(
        Measure(f"accuracy_{name}", label, meaning, unit="%", digits=2, better="up")
        for name, label, meaning in (
            ("shifted_noise", "under noise", "the part of `accuracy_shifted` under Gaussian noise"),
            ("shifted_blur", "under blur", "the part of `accuracy_shifted` under a Gaussian blur"),
            ("shifted_contrast", "under low contrast", "the part of `accuracy_shifted` under a lowered contrast"),
            ("shifted_jpeg", "under JPEG", "the part of `accuracy_shifted` under JPEG compression"),
            (
                "cifar_c",
                "CIFAR-C",
                "accuracy on CIFAR-C after the last epoch, the mean over its 15 corruptions at 5 strengths, where "
                "`shifts` is on and the data root has its files",
            ),
        )
    ),
    Measure(
        "accuracy_best_epoch",
        "best epoch",
        "the best epoch's accuracy on the test set; recorded because papers report it, never used for ranking",
        unit="%",
        digits=2,
        better="up",
        column="best_epoch",
    ),
    Measure(
        "accuracy_spread_last",
        "spread at end",
        "standard deviation of test accuracy over the last fifth of the epochs",
        unit="points",
        digits=2,
        better="down",
        column="spread",
        derive=derived.spread_last,
    ),
    Measure(
        "accuracy_std",
        "std over seeds",
        "standard deviation of accuracy over seeds, the measure of stability",
        unit="points",
        digits=2,
        better="down",
        column="std",
        of_row=True,
    ),
    Measure(
        "lr",
        "rate",
        "the recipe's learning rate, which the tuned track searches for each row",
        digits=4,
        column="lr",
        of_row=True,
    ),
    Measure(
        "weight_decay",
        "weight decay",
        "the recipe's weight decay, which may be searched, too",
        digits=6,
        column="weight_decay",
        of_row=True,
    ),
    Measure(
        "stability",
        "rates that work",
        "how many times the lowest rate that works the highest one is (`lr_low`, `lr_high`): of the rates with which "
        "each row's tuning begins, at default parameters, those around the best one with none between that is a point "
        "of validation accuracy worse; known on the tuned track",
        digits=1,
        better="up",
        column="stability",
        of_row=True,
    ),
    Measure(
        "never_used",
        "never used",
        "number of training samples that no epoch used",
        digits=0,
        better="down",
        column="never_used",
        derive=lambda result: derived.diagnostics(result).get("never_used"),
    ),
    Measure(
        "coverage_epochs",
        "all seen by epoch",
        "number of epochs until every sample was used; unknown while one seed has not seen all",
        digits=1,
        better="down",
        column="coverage",
        of_row=True,
    ),
    Measure(
        "noisy_share",
        "noisy labels",
        "share of the used samples whose label is known to be wrong",
        better="down",
        derive=lambda result: derived.diagnostics(result).get("noisy_share"),
    ),
    Measure(
        "duplicate_share",
        "duplicates",
        "share of the used samples that were copies of another one used in the same epoch, where there are copies",
        better="down",
        derive=lambda result: derived.diagnostics(result).get("duplicate_share"),
    ),
    Measure(
        "peak_memory_mb",
        "memory",
        "peak host memory of the worker process during the run",
        unit="MB",
        digits=0,
        better="down",
        column="memory",
    ),
    Measure(
        "peak_device_memory_mb",
        "device memory",
        "peak memory that the run held on its GPU",
        unit="MB",
        digits=0,
        better="down",
    ),
    Measure(
        "time_to_random_s",
        "time to random",
        "time until the mean accuracy of random at the same keep is reached; unknown unless every seed reaches it",
        unit="s",
        digits=2,
        better="down",
        of_row=True,
    ),
    *(
        Measure(f"time_{phase}_s", f"time in {phase}", meaning, unit="s", digits=2, better="down", in_table=tabled)
        for phase, meaning, tabled in (
            ("select", "time in choosing samples", True),
            ("observe", "time in telling the method what was measured", True),
            ("train", "time in training", True),
            ("proxy", "time of a static method's proxy training", True),
            ("probe", "time in the gradient's probes, in no total", True),
            ("eval", "time in evaluation, in no total", False),
        )
    ),
    Measure(
        "time_on_cpu",
        "time on CPU",
        "the share of a run's time (its proxy's included) in which its main thread had a CPU; unknown on a GPU. Where "
        "it is below 0.9 or unknown for any run, the machine may have been shared, and no times are compared",
        better="up",
        in_table=False,
    ),
    *(
        Measure(name, label, meaning, digits=0, in_table=tabled)
        for name, label, meaning, tabled in (
            ("samples_forward", "samples forward", "samples that were forwarded in training, each time counted", True),
            ("samples_backward", "samples backward", "samples that were sent backward, each time counted", True),
            ("samples_proxy", "proxy backward", "samples that a static method's proxy training sent backward", True),
            ("samples_proxy_forward", "proxy forward", "samples that the proxy's training forwarded", False),
            ("optimizer_steps", "optimizer steps", "steps of the optimizer", True),
            ("epochs", "epochs", "epochs that were made", False),
        )
    ),
)


def tabled() -> Iterable[Measure]:
    """The measures of which a row has the mean over its seeds."""
    return (one for one in MEASURES if one.in_table and not one.of_row)
