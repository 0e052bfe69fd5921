"""Class names to query embeddings: class lists, prompt templates, tokenizer, text tower, padding.

May import `models`, `ops` and `config`. Begin with `encode.py`.
"""
