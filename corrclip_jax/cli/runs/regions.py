"""The work of `corrclip regions`: find the regions of photos, and record which were written and which not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from PIL import Image, ImageOps

from corrclip_jax.cli.runs.plan import Task
from corrclip_jax.cli.shared.console import complain
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.config import Config, RegionSource, families, select_regions, source_family, with_fields
from corrclip_jax.config.assignments import with_assignments
from corrclip_jax.conversion.published import preset_models
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.hub.home import model_place
from corrclip_jax.hub.presets import PRESETS, load
from corrclip_jax.hub.single_networks import load_network
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.region_runner import Failure, RegionRunner
from corrclip_jax.io.files import OutputError, check_writable
from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photos import PhotoError, read_photo
from corrclip_jax.io.region_maps import RegionError, read_regions
from corrclip_jax.params.model_folder import describe, is_complete, read_tree
from corrclip_jax.regions.sources import network_to_load
from corrclip_jax.runtime.environment import start_backend
from corrclip_jax.runtime.memory import exhausted, too_large
from corrclip_jax.viz.contact_sheet import contact_sheet


@dataclass
class RegionWork:
    """Finds regions and records the outcomes, which another thread may read meanwhile.

    Attributes:
      files: the file for the regions of each photo, all in one folder.
      source: of the regions.
      model: a name or a folder.
      changes: fields of the configuration of regions.
      assignments: any fields of the configuration, by text.
      overwrite: replace files that this program did not write.
      written: photos whose regions were written.
      failures: messages about photos without regions, by the position of their task.
    """

    files: Mapping[Path, Path]
    source: RegionSource
    model: str
    changes: Mapping[str, Any]
    assignments: Sequence[str] = ()
    overwrite: bool = False
    written: list[Path] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """Messages about photos without regions, in order."""
        return [why for _, why in sorted(self.failures.items())]

    def run(self, tasks: Sequence[Task], total: int, progress: Progress, stop: Event) -> None:
        """Do all tasks; what cannot be done is recorded, and the others continue.

        Args:
          tasks: photos.
          total: how many photos there are, those included that were done before.
          progress: shows what is done and counts.
          stop: ends the run before the next photo.
        """
        progress.phase(f"Loading {self.model}")
        start_backend()
        config, params = network_of_regions(self.model, self.source)
        config = with_fields(config, regions={"source": source_family(self.source), **self.changes})
        config = with_assignments(config, self.assignments)
        own = OwnFiles(self.files[tasks[0].job.photo].parent)
        progress.phase(f"Regions by {self.source}", total=total, done=total - len(tasks))
        for position, found in RegionRunner(config, params).stream([task.source for task in tasks]):
            photo = tasks[position].job.photo
            progress.show(photo.name)
            try:
                why = self._save(tasks[position], found, own)
            except OutputError as error:
                why = str(error)
                try:
                    check_writable(own.folder)
                except OutputError:
                    self.failures[position] = f"{error} Stopped there."
                    return
            if why is None:
                self.written.append(photo)
            else:
                self.failures[position] = why
            progress.advance()
            if stop.is_set():
                return

    def _save(self, task: Task, found: Regions | Failure, own: OwnFiles) -> str | None:
        """Write the regions of a photo. Returns the reason if there are none, and None if there are."""
        photo = task.job.photo
        if isinstance(found, PhotoError):
            return str(found)
        if isinstance(found, Regions):
            name = self.files[photo].name
            try:
                with own.writing([name], task.made, overwrite=self.overwrite) as [partial]:
                    found.save(partial)
                return None
            except RegionError as error:
                return f"{photo}: {error}"
            except MemoryError:
                return too_large(photo)
        if not exhausted(found):
            raise found
        return too_large(photo)


def network_of_regions(model: str, source: RegionSource) -> tuple[Config, Mapping[str, Any]]:
    """Configuration and parameters of what finds regions; of a model's own networks that one alone is read.

    Raises:
      ValueError, FileNotFoundError: as `load`.
    """
    network = network_to_load(source)
    if network is None:
        return Config(), {}
    is_own = network in preset_models(model) if model in PRESETS else source in families("regions")
    if model in EMBEDDED_MODELS or not is_own:
        return load(model, region_network=network)
    folder = model_place(model) if model in PRESETS else Path(model)
    if is_complete(folder):
        config, trees, _ = describe(folder, region_network=network)
        return config, {network: read_tree(trees[network])}
    if model in PRESETS:
        one, params = load_network(model, network)
        return with_fields(select_regions(PRESETS[model], network), **{network: one}), {network: params}
    return load(model, region_network=network)


def draw_contact_sheet(files: Mapping[Path, Path], sheet: Path, most: int, *, overwrite: bool) -> int:
    """Draw the first photos that have a file, at most `most`, with their regions; the number of photos drawn.

    Raises:
      OutputError: if the sheet cannot be written, or must not be replaced.
    """
    rows: list[list[Image.Image]] = []
    for photo, file in files.items():
        if len(rows) == most or not file.is_file():
            continue
        try:
            pixels = read_photo(photo)
            found = Regions(pixels, read_regions(file, *pixels.shape[:2]))
        except (PhotoError, RegionError) as error:
            complain(error)
            continue
        images = Image.fromarray(pixels), found.picture()
        rows.append([ImageOps.pad(image, (480, 360), color="white") for image in images])
    if rows:
        with OwnFiles(sheet.parent).writing([sheet.name], {}, overwrite=overwrite) as [partial]:
            contact_sheet(rows, ["photo", "regions"], {}).save(partial, quality=90)
    return len(rows)
