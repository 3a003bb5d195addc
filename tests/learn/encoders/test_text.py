"""Text encoders pool what is text and not what is padding; low-rank training leaves the rest alone."""

import json
import sys
from pathlib import Path

import pytest
import tokenizers
import torch

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import TextEncoderConfig, pretrained_text_encoder
from galleria.learn.encoders.text import TextEncoder
from galleria.learn.encoders.tokens import has_known_token, tokenize, tokenizer_bytes

BERT = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
}
GPT = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 12,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
KINDS = {
    "bert": TextEncoderConfig(architecture=BERT, tokens=12),
    "gpt": TextEncoderConfig(architecture=GPT, pooling="last", tokens=12),
}
TEXTS = ["red shoe", "blue shoe with a very long name", "hat"]


def encoder(kind: str, lora_rank: int = 0) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(KINDS[kind].model_copy(update={"lora_rank": lora_rank})).eval()


def ids(*rows: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows, padded with a token that would matter if it were read."""
    tokens = torch.tensor([row + [299] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return tokens, mask


def saved_bert(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    TextEncoder(KINDS["bert"]).network.to(dtype).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_bytes(KINDS["bert"], TEXTS))
    return folder


def test_float16_weights_load_as_float32(tmp_path):
    half = TextEncoder(pretrained_text_encoder(saved_bert(tmp_path, torch.float16), tokens=12)).eval()
    tokens, mask = ids([5, 6, 7], length=4)

    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    torch.testing.assert_close(half(tokens, mask), encoder("bert")(tokens, mask), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("saved", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
    ],
)
def test_pooling_is_the_saved_one(tmp_path, saved, pooling):
    saved_bert(tmp_path)
    if saved is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(saved))

    config = pretrained_text_encoder(tmp_path, tokens=12)

    assert config.pooling == pooling
    tokens, mask = ids([5, 6, 7], length=4)
    network = TextEncoder(config).eval()
    hidden = network.network(input_ids=tokens, attention_mask=mask).last_hidden_state[0]
    expected = {"mean": hidden[:3].mean(0), "first": hidden[0], "last": hidden[2]}[pooling]
    torch.testing.assert_close(network(tokens, mask)[0], expected)


def test_unknown_saved_pooling_is_rejected(tmp_path):
    saved_bert(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')

    with pytest.raises(ConfigurationError, match="sets none of pooling_mode_mean_tokens, pooling_mode_cls_token"):
        pretrained_text_encoder(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    network = encoder(kind)

    tight = network(*ids([5, 6, 7], length=3))

    for length in (4, 12):
        assert torch.allclose(network(*ids([5, 6, 7], length=length)), tight, atol=1e-6)
    beside_longer = network(*ids([5, 6, 7], [1, 2, 3, 4, 5, 6], length=8))
    assert torch.allclose(beside_longer[:1], tight, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_width_matches_features(kind):
    network = encoder(kind)

    assert network(*ids([1], [2, 3], length=4)).shape == (2, network.width) == (2, 16)


def test_bert_pools_mean_of_tokens():
    network = encoder("bert")
    tokens, mask = ids([5, 6, 7], length=5)

    hidden = network.network(input_ids=tokens, attention_mask=mask).last_hidden_state

    assert torch.allclose(network(tokens, mask)[0], (hidden[0, 0] + hidden[0, 1] + hidden[0, 2]) / 3, atol=1e-6)


def test_gpt_pools_last_text_token():
    network = encoder("gpt")
    tokens, mask = ids([5, 6, 7], [8], length=5)

    hidden = network.network(input_ids=tokens, attention_mask=mask).last_hidden_state

    assert torch.equal(network(tokens, mask), torch.stack([hidden[0, 2], hidden[1, 0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_text_has_finite_gradients(kind):
    network = encoder(kind).train()
    tokens, mask = ids([], [5, 6], length=4)

    network(tokens, mask)[1].sum().backward()

    assert network(tokens, mask).isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_every_weight_has_a_gradient():
    network = encoder("bert").train()
    network(*ids([5, 6], [7], length=3)).square().sum().backward()

    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_additions_only(kind):
    network = encoder(kind, lora_rank=8)

    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}

    assert trainable
    assert all("lora_" in name for name in trainable)
    assert {parameter.shape[0] for name, parameter in network.named_parameters() if "lora_A" in name} == {8}


def moved(kind: str) -> TextEncoder:
    """A low-rank encoder whose additions are no longer zero, as after training."""
    network = encoder(kind, lora_rank=8)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_merged_network_equals_lora(kind):
    network = moved(kind)
    plain = encoder(kind)
    tokens, mask = ids([5, 6, 7], [9], length=4)
    untouched = plain(tokens, mask)

    plain.network.load_state_dict(network.merged().state_dict())

    assert torch.allclose(plain(tokens, mask), network(tokens, mask), atol=1e-5)
    assert not torch.allclose(plain(tokens, mask), untouched, atol=1e-2)


def test_merging_leaves_network_unchanged():
    network = moved("bert")
    before = {name: value.clone() for name, value in network.state_dict().items()}

    network.merged()

    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(parameter.requires_grad for parameter in network.parameters())


def test_lora_without_peft_names_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # its import fails

    with pytest.raises(ConfigurationError, match=r"lora_rank needs the package peft: pip install 'galleria\[lora\]'"):
        TextEncoder(TextEncoderConfig(architecture=BERT, tokens=8, lora_rank=2))


def test_trained_tokenizer_fits_network():
    content = tokenizer_bytes(KINDS["bert"], TEXTS)

    found, mask = tokenize([*TEXTS, "unseen 鞋 words"], content, 12)

    assert found.max() < BERT["vocab_size"]
    assert found.shape == mask.shape == (4, 12)
    assert (found[mask == 0] == 0).all()
    assert tokenizers.Tokenizer.from_buffer(content).decode(found[0][mask[0] == 1].tolist()) == "red shoe"


def of_words(model: tokenizers.models.Model) -> bytes:
    """A tokenizer like BERT's, which adds tokens around a text."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer.to_str().encode()


WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "red": 3, "shoe": 4, "a": 5, "##a": 6}
PIECES = [("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("red", -1.0), ("shoe", -1.0), ("a", -9.0)]
TOKENIZERS = {
    "words": of_words(tokenizers.models.WordLevel(WORDS, "[UNK]")),
    "pieces of words": of_words(tokenizers.models.WordPiece(WORDS, unk_token="[UNK]")),
    "unigram": of_words(tokenizers.models.Unigram(PIECES, 0)),
    "bytes": tokenizer_bytes(KINDS["bert"], TEXTS),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("red shoe", True),
        ("😀 shoe", True),
        ("😀", False),
        ("鞋 😀 鞋", False),
        ("鞋" * 2000, False),
    ],
)
def test_text_without_known_word(kind, text, known):
    assert has_known_token(text, TOKENIZERS[kind], 12) == (known or kind == "bytes")


def test_long_word_is_unknown_to_pieces():
    assert not has_known_token("a" * 2000, TOKENIZERS["pieces of words"], 12)
    assert has_known_token("a" * 20, TOKENIZERS["pieces of words"], 12)


def test_only_what_is_read_is_known():
    assert not has_known_token("鞋 鞋 鞋 shoe", TOKENIZERS["words"], 4)


def test_tokenize_truncates_and_pads():
    content = tokenizer_bytes(KINDS["bert"], TEXTS)

    found, mask = tokenize(["a b c d e f g h i j k l m n o p", ""], content, 5)

    assert mask.tolist() == [[1] * 5, [0] * 5]
    assert found[1].tolist() == [0] * 5


def test_tokenize_ignores_case():
    content = tokenizer_bytes(KINDS["bert"], TEXTS)

    found, _ = tokenize(["Red SHOE", "red shoe"], content, 8)

    assert found[0].tolist() == found[1].tolist()


def test_tokenizer_is_reproducible():
    assert tokenizer_bytes(KINDS["bert"], TEXTS) == tokenizer_bytes(KINDS["bert"], list(TEXTS))


def test_too_small_vocabulary_is_rejected():
    small = TextEncoderConfig(architecture={**BERT, "vocab_size": 256})

    with pytest.raises(ConfigurationError, match="vocab_size=256"):
        tokenizer_bytes(small, TEXTS)


def test_default_vocabulary_is_architectures():
    usual = TextEncoderConfig(architecture={"model_type": "bert"})

    assert tokenizer_bytes(usual, TEXTS) == tokenizer_bytes(KINDS["bert"], TEXTS)


def test_vocabulary_of_bytes_is_enough():
    content = tokenizer_bytes(TextEncoderConfig(architecture={**BERT, "vocab_size": 257}), TEXTS)

    assert tokenize(["\xff" + "".join(map(chr, range(1, 300)))], content, 999)[0].max() < 257


@pytest.mark.parametrize("architecture", [{}, {"model_type": "nope"}, {**BERT, "num_attention_heads": 3}])
def test_unknown_architecture_is_rejected(architecture):
    with pytest.raises(ConfigurationError, match="text encoder cannot be built"):
        TextEncoder(TextEncoderConfig(architecture=architecture))


def test_too_many_tokens_are_rejected():
    with pytest.raises(ConfigurationError, match=r"12 positions, not 13: lower 'tokens'"):
        TextEncoder(TextEncoderConfig(architecture=BERT, tokens=13))


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A transformers folder as a hub would give it."""
    encoder("bert").network.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_bytes(KINDS["bert"], TEXTS))
    return tmp_path


def test_pretrained_folder_is_loaded(pretrained):
    config = pretrained_text_encoder(pretrained, tokens=8)
    tokens, mask = ids([5, 6, 7], length=4)

    assert (config.pooling, config.tokens, config.architecture["hidden_size"]) == ("mean", 8, 16)
    assert torch.allclose(TextEncoder(config).eval()(tokens, mask), encoder("bert")(tokens, mask), atol=1e-6)
    assert tokenizer_bytes(config, []) == (pretrained / "tokenizer.json").read_bytes()


def test_gpt_folder_pools_last_token(pretrained):
    (pretrained / "config.json").write_text(json.dumps(GPT))

    assert pretrained_text_encoder(pretrained).pooling == "last"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_incomplete_folder_is_rejected(pretrained, missing):
    (pretrained / missing).unlink()

    with pytest.raises(ConfigurationError):
        pretrained_text_encoder(pretrained)


@pytest.mark.parametrize("content", ["not json", "[]", "{}"])
def test_folder_of_other_content_is_rejected(pretrained, content):
    (pretrained / "config.json").write_text(content)

    with pytest.raises(ConfigurationError, match="holds no transformers model"):
        pretrained_text_encoder(pretrained)


def test_folder_without_weights_is_rejected(pretrained):
    (pretrained / "model.safetensors").unlink()

    with pytest.raises(ConfigurationError, match="text encoder cannot be built"):
        TextEncoder(pretrained_text_encoder(pretrained, tokens=8))
