"""`corrclip prepare`: what it writes, keeps and refuses."""

import numpy as np
import pytest
from command_line import corrclip
from PIL import Image

from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.hub.presets import PRESETS


def prepare(*arguments: object):
    return corrclip("prepare", *arguments)


def write_map(path, *ids: int) -> None:
    Image.fromarray(np.array([ids], np.uint8)).save(path)


def test_label_files_are_made_once_beside_their_maps(tmp_path):
    write_map(tmp_path / "1.png", 0, 90 - 1, 255)
    write_map(tmp_path / "2.png", 91, 181, 0)
    first = prepare("coco_object", "--maps", tmp_path, "--out", tmp_path)
    assert first.exit_code == 0, first.output
    assert "2 label files written" in first.stderr
    assert np.array(Image.open(tmp_path / "1_instanceTrainIds.png")).tolist() == [[1, 80, 0]]
    assert np.array(Image.open(tmp_path / "2_instanceTrainIds.png")).tolist() == [[0, 0, 1]]
    again = prepare("coco_object", "--maps", tmp_path, "--out", tmp_path)
    assert again.exit_code == 0, "what was made is not taken for a map"
    assert "0 label files written" in again.stderr
    assert "2 existed" in again.stderr


def test_a_map_that_is_none_is_named_and_the_others_are_made(tmp_path):
    write_map(tmp_path / "1.png", 0)
    write_map(tmp_path / "2.png", 190)
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "._1.png").write_bytes(b"\0\5\x16\7")  # macOS leaves these; they are no maps
    found = prepare("coco_stuff", "--maps", tmp_path, "--out", tmp_path / "out")
    assert found.exit_code == 1
    assert "2.png: COCO-Stuff's raw maps hold no 190" in found.stderr
    assert "3.png is no picture of a known kind" in found.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1_labelTrainIds.png"]


def test_a_folder_without_maps_is_refused(tmp_path):
    found = prepare("coco_stuff", "--maps", tmp_path, "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert "is no folder with PNG files" in found.stderr


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_an_embedded_model_needs_no_preparation(name):
    found = prepare(name)
    assert found.exit_code == 2
    assert (
        f"nothing to prepare for {name!r}. Name one of {', '.join(PRESETS)}, coco_object, coco_stuff."
        in found.stderr
    )
