"""The recipe: how a model is trained, whatever it is trained on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from dpbench import optim

MOST = 2**31 - 1  # of whole numbers that torch is given


class Strict(BaseModel):
    """A part of a grid file: unknown fields are refused, and so are flags in place of numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true where a number stands; pydantic reads 1 in it."""
        flags = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, bool)]
        if flags and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"{str(flags[0]).lower()} does not fit here; it is a value for what is on or off")
        return value


Share = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[
    tuple[Share, Share], BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value)
]
# What belongs to one schedule or to some optimizers, and is refused beside others.
OF_SCHEDULES = {
    "pct_start": ("onecycle",),
    "div": ("onecycle",),
    "final_div": ("onecycle",),
    "warmup": ("cosine", "linear", "step"),
    "lr_min": ("cosine", "linear"),
    "steps": ("step",),
    "gamma": ("step",),
}
OF_OPTIMIZERS = {"nesterov": ("sgd",), "beta2": ("adamw", "lamb")}


class Recipe(Strict):
    """How a model is trained.

    `momentum` belongs to the schedule: `onecycle` cycles it over a range [low, high], by default torch's 0.85 to 0.95;
    the others have one number, by default 0.9. One number is a constant in all. Adam and LAMB have it as their first
    beta, as torch's OneCycle does.

    `onecycle` rises from lr / div to lr in the first `pct_start` and falls to lr / div / final_div. `cosine` and
    `linear` fall from lr to `lr_min`; `step` multiplies by `gamma` at the shares `steps` of the training. These three
    may rise from 0 in the first `warmup`. `clip` bounds the norm of the gradient. With `decay_norms: false` biases and
    the parameters of normalisations are not decayed.
    """

    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=MOST)
    lr: float = Field(gt=0)
    optimizer: Annotated[str, AfterValidator(optim.known)] = "sgd"
    momentum: Momentum = (0.85, 0.95)
    beta2: Share = 0.999
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    decay_norms: bool = True
    clip: float | None = Field(None, gt=0)
    schedule: Literal["onecycle", "cosine", "linear", "step"] = "onecycle"
    pct_start: float = Field(0.3, gt=0, lt=1)
    div: float = Field(25.0, ge=1)
    final_div: float = Field(1e4, ge=1)
    warmup: Share = 0.0
    lr_min: float = Field(0.0, ge=0)
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (1 / 3, 2 / 3)
    gamma: float = Field(0.1, gt=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Literal["none", "crop", "crop_flip"] = "none"
    pad: int = Field(0, ge=0, le=10_000)
    amp: bool = False
    channels_last: bool = False
    compile: bool = False

    @model_serializer(mode="wrap")
    def _hashed_as_before(self, dump: Any) -> dict[str, Any]:
        """Leave a new field out while it has its default, so that runs from before there was one keep their names."""
        changed = {name for name in type(self).model_fields if name not in NEW or getattr(self, name) != NEW[name]}
        return {name: value for name, value in dump(self).items() if name in changed}

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """A constant momentum where the schedule has no cycle, and no Nesterov step where the optimizer has none."""
        if not isinstance(given, dict):
            return given
        constant = {"momentum": 0.9} if given.get("schedule", "onecycle") != "onecycle" else {}
        plain = {"nesterov": False} if given.get("optimizer", "sgd") != "sgd" else {}
        return constant | plain | given

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        low, high = self.momentum
        if low > high:
            raise ValueError("momentum is one number or a range [low, high]")
        if self.schedule != "onecycle" and low != high:
            raise ValueError(f"the {self.schedule} schedule has one momentum; a range is for onecycle")
        unset = {name: field.default for name, field in type(self).model_fields.items()} | {"nesterov": False}
        for which, owners in (("schedule", OF_SCHEDULES), ("optimizer", OF_OPTIMIZERS)):
            chosen = getattr(self, which)
            for name, those in owners.items():
                if chosen not in those and getattr(self, name) != unset[name]:
                    raise ValueError(f"{name} is for the {which} {' or '.join(those)}, not for {chosen}")
        if self.nesterov and low == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps are shares of the training, each later than the one before")
        if self.lr_min > self.lr:
            raise ValueError("lr_min is above lr")
        if (self.augment == "none") != (self.pad == 0):
            raise ValueError("augment and pad go together: pad is the number of pixels that a crop may move")
        return self


NEW = {name: Recipe.model_fields[name].default for name in ("optimizer", "beta2", "decay_norms", "clip", *OF_SCHEDULES)}
