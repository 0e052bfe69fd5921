"""Traces of programs on disk: what one process has traced, later ones need not.

JAX's cache finds a compiled program by its operations, so every process traces its programs before it can read
them, which takes seconds. Traces are kept beside the compiled programs, exported (`jax.export`), under a digest of
all that makes them.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax

from corrclip_jax.config import FAMILIES
from corrclip_jax.ops.cudnn_attention import EXPORT_CHECKS
from corrclip_jax.runtime.environment import device_name, versions
from corrclip_jax.runtime.kept_files import kept_folder, read_kept, sources_digest, write_kept
from corrclip_jax.runtime.memory import device_bytes

_Class = TypeVar("_Class", bound=type)
_ADDRESS = " at 0x"  # in the text of an object that does not say what it is
_COMPILATION = ("jax_compilation_cache", "jax_persistent_cache")  # settings that no trace depends on

_TRACED = (
    "config",
    "ops",
    "models",
    "text",
    "regions",
    "method",
    "params",
    "runtime",
    "inference",
    "evaluation",
)
_PACKAGES = frozenset(
    {"corrclip_jax", "jax", "jaxlib", "flax", "numpy", "jaxtyping", "beartype"}
    | {"PIL", "tokenizers", "safetensors", "filelock"}
    | sys.stdlib_module_names
)

enabled = True
"""Set to False where constants of the package are changed at run time; functions that are replaced are noticed."""


def keepable(cls: _Class) -> _Class:
    """A NamedTuple that a kept program may return."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    jax.export.register_namedtuple_serialization(cls, serialized_name=name)
    return cls


def compile_kept(make: Callable[[], Callable], identity: Any, *arrays: Any, **named: Any) -> Callable:
    """A function of this package, compiled for arrays like these; traced only if no trace of it is kept.

    Traces are read and kept where JAX has a cache folder (`jax_compilation_cache_dir`), one device does the work,
    all networks are this package's, none of its functions was replaced by one of another package, and JAX can
    export all operations.

    Args:
      make: gives the function; not called where a trace is kept.
      identity: what makes the function, as values whose text tells them apart, such as frozen dataclasses.
      arrays: trees of arrays.
      named: trees of arrays as keyword arguments.

    Returns:
      The compiled function, of arrays like these.

    Raises:
      ValueError: for an identity whose text is an address.
    """
    leaves, tree = jax.tree.flatten((arrays, named))
    file = _file(identity, tree, leaves)
    content = None if file is None else _read_or_trace(file, make, tree, leaves)
    if content is None:
        return jax.jit(make()).lower(*arrays, **named).compile()
    exported = jax.export.deserialize(bytearray(content))

    def call(*leaves: Any) -> Any:
        return exported.call(*leaves)

    call.__name__ = exported.fun_name  # in profiles and in the names of files
    compiled = jax.jit(call).lower(*leaves).compile()
    return lambda *arrays, **named: compiled(*jax.tree.leaves((arrays, named)))


def _file(identity: Any, tree: Any, leaves: list[Any]) -> Path | None:
    """The file of a trace; None where it is not to be kept."""
    folder = kept_folder("traces")
    several = jax.process_count() > 1 or _devices(leaves) > 1
    if folder is None or not enabled or several or not _as_in_files():
        return None
    digest = _digest(identity, tree, leaves)
    return None if digest is None else folder / f"{digest}.bin"


def _read_or_trace(file: Path, make: Callable[[], Callable], tree: Any, leaves: list[Any]) -> bytes | None:
    """The kept trace, made and kept if it is not; None where JAX cannot export it."""
    if (content := read_kept(file)) is None:
        try:
            content = _traced(make(), tree, leaves)
        except (ValueError, NotImplementedError):  # of the export, or of the function, which raises it again
            return None
        write_kept(file, content)
    return content


def _as_in_files() -> bool:
    """Whether all networks are this package's, and no function of its rooms was replaced by one from elsewhere."""
    if not all(family.module.startswith("corrclip_jax.") for family in FAMILIES.values()):
        return False
    rooms = tuple(f"corrclip_jax.{room}." for room in _TRACED)
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(rooms)]
    return all(_is_known(value) for module in loaded for value in _callables(module))


def _callables(module: ModuleType) -> Iterator[Any]:
    """Functions and classes that a module names, and those that its classes do."""
    for value in list(vars(module).values()):
        if callable(value):
            yield value
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield from (own for own in list(vars(value).values()) if callable(own))


def _is_known(value: Any) -> bool:
    module = getattr(value, "__module__", None)
    return not isinstance(module, str) or module.partition(".")[0] in _PACKAGES


def _traced(function: Callable, tree: Any, leaves: list[Any]) -> bytes:
    def flat(*leaves: Any) -> Any:
        arrays, named = jax.tree.unflatten(tree, leaves)
        return function(*arrays, **named)

    flat.__name__ = getattr(function, "__name__", "program")
    return bytes(jax.export.export(jax.jit(flat), disabled_checks=EXPORT_CHECKS)(*leaves).serialize())


def _devices(leaves: list[Any]) -> int:
    return max((len(leaf.sharding.device_set) for leaf in leaves if isinstance(leaf, jax.Array)), default=1)


def _digest(identity: Any, tree: Any, leaves: list[Any]) -> str | None:
    """Of all that makes a trace: sources, versions, settings, device, function, types and places of the arrays.

    None where settings of JAX hold an object that no other process can know.
    """
    if _ADDRESS in repr(identity):
        raise ValueError(f"identity must consist of values. Got {identity!r}.")
    settings = {
        name: getattr(jax.config, name, value)  # of this thread
        for name, value in jax.config.values.items()
        if not name.startswith(_COMPILATION)
    }
    types = [(str(jax.typeof(leaf)), str(getattr(leaf, "sharding", None))) for leaf in leaves]
    packages = versions("python", "jax", "jaxlib", "flax", "numpy")
    text = repr((identity, str(tree), types, packages, settings, device_name(), device_bytes()))
    if _ADDRESS in text:
        return None
    return hashlib.sha256(sources_digest() + text.encode()).hexdigest()
