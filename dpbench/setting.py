"""What a run and its grid have in common beside the recipe: budget, probe, and what a run is on and is tested on."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_serializer, model_validator

from dpbench.recipe import MOST, Strict


class Probe(Strict):
    """Gradients are probed before every `every`-th epoch on `samples` fixed training samples; 0 never probes.

    Where there are no more samples than that, all are probed; else what all would give is estimated without bias.
    """

    every: int = Field(1, ge=0, le=MOST)
    samples: int = Field(2048, ge=2, le=MOST)


class Budget(Strict):
    """What every method may spend: "epochs" of the recipe, the optimizer "steps" or "samples" (backward) that full
    training takes in these epochs, or `seconds` of training "time". `iterations` are steps whatever is kept, in the
    place of those of full training.
    """

    unit: Literal["epochs", "steps", "samples", "time"] = "epochs"
    seconds: float | None = Field(None, gt=0)
    iterations: int | None = Field(None, ge=1, le=MOST)

    @model_serializer(mode="wrap")
    def _hashed_as_before(self, dump: Any) -> dict[str, Any]:
        """Leave iterations out where there are none, so that runs from before keep their names."""
        return {name: value for name, value in dump(self).items() if name != "iterations" or value is not None}

    @model_validator(mode="before")
    @classmethod
    def _of_iterations(cls, given: Any) -> Any:
        return {"unit": "steps"} | given if isinstance(given, dict) and given.get("iterations") is not None else given

    @model_validator(mode="after")
    def _consistent(self) -> Budget:
        if (self.unit == "time") != (self.seconds is not None):
            raise ValueError("seconds goes with unit: time, and only with it")
        if self.iterations is not None and self.unit != "steps":
            raise ValueError(f"iterations are steps, not {self.unit}")
        return self


class Setting(Strict):
    """What a run and a grid have in common.

    Runs on several devices have other numbers where batch normalisation is not synchronised.
    """

    budget: Budget = Budget()
    probe: Probe = Probe()
    devices: int = Field(1, ge=1, le=1024)
    sync_batchnorm: bool = False
    shifts: bool = False  # whether trained models are also tested on corrupted images

    @model_serializer(mode="wrap")
    def _hashed_as_before(self, dump: Any) -> dict[str, Any]:
        """Leave out what is not asked for, so that runs from before keep their names."""
        unset = {"devices": 1, "sync_batchnorm": False, "shifts": False}
        return {name: value for name, value in dump(self).items() if name not in unset or value != unset[name]}

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.sync_batchnorm and self.devices == 1:
            raise ValueError("sync_batchnorm is for several devices")
        return self
