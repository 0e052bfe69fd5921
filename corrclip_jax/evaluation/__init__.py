"""Evaluation: metrics, counting on the device, resumable runs, reports.

May import `inference` and everything below. Begin with `evaluate.py` (the public function), then `pipeline.py`.
"""
