"""Opening of the data set that an evaluation names: a benchmark, generated scenes, folders, or a `Dataset`."""

from pathlib import Path

from corrclip_jax.config import RegionSource
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.published import source_or_folder
from corrclip_jax.datasets.benchmarks import benchmarks, open_benchmark, open_folders
from corrclip_jax.datasets.dataset import Dataset, DatasetError, first, with_region_files
from corrclip_jax.datasets.scenes.dataset import SCENES, scenes
from corrclip_jax.evaluation.options import EvaluateOptions
from corrclip_jax.evaluation.scorer import FROM_DATASET
from corrclip_jax.text.classes import normalise_classes, read_classes


def chosen_regions(options: EvaluateOptions) -> tuple[RegionSource | None, Path | None]:
    """The source of regions (`FROM_DATASET` for the data set's own, None for the model's), or the folder of maps.

    Raises:
      DatasetError: for what is neither.
    """
    if options.regions is None:
        return None, None
    try:
        return source_or_folder(options.regions, also=(FROM_DATASET,))
    except ValueError as error:
        raise DatasetError(str(error)) from None


def open_dataset(options: EvaluateOptions) -> Dataset:
    """The data set of `EvaluateOptions`, with region maps where they come from files.

    Raises:
      DatasetError: for a data set that does not exist or is incomplete, options that do not go together, and region
        maps that are missing.
    """
    data = first(_own(options) if options.dataset is None else _named(options), options.count)
    source, folder = chosen_regions(options)
    if source == FROM_DATASET and not _has_regions(options.dataset):
        raise DatasetError(
            f"the data set {data.name!r} has no true regions. Take sam2, none, or a folder of region maps."
        )
    return data if folder is None else with_region_files(data, folder)


def _own(options: EvaluateOptions) -> Dataset:
    """Photos and label files of one's own."""
    images, labels, classes = options.images, options.labels, options.classes
    if images is None or labels is None or classes is None:
        raise DatasetError("name a dataset, or give all of images, labels and classes.")
    names = read_classes(classes) if isinstance(classes, str | Path) else normalise_classes(classes)
    return open_folders(images, labels, names, first_id=options.first_id, ignored=options.ignored)


def _named(options: EvaluateOptions) -> Dataset:
    """A `Dataset` as it is, the generated scenes, or a benchmark below `data_root`."""
    if any(given is not None for given in (options.images, options.labels, options.classes)):
        raise DatasetError("images, labels and classes are for data of your own: name no dataset with them.")
    dataset = options.dataset
    if isinstance(dataset, Dataset):
        return dataset
    if dataset == SCENES:
        if options.data_root is not None:
            raise DatasetError("the scenes are generated: they take no data_root.")
        return scenes(options.split)
    if dataset not in benchmarks():
        known = [SCENES, *benchmarks()]
        raise DatasetError(
            f"the data sets are: {', '.join(known)}. Got {dataset!r}.{did_you_mean(str(dataset), known)}"
        )
    if options.data_root is None:
        raise DatasetError(f"data_root is missing: the folder that holds the published files of {dataset}.")
    return open_benchmark(dataset, options.data_root)


def _has_regions(dataset: str | Dataset | None) -> bool:
    if isinstance(dataset, Dataset):
        return dataset.count > 0 and dataset.example(0).regions is not None
    return dataset == SCENES
