"""Published checkpoints to a converted model: one folder with Orbax trees, vocabulary and `corrclip.json`."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corrclip_jax.config import (
    FAMILIES,
    CLIPConfig,
    Config,
    NetworkConfig,
    families,
    from_dict,
    networks_of,
    with_fields,
)
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.find import Found, find, find_all, find_vocabulary, published_beside
from corrclip_jax.conversion.published import Published, recognise
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.io.disk import check_room
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.io.marks import file_digest
from corrclip_jax.params.model_folder import (
    DESCRIPTION,
    OWN_NAMES,
    VOCABULARY,
    Part,
    copy_vocabulary,
    read_description,
    write_description,
    write_network,
    write_part,
)
from corrclip_jax.params.structure import Params, expected_network, expected_params
from corrclip_jax.params.trees import shapes_by_path
from corrclip_jax.text.tokenizer import Tokenizer

Report = Callable[[str], None]

# The method's spatial branch averages depth - 4 blocks, at least one, of those between the first and the last.
_PUBLISHED_DEPTH, _LEAST_DEPTH = 5, 3


def to_stderr(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def convert(
    checkpoints: Mapping[str, str | Path],
    out: str | Path,
    *,
    vocabulary: str | Path | None = None,
    spare_vocabulary: Path | None = None,
    name: str | None = None,
    quick_gelu: bool | None = None,
    configs: Mapping[str, NetworkConfig] | None = None,
    force: bool = False,
    report: Report = to_stderr,
) -> Path:
    """Convert published checkpoints into the folder `out`.

    An `out` that holds a conversion of the same files with the same settings is left as it is. It appears whole or
    not at all. One network at a time is in memory, in float32.

    Args:
      checkpoints: by family ("clip", "dino", "sam2" ...), a file of a published layout, the `.index.json` of a
        sharded one, or a folder that holds it (a repository's). A CLIP and a backbone for similarities are needed.
        Of the networks that find regions, the first in the table of families is the configured source; without any
        the model is for given region maps.
      out: the model folder to make.
      vocabulary: CLIP's vocabulary; looked for beside the CLIP checkpoint by default.
      spare_vocabulary: taken where there is none beside the CLIP checkpoint, if it has as many tokens as the CLIP.
      name: the model's name; the folder's by default.
      quick_gelu: CLIP's activation, where no file next to the checkpoint says it.
      configs: configurations by family, which say what tensor shapes do not show.
      force: whether to replace an `out` that holds something else.
      report: takes a line of progress.

    Returns:
      `out`.

    Raises:
      ConversionError: for a source that cannot be converted, with all that is wrong with it; for an `out` that
        holds something else, unless `force`; for a family that is missing or unknown.
      OSError: where `out` cannot be written.
    """
    if unknown := sorted(set(checkpoints) - set(FAMILIES)):
        raise ConversionError(f"No family {', '.join(unknown)}. There are: {', '.join(FAMILIES)}.")
    backbones = families("similarity")
    if "clip" not in checkpoints or not any(name in checkpoints for name in backbones):
        needed = ", ".join(FAMILIES[name].title for name in backbones)
        given = ", ".join(checkpoints) or "none"
        raise ConversionError(
            f"Name a checkpoint of CLIP and one of a backbone for similarities ({needed}). Got: {given}."
        )
    found = _find_each(checkpoints)
    if vocabulary is None:
        vocabulary = find_vocabulary(found["clip"].path.parent)
    return _convert(
        found, Path(out), (vocabulary, spare_vocabulary), name, quick_gelu, configs or {}, force, report
    )


def _find_each(checkpoints: Mapping[str, str | Path]) -> dict[str, Found]:
    """The checkpoint of each family; what is wrong with them comes in one error, so that swapped ones show."""
    found: dict[str, Found] = {}
    faults: list[str] = []
    for family in FAMILIES:
        if family in checkpoints:
            try:
                found[family] = find(Path(checkpoints[family]), family)
            except ConversionError as error:
                faults.append(str(error))
    if faults:
        raise ConversionError("\n".join(dict.fromkeys(faults)))
    return found


def convert_part(
    family: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    config: NetworkConfig | None = None,
    vocabulary: str | Path | None = None,
    report: Report = to_stderr,
) -> Part:
    """Convert one checkpoint into a folder of its own, which models share (`params.model_folder.Part`).

    Args:
      family: of the network, "dino" for instance.
      checkpoint: as one of `convert`.
      out: the folder to make; it appears whole or not at all, and replaces one that is there.
      config: the network's configuration; read off the file by default.
      vocabulary: a CLIP's vocabulary, which is copied.
      report: takes a line of progress.

    Raises:
      ConversionError: for a checkpoint that cannot be converted, with all that is wrong with it.
      OSError: where `out` cannot be written.
    """
    found = find(Path(checkpoint), family)
    network, source = config or _configure(found, None), _describe(found)
    _check_room(Path(out), expected_network(network))
    if vocabulary is not None:
        _check_vocabulary(vocabulary, network)
    with atomic_folder(Path(out), OWN_NAMES) as folder:
        report(_progress(found))
        write_network(folder, family, _convert_network(found, network))
        if vocabulary is not None:
            copy_vocabulary(Path(vocabulary), folder / VOCABULARY)
        write_part(folder, family, network, source)
    return Part(Path(out), family, network, source)


def convert_folder(
    folder: str | Path,
    out: str | Path,
    *,
    vocabulary: str | Path | None = None,
    spare_vocabulary: Path | None = None,
    name: str | None = None,
    quick_gelu: bool | None = None,
    force: bool = False,
    report: Report = to_stderr,
) -> Path:
    """As `convert`, for a folder of checkpoints, which are recognised by their content.

    The files may lie in folders of their own, down to the third level.
    """
    folder = Path(folder)
    found = find_all(folder, ("clip",), families("regions"), one_of=families("similarity"))
    if vocabulary is None:
        vocabulary = find_vocabulary(found["clip"].path.parent, folder, folder / VOCABULARY)
    vocabularies, name = (vocabulary, spare_vocabulary), name or folder.absolute().name
    return _convert(found, Path(out), vocabularies, name, quick_gelu, {}, force, report)


def _convert(
    found: Mapping[str, Found],
    out: Path,
    vocabularies: tuple[str | Path | None, Path | None],
    name: str | None,
    quick_gelu: bool | None,
    configs: Mapping[str, NetworkConfig],
    force: bool,
    report: Report,
) -> Path:
    networks = {family: configs.get(family) or _configure(one, quick_gelu) for family, one in found.items()}
    nothing = dict.fromkeys(families("similarity") + families("regions"))
    config = with_fields(Config(name=name or out.name), **(nothing | networks))
    config = with_fields(config, similarity=next(name for name in families("similarity") if name in networks))
    if config.similarity != "dino":  # CorrCLIPv2: features of the whole image, regions as they are
        config = with_fields(config, method={"similarity_of": "image"}, parts={"merging": False})
    if finders := [family for family in families("regions") if family in networks]:
        config = with_fields(config, regions={"source": finders[0]})
    config = with_fields(config, method={"spatial_layers": _spatial_layers(config)})
    vocabulary = vocabularies[0] or _fitting(vocabularies[1], config.clip)
    if vocabulary is None:
        report(
            "No CLIP vocabulary (tokenizer.json, bpe_simple_vocab_16e6.txt.gz) beside the checkpoint: class names "
            "cannot be embedded with this model, so the commands that take class names refuse it."
        )
    else:
        _check_vocabulary(vocabulary, config.clip)
        config = with_fields(config, vocabulary=str(vocabulary))
    sources = {family: _describe(one) for family, one in found.items()}
    if not force and _is_there(out, config, sources):
        report(f"Already converted: {out}")
        return out
    if (layers := config.method.spatial_layers) is not None:
        depth = config.clip.vision.layers
        report(f"CLIP's image tower has {depth} blocks only: the spatial branch takes {layers} of them.")
    _check_room(out, expected_params(config))
    with atomic_folder(out, OWN_NAMES) as folder:
        for family, network in networks_of(config).items():
            report(_progress(found[family]))
            # No name for the parameters here: it would keep one network in memory while the next is converted.
            write_network(folder, family, _convert_network(found[family], network))
        write_description(folder, config, sources)
    report(f"Converted: {out}")
    return out


def _check_vocabulary(vocabulary: str | Path, clip: Any) -> None:
    """Refuse a vocabulary that is damaged, or has tokens that the text tower does not know."""
    known, size = clip.text.vocab_size, Tokenizer.load(vocabulary).vocab_size
    if size > known:
        raise ConversionError(
            f"The vocabulary {vocabulary} has {size} tokens, the CLIP's text tower knows {known}: they do not "
            "belong together. Give the vocabulary that was published with this CLIP."
        )


def _fitting(vocabulary: Path | None, clip: CLIPConfig) -> Path | None:
    """A spare vocabulary, where it has as many tokens as the text tower."""
    fits = vocabulary is not None and Tokenizer.load(vocabulary).vocab_size == clip.text.vocab_size
    return vocabulary if fits else None


def _spatial_layers(config: Config) -> int | None:
    """How many blocks the spatial branch averages, where the published choice does not fit so shallow a tower."""
    depth = config.clip.vision.layers
    if depth >= _PUBLISHED_DEPTH:
        return None
    if depth < _LEAST_DEPTH:
        raise ConversionError(
            f"CLIP's image tower has {depth} blocks, the method needs {_LEAST_DEPTH} or more: the last one, and "
            "middle ones for the spatial branch."
        )
    return 1


def _progress(found: Found) -> str:
    return f"Converting {FAMILIES[found.family].title} from {found.path} ({found.layout} layout) ..."


def _convert_network(found: Found, config: NetworkConfig) -> Params:
    with _reading(found.path):
        try:
            return convert_state_dict(found.family, found.checkpoint, config, found.layout)
        except ConversionError as error:
            raise ConversionError(f"{found.path}: {error}", error.faults) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read: the system does not, once it is open."""
    try:
        yield
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}.") from error


def _configure(found: Found, quick_gelu: bool | None) -> NetworkConfig:
    """The configuration of a checkpoint: from its shapes, from what the registry or its repository says."""
    published, known = published_beside(found), _recognise(found)
    more: dict[str, Any] = {}
    if found.family == "clip":
        more["quick_gelu"] = known.quick_gelu if quick_gelu is None and known else quick_gelu
    try:
        config = (
            FAMILIES[found.family]
            .conversion_table()
            .config_from_shapes(found.checkpoint.shapes, found.layout, published, **more)
        )
    except ConversionError as error:
        raise ConversionError(f"{found.path}: {error}") from error
    if known is not None and known.head_width is not None:
        config = with_fields(config, vision={"head_width": known.head_width})
    return config


def _recognise(found: Found) -> Published | None:
    known = recognise(found.path)
    return known if known is not None and known.family == found.family else None


def _describe(found: Found) -> dict[str, Any]:
    """Where a network comes from, for `corrclip.json`."""
    known = _recognise(found)
    files = []
    for file in found.checkpoint.files:
        with _reading(file):
            files.append({"name": file.name, "size": file.stat().st_size, "sha256": file_digest(file)})
    return {
        "title": known.title if known else None,
        "repository": known.repository if known else None,
        "licence": known.licence if known else None,
        "layout": found.layout,
        "files": files,
    }


def _is_there(out: Path, config: Config, sources: Mapping[str, Any]) -> bool:
    """Whether `out` holds this conversion already; an error where it holds anything else."""
    if not out.exists():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not (out / DESCRIPTION).is_file():
        raise ConversionError(
            f"{out} exists and is no converted model. Choose another folder, or replace it (--overwrite, in Python "
            "force=True): files that are no part of a model stay."
        )
    there = read_description(out)
    if there["sources"] == sources and from_dict(Config, there["config"]) == _as_written(config):
        return True
    raise ConversionError(
        f"{out} holds a conversion of other files, or with other settings. Choose another folder, or replace it "
        "(--overwrite, in Python force=True)."
    )


def _as_written(config: Config) -> Config:
    return with_fields(config, vocabulary=VOCABULARY if config.vocabulary is not None else None)


def _check_room(out: Path, tree: Params) -> None:
    """Raise before the work starts if the disk is too small."""
    needed = 4 * sum(math.prod(shape) for shape in shapes_by_path(tree).values())
    check_room(out, needed, "choose another folder")
