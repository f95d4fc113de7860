"""The recipe: how a model is trained, whatever it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from dpbench import optim, places, plain_yaml
from dpbench.plain_yaml import brief

if TYPE_CHECKING:
    from dpbench.method import PruningMethod

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


Changes = dict[str, dict[str, Any]]  # of a recipe, by the name of a dataset or a model
Share = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[
    tuple[Share, Share], BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value)
]
BatchSizes = Annotated[
    tuple[tuple[Annotated[float, Field(gt=0, le=1)], Annotated[int, Field(ge=1, le=MOST, strict=True)]], ...],
    BeforeValidator(lambda value: tuple(value.items()) if isinstance(value, dict) else value),
    AfterValidator(lambda pairs: tuple(sorted(pairs))),
]
# What belongs to some choices of a field, and is refused beside its others.
BELONGS: dict[str, dict[str, tuple[str, ...]]] = {
    "schedule": {
        "pct_start": ("onecycle",),
        "div": ("onecycle",),
        "final_div": ("onecycle",),
        "warmup": ("cosine", "linear", "step"),
        "lr_min": ("cosine", "linear"),
        "steps": ("step",),
        "gamma": ("step",),
    },
    "optimizer": {"nesterov": ("sgd",), "beta2": ("adamw", "lamb")},
    "loss": {"bce_threshold": ("bce",)},
    "augment": {
        "pad": ("crop", "crop_flip"),
        "scale": ("resized_crop_flip",),
        "ratio": ("resized_crop_flip",),
    },
}
# Fields that are in every hash; others, which came later, only where they are not their default.
FIRST = {"epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "schedule", "label_smoothing"}
FIRST |= {"augment", "pad", "channels_last", "compile"}
OF_IMAGES = ("mixup", "cutmix", "randaugment", "color_jitter", "erasing", "train_size", "test_size")
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Recipe(Strict):
    """How a model is trained.

    `momentum` belongs to the schedule: `onecycle` cycles it over a range [low, high], by default torch's 0.85 to 0.95;
    the others have one number, by default 0.9. One number is a constant in all. Adam and LAMB have it as their first
    beta, as torch's OneCycle does.

    `onecycle` rises from lr / div to lr in the first `pct_start` and falls to lr / div / final_div. `cosine` and
    `linear` fall from lr to `lr_min`; `step` multiplies by `gamma` at the shares `steps` of the training. These three
    may rise from 0 in the first `warmup`. `clip` bounds the norm of the gradient. With `decay_norms: false` biases and
    the parameters of normalisations are not decayed. `layer_decay` multiplies the rate of a layer by itself for each
    layer above it, as timm does it, and is for models that name their layers as timm's do.

    `batch_size_at: {0.2: 64, 0.1: 32}` is the batch of runs that keep 0.2 or less, and of those that keep 0.1 or less;
    proxies train at `batch_size`. A step follows the gradient of `accumulate` batches, the last of an epoch of those
    that are left: that of one batch of all their samples. `ema` averages the weights after each step with this decay,
    and the buffers with them; the average is what is evaluated.

    `loss` is cross-entropy or `bce`, binary cross-entropy averaged over the classes; `bce_threshold` makes a class's
    target 1 above it and 0 elsewhere. `mixup` and `cutmix` are the alpha of their Beta distributions, 0 for none, and
    mix a share `mix_prob` of the batches, by either of the two where both are on; a mixed sample's loss is defined in
    training/workload.py. They are for images, and for methods that read no signal of a training step but the loss.

    `crop` moves the image by up to `pad` pixels, whose margin is its reflection, `crop_flip` also mirrors half of the
    images, and `resized_crop_flip` cuts out a share `scale` of the area with sides in a `ratio`, scales and mirrors it.
    `randaugment` operations of RandAugment have `magnitude`, of torchvision's 0 to 30 (timm's scale ends at 10);
    `color_jitter` is the strength for brightness, contrast and saturation; `erasing` the probability. All but crops and
    flips cost time on the CPU for each image. Images on disk may be trained at `train_size` and tested at `test_size`
    pixels, which are the share `crop_ratio` of the scaled short side.

    `precision` is of the model's passes, by autocast; outputs, losses and signals are float32. fp16 scales the loss,
    and a step that would overflow is left out though it is counted.
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
    augment: Literal["none", "crop", "crop_flip", "resized_crop_flip"] = "none"
    pad: int = Field(0, ge=0, le=10_000)
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    randaugment: int = Field(0, ge=0, le=100)
    magnitude: int = Field(9, ge=0, le=30)
    color_jitter: float = Field(0.0, ge=0, le=1)
    erasing: float = Field(0.0, ge=0, le=1)
    train_size: int | None = Field(None, ge=1, le=10_000)
    test_size: int | None = Field(None, ge=1, le=10_000)
    crop_ratio: float = Field(0.875, gt=0, le=1)
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    bce_threshold: float | None = Field(None, gt=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    mix_prob: float = Field(1.0, gt=0, le=1)
    batch_size_at: BatchSizes = ()
    accumulate: int = Field(1, ge=1, le=MOST)
    ema: float | None = Field(None, gt=0, lt=1)
    layer_decay: float | None = Field(None, gt=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False

    def at(self, keep: float) -> Recipe:
        """The recipe of a run with this keep, whose batch size may depend on it."""
        sizes = [size for share, size in self.batch_size_at if keep <= share]
        return self.model_copy(update={"batch_size": sizes[0]}) if sizes else self

    def changed(self, changes: dict[str, Any]) -> Recipe:
        """The recipe with other values; what belongs to a choice that is changed has its default again.

        ValueError with one line for values that are wrong, or do not go together.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        for choice, options in {**BELONGS, "schedule": {*BELONGS["schedule"], "momentum"}}.items():
            if changes.get(choice, given.get(choice)) != getattr(self, choice):
                given = {name: value for name, value in given.items() if name not in options}
        try:
            return type(self).model_validate(given | changes)
        except ValidationError as error:
            first = error.errors()[0]
            field = "".join(f"{part}: " for part in first["loc"][:1])
            raise ValueError(f"{field}{first['msg'].removeprefix('Value error, ')}") from None

    def changed_for(self, text: str, field: str, changes: Changes) -> Recipe:
        """The recipe with what `changes`, the grid's `field`, has for `text`, a name with or without parameters."""
        name = text if text in changes else text.partition("[")[0]
        try:
            return self.changed(changes[name]) if name in changes else self
        except ValueError as error:
            raise ValueError(f"{field}.{name}: {error}") from None

    @property
    def by_image(self) -> bool:
        """Whether the augmentation is made image by image, not of a whole batch."""
        return self.augment == "resized_crop_flip" or bool(self.randaugment or self.color_jitter or self.erasing)

    def shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of a sample in training, of those of this shape."""
        return shape if self.train_size is None else (shape[0], self.train_size, self.train_size)

    def test_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of a sample in a test, of those of this shape."""
        return shape if self.test_size is None else (shape[0], self.test_size, self.test_size)

    def unfit(self, kind: str, method: PruningMethod) -> str | None:
        """Why a method cannot be trained so on samples of a kind, None if it can."""
        of_images = [field for field in OF_IMAGES if getattr(self, field)]
        of_images += ["augment"] if self.augment == "resized_crop_flip" else []
        if of_images and kind != "images":
            return f"{of_images[0]} is for images, not for {kind}"
        if not (self.mixup or self.cutmix):
            return None
        field = "mixup" if self.mixup else "cutmix"
        needs = method.requires()
        of_steps = (needs.period > 0 and not method.picks()) or (needs.proxy is not None and needs.proxy.at == "steps")
        read = sorted(needs.signals - {"loss"}) if of_steps else []
        return f"{field} mixes samples, and {read[0]} in a training step is of one" if read else None

    @model_serializer(mode="wrap")
    def _hashed_as_before(self, dump: Any, info: SerializationInfo) -> dict[str, Any]:
        """Leave a newer field out while it has its default, so that runs from before there was one keep their names."""
        fields = type(self).model_fields
        changed = {name for name in fields if name in FIRST or getattr(self, name) != fields[name].default}
        found = {name: value for name, value in dump(self).items() if name in changed}
        flag = found.get("precision") == "bf16"  # before there was fp16, it was on or off
        if flag:
            del found["precision"]
        return found if info.exclude_defaults and not flag else found | {"amp": flag}

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """A constant momentum where the schedule has no cycle, and no Nesterov step where the optimizer has none."""
        if not isinstance(given, dict):
            return given
        flag = given.get("amp")
        if flag is False or (flag is True and "precision" not in given):
            given = {name: value for name, value in given.items() if name != "amp"}
            given |= {"precision": "bf16"} if flag else {}
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
        for which, owners in BELONGS.items():
            chosen = getattr(self, which)
            for name, those in owners.items():
                if chosen not in those and getattr(self, name) != unset[name]:
                    raise ValueError(f"{name} is for the {which} {' or '.join(those)}, not for {chosen}")
        if self.nesterov and low == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps are shares of the training, each later than the one before")
        if self.mix_prob != 1 and not (self.mixup or self.cutmix):
            raise ValueError("mix_prob is for mixup and cutmix, of which there is none")
        if self.layer_decay is not None and self.decay_norms:
            raise ValueError("layer_decay leaves norms and biases undecayed, as timm does; write decay_norms: false")
        if self.lr_min > self.lr:
            raise ValueError("lr_min is above lr")
        if self.magnitude != 9 and not self.randaugment:
            raise ValueError("magnitude is of randaugment, which has no operations")
        if self.crop_ratio != 0.875 and self.test_size is None:
            raise ValueError("crop_ratio goes with test_size")
        if self.scale[0] > self.scale[1] or self.scale[1] > 1 or self.ratio[0] > self.ratio[1]:
            raise ValueError("scale and ratio are ranges [low, high], scale of at most 1")
        if self.augment in ("none", "crop", "crop_flip") and (self.augment == "none") != (self.pad == 0):
            raise ValueError("augment and pad go together: pad is the number of pixels that a crop may move")
        return self


def recipe_names() -> list[str]:
    """The recipes that come with dpbench, one file a source."""
    return sorted(f.name[:-5] for f in (places.LEADERBOARDS / "recipes").iterdir())


def named(given: Any) -> Any:
    """A recipe by name, or by `use` with single values changed; each value of it has its source in the file."""
    changes = {"use": given} if isinstance(given, str) else given
    if not isinstance(changes, dict) or "use" not in changes:
        return given
    name = changes["use"]
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {brief(name)}; known: {', '.join(recipe_names())}")
    file = places.LEADERBOARDS / "recipes" / f"{name}.yaml"
    values, _ = plain_yaml.load(file.read_text("utf-8"), f"leaderboards/recipes/{name}.yaml")
    return values | {key: value for key, value in changes.items() if key != "use"}
