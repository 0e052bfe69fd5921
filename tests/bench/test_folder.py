"""`bench.folder`: which photos and windows it counts; nothing here looks at how long anything took."""

import re
import sys

import pytest
from small_models import small_model

from corrclip_jax.bench import folder
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.photos import PhotoError, photo_size


def test_sizes_come_round_again(tmp_path):
    paths = folder.write(tmp_path / "photos", [(20, 30), (25, 15)], 3)
    assert [photo_size(path) for path in paths] == [(20, 30), (25, 15), (20, 30)]


@pytest.mark.slow
def test_both_folders_are_labelled_and_their_windows_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder, "EQUAL", ((60, 60),))
    monkeypatch.setattr(folder, "MIXED", ((60, 60), (60, 90)))
    model = str(small_model(tmp_path))
    monkeypatch.setattr(sys, "argv", ["folder", "--model", model, "--regions", "none", "--photos", "1", "2"])
    folder.main()
    lines = capsys.readouterr().out.splitlines()
    found = [
        re.match(r"(\d) photos, (\w+) sizes, 1 devices.* ([\d.]+) windows a photo", line) for line in lines
    ]
    counted = [match.groups() for match in found if match]
    # 60 x 90 is 112 x 168 resized: two windows.
    assert counted == [
        ("1", "equal", "1.00"),
        ("1", "mixed", "1.00"),
        ("2", "equal", "1.00"),
        ("2", "mixed", "1.50"),
    ]
    assert sum("mixed sizes reach" in line for line in lines) == 2


def test_a_photo_that_fails_is_no_measurement(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no")
    with pytest.raises(RuntimeError, match=r"broken\.jpg could not be labelled") as caught:
        folder.label(Segmenter(small_model(tmp_path), regions="none"), [tmp_path / "broken.jpg"])
    assert isinstance(caught.value.__cause__, PhotoError)
