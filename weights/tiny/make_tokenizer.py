"""The vocabulary: byte-level BPE learnt from captions. `python weights/tiny/make_tokenizer.py FILE.json`."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tiny import VOCABULARY_SIZE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from corrclip_jax.datasets.scenes import captions
from corrclip_jax.datasets.scenes.generate import train_crop
from corrclip_jax.text.templates import TEMPLATES
from corrclip_jax.text.tokenizer import alphabet, clean

_CAPTIONS = 4000
_END = "</w>"
# Words that captions do not use, so that the letters of other words merge a little, too.
_OTHER_WORDS = (
    "oval rectangle rhombus sun tree house car dog cat bird fish person wall floor cloud lake forest"
)


def corpus() -> list[str]:
    """Captions, templates and a few other words."""
    rng = np.random.default_rng(0)
    crops = [captions.contents(train_crop(seed)) for seed in range(_CAPTIONS // 4)]
    texts = [captions.caption(seen, rng).text for seen in crops for _ in range(4)]
    return [*texts, *(template.format("") for template in TEMPLATES), _OTHER_WORDS]


def learn(texts: list[str], size: int) -> dict:
    """The content of a `tokenizer.json` of `size` tokens, special ones included."""
    words = Counter(
        word for text in texts for word in clean(text).replace(",", " , ").replace(".", " . ").split()
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix=_END))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix=_END, show_progress=False)
    bpe.train_from_iterator([" ".join(words.elements())], trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    special = ["<|startoftext|>", "<|endoftext|>"]
    merges = merges[: size - len(alphabet()) - len(special)]
    tokens = [*alphabet(), *dict.fromkeys(left + right for left, right in merges)]
    tokens += special
    if len(tokens) != size:
        raise ValueError(f"the texts give {len(tokens)} tokens, {size} are wanted. Ask for fewer.")
    model = {
        "type": "BPE",
        "end_of_word_suffix": _END,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }
    return {"version": "1.0", "added_tokens": [], "model": model}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        json.dumps(learn(corpus(), VOCABULARY_SIZE), ensure_ascii=False, indent=1) + "\n"
    )
