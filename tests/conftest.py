"""Set-up of the test session: how programs are compiled and kept, marks, strictness, memory, what is collected."""

import ctypes
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Workers share the cores, and each has the threads of XLA, torch and BLAS; processes that tests start inherit this.
# Every program is kept on disk, for many tests and processes compile the same; where in the source its operations
# come from takes time to write down, and nobody reads it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where libtpu is installed, JAX looks for TPUs first
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}

if importlib.metadata.version("jax").startswith("0.10."):
    # Half the time to compile, and less to share among threads that there are no cores for. Later versions do not
    # know these options.
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests_shared import GOLDENS  # needs the path

TESTS = Path(__file__).parent
MOST_KEPT = 1 << 30  # bytes of compiled programs on disk, before the next run begins anew
MOST_RESIDENT = 3 << 29  # bytes of a worker, before it drops its programs at the end of a module
MOST_RESIDENT_WITHIN = 2 << 30
MOST_REMEMBERED = 1 << 25  # bytes of a network that is written and read once
TORCH = importlib.util.find_spec("torch") is not None
LIBTPU = importlib.util.find_spec("libtpu") is not None
CUDA = importlib.util.find_spec("jax_cuda12_plugin") is not None
READERS = os.environ.get("CORRCLIP_READERS")
IS_HERE = {  # what a file of tests needs
    TESTS / "bench" / "test_tpu_compiler.py": LIBTPU,
    TESTS / "bench" / "test_gpu_compiler.py": CUDA,
    TESTS / "formats" / "test_other_readers.py": bool(READERS),
}
NEEDS_TORCH = re.compile(
    r"^(import torch|from torch|import reference|from reference|from parity)\b", re.MULTILINE
)
PEAKS: dict[str, int] = {}


def pytest_configure(config):
    """What one test or process compiles serves the others, and the next run (`--cache-clear` forgets it).

    That holds for bytecode, too: where none may be written beside the sources, it is kept with the programs, or a
    hundred processes would compile all that they import.
    """
    cache = getattr(config, "cache", None)  # None under -p no:cacheprovider
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = kept_in(cache, "compiled")
        if sum(file.stat().st_size for file in folder.iterdir()) > MOST_KEPT:
            shutil.rmtree(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # of the workers, too
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(kept_in(cache, "bytecode"))
        sys.dont_write_bytecode = False
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def kept_in(cache, name: str) -> Path:
    """A folder of pytest's cache, or a new one where it keeps none."""
    return cache.mkdir(name) if cache else Path(tempfile.mkdtemp(prefix=f"{name}-"))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_report_header():
    torch = "here" if TORCH else "not here, tests that need it are not collected"
    goldens = GOLDENS or "not here, tests/goldens is not collected"
    libtpu = "here" if LIBTPU else "not here (extra tpu-aot), bench/test_tpu_compiler.py is not collected"
    cuda = "here" if CUDA else "not here (extra gpu-aot), bench/test_gpu_compiler.py is not collected"
    readers = (
        "here" if READERS else "not here (CONTRIBUTING.md), formats/test_other_readers.py is not collected"
    )
    return [
        f"goldens of the authors' program: {goldens}",
        f"torch: {torch}",
        f"TPU compiler: {libtpu}",
        f"GPU compiler: {cuda}",
        f"other readers of annotations: {readers}",
    ]


# --- what is collected, in which order, under which marks ---


def pytest_ignore_collect(collection_path, config):
    """Leave out what needs the goldens, torch, a compiler or readers that are not here, or what `-m` does not want.

    Importing torch and transformers takes as long as many tests.
    """
    marks = config.option.markexpr
    unwanted = set() if " or " in marks else set(re.findall(r"\bnot (\w+)", marks))
    if not IS_HERE.get(collection_path, True):
        return True
    if collection_path == TESTS / "goldens" and (not GOLDENS or "golden" in unwanted):
        return True
    if (not TORCH or "parity" in unwanted) and collection_path.suffix == ".py":
        return bool(NEEDS_TORCH.search(collection_path.read_text("utf-8"))) or None
    return None


def pytest_collection_modifyitems(items):
    """Mark what needs torch or goldens; files with slow tests begin first, so that workers end together."""
    slow: Counter[Path] = Counter()
    for item in items:
        if (TESTS / "goldens") in item.path.parents:
            item.add_marker("golden")
        if (TESTS / "parity") in item.path.parents or {"torch", "reference"} & vars(item.module).keys():
            item.add_marker("parity")
            item.add_marker(pytest.mark.filterwarnings("default"))  # torch has its own
        slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -slow[item.path])


# --- programs and memory ---


@pytest.fixture(autouse=True, scope="module")
def programs(request):
    """Compile without LLVM's passes, in half the time, but for modules that are marked as optimized.

    Every program is traced, not read from an earlier trace: tests change constants that a trace depends on.
    Nothing may leave it to JAX to find a common type or rank, as its users may forbid it; the references of parity
    tests and the recipes of the embedded weights are written as in PyTorch. A worker that has grown large drops its
    compiled programs between modules; the disk has them.
    """
    from corrclip_jax.runtime import kept_traces  # after jaxtyping's import hook

    kept_traces.enabled = False
    optimized = request.node.get_closest_marker("optimized") is not None
    if jax.config.read("jax_disable_most_optimizations") is optimized:
        drop_programs(0)
        jax.config.update("jax_disable_most_optimizations", not optimized)
    lenient = any(TESTS / room in request.path.parents for room in ("goldens", "parity", "weights"))
    jax.config.update("jax_numpy_dtype_promotion", "standard" if lenient else "strict")
    jax.config.update("jax_numpy_rank_promotion", "allow" if lenient else "raise")
    yield
    drop_programs(MOST_RESIDENT)


@pytest.fixture(scope="module")
def programs_of_module():
    """What `shared_programs` has compiled for tests of this module."""
    found = {}
    yield found
    found.clear()


@pytest.fixture
def shared_programs(programs_of_module, monkeypatch):
    """Compile a program once for all Segmenters, runners and commands of this module that ask for an equal one.

    As from an earlier trace, which `programs` forbids: not for tests that change constants. Functions that are
    replaced are noticed only where they are the ones that make a program.
    """
    from corrclip_jax.inference import programs as engine

    real = engine.compile_kept

    def compile_once(make, identity, *arrays, **named):
        leaves, tree = jax.tree.flatten((arrays, named))
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        function = getattr(make, "func", make)
        key = getattr(function, "__code__", function), identity, tree, shapes
        if key not in programs_of_module:
            programs_of_module[key] = real(make, identity, *arrays, **named)
        return programs_of_module[key]

    monkeypatch.setattr(engine, "compile_kept", compile_once)


NETWORKS: dict[str, dict] = {"written": {}, "read": {}}  # of this process: folders by content, trees by files


@pytest.fixture(autouse=True, scope="module")
def networks_once(request, tmp_path_factory):
    """Write equal parameters, and read equal files, by Orbax once a process: each takes a third of a second.

    Files that have been touched are read again. Rooms whose subject is what is written and kept, which also notice
    functions that are replaced, do both each time.
    """
    if any(TESTS / room in request.path.parents for room in ("params", "runtime")):
        yield
        return
    from corrclip_jax.conversion import convert
    from corrclip_jax.inference import export
    from corrclip_jax.params import model_folder

    write, read = model_folder.write_network, model_folder._read_network

    def write_once(folder, name, params):
        leaves, tree = jax.tree.flatten(params)
        if (folder / name).exists() or sum(leaf.nbytes for leaf in leaves) > MOST_REMEMBERED:
            return write(folder, name, params)
        arrays = [np.asarray(leaf) for leaf in leaves]
        digest = hashlib.sha256(repr((tree, [(one.shape, one.dtype.name) for one in arrays])).encode())
        for one in arrays:
            digest.update(np.ascontiguousarray(one))
        if (kept := NETWORKS["written"].get(digest.digest())) is None:
            write(folder, name, params)
            kept = NETWORKS["written"][digest.digest()] = tmp_path_factory.mktemp("network") / "tree"
            shutil.copytree(folder / name, kept)
        else:
            shutil.copytree(kept, folder / name)
        return None

    def read_once(path, *options):
        files = sorted(file for file in path.rglob("*") if file.is_file())
        stats = [(str(file.relative_to(path)), file.stat()) for file in files]
        key = (*options, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
        if key not in NETWORKS["read"]:
            tree = read(path, *options)
            if sum(stat.st_size for _, stat in stats) > MOST_REMEMBERED:
                return tree
            NETWORKS["read"][key] = tree
        return jax.tree.map(lambda array: array, NETWORKS["read"][key])  # whose containers a test may change

    with pytest.MonkeyPatch.context() as patch:
        for module in (model_folder, convert, export):
            patch.setattr(module, "write_network", write_once)
        patch.setattr(model_folder, "_read_network", read_once)
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown():
    """Between the tests of a module, only a very large worker drops programs, which its next test may want."""
    yield
    drop_programs(MOST_RESIDENT_WITHIN)


def drop_programs(most: int) -> None:
    """Give the memory of compiled programs back where this process holds more than `most` bytes."""
    if resident() > most:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> int:
    """Bytes of memory that this process holds."""
    if sys.platform != "linux":
        return peak()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak()
    else:
        PEAKS["main"] = peak()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", 0)


def pytest_terminal_summary(terminalreporter):
    held = ", ".join(f"{name} {size / (1 << 30):.2f} GiB" for name, size in sorted(PEAKS.items()))
    terminalreporter.write_line(f"memory at most: {held}")
