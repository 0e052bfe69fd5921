"""Text against the outputs of the authors' program, with the published vocabulary."""

import json

import numpy as np
import pytest
from golden_models import golden_model
from tests_shared import DATA, GOLDENS
from transformers import CLIPTokenizer

from corrclip_jax.config import with_fields
from corrclip_jax.text.encode import embed_text, encode_prompts
from corrclip_jax.text.tokenizer import Tokenizer

VOCABULARY = DATA / "clip_bpe_simple_vocab_16e6.txt.gz"
MODELS = sorted(file.stem.removesuffix("_text") for file in GOLDENS.glob("*_text.npz"))
TOLERANCE = 5e-6  # of the largest magnitude


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(VOCABULARY)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A golden model: its configuration, converted parameters and golden outputs."""
    config, params = golden_model(request.param)
    config = with_fields(config, vocabulary=str(VOCABULARY))
    return config, params, np.load(GOLDENS / f"{request.param}_text.npz")


def test_tokens_equal_the_published_tokenizers(model, tokenizer):
    *_, golden = model
    np.testing.assert_array_equal(tokenizer(golden["texts"].tolist()), golden["tokens"])


def test_text_embeddings(model):
    config, params, golden = model
    expected = golden["text_embeddings"]
    found = encode_prompts(config, params, golden["texts"].tolist())
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_query_features_and_their_classes(model):
    config, params, golden = model
    classes = [line.split("; ") for line in golden["names"].tolist()]
    found = embed_text(config, params, classes)
    expected = golden["features"]
    np.testing.assert_allclose(found.features, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_array_equal(found.query_to_class, golden["query_to_class"])
    assert found.num_classes == len(classes)


def test_the_published_vocabulary_has_its_published_ids(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (49408, 49406, 49407)


def test_plain_texts_equal_the_tokenizer_of_transformers(tokenizer, tmp_path):
    vocabulary = tokenizer.vocabulary
    ids = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(token, token): index
        for token, index in vocabulary.ids.items()
    }
    (tmp_path / "vocab.json").write_text(json.dumps(ids), "utf-8")
    merges = ["#version: 0.2", *map(" ".join, vocabulary.merges)]
    (tmp_path / "merges.txt").write_text("\n".join(merges), "utf-8")
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [
        "a photo of a golden retriever.",
        "Fire hydrants & traffic lights: 42 of them, they'll say, in 1984!",
        "crème brûlée, naïve café, smörgåsbord",
        "猫と犬 日本語 한국어 привет हिन्दी",
        "😀 👍🏽 ☕",
        "supercalifragilisticexpialidocious",
    ]
    for path in (VOCABULARY, tmp_path):
        for text, found in zip(texts, Tokenizer.load(path)(texts), strict=True):
            expected = theirs(text)["input_ids"]
            assert found[: len(expected)].tolist() == expected
