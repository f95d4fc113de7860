"""The models' shapes, sizes and heads."""

import sys

import pytest
import torch
from dpbench.models.transformer import Block
from torch import nn

from dpbench import catalog
from dpbench.embedding import head
from dpbench.errors import UsageError
from dpbench.tables import Columns
from dpbench.tokens import Sequence


@pytest.mark.parametrize(
    ("text", "shape", "embedding"),
    [
        ("mlp", (1, 8, 8), 128),
        ("mlp[width=7,depth=3]", (3, 4, 5), 7),
        ("mlp[depth=0]", (1, 2, 3), 6),
        ("cnn", (1, 8, 8), 64),
        ("cnn[width=3]", (3, 13, 10), 12),
        ("resnet18", (3, 8, 8), 512),
        ("resnet18", (1, 4, 4), 512),
    ],
)
def test_images_become_logits(text: str, shape: tuple[int, ...], embedding: int) -> None:
    model = catalog.load_model(text, shape, 5)
    assert model(torch.rand(3, *shape)).shape == (3, 5)
    assert isinstance(head(model), nn.Linear)
    assert (head(model).in_features, head(model).out_features) == (embedding, 5)


def test_resnet18_has_the_stem_for_small_images() -> None:
    model = catalog.load_model("resnet18", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962, "as in the papers"
    seen = []
    model.layer1.register_forward_hook(lambda *args: seen.append(args[2].shape))
    model(torch.rand(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)], "the first stage keeps the image's size"


def test_weights_come_from_torchs_generator() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(head(catalog.load_model("mlp", (1, 2, 2), 3)).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UsageError, match="images of 3 x 8 are too small for two poolings; use mlp"):
        catalog.load_model("cnn", (1, 3, 8), 2)
    with pytest.raises(UsageError, match="Conv2d has no linear layer"):
        head(nn.Conv2d(1, 1, 1))


TABLE, TEXT = Columns(2, (3, 4)), Sequence(6, 9)
ROWS = torch.tensor([[0.5, -1.0, 2, 0], [0.0, 2.0, 0, 3]])
TOKENS = torch.tensor([[3, 5, 8, 1, 0, 0], [7, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def test_a_perceptron_sees_categories_as_one_hot() -> None:
    model = catalog.load_model("mlp[depth=0]", TABLE, 5)
    hot = torch.tensor([[0.5, -1, 0, 0, 1, 1, 0, 0, 0], [0, 2, 1, 0, 0, 0, 0, 0, 1]])
    torch.testing.assert_close(model(ROWS), head(model)(hot))


def test_a_token_of_the_ft_transformer_is_its_columns_by_hand() -> None:
    model = catalog.load_model("ft_transformer[depth=0,width=8]", TABLE, 5).eval()
    summary = nn.functional.layer_norm(model.summary, (8,)).relu()
    torch.testing.assert_close(model(ROWS), model.head(summary).expand(2, 5), msg="without a layer nothing is mixed in")
    deep = catalog.load_model("ft_transformer[width=8]", TABLE, 5).eval()
    assert head(deep) is deep.head
    for column in range(4):
        changed = ROWS.clone()
        changed[:, column] = 1 - changed[:, column] if column > 1 else 9.0
        changed[:, 2:] = changed[:, 2:].clamp(min=0)
        assert not torch.allclose(deep(changed), deep(ROWS)), "every column counts"


def test_attention_is_that_of_torch() -> None:
    block, torchs = (
        Block(8, 2, 0.0).eval(),
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, nn.functional.gelu, batch_first=True, norm_first=True),
    )
    pairs = {
        "self_attn.in_proj_weight": block.project.weight,
        "self_attn.in_proj_bias": block.project.bias,
        "self_attn.out_proj.weight": block.join.weight,
        "self_attn.out_proj.bias": block.join.bias,
        "linear1.weight": block.feed[0].weight,
        "linear1.bias": block.feed[0].bias,
        "linear2.weight": block.feed[3].weight,
        "linear2.bias": block.feed[3].bias,
    }
    torchs.load_state_dict(torchs.state_dict() | pairs)
    tokens, seen = (
        torch.randn(3, 6, 8),
        torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]]).bool(),
    )
    torch.testing.assert_close(block(tokens, seen), torchs.train()(tokens, src_key_padding_mask=~seen))


@pytest.mark.parametrize("text", ["bag[width=8]", "transformer[width=8]"])
def test_padding_does_not_count(text: str) -> None:
    model = catalog.load_model(text, TEXT, 5).eval()
    logits = model(TOKENS)
    assert logits.isfinite().all()
    torch.testing.assert_close(model(TOKENS[:1, :4]), logits[:1])
    torch.testing.assert_close(model(TOKENS[1:2, :1]), logits[1:2])


def test_a_bag_is_the_mean_of_its_embeddings() -> None:
    model = catalog.load_model("bag[width=8]", TEXT, 5)
    mean = torch.stack([model.embed.weight[[3, 5, 8, 1]].mean(0), model.embed.weight[7], torch.zeros(8)])
    torch.testing.assert_close(model(TOKENS), model.head(mean))


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_173_962), ("resnet50", 23_520_842)])
def test_a_resnet_for_small_images_has_the_papers_size(name: str, count: int) -> None:
    assert sum(p.numel() for p in catalog.load_model(name, (3, 32, 32), 10).parameters()) == count


def test_a_resnet_for_large_images_is_torchvisions() -> None:
    model = catalog.load_model("resnet18", (3, 64, 64), 1000)
    assert sum(p.numel() for p in model.parameters()) == 11_689_512
    with pytest.raises(UsageError, match="takes 3 channels, not 1"):
        catalog.load_model("resnet34", (1, 64, 64), 10)


@pytest.mark.parametrize("kind", sorted(catalog.FIRST))
def test_every_kind_of_samples_has_a_model_to_begin_with(kind: str) -> None:
    assert catalog.takes(catalog.FIRST[kind], kind)


def test_every_model_says_what_it_takes() -> None:
    for name in catalog.names("models"):
        taken = sys.modules[f"dpbench.models.{name}"].KINDS if catalog.model_factory(name) else ()
        assert taken
        assert set(taken) <= set(catalog.FIRST), name


def test_the_models_of_a_dataset_begin_with_the_first_of_its_kind() -> None:
    assert catalog.models_for("digits") == ["cnn", "mlp", "resnet18", "resnet34", "resnet50", "timm", "torchvision"]
    assert catalog.models_for("table[path=wine]") == ["mlp", "ft_transformer"]
