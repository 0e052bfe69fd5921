"""Region maps in files: what is written is read again, and every wrong file is named with its fault."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.io.coco_rle import encode
from corrclip_jax.io.region_maps import (
    MAX_MASKS,
    SUFFIXES,
    RegionError,
    as_regions,
    from_annotations,
    read_masks,
    read_regions,
    region_file,
    to_annotations,
    write_regions,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_round_trip(tmp_path, dtype):
    regions = np.arange(12).reshape(3, 4).astype(dtype)
    write_regions(tmp_path / "a.npz", regions)
    out = read_regions(tmp_path / "a.npz", 3, 4)
    assert out.dtype == np.int32
    assert np.array_equal(out, regions)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_is_found_by_the_photos_stem(tmp_path):
    write_regions(tmp_path / "dog.v2.npz", np.zeros((1, 1), int))
    assert region_file(tmp_path, "/elsewhere/dog.v2.jpg") == tmp_path / "dog.v2.npz"
    with pytest.raises(RegionError, match=r"cat\.jpg has no region map: .*cat\.npz does not exist"):
        region_file(tmp_path, "cat.jpg")
    write_regions(tmp_path / "dog.v2.png", np.zeros((1, 1), int))
    with pytest.raises(
        RegionError, match=r"several region maps in .*: dog\.v2\.npz, dog\.v2\.png\. Keep one"
    ):
        region_file(tmp_path, "dog.v2.jpg")


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        (np.zeros((3, 5), int), r"\(3, 4\)\. Got \(3, 5\)\.$"),
        (np.zeros((4, 3), int), "swapped"),
        (np.zeros((1, 3, 4), int), r"Got \(1, 3, 4\)"),
        (np.zeros((3, 4), np.float32), "hold integers. It holds float32"),
        (np.zeros((3, 4), bool), "hold integers. It holds bool"),
        (np.full((3, 4), -1), "It holds -1 to -1"),
        (np.full((3, 4), 2**40), "31 bits"),
    ],
)
def test_maps_that_do_not_fit(tmp_path, regions, words):
    with pytest.raises(RegionError, match=words):
        as_regions(regions, 3, 4)
    np.savez(tmp_path / "a.npz", instance_mask=regions)
    with pytest.raises(RegionError, match=rf"a\.npz must .*{words}"):
        read_regions(tmp_path / "a.npz", 3, 4)


def test_files_that_hold_no_map(tmp_path):
    np.savez(tmp_path / "other.npz", masks=np.zeros((3, 4), int))
    np.save(tmp_path / "bare.npy", np.zeros((3, 4), int))
    np.savez(tmp_path / "code.npz", instance_mask=np.full((300, 400), None))
    write_regions(tmp_path / "whole.npz", np.random.default_rng(0).integers(0, 99, (300, 400)))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, words in {
        "gone.npz": "does not exist",
        "other.npz": "no array 'instance_mask'. It has: masks",
        "bare.npy": "bare array",
        "code.npz": "damaged|pickle",
        "cut.npz": "no readable",
        "flipped.npz": "damaged",
        "text.npz": "no readable",
        "empty.npz": "no readable",
        ".": "no readable",
    }.items():
        with pytest.raises(RegionError, match=words):
            read_regions(tmp_path / name, 300, 400)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ids", [[0], [7], [0, 1, 2], [3, 255], [0, 256, 65535]])
def test_every_kind_of_file_keeps_the_ids(tmp_path, suffix, ids):
    regions = np.random.default_rng(0).choice(ids, (13, 9)).astype(np.int32)
    write_regions(tmp_path / f"a{suffix}", regions)
    assert np.array_equal(read_regions(tmp_path / f"a{suffix}", 13, 9), regions)
    assert region_file(tmp_path, "somewhere/a.jpg") == tmp_path / f"a{suffix}"


def test_the_bits_of_a_png_are_those_that_its_ids_need(tmp_path):
    for most, mode in ((255, "P"), (256, "I;16")):
        write_regions(tmp_path / "a.png", np.array([[0, most]]))
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
    with pytest.raises(RegionError, match=r"at most 16 bits, the region map has 65536"):
        write_regions(tmp_path / "b.png", np.array([[65536]]))
    with pytest.raises(RegionError, match=r"ends in \.npz, \.png, \.json\. Got b\.tif"):
        write_regions(tmp_path / "b.tif", np.array([[1]]))
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("mode", ["1", "L", "I;16"])
def test_index_maps_of_other_programs(tmp_path, mode):
    regions = np.array([[0, 1, 1], [1, 0, 1]])
    types = {"1": bool, "L": np.uint8, "I;16": np.uint16}
    Image.fromarray(regions.astype(types[mode])).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
    assert np.array_equal(read_regions(tmp_path / "a.png", 2, 3), regions)


def test_masks_as_sam_writes_them_are_painted_by_area(tmp_path):
    masks = [np.zeros((6, 8), bool) for _ in range(3)]
    masks[0][:, :4], masks[1][1:3, 1:7], masks[2][5, 5] = True, True, True
    listed = [{"segmentation": encode(mask), "area": int(mask.sum()), "predicted_iou": 0.9} for mask in masks]
    wanted = np.zeros((6, 8), int)
    for id, mask in ((1, masks[2]), (2, masks[1]), (3, masks[0])):
        wanted[mask] = id
    for content in (listed, {"image": {"height": 6, "width": 8}, "annotations": listed}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert np.array_equal(read_regions(tmp_path / "a.json", 6, 8), wanted)
    (tmp_path / "a.json").write_text("[]")
    assert not read_regions(tmp_path / "a.json", 6, 8).any()


def test_what_is_written_of_a_mask():
    regions = np.zeros((5, 7), int)
    regions[1:4, 2:6] = 3
    (one,) = to_annotations(regions, {3: {"predicted_iou": 0.75}})
    assert (one["region"], one["area"], one["bbox"], one["predicted_iou"]) == (3, 12, [2, 1, 3, 2], 0.75)
    assert one["segmentation"]["size"] == [5, 7]
    assert np.array_equal(from_annotations([one], 5, 7), regions)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "no readable image"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "no readable image"),
        ("a.json", b"{", "no readable JSON"),
        ("a.json", b"{}", 'no "annotations"'),
        ("a.json", b"3", "expected a list of masks"),
        ("a.json", b"[{}]", "mask 0: an RLE mask is"),
        (
            "a.json",
            b'[{"segmentation": {"size": [4, 3], "counts": [12]}}]',
            r"size \(4, 3\), expected \(3, 4\)",
        ),
    ],
)
def test_pictures_and_lists_that_hold_no_map(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RegionError, match=rf"a\.(png|json).*{words}"):
        read_regions(tmp_path / name, 3, 4)


def test_a_photo_is_no_index_map(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(RegionError, match="an image in RGB, no index map"):
        read_regions(tmp_path / "a.png", 3, 4)
    with pytest.raises(RegionError, match=r"gone\.json does not exist"):
        read_regions(tmp_path / "gone.json", 3, 4)


def damaged_maps(folder):
    """Files that say they hold much more than the photo has, or that decoders fail on in their own ways."""
    header = io.BytesIO()
    described = {"descr": "<i8", "fortran_order": False, "shape": (10**7, 10**7)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        archive.writestr("instance_mask.npy", header.getvalue())
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    begin, end = small.getvalue()[:16], small.getvalue()[33:]
    size = struct.pack(">II", 30_000, 30_000) + small.getvalue()[24:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + size))
    (folder / "bomb.png").write_bytes(begin + size + checksum + end)
    mask = {"segmentation": {"size": [10**6, 10**6], "counts": [0, 10**12]}}
    (folder / "huge.json").write_text(json.dumps([mask]))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "folder.npz").mkdir()
    return ["huge.npz", "bomb.png", "huge.json", "deep.json", "folder.npz"]


def test_a_damaged_map_is_an_error_of_the_map_whatever_the_decoder_does(tmp_path):
    for name in damaged_maps(tmp_path):
        with pytest.raises(RegionError, match=rf"{name}"):
            read_regions(tmp_path / name, 3, 4)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 300])
def test_any_number_of_masks_is_read(tmp_path, count):
    masks = np.random.default_rng(0).random((count, 3, 4)) < 0.5
    np.savez(tmp_path / "a.npz", instance_mask=masks)
    assert np.array_equal(read_masks(tmp_path / "a.npz", 3, 4), masks)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((5, 4, 3), bool), r"masks of the photo's size, 3 x 4\. Got \(4, 3\)"),
        (np.zeros((MAX_MASKS + 1, 3, 4), bool), r"holds 4,097 masks; the limit is 4,096"),
        (np.zeros((5, 3, 4), np.uint8), r"the photo's size, .*Got \(5, 3, 4\)"),
        (np.zeros((4, 3), int), "swapped"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, stored, words):
    np.savez(tmp_path / "a.npz", instance_mask=stored)
    with pytest.raises(RegionError, match=rf"a\.npz .*{words}"):
        read_masks(tmp_path / "a.npz", 3, 4)


def test_masks_of_a_damaged_file_are_an_error_of_the_file(tmp_path):
    for name in damaged_maps(tmp_path):
        with pytest.raises(RegionError, match=rf"{name}"):
            read_masks(tmp_path / name, 3, 4)


def two_masks(**fields):
    """Two masks of 3 x 4 with further fields, a value for each."""
    masks = [np.arange(12).reshape(3, 4) < 5, np.arange(12).reshape(3, 4) >= 5]
    given = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)] or [
        {},
        {},
    ]
    return [{"segmentation": encode(mask), **one} for mask, one in zip(masks, given, strict=True)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (two_masks(image_id=(1, 2)), r"several images \(1, 2\), and a region map is of one photo"),
        ({"annotations": two_masks(image_id=("a", "b"))}, r"several images"),
        ({"images": [{"id": 1}, {"id": 2}], "annotations": two_masks(image_id=(1, 1))}, r"several images"),
        (two_masks(region=(3, 3)), r'2 masks have the "region" 3\. Give each mask a number of its own'),
        (two_masks(region=(True, True)), r'mask 0 has the "region" true, expected an integer'),
        (two_masks(region=(1, False)), r'mask 1 has the "region" false'),
    ],
)
def test_masks_that_would_be_merged_are_refused(tmp_path, content, words):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(RegionError, match=rf"a\.json is no region map .*{words}"):
        read_regions(tmp_path / "a.json", 3, 4)


def test_a_coco_file_of_one_image_is_a_region_map(tmp_path):
    content = {"images": [{"id": 7}], "annotations": two_masks(image_id=(7, 7), region=(9, 4))}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert np.unique(read_regions(tmp_path / "a.json", 3, 4)).tolist() == [4, 9]
