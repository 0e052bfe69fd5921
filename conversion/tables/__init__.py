"""Conversion tables: one module a family of published checkpoints, data only."""
