"""The tokenizer against a plain-Python one, on a vocabulary that the tests make."""
# ruff: noqa: RUF001 - odd characters are what is tested

import gzip
import html
import json
import random
import unicodedata
from itertools import pairwise

import ftfy
import numpy as np
import pytest
import tokenizers
from transformers import CLIPTokenizer

from corrclip_jax.text.tokenizer import Tokenizer, Vocabulary, byte_symbols, clean

CORPUS = (
    "a photo of a cat. a photo of the dog's house! the cartoon of my golden retriever,",
    "it's what they'll have: we're here, i'd say you've been where i'm from; don't. crème brûlée, naïve café",
    "itap of many small hard to see things in a video game ... 1234567890",
    "猫 日本語 привет мир 😀😀 the the the",
)

ODD = (
    "",
    "   ",
    "x",
    "a photo of a cat.",
    "  Crème   brûlée &amp; 3.5 naïve cafés ",
    "Fish &amp;amp; chips &lt;b&gt; &#39;hot&#39;",
    "&amp;lt;end&amp;gt; &eacute; &#x1F600; &nbsp;&hellip;",
    "tab\tline\nfeed\r\nnon\u00a0breaking\u2003em\u3000wide\u2028end",
    "zero\u200bwidth \ufeffmark soft\u00adhyphen",
    "cafe\u0301 and café",
    "İstanbul ISPARTA ıslak",
    "ΟΔΟΣ Straße STRASSE ſtone",
    "it's they'll WE'RE i'd you've I'm don't '' 'x' 'ſ rock'n'roll",
    "it\u2019s “quoted”",
    "schÃ¶n â€™ mojibake",
    "1234 3.14 ½ Ⅷ ٣٤ x2y",
    "!!! ... ?!? --- a_b #tag @me 50%",
    "猫と犬 日本語テスト 한국어 中文",
    "हिन्दी ไทย עברית العربية",
    "😀 👩‍👩‍👧‍👦 🇫🇷 ☕️",
    "ﬁne ﬂat ｆｕｌｌ",
    "bell\x07 nul\x00 escape\x1b[0m unit\x1fseparator &#28;",
    "a" * 500,
    "cat " * 100,
    "<|endoftext|> in a text",
    "a <|startoftext|>",
)


class PlainTokenizer:
    """Byte-level BPE as the papers describe it, slow and simple."""

    def __init__(self, vocabulary):
        self.ids, merges, self.start, self.end = vocabulary
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        spare = iter(range(256, 512))
        self.symbols = [
            chr(b) if chr(b).isprintable() and b != ord(" ") else chr(next(spare)) for b in range(256)
        ]

    def __call__(self, text, length):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
        ids = [self.ids[self.start]]
        for word in self.words(text):
            ids += [self.ids[token] for token in self.pieces(word)]
        ids.append(self.ids[self.end])
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        return ids + [0] * (length - len(ids))

    def words(self, text):
        position = 0
        while position < len(text):
            end = position + self.word_length(text[position:])
            if not text[position].isspace():
                yield text[position:end]
            position = end

    def word_length(self, text):
        for literal in (self.start, self.end, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'ſ"):
            if text.startswith(literal):
                return len(literal)
        kind = self.kind(text[0])
        if kind in ("number", "space"):
            return 1
        return next((n for n, c in enumerate(text) if self.kind(c) != kind), len(text))

    def kind(self, character):
        if character.isspace():
            return "space"
        return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")

    def pieces(self, word):
        if word in (self.start, self.end):
            return [word]
        pieces = [self.symbols[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while True:
            ranks = [self.rank.get(pair, len(self.rank)) for pair in pairwise(pieces)]
            if not ranks or min(ranks) == len(self.rank):
                return pieces
            best = ranks.index(min(ranks))
            pieces[best : best + 2] = ["".join(pieces[best : best + 2])]


@pytest.fixture(scope="module")
def merges():
    """Merges learnt from a few words by the tokenizers library's own trainer."""
    learner = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    learner.train_from_iterator(CORPUS, trainer)
    learnt = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    assert len(learnt) > 100
    return learnt


@pytest.fixture(scope="module")
def vocabulary(merges):
    return make_vocabulary(merges, "<|startoftext|>", "<|endoftext|>")


def make_vocabulary(merges, start, end):
    symbols = sorted(byte_symbols())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges), start, end]
    return Vocabulary({token: index for index, token in enumerate(tokens)}, merges, start, end)


def write_gzip(file, merges, header='"bpe_simple_vocab_16e6.txt#version: 0.2'):
    lines = [header, *(f"{left} {right}" for left, right in merges), ""]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def write_pair(folder, vocabulary):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids), "utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    return folder


def write_tokenizer_json(folder, vocabulary, **model):
    folder.mkdir(exist_ok=True)
    model = {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": vocabulary.ids,
        "merges": [list(pair) for pair in vocabulary.merges],
    } | model
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}), "utf-8")
    return folder


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_equal_the_plain_tokenizer(vocabulary, text):
    np.testing.assert_array_equal(Tokenizer(vocabulary)([text])[0], PlainTokenizer(vocabulary)(text, 77))


def test_random_mixtures_equal_the_plain_tokenizer(vocabulary):
    pick = random.Random(7)
    ours, plain = Tokenizer(vocabulary), PlainTokenizer(vocabulary)
    parts = [part for text in ODD[:22] for part in text.split(" ")]
    texts = ["".join(pick.choices([*parts, " ", " "], k=pick.randint(1, 40))) for _ in range(300)]
    np.testing.assert_array_equal(ours(texts, 48), [plain(text, 48) for text in texts])


def test_plain_texts_equal_the_tokenizer_of_transformers(vocabulary, tmp_path):
    theirs = CLIPTokenizer.from_pretrained(write_pair(tmp_path / "model", vocabulary))
    texts = [
        "a photo of a cat.",
        "The Cartoon of my Golden Retriever!!",
        "it's 3 cafés, they'll see",
        "日本語",
    ]
    for text, ids in zip(texts, Tokenizer(vocabulary)(texts), strict=True):
        expected = theirs(text)["input_ids"]
        np.testing.assert_array_equal(ids[: len(expected)], expected)
        assert not ids[len(expected) :].any()


def test_text_is_repaired_unescaped_collapsed_then_lower_cased():
    assert clean("  Cr&amp;egrave;me\u00a0\n BRÛLÉE ") == "crème brûlée"
    assert clean("İ") == "i\u0307", "lower-casing comes last, so nothing is composed again"
    assert clean("CAFE\u0301") == "café", "ftfy composes"
    assert clean("&AMP;LT;") == "<", "entities are unescaped before lower-casing"
    assert clean("\u00a0&nbsp; &amp;nbsp;") == ""


def test_an_over_long_text_keeps_the_end_token_last(vocabulary):
    tokenizer = Tokenizer(vocabulary)
    for length in (3, 10, 77):
        (ids,) = tokenizer(["cat " * 100], length)
        assert ids.shape == (length,)
        assert (ids[0], ids[-1]) == (tokenizer.start, tokenizer.end)
        assert np.count_nonzero(ids == tokenizer.end) == 1
    assert len(tokenizer.encode("cat " * 100)) >= 100


def test_empty_text_is_start_and_end(vocabulary):
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer([""], 5).tolist() == [[tokenizer.start, tokenizer.end, 0, 0, 0]]
    assert tokenizer([], 5).shape == (0, 5)


def test_one_text_in_place_of_a_list_is_refused(vocabulary):
    with pytest.raises(TypeError, match=r"write \[text\]"):
        Tokenizer(vocabulary)("cat")


def test_all_forms_of_a_vocabulary_give_the_same_ids(vocabulary, merges, tmp_path):
    expected = Tokenizer(vocabulary)(ODD[:24])
    pair = write_pair(tmp_path / "pair", vocabulary)
    as_json = write_tokenizer_json(tmp_path / "json", vocabulary)
    older = write_tokenizer_json(tmp_path / "older", vocabulary, merges=[" ".join(m) for m in merges])
    packed = write_gzip(tmp_path / "clip_bpe_simple_vocab_16e6.txt.gz", merges)
    theirs = tmp_path / "saved"
    CLIPTokenizer.from_pretrained(pair).save_pretrained(theirs)
    for path in (pair, as_json, as_json / "tokenizer.json", older, packed, tmp_path, theirs):
        tokenizer = Tokenizer.load(path)
        assert tokenizer.vocab_size == len(vocabulary.ids)
        np.testing.assert_array_equal(tokenizer(ODD[:24]), expected, err_msg=str(path))


def test_special_tokens_are_those_of_the_file(merges, tmp_path):
    """OpenAI's form knows <end_of_text>, a repository's <|endoftext|>; each reads its own in a text."""
    tokenizer = Tokenizer.load(write_gzip(tmp_path / "vocabulary.txt.gz", merges))
    assert tokenizer.encode("A <START_OF_TEXT> <end_of_text>")[-2:] == [tokenizer.start, tokenizer.end]
    assert tokenizer.end not in tokenizer.encode("<|endoftext|>")


def test_special_tokens_may_stand_among_the_added_tokens_alone(vocabulary, tmp_path):
    ids = {token: index for token, index in vocabulary.ids.items() if not token.startswith("<|")}
    folder = write_tokenizer_json(tmp_path / "model", vocabulary, vocab=ids)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"] = [{"id": vocabulary.ids[t], "content": t} for t in vocabulary[2:]]
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert Tokenizer.load(folder).end == len(vocabulary.ids) - 1


@pytest.mark.parametrize("name", ["nowhere", "nowhere/vocabulary.txt.gz"])
def test_a_missing_vocabulary_says_what_to_place_where(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*bpe_simple_vocab_16e6\.txt\.gz.*tokenizer\.json"):
        Tokenizer.load(tmp_path / name)


def test_a_folder_without_a_vocabulary_says_what_was_looked_for(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no CLIP vocabulary.*vocab\.json and merges\.txt"):
        Tokenizer.load(tmp_path)


def test_a_damaged_file_is_named(merges, vocabulary, tmp_path):
    packed = write_gzip(tmp_path / "a.txt.gz", merges)
    whole = packed.read_bytes()
    file = write_tokenizer_json(tmp_path / "json", vocabulary) / "tokenizer.json"
    for path, content in (
        (packed, whole[: len(whole) // 2]),
        (packed, whole[:40] + b"\x00" * 40 + whole[80:]),
        (packed, b"version https://git-lfs.github.com/spec/v1"),
        (packed, b""),
        (packed, gzip.compress(b"#version\n\xff\xfe x\n")),
        (file, file.read_bytes()[:5000]),
        (file, b"[]"),
        (file, b'{"model": null}'),
        (file, b"\xff\xfe"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} is no readable CLIP vocabulary.*undamaged"):
            Tokenizer.load(path)


def test_another_kind_of_file_is_refused(merges, vocabulary, tmp_path):
    write_gzip(tmp_path / "a.txt.gz", merges, header="some text")
    with pytest.raises(ValueError, match="first line should hold '#version', it is 'some text'"):
        Tokenizer.load(tmp_path / "a.txt.gz")
    write_gzip(tmp_path / "b.txt.gz", [("three tokens", "here")])
    with pytest.raises(ValueError, match="one is 'three tokens here'"):
        Tokenizer.load(tmp_path / "b.txt.gz")
    with pytest.raises(ValueError, match=r"should be BPE .* it is WordPiece"):
        Tokenizer.load(write_tokenizer_json(tmp_path / "c", vocabulary, type="WordPiece"))
    with pytest.raises(ValueError, match="it is BPE with None"):
        Tokenizer.load(write_tokenizer_json(tmp_path / "d", vocabulary, end_of_word_suffix=None))
    (tmp_path / "vocabulary.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.txt\.gz or \.json"):
        Tokenizer.load(tmp_path / "vocabulary.bin")


def test_a_vocabulary_that_the_text_tower_cannot_use_is_refused_with_all_faults(vocabulary):
    ids, merges, start, end = vocabulary
    swapped = ids | {start: ids[end], end: ids[start]}
    with pytest.raises(ValueError, match=r"<\|endoftext\|> has the id .* must have the highest.*arg-max"):
        Tokenizer(Vocabulary(swapped, merges, start, end))
    gaps = {token: index for token, index in ids.items() if token not in ("a</w>", "".join(merges[0]))}
    with pytest.raises(ValueError) as error:
        Tokenizer(Vocabulary(gaps, merges, start, end), "mine.json")
    for part in ("mine.json is no", "each once", "lacks 1 of the 512", "tokens of its merges"):
        assert part in str(error.value)


def test_a_vocabulary_without_special_tokens_is_refused(vocabulary, tmp_path):
    ids = {token: index for token, index in vocabulary.ids.items() if not token.startswith("<|")}
    with pytest.raises(ValueError, match=r"should hold the token <\|startoftext\|> or <start_of_text>"):
        Tokenizer.load(write_tokenizer_json(tmp_path / "model", vocabulary, vocab=ids))
