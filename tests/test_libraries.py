"""Models of other libraries: torchvision:NAME, timm:NAME and hf:PATH, and the weights that they are given."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpbench import catalog, weights
from dpbench.embedding import head, inputs_of
from dpbench.errors import UsageError
from dpbench.spec import RunSpec, source_digests
from dpbench.tokens import PAD, Sequence, encode_by, padding

MakeSpec = Callable[..., RunSpec]
Run = Callable[..., dict[str, Any]]
WORDS = ("good", "fine", "nice", "bad", "poor", "awful")
VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("timm:vit_tiny_patch16_224[drop_path=0.1]", "timm[name=vit_tiny_patch16_224,drop_path=0.1]"),
        ("torchvision:resnet18", "torchvision[name=resnet18]"),
        ("hf:a b/bert", "hf[path=a b/bert]"),
        ("cnn[width=4]", "cnn[width=4]"),
        ("transformer:TextTransformer", "transformer:TextTransformer"),
    ],
)
def test_what_follows_a_colon_is_the_first_parameter(text: str, written: str) -> None:
    assert catalog.resolve("models", text) == written
    assert catalog.resolve("models", written) == written


def test_a_model_without_parameters_takes_nothing_after_a_colon() -> None:
    with pytest.raises(UsageError, match="nothing may follow the colon of resnet18:large"):
        catalog.resolve("models", "resnet18:large")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision:resnet19", "unknown model of torchvision 'resnet19'; did you mean resnet1"),
        ("timm:vit_tinny_patch16_224", "unknown model of timm .* did you mean vit_tiny_patch16_224"),
        ("timm:hf-hub:someone/model", "unknown model of timm"),
        ("torchvision", "torchvision: which of its models\\? write torchvision:NAME"),
        ("timm:none of all", "known: aimv2.* and [0-9]+ more"),
        ("timm:resnet18[size=3]", "unknown parameter of the model timm 'size'"),
    ],
)
def test_an_unknown_name_is_told_before_anything_is_built(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalog.check_model(text)


def test_torchvisions_model_is_the_same_network() -> None:
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(3)
    ours = catalog.load_model("torchvision:mobilenet_v3_small", (3, 64, 64), 7).state_dict()
    torch.manual_seed(3)
    theirs = mobilenet_v3_small(num_classes=7).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UsageError, match="takes images of 3 channels, not 1"):
        catalog.load_model("torchvision:mobilenet_v3_small", (1, 64, 64), 7)


def test_a_model_with_auxiliary_heads_gives_logits_alone() -> None:
    assert catalog.load_model("torchvision:googlenet", (3, 64, 64), 4)(torch.rand(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize(("name", "shape"), [(VIT, (1, 32, 32)), ("swin_tiny_patch4_window7_224", (3, 64, 64))])
def test_timms_transformers_take_the_size_of_the_images(name: str, shape: tuple[int, ...]) -> None:
    model = catalog.load_model(f"timm:{name}", shape, 5)
    assert model(torch.rand(2, *shape)).shape == (2, 5)
    assert head(model).out_features == 5


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_weights_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    import timm
    from safetensors.torch import save_file

    source = timm.create_model("resnet10t", num_classes=1000)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": {f"module.{name}": value for name, value in source.state_dict().items()}}, file)
    else:
        save_file(source.state_dict(), file)
    model = catalog.load_model(f"timm:resnet10t[pretrained={file}]", (3, 32, 32), 5)
    given, found = source.state_dict(), model.state_dict()
    assert all(torch.equal(found[name], given[name]) for name in given if not name.startswith("fc."))
    assert found["fc.weight"].shape == (5, 512)
    one = catalog.load_model(f"timm:resnet10t[pretrained={file}]", (1, 32, 32), 5)
    torch.testing.assert_close(one.conv1[0].weight, source.conv1[0].weight.sum(1, keepdim=True))


def test_the_content_of_the_weights_is_part_of_a_runs_identity(tmp_path: Path) -> None:
    file, other = tmp_path / "a.pth", tmp_path / "b.pth"
    digests = []
    for path, content in ((file, b"1"), (file, b"2"), (other, b"2")):
        path.write_bytes(content)
        source_digests.cache_clear()
        digests.append(source_digests("digits", f"timm[name=resnet10t,pretrained={path}]"))
    keys = [next(key for key in found if key.endswith(":pretrained")) for found in digests]
    assert digests[0] != digests[1], "other content in the same file"
    assert digests[1][keys[1]] != digests[2][keys[2]], "the name of the file counts"
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        source_digests("digits", f"timm[name=resnet10t,pretrained={tmp_path / 'none.pth'}]")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": Evil()}), "are not a file of tensors, which alone is read"),
        (b"", "are not a file of tensors"),
        (pickle.dumps({"a": 3}), "are not"),
        (None, "cannot be read: No such file"),
    ],
)
def test_weights_that_are_none_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "w.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        weights.read(str(file))
    assert not Path("evil").exists()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT, its weights and its tokenizer, whose padding is not 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("bert")
    names = ["[CLS]", "[UNK]", "[SEP]", "[PAD]", *WORDS, "the", "film"]
    tokenizer = Tokenizer(models.WordLevel({name: token for token, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        pad_token_id=3,
        hidden_dropout_prob=0.0,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_pretrained_tokenizers_padding_and_ours_change_places(bert: Path) -> None:
    tokens, vocabulary = encode_by(str(bert), ["the good film", "[CLS] odd", "[PAD] bad"], 4)
    assert padding(str(bert)) == 3
    assert vocabulary == 12
    assert tokens.tolist()[0] == [10, 4, 11, PAD]
    assert tokens.tolist()[1][1:] == [1, 1, 1], "[, CLS and ] are unknown words to a tokenizer without special tokens"


def test_a_model_of_hugging_face_sees_the_tokens_and_no_padding(bert: Path) -> None:
    model = catalog.load_model(f"hf:{bert}", Sequence(6, 12, str(bert)), 3).eval()
    theirs = torch.tensor([[0, 10, 4, 11, 2, 3], [0, 7, 2, 3, 3, 3]])  # as the tokenizer writes them
    ours = theirs.clone()
    ours[theirs == 3], ours[theirs == 0] = 0, 3
    expected = model.model(input_ids=theirs, attention_mask=(theirs != 3).long()).logits
    torch.testing.assert_close(model(ours), expected)
    torch.testing.assert_close(model(ours[1:, :3]), expected[1:], msg="padding does not count")


def test_the_weights_of_the_folder_are_taken(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(bert / "model.safetensors")
    model = catalog.load_model(f"hf:{bert}", Sequence(6, 12, str(bert)), 3)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.model.state_dict()[name], stored[name])
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((bert / file).read_bytes())
    scratch = catalog.load_model(f"hf:{tmp_path}", Sequence(6, 12, str(tmp_path)), 3)
    assert not torch.equal(scratch.model.state_dict()[name], stored[name]), "without a file of weights from scratch"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Sequence(6, 12), r"takes texts that its own tokenizer reads: --dataset 'text:FILE\[tokenizer="),
        (Sequence(6, 12, "elsewhere"), "takes texts that its own tokenizer reads"),
    ],
)
def test_texts_of_another_tokenizer_are_refused(bert: Path, shape: Sequence, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalog.load_model(f"hf:{bert}", shape, 2)


def test_texts_longer_than_the_model_are_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match="takes 12 tokens, the texts have 13; say length=12"):
        catalog.load_model(f"hf:{bert}", Sequence(13, 12, str(bert)), 2)


def _made(folder: Path, bert: Path, model: Any) -> Path:
    """A folder with a model of Hugging Face and the tokenizer of `bert`."""
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    return folder


def test_roberta_has_no_place_for_the_positions_up_to_its_padding(bert: Path, tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(**sizes, intermediate_size=32, max_position_embeddings=12, pad_token_id=3)
    folder = _made(tmp_path, bert, RobertaForSequenceClassification(config))
    model = catalog.load_model(f"hf:{folder}", Sequence(8, 12, str(folder)), 2)
    assert model(torch.ones(1, 8, dtype=torch.int64)).shape == (1, 2)
    with pytest.raises(UsageError, match="takes 8 tokens, the texts have 9; say length=8"):
        catalog.load_model(f"hf:{folder}", Sequence(9, 12, str(folder)), 2)


def test_a_checkpoint_of_half_precision_is_trained_in_float32(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = _made(tmp_path, bert, AutoModelForSequenceClassification.from_pretrained(bert).bfloat16())
    for stored in (True, False):
        model = catalog.load_model(f"hf:{folder}", Sequence(6, 12, str(folder)), 2)
        assert {values.dtype for values in model.parameters()} == {torch.float32}, stored
        (folder / "model.safetensors").unlink(missing_ok=True)


def test_damaged_safetensors_are_named(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:100] if file.suffix == ".safetensors" else content)
    with pytest.raises(UsageError, match=r"hf:.* cannot be built"):
        catalog.load_model(f"hf:{tmp_path}", Sequence(6, 12, str(tmp_path)), 2)
    with pytest.raises(UsageError, match=r"the weights .*model\.safetensors are not a file of tensors"):
        weights.read(str(tmp_path / "model.safetensors"))


def test_a_run_of_hugging_face_learns(bert: Path, tmp_path: Path, spec: MakeSpec, run: Run) -> None:
    lines = [f"the {WORDS[row % 6]} film,{'up' if row % 6 < 3 else 'down'}" for row in range(120)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]))
    dataset = catalog.resolve("datasets", f"text:{tmp_path}/films.csv[tokenizer={bert},length=8]")
    model = catalog.resolve("models", f"hf:{bert}")
    assert catalog.fits(dataset, model)
    assert not catalog.fits("digits", model)
    chosen = {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.0, "epochs": 30}
    result = run(spec("orderdp", dataset=dataset, model=model, keep=0.5, **chosen))
    assert result["status"] == "FINISHED", result["reason"]
    assert result["metrics"]["accuracy"] == 1.0


def test_a_folder_without_tokenizer_or_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no tokenizer .*tokenizer\.json"):
        encode_by(str(tmp_path), ["a"], 4)
    with pytest.raises(UsageError, match="cannot be built"):
        catalog.load_model(f"hf:{tmp_path}", Sequence(6, 12, str(tmp_path)), 2)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "torchvision:mobilenet_v3_small"])
def test_a_classifiers_embedding_is_what_its_last_layer_takes(name: str) -> None:
    model = catalog.load_model(name, (3, 64, 64), 4).eval()
    images = torch.rand(5, 3, 64, 64)
    with inputs_of(head(model)) as embeddings:
        logits = model(images)
    assert embeddings[0].shape == (5, head(model).in_features)
    torch.testing.assert_close(head(model)(embeddings[0]), logits)
