"""The benchmarks: their table, their trees, and the class of every pixel, against the label files themselves."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.config import MethodConfig, with_fields
from corrclip_jax.datasets.benchmarks import (
    benchmarks,
    in_version_two,
    open_benchmark,
    open_folders,
    published_miou,
)
from corrclip_jax.datasets.dataset import Dataset, DatasetError, Example, first, with_region_files
from corrclip_jax.datasets.label_files import LabelError, read_labels
from corrclip_jax.datasets.marks import content_marks
from corrclip_jax.io.region_maps import region_file_name, write_regions

NAMES = (
    "voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "ade20k", "cityscapes", "ade847",
    "context459", "loveda", "vaihingen", "potsdam",
)  # fmt: skip

# Number of classes, number in the files of class 0, what is left out, whether files hold 16 bits: as published.
FACTS = {
    "voc21": (21, 0, 255, False), "voc20": (20, 1, 255, False), "context60": (60, 0, 255, False),
    "context59": (59, 1, 255, False), "coco_object": (81, 0, 255, False), "coco_stuff": (171, 0, 255, False),
    "ade20k": (150, 1, 255, False), "cityscapes": (19, 0, 255, False), "ade847": (847, 0, 65535, True),
    "context459": (459, 0, 65535, True), "loveda": (7, 1, 255, False), "vaihingen": (6, 1, 255, False),
    "potsdam": (6, 1, 255, False),
}  # fmt: skip


def write_tree(name: str, root: Path, count: int = 2) -> dict[str, np.ndarray]:
    """A tree in the published layout, of drawn pictures that hold every number a label file may; its raw maps."""
    classes, first_id, ignored, deep = FACTS[name]
    layout = benchmarks()[name].layout
    folder = root / layout.folders[0]
    maps = {}
    for index in range(count):
        key = {"id": f"p{index}", "city": f"city{index}"}
        photo, labels = (folder / pattern.format(**key) for pattern in (layout.photos, layout.labels))
        rng = np.random.default_rng(index)
        numbers = [*range(classes + first_id), ignored]
        raw = rng.permutation(np.resize(numbers, 30 * 40)).reshape(30, 40)
        for path, picture in [
            (photo, Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))),
            (labels, Image.fromarray(raw.astype(np.uint16 if deep else np.uint8))),
        ]:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        maps[photo.stem] = raw
    if layout.ids:
        (folder / layout.ids).parent.mkdir(parents=True, exist_ok=True)
        (folder / layout.ids).write_text("".join(f"p{index}\n" for index in range(count)))
    return maps


def by_hand(raw: int, name: str) -> int:
    """The class of one number, by the rule of each benchmark."""
    classes, first_id, ignored, _ = FACTS[name]
    if raw == ignored or (first_id == 1 and raw == 0):
        return -1
    assert raw - first_id < classes
    return raw - first_id


# --- the table ---


def test_every_benchmark_of_the_paper_is_there_with_its_classes():
    assert tuple(benchmarks()) == NAMES
    queries = {name: sum(map(len, entry.classes)) for name, entry in benchmarks().items()}
    for name, entry in benchmarks().items():
        assert len(entry.classes) == FACTS[name][0], name
        assert (entry.first_id, entry.ignored) == FACTS[name][1:3], name
        with_fields(MethodConfig(), **entry.method)
    synonyms = {"voc21": 46, "coco_object": 96, "loveda": 9}
    assert queries == {name: synonyms.get(name, FACTS[name][0]) for name in NAMES}
    assert ("building, edifice",) in benchmarks()["ade847"].classes, "a comma belongs to the name"
    assert benchmarks()["voc20"].classes == benchmarks()["voc21"].classes[1:]
    assert "background" not in benchmarks()["voc21"].classes[0]


def test_published_scores_are_found_by_model_regions_and_points():
    assert published_miou("voc21", "vit-b", "sam2", 8) == 73.9
    assert published_miou("voc21", "vit-b", "sam2", 32) == 74.8
    assert published_miou("ade847", "vit-b", "sam2", 8) is None
    assert published_miou("voc21", "tiny", "sam2", 8) is None
    assert published_miou("voc21", "vit-b", "eomt", None) == 76.0
    assert published_miou("voc21", "v2-l", "files", None, "COCO") == 82.3
    assert published_miou("voc21", "v2-l", "files", None) == 79.5
    assert published_miou("voc21", "v2-l", "files", None, "LAION") is None
    assert published_miou("voc21", "vit-b", "sam2", 8, "COCO") is None


def test_the_second_version_differs_where_its_program_does(tmp_path):
    for name in ("cityscapes", "voc20"):
        write_tree(name, tmp_path)
    cityscapes, voc = (open_benchmark(name, tmp_path) for name in ("cityscapes", "voc20"))
    second = in_version_two(cityscapes)
    assert (cityscapes.method["resize_short"], second.method["resize_short"]) == (448, 784)
    assert second.method["window"] == 224
    pairs = zip(cityscapes.classes, second.classes, strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [(("people",), ("people, person",))]
    assert in_version_two(voc) is voc
    own = replace(cityscapes, classes=(("road",), ("sky",)))
    assert in_version_two(own) is own


# --- trees ---


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_in_the_published_layout_gives_the_class_of_every_pixel(name, tmp_path):
    maps = write_tree(name, tmp_path)
    data = open_benchmark(name, tmp_path)
    assert data.classes == benchmarks()[name].classes
    assert {data.stem(index) for index in range(data.count)} == set(maps)
    for index in range(data.count):
        image, labels, _ = data.example(index)
        assert image.shape == (30, 40, 3)
        raw = maps[data.stem(index)]
        assert labels.tolist() == [[by_hand(number, name) for number in row] for row in raw.tolist()]


def test_a_tree_may_lie_in_the_usual_places(tmp_path):
    write_tree("voc21", tmp_path / "VOCdevkit")
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        assert open_benchmark("voc21", root).count == 2


def test_photos_of_other_splits_do_not_matter_where_a_list_or_the_labels_say_which(tmp_path):
    for name in ("voc21", "context459"):
        write_tree(name, tmp_path)
        folder = tmp_path / benchmarks()[name].layout.folders[0] / "JPEGImages"
        (folder / "other.jpg").write_bytes((folder / "p0.jpg").read_bytes())
        assert open_benchmark(name, tmp_path).count == 2


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("voc21", "VOC2012/JPEGImages/p1.jpg", r"lacks a file: JPEGImages.p1\.jpg"),
        ("voc21", "VOC2012/SegmentationClass/p0.png", r"lacks a file: SegmentationClass.p0\.png"),
        ("voc21", "VOC2012/ImageSets/Segmentation/val.txt", r"the tree lacks .*val\.txt"),
        (
            "ade20k",
            "ADEChallengeData2016/annotations/validation/p1.png",
            r"lacks a file: annotations.*p1\.png",
        ),
        ("ade20k", "ADEChallengeData2016/images/validation/p1.jpg", r"lacks a file: images.*p1\.jpg"),
        (
            "cityscapes",
            "cityscapes/gtFine/val/city0/p0_gtFine_labelTrainIds.png",
            r"lacks a file: gtFine.*city0.p0_",
        ),
    ],
)
def test_what_a_tree_lacks_is_named_and_how_it_should_look(name, lost, message, tmp_path):
    write_tree(name, tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DatasetError, match=message) as error:
        open_benchmark(name, tmp_path)
    pattern = benchmarks()[name].layout.labels.replace("{", "<").replace("}", ">")
    assert "It should look like this" in str(error.value)
    assert pattern in str(error.value)


def test_a_tree_that_is_not_there_is_shown(tmp_path):
    with pytest.raises(
        DatasetError, match=r"there is no such tree in .*\nIt should look like this:\n.*cityscapes"
    ):
        open_benchmark("cityscapes", tmp_path)
    with pytest.raises(DatasetError, match="nowhere is no folder"):
        open_benchmark("cityscapes", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"made by `corrclip prepare coco_stuff`"):
        open_benchmark("coco_stuff", tmp_path)
    with pytest.raises(DatasetError, match=r"the benchmarks are: voc21, .*Got 'voc22'"):
        open_benchmark("voc22", tmp_path)


# --- label files ---


def test_a_number_that_is_neither_class_nor_left_out_is_an_error(tmp_path):
    path = tmp_path / "labels.png"
    Image.fromarray(np.array([[0, 1, 19, 254, 255]], np.uint8)).save(path)
    assert read_labels(path, 255).tolist() == [[0, 1, 19, 254, -1]]
    assert read_labels(path, 256, ignored=None).tolist() == [[0, 1, 19, 254, 255]]
    assert read_labels(path, 255, first_id=1).tolist() == [[-1, 0, 18, 253, 254]]
    with pytest.raises(
        LabelError, match=r"holds the numbers 19, 254\. The classes are 0 to 18, and left out is 255"
    ):
        read_labels(path, 19)
    with pytest.raises(
        LabelError, match=r"holds the number 254\. The classes are 1 to 20, and left out is 0, 255"
    ):
        read_labels(path, 20, first_id=1)


def test_label_files_that_are_none_are_told(tmp_path):
    colours = tmp_path / "colours.png"
    Image.new("RGB", (3, 2)).save(colours)
    cut = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 9).save(cut)
    cut.write_bytes(cut.read_bytes()[:500])
    text = tmp_path / "text.png"
    text.write_text("labels")
    for path, message in [
        (colours, r"a picture with colours \(RGB\)"),
        (cut, "damaged or cut short"),
        (text, "no picture of a known kind"),
        (tmp_path / "none.png", "does not exist"),
    ]:
        with pytest.raises(LabelError, match=message):
            read_labels(path, 5)


def test_a_palette_does_not_change_the_numbers(tmp_path):
    image = Image.fromarray(np.array([[2, 0], [1, 255]], np.uint8))
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / "p.png")
    assert read_labels(tmp_path / "p.png", 3).tolist() == [[2, 0], [1, -1]]


# --- one's own folders ---


def test_own_folders_are_paired_by_stem(tmp_path):
    for folder, suffix, value in [("photos", "jpg", 9), ("labels", "png", 1)]:
        (tmp_path / folder).mkdir()
        for stem in ("b", "a"):
            Image.new("L", (4, 3), value).save(tmp_path / folder / f"{stem}.{suffix}")
    data = open_folders(tmp_path / "photos", tmp_path / "labels", [["cat"], ["dog", "hound"]])
    assert [data.stem(index) for index in range(data.count)] == ["a", "b"]
    assert (data.name, data.classes) == ("photos", (("cat",), ("dog", "hound")))
    assert (data.example(0).labels == 1).all()
    from_one = open_folders(tmp_path / "photos", tmp_path / "labels", [["cat"]], first_id=1)
    assert (from_one.example(0).labels == 0).all()
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"must have equal stems: b \(no label file\)"):
        open_folders(tmp_path / "photos", tmp_path / "labels", [["cat"]])
    with pytest.raises(DatasetError, match="is no folder"):
        open_folders(tmp_path / "photos", tmp_path / "none", [["cat"]])


@pytest.mark.parametrize(
    ("classes", "first_id", "options", "label", "left_out", "said"),
    [
        (255, 0, {}, -1, (255,), ""),
        (256, 0, {}, 255, (), "; 255 is the class 'thing 255' and is scored: if these"),
        (255, 1, {}, 254, (0,), "; 255 is the class 'thing 254' and is scored"),
        (254, 1, {}, -1, (0, 255), ""),
        (300, 0, {"ignored": 255}, -1, (255,), "; 255 (--ignored) is the class 'thing 255'"),
        (300, 0, {"ignored": 999}, 255, (999,), ""),
        (300, 0, {"ignored": None}, 255, (), ""),
    ],
)
def test_255_is_left_out_unless_it_is_a_class(tmp_path, classes, first_id, options, label, left_out, said):
    photos, labels, _ = write_pair(tmp_path)
    Image.new("L", (4, 3), 255).save(labels / "a.png")
    names = [[f"thing {index}"] for index in range(classes)]
    data = open_folders(photos, labels, names, first_id=first_id, **options)
    assert (data.example(0).labels == label).all()
    assert data.left_out == left_out
    assert data.about.startswith(f"1 images in {photos}, labels in {labels}{said}")
    assert said or data.about.endswith("labels")


def write_pair(folder, photo="a.jpg", label="a.png"):
    for name, file in (("photos", photo), ("labels", label)):
        (folder / name).mkdir(exist_ok=True)
        Image.new("L", (4, 3)).save(folder / name / file)
    return folder / "photos", folder / "labels", [["cat"], ["dog"]]


def test_hidden_files_and_dangling_links_are_neither_photos_nor_labels(tmp_path):
    """macOS leaves ._a.png beside a.png on foreign disks."""
    arguments = write_pair(tmp_path)
    for name in ("photos/._a.jpg", "labels/._a.png", "labels/._b.png", "labels/.hidden.tif"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (tmp_path / "labels" / "c.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "labels" / "d.png").mkdir()
    assert open_folders(*arguments).count == 1
    write_regions(tmp_path / "maps" / "a.npz", np.zeros((3, 4), int))
    (tmp_path / "maps" / "._a.npz").write_bytes(b"\0\5\x16\7")
    (tmp_path / "maps" / "._a.png").write_bytes(b"\0\5\x16\7")
    assert with_region_files(open_folders(*arguments), tmp_path / "maps").example(0).regions.shape == (3, 4)


def test_region_maps_of_very_long_names_are_found_as_they_were_written(tmp_path):
    """Their names are cut where the suffix would make them too long."""
    arguments = write_pair(tmp_path)
    stem = "x" * 251
    for folder, suffix in (("photos", ".jpg"), ("labels", ".png")):
        (tmp_path / folder / f"a{suffix}").rename(tmp_path / folder / f"{stem}{suffix}")
    for number, suffix in enumerate((".npz", ".json", ".PNG")):
        name = region_file_name(tmp_path / f"{stem}.jpg", suffix.lower())
        (tmp_path / "maps" / name).unlink(missing_ok=True)
        write_regions(tmp_path / f"{number}" / name, np.full((3, 4), number))
        (tmp_path / f"{number}" / name).rename(tmp_path / f"{number}" / Path(name).with_suffix(suffix))
        data = with_region_files(open_folders(*arguments), tmp_path / f"{number}")
        assert np.unique(data.example(0).regions).tolist() == [number]


def test_hidden_files_in_a_published_tree_are_left_out(tmp_path):
    write_tree("potsdam", tmp_path)
    count = open_benchmark("potsdam", tmp_path).count
    for name in ("img_dir/val/._p1.png", "ann_dir/val/._p1.png", "img_dir/val/._q.png"):
        (tmp_path / "potsdam" / name).write_bytes(b"\0\5\x16\7")
    assert open_benchmark("potsdam", tmp_path).count == count


def test_two_files_of_one_stem_are_named(tmp_path):
    arguments = write_pair(tmp_path)
    Image.new("L", (4, 3)).save(tmp_path / "labels" / "a.tif")
    with pytest.raises(DatasetError, match=r"label files of one stem .*a\.png, .*a\.tif\. Keep one"):
        open_folders(*arguments)
    (tmp_path / "labels" / "a.tif").unlink()
    Image.new("L", (4, 3)).save(tmp_path / "photos" / "a.png")
    with pytest.raises(DatasetError, match=r"photos of one stem .*a\.jpg, .*a\.png"):
        open_folders(*arguments)
    (tmp_path / "photos" / "a.png").unlink()
    for suffix in ("npz", "png"):
        write_regions(tmp_path / "maps" / f"a.{suffix}", np.zeros((3, 4), int))
    with pytest.raises(DatasetError, match=r"several region maps of one picture: a\.npz, a\.png"):
        with_region_files(open_folders(*arguments), tmp_path / "maps")


@pytest.mark.parametrize(
    ("benchmark", "titles"),
    [
        ("voc21", {0: "background", 4: "boat", 11: "diningtable", 15: "person"}),
        ("voc20", {0: "aeroplane", 3: "boat", 10: "diningtable", 14: "person"}),
        ("coco_object", {0: "background", 1: "person"}),
        ("coco_stuff", {0: "person"}),
    ],
)
def test_classes_have_the_data_sets_own_names(tmp_path, benchmark, titles):
    write_tree(benchmark, tmp_path)
    data = open_benchmark(benchmark, tmp_path)
    assert {index: data.class_names[index] for index in titles} == titles
    assert len(set(data.class_names)) == len(data.classes)
    assert data.class_names[2] in data.classes[2], "all others are named by their first word"


def test_files_are_marked_by_their_content(tmp_path):
    arguments = write_pair(tmp_path)
    before = content_marks(open_folders(*arguments))
    assert list(before) == ["photos", "labels"]
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: ["copy"])
    assert content_marks(open_folders(tmp_path / "copy/photos", tmp_path / "copy/labels", [["a"]])) == before
    Image.new("L", (4, 3), 1).save(tmp_path / "labels" / "a.png")
    done = []
    after = content_marks(open_folders(*arguments), done.append)
    assert (after["photos"], done) == (before["photos"], [1])
    assert after["labels"] != before["labels"]
    assert content_marks(TOY)["photos"] == [content_marks(TOY)["photos"][0]] * 3


def test_a_label_file_of_another_size_is_told(tmp_path):
    write_tree("potsdam", tmp_path)
    Image.new("L", (40, 31)).save(tmp_path / "potsdam" / "ann_dir" / "val" / "p1.png")
    data = open_benchmark("potsdam", tmp_path)
    with pytest.raises(LabelError, match=r"p1\.png is 40x31 pixels large, its photo .*p1\.png 40x30"):
        data.example(1)


# --- parts of data sets, and regions from files ---

TOY = Dataset(
    "toy", (("cat",),), 3, lambda index: Example(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.int32))
)


def test_the_first_pictures_can_be_taken():
    assert first(TOY, None) is TOY
    assert first(TOY, 2).count == 2
    with pytest.raises(DatasetError, match=r"count must be 1 to 3, the images of toy\. Got 4"):
        first(TOY, 4)


def test_region_maps_come_from_files_by_stem(tmp_path):
    for index in range(3):
        write_regions(tmp_path / f"{index}.npz", np.full((2, 3), index))
    data = with_region_files(TOY, tmp_path)
    assert [np.unique(data.example(index).regions).tolist() for index in range(3)] == [[0], [1], [2]]
    (tmp_path / "1.npz").unlink()
    write_regions(tmp_path / "1.png", np.full((2, 3), 5))
    assert np.unique(with_region_files(TOY, tmp_path).example(1).regions).tolist() == [5]
    (tmp_path / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"lacks the region maps of 1 of the 3 images of toy: 1\.npz"):
        with_region_files(TOY, tmp_path)
