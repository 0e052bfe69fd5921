"""Published checkpoint files as lazy mappings from tensor name to tensor.

`.safetensors` is read without torch, pickles by `torch.load(weights_only=True)`, which runs no code of theirs.
What a file is shows in its first bytes; its name does not matter.
"""

import argparse
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  -- makes NumPy know bfloat16 by name, which safetensors asks it for
import numpy as np
from safetensors import SafetensorError, safe_open

from corrclip_jax.conversion.rules import ConversionError, Shape

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
ARCHIVE = ".pth.tar"
"""The end of the names of RADIO's pickles, which are no archives."""
INDEX_SUFFIX = ".index.json"

# Where a training program keeps the weights within what it saves; DINO's own evaluation reads the teacher.
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "teacher", "student")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
# What other files begin with, and what to say of them.
_FOREIGN = {
    b"GGUF": "a GGUF file, whose weights are quantised",
    b"\x89HDF": "an HDF5 file, of TensorFlow or Keras",
    b"\x08": "an ONNX program, not its weights",
}
_AGAIN = "Download it again, or copy it again from where it is whole."


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Any]):
    """Tensors by name; each is read when it is looked up. `shapes` are known without reading."""

    path: Path
    files: tuple[Path, ...]
    shapes: Mapping[str, Shape]
    read: Callable[[str], Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.safetensors` file, a torch pickle, or the `.index.json` of a sharded one.

    Names are those without the prefixes that wrappers add (`module.` of torch's DataParallel, `_orig_mod.` of
    torch.compile, `backbone.` of training programs).

    Raises:
      ConversionError: for what is none of these, is cut short or damaged, or holds code; and for a pickle where
        torch is not installed. The message says what to install.
    """
    return _without_prefixes(_open_shards(path) if path.name.endswith(INDEX_SUFFIX) else _open_file(path))


def bare_names(names: Iterable[str], what: str) -> dict[str, str]:
    """Names as they are in `what`, by the names without the prefixes of wrappers.

    Raises:
      ConversionError: for names that differ by a prefix alone.
    """
    bare = {name: name for name in names}
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in bare)), None):
        stripped = {name.removeprefix(prefix): original for name, original in bare.items()}
        if len(stripped) < len(bare):
            raise ConversionError(f"{what} holds tensors that differ by the prefix {prefix!r} alone.")
        bare = stripped
    return bare


def _without_prefixes(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under bare names."""
    if not any(str(name).startswith(_PREFIXES) for name in checkpoint):
        return checkpoint
    originals = bare_names(map(str, checkpoint), str(checkpoint.path))
    shapes = {bare: checkpoint.shapes[original] for bare, original in originals.items()}
    return replace(checkpoint, shapes=shapes, read=lambda name: checkpoint.read(originals[name]))


def _open_file(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise ConversionError(f"{path} is empty. {_AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise ConversionError(
            f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull`, or download the file itself."
        )
    if start.lstrip()[:1] == b"<":
        raise ConversionError(
            f"{path} is a web page, not a checkpoint: the download answered with an error or a login page. "
            "Download the file itself, or log in first (`hf auth login`)."
        )
    if start[8:9] == b"{":
        return _open_safetensors(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _open_pickle(path, zipped=start.startswith(b"PK"))
    if (kind := next((text for mark, text in _FOREIGN.items() if start.startswith(mark)), None)) is not None:
        raise ConversionError(
            f"{path} looks like {kind}. Take a .safetensors file or a torch pickle of the model."
        )
    raise ConversionError(
        f"{path} is neither a .safetensors file nor a torch pickle, or it is damaged. {_AGAIN}"
    )


def read_rows(path: Path) -> Any:
    """The only tensor of a torch pickle, or the array of a `.npy` file, mapped from the file where possible.

    Raises:
      ConversionError: as `open_checkpoint`; for several tensors, or none.
    """
    with path.open("rb") as file:
        start = file.read(6)
    try:
        if start == b"\x93NUMPY":
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ConversionError(f"{path} is cut short or damaged ({error}). {_AGAIN}") from error
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise ConversionError(f"{path} is neither a torch pickle nor a .npy file, or it is damaged. {_AGAIN}")
    content = _unpickle(path, mmap=start.startswith(b"PK"))
    tensors = list(content.values()) if isinstance(content, Mapping) else [content]
    tensors = [tensor for tensor in tensors if hasattr(tensor, "detach")]
    if len(tensors) != 1:
        raise ConversionError(f"{path} holds {len(tensors)} tensors, expected one.")
    if "bfloat16" in str(tensors[0].dtype):
        tensors = [tensors[0].float()]
    return tensors[0].detach().numpy()


def is_pickle(path: Path) -> bool:
    """Whether a checkpoint (a file, or the index of a sharded one) can be read with torch alone."""
    return ".safetensors" not in path.name


def _open_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{path} is cut short or damaged ({error}). {_AGAIN}") from error

    def read(name: str) -> Any:
        # Opened anew for each tensor: one that stays open keeps every page that was read in memory.
        with safe_open(path, framework="np") as file:
            return file.get_tensor(name)

    return Checkpoint(path, (path,), shapes, read)


def _open_pickle(path: Path, zipped: bool) -> Checkpoint:
    tensors = _load_pickle(path, mmap=zipped)
    # What is no tensor (an epoch, say) keeps its name, so that the table can object to it.
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in tensors.items()}
    # A mapped file would stay in memory beside what is made of it; loaded tensors go one by one as they are read.
    waiting: dict[str, Any] = {} if zipped else tensors

    def read(name: str) -> Any:
        if name not in waiting:
            waiting.update(_load_pickle(path, mmap=False))
        return waiting.pop(name)

    return Checkpoint(path, (path,), shapes, read)


def _load_pickle(path: Path, mmap: bool) -> dict[str, Any]:
    return _unwrap(_unpickle(path, mmap), path)


def _unpickle(path: Path, mmap: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            f"{path} is a torch pickle, which needs torch: pip install 'corrclip-jax[convert]'. "
            "A .safetensors file of the same model needs none."
        ) from error
    try:
        # DINO's training checkpoints carry their options as a Namespace, which is a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|type|class) [`']?([\w.]+\.[\w.]+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ConversionError(
            f"{path} is damaged, or holds code{what} besides tensors, which is not run here. Take a .safetensors "
            "file of the same model; or, if you trust this one, load it with its own program and save the state "
            "dict alone: torch.save(model.state_dict(), ...)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        if "TorchScript" in str(error):
            raise ConversionError(
                f"{path} is a TorchScript program, not a state dict. Take the same weights in open_clip's or "
                "transformers' layout."
            ) from error
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ConversionError(f"{path} is cut short or damaged ({reason}). {_AGAIN}") from error


def _unwrap(content: Any, path: Path) -> dict[str, Any]:
    """The tensors by name in what a training program saved."""
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return _unwrap(content[wrapper], path)
    tensors = dict(content) if isinstance(content, Mapping) else {}
    if not any(hasattr(value, "detach") for value in tensors.values()):
        raise ConversionError(f"{path} holds no tensors by name: its content is a {type(content).__name__}.")
    return tensors


def _open_shards(index: Path) -> Checkpoint:
    try:
        owners: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{index} is no index of a sharded checkpoint ({error}). {_AGAIN}") from error
    names = sorted(set(owners.values()))
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ConversionError(f"{index} lists files that are not beside it: {', '.join(missing)}.")
    shards = {name: _open_file(index.parent / name) for name in names}
    shapes: dict[str, Shape] = {}
    faults = [f"{name} is not in {owner}" for name, owner in owners.items() if name not in shards[owner]]
    for shard_name, shard in shards.items():
        faults += [
            f"{name} in {shard_name} is not in the index" for name in shard if owners.get(name) != shard_name
        ]
        shapes |= shard.shapes
    if faults:
        raise ConversionError(f"{index} and its files do not agree: {'; '.join(faults)}. {_AGAIN}")
    files = tuple(index.parent / name for name in names)
    return Checkpoint(index, files, shapes, lambda name: shards[owners[name]][name])
