"""Published checkpoints to parameter trees: tables, the engine that applies them, readers.

May import `params`, `text.tokenizer`, `config` and `io`; torch is imported in `readers.py` alone, for pickles.
Begin with `convert.py`.
"""
