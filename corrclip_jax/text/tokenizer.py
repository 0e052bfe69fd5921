"""CLIP's tokenizer: text to token ids by byte-level BPE, from a vocabulary file of any published form.

The steps are those of the tokenizer that OpenAI and open_clip publish. The tokenizer that transformers builds
from the same vocabulary differs on odd texts (it neither repairs nor unescapes) and pads with another id.
"""

import gzip
import html
import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import ftfy
import numpy as np
import regex
from jaxtyping import Int32
from tokenizers.models import BPE

_END_OF_WORD = "</w>"
_START_NAMES = ("<|startoftext|>", "<start_of_text>")
_END_NAMES = ("<|endoftext|>", "<end_of_text>")
# The published vocabulary has 49,152 ids less two; its file holds more merges than that, which are not used.
_PUBLISHED_MERGES = 49152 - 2 - 256
_MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
_WANTED = (
    f"a vocabulary is {_MERGES_FILE} (it comes with OpenAI's CLIP and with open_clip), or the folder of the "
    "checkpoint's Hugging Face repository with tokenizer.json, or with vocab.json and merges.txt"
)
# `regex` splits the words, as in the official implementation: the engine inside the tokenizers library knows
# another version of Unicode.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class Vocabulary(NamedTuple):
    """A byte-level BPE vocabulary: ids by token, merges in order, the names of the two special tokens."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    start: str
    end: str


def clean(text: str) -> str:
    """Repair (ftfy), unescape HTML twice, collapse white space, lower-case; in the published order.

    >>> clean("  Cr&amp;egrave;me   BRULEE ")
    'crème brulee'
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte 0..255 in a byte-level vocabulary.

    Printable Latin-1 characters stand for themselves, the other bytes are numbered from U+0100 on.
    """
    symbols, spare = [], iter(range(0x100, 0x200))
    for byte in range(0x100):
        printable = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        symbols.append(chr(byte if printable else next(spare)))
    return symbols


def alphabet() -> list[str]:
    """The 512 tokens that every vocabulary begins with: each byte within a word, then at its end.

    In published order: by the symbols' code points.
    """
    symbols = sorted(byte_symbols())
    return symbols + [symbol + _END_OF_WORD for symbol in symbols]


class Tokenizer:
    """Callable that turns texts into token ids.

    `Tokenizer.load(path)` reads a vocabulary file. `start`, `end` are the ids of the special tokens,
    `vocab_size` is the number of all; `source` names the vocabulary in errors.
    """

    def __init__(self, vocabulary: Vocabulary, source: str = "the vocabulary"):
        _check(vocabulary, source)
        self.vocabulary, self.source = vocabulary, source
        self.vocab_size = len(vocabulary.ids)
        self.start = vocabulary.ids[vocabulary.start]
        self.end = vocabulary.ids[vocabulary.end]
        self._special = {name: vocabulary.ids[name] for name in (vocabulary.start, vocabulary.end)}
        self._split = regex.compile(
            "|".join([*map(regex.escape, self._special), _WORDS]), regex.IGNORECASE
        ).findall
        self._symbols = dict(enumerate(byte_symbols()))
        self._bpe = BPE(vocabulary.ids, vocabulary.merges, end_of_word_suffix=_END_OF_WORD)
        self._word = lru_cache(maxsize=1 << 16)(self._encode_word)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a vocabulary file (`.txt.gz` or `tokenizer.json`) or of a repository's folder.

        Only the vocabulary, the merges and the special tokens of a `tokenizer.json` are read: cleaning and
        splitting are always those of the official implementation.

        Raises:
          FileNotFoundError: nothing of that name, or a folder without a vocabulary.
          ValueError: a file that is damaged or holds no CLIP vocabulary.
        """
        path = Path(path)
        file = _find(path)
        read = _READERS.get(file.name) or _READERS.get(file.suffix)
        if read is None:
            raise ValueError(f"{file} must end in .txt.gz or .json; {_WANTED}.")
        try:
            vocabulary = read(file)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is no readable CLIP vocabulary ({type(error).__name__}: {error}). Put an undamaged "
                f"file in its place; {_WANTED}."
            ) from error
        return cls(vocabulary, str(file))

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length, without special tokens."""
        return [token for word in self._split(clean(text)) for token in self._word(word)]

    def __call__(self, texts: Sequence[str], context_length: int = 77) -> Int32[np.ndarray, "N T"]:
        """Texts to ids [N, T]: start, text, end, then zeros.

        A text that is too long is cut so that the last token is the end-of-text token.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts. Got one text, {texts!r}; write [text].")
        tokens = np.zeros((len(texts), context_length), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.start, *self.encode(text)[: context_length - 2], self.end]
            row[: len(ids)] = ids
        return tokens

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in self._special:
            return (self._special[word],)
        symbols = word.encode().decode("latin-1").translate(self._symbols)
        return tuple(token.id for token in self._bpe.tokenize(symbols))


def _find(path: Path) -> Path:
    """The file to read for a path: itself, or the first vocabulary in a folder."""
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return path / "tokenizer.json"
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return path / "vocab.json"
        if found := sorted(path.glob(f"*{_MERGES_FILE}")):
            return found[0]
        raise FileNotFoundError(f"the folder {path} holds no CLIP vocabulary; {_WANTED}.")
    if not path.exists():
        raise FileNotFoundError(f"there is no CLIP vocabulary at {path}. Put one there; {_WANTED}.")
    return path


def _read_merges_file(file: Path) -> Vocabulary:
    """OpenAI's form: merges alone, from which the ids follow."""
    header, *lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    if "#version" not in header:
        raise ValueError(f"its first line should hold '#version', it is {header[:40]!r}")
    merges = _parse_merges(lines[:_PUBLISHED_MERGES])
    start, end = _START_NAMES[1], _END_NAMES[1]
    tokens = [*alphabet(), *(left + right for left, right in merges), start, end]
    return Vocabulary({token: index for index, token in enumerate(tokens)}, merges, start, end)


def _read_tokenizer_json(file: Path) -> Vocabulary:
    """The tokenizers library's form."""
    content = json.loads(file.read_text("utf-8"))
    model = content["model"]
    kind, suffix = model.get("type", "BPE"), model.get("end_of_word_suffix")
    if (kind, suffix) != ("BPE", _END_OF_WORD):
        raise ValueError(
            f"its model should be BPE with the end-of-word suffix {_END_OF_WORD!r}, it is {kind} with "
            f"{suffix!r}"
        )
    ids = model["vocab"] | {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    # Older files write a merge as one string, newer ones as a pair.
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return Vocabulary(ids, _parse_merges(merges), *_special_names(ids))


def _read_vocab_json(file: Path) -> Vocabulary:
    """The older form of transformers: `vocab.json` and `merges.txt` side by side."""
    ids = json.loads(file.read_text("utf-8"))
    lines = (file.parent / "merges.txt").read_text("utf-8").split("\n")
    merges = _parse_merges([line for line in lines if not line.startswith("#version")])
    return Vocabulary(ids, merges, *_special_names(ids))


_READERS = {
    ".gz": _read_merges_file,
    ".json": _read_tokenizer_json,
    "vocab.json": _read_vocab_json,
}


def _parse_merges(lines: Sequence[str]) -> list[tuple[str, str]]:
    merges = []
    for line in filter(None, lines):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(f"a merge should be two tokens with a space between them, one is {line[:60]!r}")
        merges.append((left, right))
    return merges


def _special_names(ids: dict[str, int]) -> tuple[str, str]:
    """The names that this vocabulary has for start and end of text."""
    found = []
    for names in (_START_NAMES, _END_NAMES):
        present = [name for name in names if name in ids]
        if not present:
            raise ValueError(f"it should hold the token {' or '.join(names)}")
        found.append(present[0])
    return found[0], found[1]


def _check(vocabulary: Vocabulary, source: str) -> None:
    """What encoding and the text tower take for granted of a vocabulary."""
    ids, merges, _, end = vocabulary
    faults = []
    if sorted(ids.values()) != list(range(len(ids))):
        faults.append(f"its {len(ids)} tokens do not have the ids 0 to {len(ids) - 1}, each once")
    if ids[end] != max(ids.values()):
        faults.append(
            f"the end-of-text token {end} has the id {ids[end]} and must have the highest, "
            f"{max(ids.values())}: the text tower finds it as the arg-max of the ids"
        )
    if missing := [token for token in alphabet() if token not in ids]:
        faults.append(f"it lacks {len(missing)} of the 512 byte tokens ({' '.join(missing[:8])} ...)")
    parts = {token for left, right in merges for token in (left, right, left + right)}
    if missing := sorted(parts - ids.keys()):
        faults.append(f"it lacks {len(missing)} tokens of its merges ({' '.join(missing[:8])} ...)")
    if faults:
        raise ValueError(f"{source} is no CLIP vocabulary: {'; '.join(faults)}. As a rule, {_WANTED}.")
