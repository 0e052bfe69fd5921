"""Evaluation: metrics, counting on the device, resumable runs, reports.

Begin with `evaluate.py` (the public function), then `pipeline.py`.
"""
