"""Traced and compiled programs outlive the process: the second one takes the first one's from the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import small_model

CODE = """
import sys
import jax, numpy as np
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs
from corrclip_jax.inference.segmenter import Segmenter

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **known: events.append((name.split("/")[-1], known.get("fun_name")))
)
keep_compiled_programs()
photo = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)
Segmenter(sys.argv[1], regions="none")(photo, sys.argv[2].split())
for outcome in ("cache_hits", "cache_misses"):
    print(events.count("/jax/compilation_cache/" + outcome))
print(events.count(("jaxpr_trace_duration", "segment")))
"""


def run(home, model, classes):
    """Hits and misses of a process of its own, and how often it traced the method."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CORRCLIP_HOME": str(home),
        # However quickly this machine compiles the small model.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model), classes], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
@pytest.mark.process
def test_a_second_process_traces_and_compiles_nothing_even_for_another_vocabulary(tmp_path):
    model = small_model(tmp_path)
    _, compiled, traced = run(tmp_path / "home", model, "cat dog")
    assert compiled > 0 and traced == 2, "the method, and the program that was made of it"
    found, compiled, traced = run(tmp_path / "home", model, "tree house")
    assert found > 0
    assert compiled == 0
    assert traced == 1, "the program alone"
