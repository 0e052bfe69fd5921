"""Exported programs: `export` writes one for CPUs, GPUs and TPUs, `load_exported` runs it.

An exported program is a model folder (see `params.model_folder`), so `load` reads it as well, with the
lowered program (`program.bin`), the class names' embeddings (`text.npz`) and a description (`export.json`). A bank
lies inside the program, or in its own folder, from where it is read when the program is loaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from corrclip_jax.config import Config, families, networks_of, to_dict, with_fields
from corrclip_jax.inference import exported_bank
from corrclip_jax.inference.open_bank import BankLike, read_bank
from corrclip_jax.inference.other_clips import OtherModel, described, load_text_towers
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.segment import Result, SupportedResult, make_segment
from corrclip_jax.ops.cudnn_attention import EXPORT_CHECKS
from corrclip_jax.params.file_names import EXPORTED, OWN_NAMES
from corrclip_jax.params.model_folder import read, write_description, write_network
from corrclip_jax.runtime.environment import start_backend, versions
from corrclip_jax.runtime.memory import with_memory_defaults
from corrclip_jax.text.embedding import TextEmbedding, as_text_embedding

PLATFORMS = ("cpu", "cuda", "tpu")
DESCRIPTION, PROGRAM, TEXT = EXPORTED
FORMAT = 1
_OTHER = "others."  # begins the names of the queries in further CLIPs
_MEMORY = 8 << 30  # of an unknown device
_MOST_PIXELS = 2**31 - 1  # of an image: they are counted in int32


class Exported(NamedTuple):
    """An exported program: call it with images.

    Attributes:
      description: the content of `export.json`.
      config, params: the model, for instance for `embed_text` with other names.
      text: the embeddings of the exported classes.
      program: the compiled function.
      bank: the bank that the program takes as an input; None without one, and where it is inside.
    """

    description: dict[str, Any]
    config: Config
    params: dict[str, Any]
    text: TextEmbedding
    program: Any
    bank: Bank | None = None

    def __call__(
        self,
        images: Array | np.ndarray,
        *,
        regions: Array | np.ndarray | None = None,
        text_emb: TextEmbedding | None = None,
    ) -> Result | SupportedResult:
        """Label images; a program with a bank gives a `SupportedResult`.

        Args:
          images: uint8 [B, H0, W0, 3], of the exported shape.
          regions: integers [B, H0, W0], if the program was exported to take them.
          text_emb: other classes, padded (`pad_queries`) to the exported number of queries.

        Raises:
          ValueError: for arrays of another shape or type than the program's, more classes than it was exported for,
            or regions that it does not take.
        """
        inputs = self.description["inputs"]
        text = self.text if text_emb is None else as_text_embedding(text_emb)
        wanted_shape, most = self.text.features.shape, self.text.num_classes
        if text.features.shape != wanted_shape:
            raise ValueError(
                f"text_emb must be of {wanted_shape[0]} queries, pad_queries(text_emb, {wanted_shape[0]}), and of "
                f"width {wanted_shape[1]}. Got {list(text.features.shape)}."
            )
        if (classes := _classes(text, most)) > most:
            raise ValueError(
                f"text_emb must be of at most {most} classes, those that the program was exported with. Got "
                f"{classes}. Export it again: it then takes as many classes as queries."
            )
        if (got := _widths(text)) != (wanted := _widths(self.text)):
            raise ValueError(
                f"text_emb must hold queries in the further CLIPs {wanted or '{}'}, by name and width, as the "
                f"program was exported. Got {got or '{}'}."
            )
        _check_array("images", images, inputs["images"]["shape"], "uint8")
        if (regions is None) == ("regions" in inputs):
            raise ValueError(
                "this program was exported to take region maps: give regions=."
                if regions is None
                else "this program finds its regions itself. Export one with given_regions=True to give them."
            )
        given: list[Any] = [text.others] if text.others else []
        if regions is not None:
            _check_array("regions", regions, inputs["regions"]["shape"], "an integer type")
            given.append(jnp.asarray(regions, jnp.int32))
        entries = [] if self.bank is None else jax.tree.leaves(self.bank)
        found = self.program(self.params, images, text.features, text.query_to_class, entries, *given)
        return _result(found)


def export(
    path: str | Path,
    config: Config,
    params: Mapping[str, Any],
    text_emb: TextEmbedding | Array,
    *,
    height: int,
    width: int,
    batch: int = 1,
    classes: Sequence[Sequence[str]] | None = None,
    given_regions: bool = False,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
    bank: BankLike | None = None,
    bank_inside: bool = False,
    others: Mapping[str, OtherModel] | None = None,
) -> Path:
    """Write the program for images uint8 [batch, height, width, 3] with its weights, atomically.

    Each platform gets its own implementation of attention (on CPUs one product for each head, on NVIDIA GPUs in
    bfloat16 cuDNN's flash attention, which needs compute capability 8.0); no such device is needed to export. Chunk
    sizes that the configuration leaves open are chosen for a device of 8 GiB.

    Args:
      path: the folder to write.
      config: the model and the method.
      params: the tree of `load`.
      text_emb: the classes, from `embed_text`, or from `Segmenter.embed` with `others`.
      height: of the images.
      width: of the images.
      batch: how many images the program takes.
      classes: the names of the classes, for the description.
      given_regions: the program takes region maps instead of finding regions.
      platforms: some of `PLATFORMS`.
      overwrite: write to a folder of other files, too. Those with other names than the program's are kept.
      bank: a bank of unlabelled images, for a model of CorrCLIPv2: its folder, or a bank in memory. The program
        takes it as an input, for which `load_exported` reads it.
      bank_inside: write the bank into the program instead; for a bank of at most 1 GiB.
      others: further CLIPs whose values of the bank are used, as for `Segmenter`.

    Returns:
      The folder.

    Raises:
      ValueError: for what `make_segment` refuses, for images of no pixels or of more than int32 counts, for an
        unknown platform, and for a bank that does not fit the model or is too large to lie inside.
      FileExistsError: if `path` holds something else than an exported program, unless `overwrite`.
      OSError: if it cannot be written.
    """
    path = Path(path)
    is_taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if is_taken and not _is_program(path) and not overwrite:
        raise FileExistsError(
            f"{path} exists and is not an exported program. Choose another folder, or let its files of the same "
            "names be replaced (--overwrite, in Python overwrite=True)."
        )
    if unknown := sorted(set(platforms) - set(PLATFORMS)) or not platforms:
        raise ValueError(f"platforms must be some of {', '.join(PLATFORMS)}. Got {unknown or 'none'}.")
    if min(height, width, batch) < 1 or height * width > _MOST_PIXELS:
        raise ValueError(
            f"height, width and batch must be at least 1, and height x width at most {_MOST_PIXELS:,} pixels. Got "
            f"{height} x {width}, batch {batch}."
        )
    text = as_text_embedding(text_emb)
    # Queries are the only bound, so that any other classes fit that are padded to as many.
    text = replace(text, num_classes=max(text.num_classes, text.features.shape[0]))
    clips = described(load_text_towers(others))
    if set(text.others) != set(clips) or (clips and bank is None):
        raise ValueError(
            "others must name the CLIPs in which text_emb has queries beside the model's own, those of a bank's "
            f"values. Got others {', '.join(clips) or 'none'}, queries in {', '.join(text.others) or 'none'}, and "
            f"{'no' if bank is None else 'a'} bank."
        )
    # A network that finds regions is optional where regions are given.
    config = with_fields(config, **{name: None for name in families("regions") if name not in params})
    filled = with_memory_defaults(config, _MEMORY, queries=text.features.shape[0], width=width)
    opened = None if bank is None else read_bank(bank, config, params, clips)
    if opened is not None and bank_inside:
        opened = exported_bank.in_memory(opened)
    lowering = _Lowering((batch, height, width), given_regions, tuple(platforms), opened, bank_inside)
    program = _lower(filled, params, text, lowering)
    description = {
        "format": FORMAT,
        "config": to_dict(with_fields(filled, vocabulary=None)),
        "dtype": config.dtype,
        "platforms": list(program.platforms),
        "inputs": {
            "images": {"shape": [batch, height, width, 3], "dtype": "uint8"},
            **({"regions": {"shape": [batch, height, width], "dtype": "int32"}} if given_regions else {}),
        },
        "results": {
            name: {"shape": list(aval.shape), "dtype": str(aval.dtype)}
            for name, aval in _result(program.out_avals)._asdict().items()
        },
        "classes": None if classes is None else [list(names) for names in classes],
        "queries": text.features.shape[0],
        "bank": None if opened is None else exported_bank.about(bank, opened, clips, bank_inside),
        "versions": {
            **versions("python", "jax", "jaxlib", "flax", "numpy"),
            "calling_convention": program.calling_convention_version,
        },
    }
    with atomic_folder(path, own=OWN_NAMES) as folder:
        for name in networks_of(config):
            write_network(folder, name, params[name])
        write_description(folder, config, {})
        (folder / PROGRAM).write_bytes(program.serialize())
        queries: dict[str, Any] = {_OTHER + name: np.asarray(x) for name, x in text.others.items()}
        np.savez(
            folder / TEXT,
            features=np.asarray(text.features),
            query_to_class=np.asarray(text.query_to_class),
            num_classes=text.num_classes,
            **queries,
        )
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")
    return path


def load_exported(path: str | Path, *, bank: BankLike | None = None) -> Exported:
    """Read an exported program; it is compiled at its first call.

    Args:
      path: its folder.
      bank: the bank, for a program that takes one: its folder, or a bank in memory, of as many entries as the one
        that it was exported with. By default that one, from where it was.

    Raises:
      FileNotFoundError: if the folder holds no exported program, or there is no bank where it was.
      ValueError: if it is damaged, of a format that this version does not know, or not exported for the platform in
        use; for a bank that it does not take.
    """
    path = Path(path)
    if not (path / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"{path} holds no exported program ({DESCRIPTION} is not in it). Write one with `corrclip export`."
        )
    try:
        description = json.loads((path / DESCRIPTION).read_text("utf-8"))
        known = description["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / DESCRIPTION} is damaged ({error}). Export the program again.") from error
    if not known:
        raise ValueError(
            f"{path} has format {description['format']}, this version reads format {FORMAT}. Export it again."
        )
    start_backend()
    here = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
    if here not in description["platforms"]:
        raise ValueError(
            f"{path} was exported for {', '.join(description['platforms'])}, and this is {here}. Export it for "
            f"{here}."
        )
    config, params = read(path)
    try:
        program = jax.export.deserialize(bytearray((path / PROGRAM).read_bytes()))
        with np.load(path / TEXT) as arrays:
            text = TextEmbedding(
                jax.device_put(arrays["features"]),
                jax.device_put(arrays["query_to_class"]),
                int(arrays["num_classes"]),
                {
                    name.removeprefix(_OTHER): jax.device_put(queries)
                    for name, queries in arrays.items()
                    if name.startswith(_OTHER)
                },
            )
    except Exception as error:  # flatbuffers and zip files fail in ways of their own
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}). Export it again.") from error
    opened = exported_bank.opened(path, description.get("bank"), bank, config, params)
    return Exported(description, config, params, text, jax.jit(program.call), opened)


class _Lowering(NamedTuple):
    """What a program is lowered for: B, H0, W0 of the images, and its bank, as an input or inside."""

    shape: tuple[int, int, int]
    given_regions: bool
    platforms: tuple[str, ...]
    bank: Bank | None
    bank_inside: bool


def _lower(
    config: Config, params: Mapping[str, Any], text: TextEmbedding, lowering: _Lowering
) -> jax.export.Exported:
    segment = make_segment(config)
    leaves, structure = jax.tree.flatten(lowering.bank)

    def program(
        params: Mapping[str, Any],
        images: jax.Array,
        features: jax.Array,
        query_to_class: jax.Array,
        entries: list[jax.Array],
        *given: Any,
    ) -> tuple[jax.Array, ...]:
        bank = jax.tree.unflatten(structure, leaves if lowering.bank_inside else entries)
        others = given[0] if text.others else {}
        regions = given[-1] if lowering.given_regions else None
        queries = TextEmbedding(features, query_to_class, text.num_classes, others)
        return tuple(segment(params, images, queries, regions=regions, bank=bank))

    inputs = [
        {name: params[name] for name in networks_of(config)},
        jax.ShapeDtypeStruct((*lowering.shape, 3), jnp.uint8),
        text.features,
        text.query_to_class,
        [] if lowering.bank_inside else leaves,
        *([text.others] if text.others else []),
        *([jax.ShapeDtypeStruct(lowering.shape, jnp.int32)] if lowering.given_regions else []),
    ]
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    lower = jax.export.export(jax.jit(program), platforms=lowering.platforms, disabled_checks=EXPORT_CHECKS)
    return lower(*specs)


def _is_program(path: Path) -> bool:
    """Whether a folder holds an exported program, and not some other file of the same name."""
    try:
        return isinstance(json.loads((path / DESCRIPTION).read_bytes())["format"], int)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _widths(text: TextEmbedding) -> dict[str, int]:
    """Of the queries in further CLIPs, by name."""
    return {name: queries.shape[1] for name, queries in text.others.items()}


def _classes(text: TextEmbedding, most: int) -> int:
    """How many classes there are; an upper bound where it fits `most`, or the values are not known."""
    if text.num_classes <= most or isinstance(text.query_to_class, jax.core.Tracer):
        return text.num_classes
    return int(np.max(text.query_to_class)) + 1


def _result(found: Sequence[Any]) -> Result | SupportedResult:
    return Result(*found) if len(found) == len(Result._fields) else SupportedResult(*found)


def _check_array(name: str, array: Any, shape: list[int], dtype: str) -> None:
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise ValueError(
            f"{name} must be an array, {dtype} {shape}, as the program was exported. Got {type(array).__name__}."
        )
    fits = np.issubdtype(array.dtype, np.integer) if dtype != "uint8" else array.dtype == np.uint8
    if list(array.shape) != shape or not fits:
        raise ValueError(
            f"{name} must be {dtype} {shape}, as the program was exported. Got {array.dtype} {list(array.shape)}."
        )
