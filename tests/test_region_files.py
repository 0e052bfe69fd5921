"""Region maps in files: what is written is read again, and every wrong file is named with its fault."""

import numpy as np
import pytest

from corrclip_jax.region_files import RegionError, as_regions, read_regions, region_file, write_regions


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
    np.savez(tmp_path / "code.npz", instance_mask=np.array([[{}]], object))
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
