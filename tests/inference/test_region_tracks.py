"""Region tracks: ids that last, and labels by vote."""

import numpy as np
import pytest

from corrclip_jax.datasets.scenes.moving import moving_scene
from corrclip_jax.inference.region_tracks import RegionTracks
from corrclip_jax.inference.segmentation import Segmentation


def frame(regions, labels):
    regions, labels = np.asarray(regions, np.int32), np.asarray(labels, np.int32)
    photo = np.zeros((*regions.shape, 3), np.uint8)
    scores = np.zeros(regions.shape, np.float32)
    return Segmentation(photo, labels, scores, regions, (("a",), ("b",), ("c",)), 0.0, False)


def square(left, id, side=6, size=(10, 24)):
    regions = np.zeros(size, np.int32)
    regions[2 : 2 + side, left : left + side] = id
    return regions


def test_regions_that_move_keep_their_ids_whatever_the_model_calls_them():
    tracks = RegionTracks(3, "slic")
    ids = []
    for step in range(6):
        regions = square(2 + step, 9 - step) + square(14, 20 + step)
        ids.append(tracks(frame(regions, np.zeros(regions.shape))).regions)
    assert [set(np.unique(one)) for one in ids] == [{0, 1, 2}] * 6
    for step, one in enumerate(ids):
        assert ((one == one[4, 4 + step]) == (square(2 + step, 1) == 1)).all()
        assert one[4, 4 + step] == ids[0][4, 4]
        assert one[4, 16] == ids[0][4, 16]


def test_tracks_lessen_flicker_where_things_move():
    rng = np.random.default_rng(0)
    truth, before, after = [], [], []
    tracks = RegionTracks(3, "slic")
    for scene in moving_scene(0, 15, (84, 84), 2):
        right = np.where(scene.instances < 3, 0, scene.instances - 2)
        wrong = rng.random(3) < 0.2
        labels = np.where(wrong[right], (right + 1) % 3, right)
        truth.append(right)
        before.append(labels)
        after.append(tracks(frame(scene.instances, labels)).labels)
    truth, before, after = map(np.array, (truth, before, after))
    still = truth[1:] == truth[:-1]

    def flicker(labels):
        return ((labels[1:] != labels[:-1]) & still).sum()

    assert flicker(after) < flicker(before) / 2
    assert (after == truth).mean() > (before == truth).mean() + 0.05


@pytest.mark.parametrize("patience", [0, 2])
def test_a_region_keeps_its_id_and_votes_while_it_is_gone_for_a_few_frames(patience):
    tracks = RegionTracks(3, "slic", patience=patience)
    there, empty = square(2, 1), square(2, 0)
    for _ in range(4):
        first = tracks(frame(there, there * 2))
    for gap in range(4):
        for _ in range(gap):
            tracks(frame(empty, empty))
        again = tracks(frame(square(3, 7), square(3, 0)))
        is_known = gap <= patience
        expected = first.regions.max() if is_known else first.regions.max() + 1
        assert again.regions.max() == expected, gap
        if not is_known:
            assert again.labels.max() == 0, "its votes are forgotten"
            return
        assert again.labels.max() == 2
        for _ in range(3):
            tracks(frame(there, there * 2))
    raise AssertionError("patience has an end")


def test_an_id_is_not_given_twice_when_a_region_that_was_gone_comes_back():
    tracks = RegionTracks(3, "slic")
    tracks(frame(square(2, 1) + square(14, 2), square(2, 0)))
    tracks(frame(square(14, 5), square(2, 0)))
    found = tracks(frame(square(2, 8) + square(14, 9), square(2, 0))).regions
    assert (found[4, 4], found[4, 16]) == (1, 2)
    tracks(frame(square(2, 1), square(2, 0)))
    tracks(frame(square(8, 1), square(2, 0)))  # somewhere else: new
    found = tracks(frame(square(8, 1) + square(16, 4), square(2, 0))).regions
    assert (found[4, 10], found[4, 18]) == (3, 2)


def test_pairs_are_taken_in_the_order_of_their_overlap():
    tracks = RegionTracks(3, "slic")
    tracks(frame([[1, 1, 1, 1, 2, 2]], [[0] * 6]))
    found = tracks(frame([[5, 5, 5, 6, 6, 6]], [[0] * 6])).regions
    assert found.tolist() == [[1, 1, 1, 2, 2, 2]]


def test_one_wrong_frame_does_not_change_a_label_and_a_lasting_change_does():
    tracks = RegionTracks(3, "slic", decay=0.8)
    regions = square(2, 1)
    seen = []
    for label in [1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2]:
        result = tracks(frame(regions, regions * label))
        assert (result.labels == result.labels.max() * (regions > 0)).all()  # the rest stays 0
        seen.append(int(result.labels.max()))
    assert seen[:7] == [1] * 7
    assert seen[-1] == 2


def test_the_parts_of_a_region_that_falls_apart_take_over_its_votes():
    tracks = RegionTracks(3, "slic")
    for _ in range(5):
        tracks(frame([[1, 1, 1, 1, 1, 1]], [[2] * 6]))
    found = tracks(frame([[1, 1, 1, 1, 2, 2]], [[2, 2, 2, 2, 0, 0]]))
    assert found.regions.tolist() == [[1, 1, 1, 1, 2, 2]]
    assert found.labels.tolist() == [[2] * 6]


def test_frames_of_another_size_begin_anew():
    tracks = RegionTracks(3, "slic")
    tracks(frame([[1, 1]], [[2, 2]]))
    found = tracks(frame([[1, 1, 1]], [[0, 0, 0]]))
    assert found.labels.tolist() == [[0, 0, 0]]
    assert found.regions.tolist() == [[2, 2, 2]]


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ValueError, match="Choose a source"):
        RegionTracks(3, "none")
    with pytest.raises(ValueError, match=r"Got 0\.3, 1\.0 and 3"):
        RegionTracks(3, "slic", decay=1.0)
