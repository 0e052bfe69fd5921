"""Class names to query embeddings: class lists, prompt templates, tokenizer, text tower, padding.

Begin with `encode.py`.
"""
