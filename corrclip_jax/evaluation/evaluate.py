"""`evaluate`: a whole evaluation from Python, resumable, with its report; `corrclip evaluate` does the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corrclip_jax.config import Config, DtypeChoice
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.datasets.label_files import Ignored
from corrclip_jax.evaluation.options import Classes, EvaluateOptions, default_model
from corrclip_jax.evaluation.pipeline import Evaluation, run_evaluation
from corrclip_jax.evaluation.resumable import Progress
from corrclip_jax.inference.open_bank import BankLike
from corrclip_jax.inference.other_clips import OtherModel


def evaluate(
    dataset: str | Dataset | None = None,
    *,
    data_root: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    classes: Classes | None = None,
    first_id: int = 0,
    ignored: Ignored = "auto",
    model: str | Path | tuple[Config, Mapping[str, Any]] | None = None,
    split: str = "val",
    count: int | None = None,
    regions: str | Path | None = None,
    points: int | None = None,
    background_threshold: float | None = None,
    dtype: DtypeChoice | None = None,
    assignments: Sequence[str] = (),
    ablation: bool = False,
    batch_size: int | None = None,
    out: str | Path | None = None,
    predictions: bool = False,
    save_every: int = 200,
    resume: bool = True,
    overwrite: bool = False,
    distributed: bool = False,
    bank: BankLike | None = None,
    others: Mapping[str, OtherModel] | None = None,
    on_start: Progress = lambda run: None,
    progress: Progress = lambda run: None,
) -> Evaluation:
    """Score a model on a data set: mIoU, accuracies, boundary IoU, IoU of every class.

    >>> found = evaluate("scenes", model="tiny", count=24, out="scores")                        # doctest: +SKIP
    >>> found.mean_iou, found.class_iou["sky"]                                                  # doctest: +SKIP
    >>> evaluate(images="photos", labels="truth", classes=["cat", "sky"], model="vit-b")        # doctest: +SKIP

    An interrupted evaluation continues, with the same scores to the last bit, when it is called again with the same
    arguments and the same `out`. SIGTERM and SIGINT are handled only in the main thread, which needs no terminal.

    Args:
      dataset: the name of a benchmark of the paper (`datasets.benchmarks.benchmarks`), "scenes", or a `Dataset`;
        None with `images`, `labels` and `classes`.
      data_root: the folder that holds a benchmark's published files.
      images: a folder of photos of your own.
      labels: the folder of their label files, of equal stems: one number a pixel.
      classes: their class names in the order of the numbers (a list inside is synonyms), or a file with one class a
        line.
      first_id: the number of the first class in label files, 0 or 1; where it is 1, 0 is left out.
      ignored: the number in label files that is left out, None for none; by default 255, unless it is a class's
        number (then nothing is left out, and `report["about"]` says so).
      model: a name or a folder (see `load`), or configuration and parameters; by default "tiny" for "scenes",
        otherwise "vit-b".
      split: of the scenes, "val" or "unseen".
      count: only the first so many images.
      regions: a source of regions ("sam2", "none", ...), "truth" for the data set's own, or a folder of region maps
        named for their images; by default the model's source.
      points: n for SAM's n x n grid of points; by default the model's.
      background_threshold: pixels whose class is less probable become the first class; by default the data set's.
      dtype: the networks' compute type, "float32", "bfloat16" or "auto"; by default the model's.
      assignments: fields of the configuration set by text, as in "method.spatial_layers=1" (see
        `config.assignments`); they go before the settings of the data set.
      ablation: score every part of the method as well, which takes about three times as long.
      batch_size: images that run together; by default one on a CPU, else up to 16 a device. Where memory runs out,
        batches are halved.
      out: the folder for counts and report; None keeps and writes nothing.
      predictions: write label maps to `out`/predictions.
      save_every: write the counts every so many images, and once a minute.
      resume: continue from the counts in `out`; False deletes them.
      overwrite: replace files in `out` that this program did not write.
      distributed: this is one of several processes (`runtime.distributed.connect`), each of which scores a share.
      bank: a bank of unlabelled images, for a model of CorrCLIPv2: its folder, or a bank in memory. Counts
        belong to its content.
      others: further CLIPs whose values the bank has, by the names of these values; see `Segmenter`.
      on_start: called once with the `ResumableEvaluation`, before its first image.
      progress: called with it several times a second; `run.done` of `run.total` images are scored.

    Returns:
      The scores and the report. An image that cannot be read, or is too large for the memory, is left out and
      named in `unreadable`.

    Raises:
      ValueError: for arguments that do not go together or are out of range (`DatasetError`: a data set that is
        missing or incomplete; `StateError`: counts in `out` of other settings;
        `BankError`: a bank that is damaged, or was made by other networks).
      FileNotFoundError: if weights, the bank or the file of class names are missing.
      OutputError: if `out` cannot be written, or holds files of other origin that would be replaced.
      Stopped: after SIGTERM or SIGINT; what was counted is in `out`.
      jax.errors.JaxRuntimeError: if a device fails.
    """
    options = EvaluateOptions(
        dataset=dataset,
        data_root=data_root,
        images=images,
        labels=labels,
        classes=classes,
        first_id=first_id,
        ignored=ignored,
        model=default_model(dataset) if model is None else model,
        split=split,
        count=count,
        regions=regions,
        points=points,
        background_threshold=background_threshold,
        dtype=dtype,
        assignments=assignments,
        ablation=ablation,
        batch_size=batch_size,
        out=out,
        predictions=predictions,
        save_every=save_every,
        resume=resume,
        overwrite=overwrite,
        distributed=distributed,
        bank=bank,
        others=others,
    )
    return run_evaluation(options, on_start=on_start, progress=progress)
