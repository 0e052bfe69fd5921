"""Formats: each written from hard maps and read back, by the software it is for or as its specification says."""

import json
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from annotation_results import painted, save_results
from drawn_masks import MASKS
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import binary_dilation

from corrclip_jax.formats import label_studio
from corrclip_jax.formats.export import export_results
from corrclip_jax.formats.images import Options
from corrclip_jax.formats.polygons import fill
from corrclip_jax.formats.table import FORMATS

# pycocotools has arrays of before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ["background", ["кошка", "cat"], "草, \"<&>'", *(f"class {k}" for k in range(3, 300))]
EXACT = Options(tolerance=0.0)


def maps():
    """Label maps by the names of their photos: a class, the background, and class 299 in one corner."""
    found = {}
    for index, mask in enumerate(MASKS.values()):
        labels = np.where(mask, index % 2 + 1, 0)
        if labels.size > 4:
            labels[-1, -1] = 299
        found[f"{'abc'[index % 3]}/photo {index // 3} é.png"] = labels
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return save_results(folder / "out", folder / "photos", maps(), CLASSES, chances=True)


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """All formats, exact, as polygons."""
    out = tmp_path_factory.mktemp("polygons")
    done = export_results(results, list(FORMATS), out, EXACT)
    assert (done.failed, done.notes, set(done.folders)) == ([], [], set(FORMATS))
    return out


@pytest.fixture(scope="module")
def masks(results, tmp_path_factory):
    """The formats that know masks, as masks."""
    out = tmp_path_factory.mktemp("masks")
    done = export_results(results, ["coco", "label-studio", "cvat"], out, Options(shapes="masks"))
    assert done.failed == []
    return out


def expected(name):
    """The map of an image as annotations have it: without the background."""
    labels = maps()[name]
    return np.where(labels == 0, -1, labels)


@pytest.mark.parametrize("kind", ["written", "masks"])
def test_pycocotools_reads_coco(kind, request):
    data = COCO(request.getfixturevalue(kind) / "coco" / "annotations" / "instances_default.json")
    assert [one["name"] for one in data.loadCats(data.getCatIds())][:3] == ["background", "кошка", CLASSES[2]]
    assert {one["file_name"] for one in data.imgs.values()} == set(maps())
    for image in data.imgs.values():
        found = data.loadAnns(data.getAnnIds(imgIds=image["id"]))
        decoded = [data.annToMask(one).astype(bool) for one in found]
        shape = (image["height"], image["width"])
        labels = painted(decoded, [one["category_id"] - 1 for one in found], shape)
        assert np.array_equal(labels, expected(image["file_name"]))
        for one, mask in zip(found, decoded, strict=True):
            assert one["area"] == mask.sum()
            assert one["bbox"] == coco_mask.toBbox(data.annToRLE(one)).tolist()
            assert 0 < one["score"] < 1


def test_panoptic_images_hold_the_ids_of_the_segments(written):
    folder = written / "coco-panoptic" / "annotations"
    content = json.loads((folder / "panoptic_default.json").read_text("utf-8"))
    names = {one["id"]: one["file_name"] for one in content["images"]}
    for one in content["annotations"]:
        with Image.open(folder / "panoptic_default" / one["file_name"]) as png:
            assert png.mode == "RGB"
            colours = np.asarray(png).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]  # panopticapi's rgb2id
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in one["segments_info"]}
        segments = one["segments_info"]
        assert all((ids == segment["id"]).sum() == segment["area"] for segment in segments)
        found = painted(
            [ids == segment["id"] for segment in segments],
            [segment["category_id"] - 1 for segment in segments],
            ids.shape,
        )
        assert np.array_equal(found, expected(names[one["image_id"]]))
    assert all(one["isthing"] in (0, 1) and len(one["color"]) == 3 for one in content["categories"])


def test_yolo_has_a_line_for_each_polygon_and_links_to_the_photos(written):
    folder = written / "yolo"
    data = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert data["names"] == {k: one if isinstance(one, str) else one[0] for k, one in enumerate(CLASSES)}
    assert (folder / data["train"]).is_dir()
    for name in maps():
        with Image.open(folder / "images" / name) as photo:
            width, height = photo.size
        text = (folder / "labels" / name).with_suffix(".txt").read_text()
        rows = [line.split() for line in text.splitlines()]
        found = [
            fill([np.array(row[1:], float).reshape(-1, 2) * [width, height]], height, width) for row in rows
        ]
        labels = painted(found, [int(row[0]) for row in rows], (height, width))
        assert np.array_equal(labels, expected(name))


def test_supervision_reads_yolo(written):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it works without OpenCV
        from supervision import DetectionDataset
    folder, names = written / "yolo", [one if isinstance(one, str) else one[0] for one in CLASSES]
    read = {}
    for part in "abc":
        places = (str(folder / kind / part) for kind in ("images", "labels"))
        data = DetectionDataset.from_yolo(*places, str(folder / "data.yaml"), force_masks=True)
        assert data.classes == names
        read |= {f"{part}/{Path(path).name}": found for path, _, found in data}
    assert read.keys() == maps().keys()
    for name, found in read.items():
        labels = maps()[name]
        assert set(found.class_id) == set(np.unique(labels)) - {0}
        for label in set(found.class_id):
            chosen = found[found.class_id == label]
            y, x = np.nonzero(labels == label)
            box = [*chosen.xyxy[:, :2].min(axis=0), *chosen.xyxy[:, 2:].max(axis=0)]
            assert box == pytest.approx([x.min(), y.min(), x.max() + 1, y.max() + 1], abs=1e-3)
            # It fills the pixels on the outline, too.
            filled = chosen.mask.any(axis=0)
            assert (filled >= (labels == label)).all()
            assert (filled <= binary_dilation(labels == label, np.ones((3, 3)))).all()


@pytest.mark.parametrize(
    ("prefix", "expected"), [(None, "/data/local-files/?d=photos/a/photo"), ("s3://x/", "s3://x/a/photo")]
)
def test_label_studios_addresses_begin_with_the_shared_folder_or_as_asked(
    results, tmp_path, prefix, expected
):
    export_results(results[:4], ["label-studio"], tmp_path, Options(image_prefix=prefix, tolerance=0.0))
    tasks = json.loads((tmp_path / "label-studio" / "tasks.json").read_text("utf-8"))
    assert tasks[0]["data"]["image"].startswith(expected)


def test_labelme_files_hold_polygons_and_point_to_the_photos(written):
    for name in maps():
        path = (written / "labelme" / name).with_suffix(".json")
        content = json.loads(path.read_text("utf-8"))
        with Image.open(path.parent / content["imagePath"]) as photo:
            assert photo.size == (content["imageWidth"], content["imageHeight"])
        shape = (content["imageHeight"], content["imageWidth"])
        kinds = [one["label"] for one in content["shapes"]]
        numbers = [index for kind in kinds for index, one in enumerate(CLASSES) if kind in (one, one[0])]
        found = [fill([np.array(one["points"], float)], *shape) for one in content["shapes"]]
        assert np.array_equal(painted(found, numbers, shape), expected(name))
        assert {one["shape_type"] for one in content["shapes"]} <= {"polygon"}


def label_studio_decoded(rle):
    """The values of Label Studio's run-length encoding, as its front end decodes it (thi.ng's rle-pack)."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(size):
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@pytest.mark.parametrize("kind", ["written", "masks"])
def test_label_studio_tasks_have_predictions(kind, request):
    folder = request.getfixturevalue(kind) / "label-studio"
    tag = {"written": "PolygonLabels", "masks": "BrushLabels"}[kind]
    config = ElementTree.parse(folder / "labelling_config.xml")
    control = config.find(tag)
    labels = [one.get("value") for one in control]
    assert labels == [one if isinstance(one, str) else one[0] for one in CLASSES]
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
    assert len(tasks) == len(maps())
    for one in tasks:
        name = unquote(one["data"]["image"].removeprefix("/data/local-files/?d=photos/"))
        shape, found, numbers = maps()[name].shape, [], []
        (prediction,) = one["predictions"]
        assert prediction["result"] == [] or 0 < prediction["score"] < 1
        for result in prediction["result"]:
            assert (result["from_name"], result["to_name"]) == (control.get("name"), control.get("toName"))
            assert (result["original_height"], result["original_width"]) == shape
            assert result["type"] == tag.lower()
            value = result["value"]
            numbers.append(labels.index(value[tag.lower()][0]))
            if kind == "masks":
                pixels = label_studio_decoded(value["rle"]).reshape(*shape, 4)
                found.append(pixels[..., 3] > 0)
            else:
                found.append(fill([np.array(value["points"]) * shape[::-1] / 100], *shape))
        assert np.array_equal(painted(found, numbers, shape), expected(name))


def test_names_that_xml_cannot_hold_are_the_same_in_all_files(tmp_path):
    classes = ["bell\x07", 'a "<&>']
    odd = {"a\nb#c?.png": np.array([[0, 1]]), "x" * 240 + ".png": np.array([[0, 1]])}
    results = save_results(tmp_path / "out", tmp_path / "photos", odd, classes)
    assert export_results(results, ["label-studio", "cvat"], tmp_path, EXACT).failed == []
    config = ElementTree.parse(tmp_path / "label-studio" / "labelling_config.xml")
    tasks = json.loads((tmp_path / "label-studio" / "tasks.json").read_text("utf-8"))
    used = {one["value"]["polygonlabels"][0] for one in tasks[0]["predictions"][0]["result"]}
    assert used == {one.get("value") for one in config.iter("Label")} == {"bell\ufffd", 'a "<&>'}
    root = ElementTree.parse(tmp_path / "cvat" / "annotations.xml").getroot()
    assert {one.get("label") for one in root.iter("polygon")} == used
    assert {one.get("name") for one in root.iter("image")} == set(odd)


def test_brush_masks_of_long_runs():
    mask = np.zeros((300, 200), bool)
    mask[150:, 7] = True
    mask[299] = True
    decoded = label_studio_decoded(label_studio.brush_rle(mask))
    assert np.array_equal(decoded.reshape(300, 200, 4), np.where(mask[..., None], 255, 0).repeat(4, 2))


@pytest.mark.parametrize("kind", ["written", "masks"])
def test_cvat_files_hold_polygons_or_masks(kind, request):
    root = ElementTree.parse(request.getfixturevalue(kind) / "cvat" / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    names = [label.findtext("name") for label in root.iter("label")]
    images = root.findall("image")
    assert [int(one.get("id")) for one in images] == list(range(len(maps())))
    for image in images:
        shape, found, numbers = (int(image.get("height")), int(image.get("width"))), [], []
        for one in image:
            numbers.append(names.index(one.get("label")))
            if one.tag == "polygon":
                points = [corner.split(",") for corner in one.get("points").split(";")]
                found.append(fill([np.array(points, float)], *shape))
            else:
                x, y, w, h = (int(one.get(key)) for key in ("left", "top", "width", "height"))
                runs = [int(run) for run in one.get("rle").split(",")]
                mask = np.zeros(shape, bool)
                mask[y : y + h, x : x + w] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
                found.append(mask)
        assert np.array_equal(painted(found, numbers, shape), expected(image.get("name")))


def test_geojson_has_holes_and_counter_clockwise_outlines(written):
    for name, labels in maps().items():
        content = json.loads((written / "geojson" / name).with_suffix(".geojson").read_text("utf-8"))
        found, numbers = [], []
        for feature in content["features"]:
            geometry = feature["geometry"]
            polygons = geometry["coordinates"]
            polygons = [polygons] if geometry["type"] == "Polygon" else polygons
            rings = [np.array(ring, float) for polygon in polygons for ring in polygon]
            assert all((ring[0] == ring[-1]).all() for ring in rings)
            found.append(fill([ring[:-1] for ring in rings], *labels.shape))
            name_of = feature["properties"]["classification"]["name"]
            numbers += [index for index, one in enumerate(CLASSES) if name_of in (one, one[0])]
        assert np.array_equal(painted(found, numbers, labels.shape), expected(name))


def test_label_maps_and_archives_are_the_labels(written):
    table = json.loads((written / "png" / "classes.json").read_text("utf-8"))
    assert table[1]["name"] == "кошка" and table[1]["synonyms"] == ["cat"] and len(table) == 300
    for name, labels in maps().items():
        with Image.open((written / "png" / name).with_suffix(".png")) as image:
            assert np.array_equal(np.asarray(image), labels)
        with np.load((written / "npz" / name).with_suffix(".npz")) as arrays:
            assert np.array_equal(arrays["labels"], labels)
            assert arrays["class_names"][1] == "кошка"
            assert arrays["segment_area"].sum() == labels.size
            assert np.isfinite(arrays["segment_probability"]).all()
