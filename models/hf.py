"""A text classifier of Hugging Face transformers, from a local folder."""

from pathlib import Path

from torch import Tensor, nn

from dpbench.errors import UsageError, one_line
from dpbench.tokens import PAD, Sequence, padding

KINDS = ("texts",)
FILES = ("path",)  # the parameters that name a file or folder, whose content is part of a run's identity


def hf(shape: Sequence, classes: int, path: str = "") -> nn.Module:
    """`hf:PATH`, a folder with config.json: with its weights or from scratch; no code of its own runs.

    The texts must be read by the tokenizer of the same folder: `text:FILE[tokenizer=PATH]`.
    """
    if not shape.tokenizer or Path(shape.tokenizer).resolve() != Path(path).resolve():
        raise UsageError(f"hf:{path} takes texts that its own tokenizer reads: --dataset 'text:FILE[tokenizer={path}]'")
    return HuggingFace(shape, classes, path)


class HuggingFace(nn.Module):
    """See `hf`."""

    def __init__(self, shape: Sequence, classes: int, path: str) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, logging
            from transformers import AutoModelForSequenceClassification as Auto
        except ImportError:
            raise UsageError("hf:PATH needs the package transformers: pip install 'dpbench[hf]'") from None
        logging.disable_progress_bar()
        try:
            options = {"num_labels": classes, "local_files_only": True, "trust_remote_code": False}
            if any(Path(path).glob("*.safetensors")):
                self.model = Auto.from_pretrained(path, use_safetensors=True, ignore_mismatched_sizes=True, **options)
            else:
                self.model = Auto.from_config(AutoConfig.from_pretrained(path, **options))
        except Exception as error:  # transformers and safetensors raise what they like
            raise UsageError(f"hf:{path} cannot be built: {one_line(error, 300)}") from error
        self.model.float()  # a checkpoint may be of half precision; the recipe says by what a model is trained
        places = _places(self.model)
        if 0 < places < shape.length:
            raise UsageError(f"hf:{path} takes {places} tokens, the texts have {shape.length}; say length={places}")
        self.pad = self.model.config.pad_token_id = padding(path)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, l) to logits (b, C)."""
        seen = tokens != PAD
        theirs = tokens.where(tokens != self.pad, -1).where(seen, self.pad)  # PAD and their padding had changed places
        return self.model(input_ids=theirs.where(theirs >= 0, PAD), attention_mask=seen.long()).logits


def _places(model: nn.Module) -> int:
    """How many tokens a text may have, 0 or less where any number."""
    found: int = getattr(model.config, "max_position_embeddings", 0)
    for name, layer in model.named_modules():
        if name.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None:
            return found - layer.padding_idx - 1  # RoBERTa's positions begin after that of padding
    return found
