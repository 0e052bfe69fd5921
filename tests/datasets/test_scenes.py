"""Generated scenes: deterministic, exactly labelled, and without what training must never show."""

from itertools import pairwise

import numpy as np
import pytest

from corrclip_jax.datasets.scenes import captions, generate, shapes, textures, words
from corrclip_jax.datasets.scenes.generate import FIRST_THING, Thing
from corrclip_jax.datasets.scenes.moving import moving_scene


@pytest.fixture(scope="module")
def drawn():
    return [generate.train_scene(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def crops():
    return [generate.train_crop(seed) for seed in range(120)]


def test_a_seed_always_gives_the_same_scene(drawn):
    again = generate.train_scene(3)
    assert np.array_equal(again.image, drawn[3].image)
    assert np.array_equal(again.instances, drawn[3].instances)
    assert again.things == drawn[3].things
    assert not np.array_equal(drawn[3].image, drawn[4].image)


def test_splits_differ_though_their_seeds_are_equal(drawn):
    assert not np.array_equal(generate.val_scene(0).image, drawn[0].image)
    assert not np.array_equal(generate.val_scene(0).image, generate.unseen_scene(0).image)


def test_the_validation_split_is_the_recorded_one():
    first = generate.val_scene(0)
    assert first.areas == ("brick",)
    assert first.things == (
        Thing("flower", "red", "shiny"), Thing("moon", "red", "shiny"), Thing("flower", "green", "shiny")
    )  # fmt: skip
    assert first.image.mean((0, 1)) == pytest.approx([159.0, 85.6, 71.6], abs=0.5)
    assert (first.instances >= FIRST_THING).mean() == pytest.approx(0.1011, abs=0.001)
    sizes = {generate.val_scene(index).image.shape for index in range(4)}
    assert sizes == {(168, 168, 3), (168, 224, 3), (216, 168, 3)}


@pytest.mark.parametrize(("split", "count"), [("val", 200), ("unseen", 100)])
def test_a_split_ends(split, count):
    with pytest.raises(ValueError, match=f"0 to {count - 1}"):
        getattr(generate, f"{split}_scene")(count)


def test_training_never_shows_what_is_held_out(drawn, crops):
    for scene in (*drawn, *crops):
        for thing in scene.things:
            assert (thing.colour, thing.shape) not in words.HELD_OUT_PAIRS
            for area in scene.areas:
                assert (thing.material, area) not in words.HELD_OUT_MATERIALS
                assert (thing.colour, area) not in words.INVISIBLE


def test_unseen_scenes_hold_unseen_pairs_alone():
    for index in range(10):
        scene = generate.unseen_scene(index)
        assert {(thing.colour, thing.shape) for thing in scene.things} <= set(words.HELD_OUT_PAIRS)
        assert scene.unseen_labels.min() >= 0
        assert scene.unseen_labels.max() < len(words.UNSEEN_CLASSES)


def test_every_colour_and_every_shape_is_seen_and_held_out():
    for position, names in enumerate((words.COLOURS, words.SHAPES)):
        counts = [sum(pair[position] == name for pair in words.HELD_OUT_PAIRS) for name in names]
        assert min(counts) >= 1
        assert max(counts) <= 2
    materials = {material for material, _ in words.HELD_OUT_MATERIALS}
    assert materials == set(words.MATERIALS) - {"plain"}
    assert {area for _, area in words.HELD_OUT_MATERIALS} == set(words.BACKGROUNDS)


def test_instances_are_the_areas_and_every_thing_is_visible(drawn):
    for scene in drawn:
        ids = set(np.unique(scene.instances).tolist())
        assert ids <= {1, 2, *range(FIRST_THING, FIRST_THING + len(scene.things))}
        assert {FIRST_THING + index for index in range(len(scene.things))} <= ids
        assert 3 <= len(scene.things) <= 10
        sizes = np.bincount(scene.instances.reshape(-1))[FIRST_THING:]
        assert sizes.min() >= 0.5 * 120


def test_labels_follow_from_instances(drawn):
    names = [entry[0] for entry in words.CLASSES]
    for scene in drawn[:5]:
        for index, thing in enumerate(scene.things):
            found = np.unique(scene.labels[scene.instances == FIRST_THING + index])
            assert [names[label] for label in found] == [thing.shape]
        for index, area in enumerate(scene.areas):
            found = np.unique(scene.labels[scene.instances == 1 + index])
            assert [names[label] for label in found] in ([area], [])


def test_a_mask_is_where_the_thing_was_painted():
    cover, top, left = shapes.coverage("circle", 20.0, 0.7, 1.0, (50.0, 60.0))
    assert cover.sum() == pytest.approx(np.pi * 400, rel=0.02)
    y, x = np.argwhere(cover > 0.5).mean(0) + 0.5
    assert (y + top, x + left) == pytest.approx((50, 60), abs=0.3)


@pytest.mark.parametrize("shape", words.SHAPES)
def test_a_shape_fits_its_circle_and_turns_without_growing(shape):
    areas = [shapes.coverage(shape, 20.0, angle, 1.0, (40.5, 40.5))[0] for angle in (0.0, 1.0, 2.5)]
    sums = [area.sum() for area in areas]
    assert max(sums) <= 1.05 * min(sums)
    assert min(sums) > 300
    for cover in areas:
        edge = np.concatenate([cover[0], cover[-1], cover[:, 0], cover[:, -1]])
        assert edge.max() == 0


def test_a_ring_has_a_hole():
    cover, _, _ = shapes.coverage("ring", 20.0, 0.3, 1.0, (40.0, 40.0))
    assert cover[len(cover) // 2, len(cover) // 2] == 0


def test_a_larger_scale_draws_larger_things():
    small, large = (
        generate.draw(np.random.default_rng(7), (168 * k, 168 * k), (4, 4), areas=1, scale=float(k))
        for k in (1, 2)
    )
    sizes = [(scene.instances >= FIRST_THING).mean() for scene in (small, large)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.8)
    assert large.image.shape == (336, 336, 3)


def test_crops_hold_nothing_or_a_few_things(crops):
    counts = np.bincount([len(crop.things) for crop in crops], minlength=4)
    assert counts[0] > 0
    assert counts[1] > counts[2] > counts[3]
    assert {crop.image.shape for crop in crops} == {(56, 56, 3)}


def test_backgrounds_look_unlike_each_other():
    rng = np.random.default_rng(0)
    means = np.stack(
        [
            np.mean([textures.background(rng, name, 40, 40, 1.0).mean((0, 1)) for _ in range(4)], 0)
            for name in words.BACKGROUNDS
        ]
    )
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1) + 1e9 * np.eye(len(means))
    assert distances.min() > 15


def test_captions_use_every_name_of_every_class(crops):
    rng = np.random.default_rng(0)
    texts = " | ".join(
        captions.caption(captions.contents(crop), rng).text for crop in crops for _ in range(12)
    )
    for synonyms in (*words.CLASSES, *words.COLOURS.values(), *words.MATERIALS.values()):
        for name in synonyms:
            assert name in texts


def test_captions_come_in_many_wordings(crops):
    rng = np.random.default_rng(0)
    seen = captions.contents(next(crop for crop in crops if len(crop.things) == 2))
    assert len({captions.caption(seen, rng).text for _ in range(50)}) > 30


def test_bare_captions_say_neither_colour_nor_material(crops):
    rng, seen = np.random.default_rng(0), [captions.contents(crop) for crop in crops]
    said = {share: [captions.caption(part, rng, bare=share).facts for part in seen] for share in (0.0, 1.0)}
    assert {fact[:2] for facts in said[1.0] for fact in facts} == {(None, None)}
    assert len({fact[:2] for facts in said[0.0] for fact in facts}) > 10


def test_a_caption_is_true_of_its_own_picture(crops):
    rng = np.random.default_rng(0)
    seen = [captions.contents(crop) for crop in crops]
    said = [captions.caption(part, rng) for part in seen]
    true = captions.is_true([caption.facts for caption in said], [captions.facts(part) for part in seen])
    assert true.diagonal().all()
    assert true.mean() < 0.5


def test_truth_binds_colour_to_shape():
    seen = captions.Contents((Thing("star", "red", "plain"), Thing("moon", "blue", "striped")), ("sand",))
    said = [
        {("red", None, "star")}, {("blue", None, "star")}, {(None, "striped", "moon"), (None, None, "sand")},
        {("blue", "plain", "moon")}, {(None, None, "sky")},
    ]  # fmt: skip
    true = captions.is_true([frozenset(facts) for facts in said], [captions.facts(seen)])
    assert true[0].tolist() == [True, False, True, False, False]


def test_contents_of_a_box_are_what_lies_in_it():
    instances = np.ones((40, 40), np.int32)
    instances[:20, :20] = FIRST_THING
    instances[30:38, 30:38] = FIRST_THING + 1
    things = (Thing("star", "red", "plain"), Thing("moon", "blue", "striped"))
    scene = generate.Scene(np.zeros((40, 40, 3), np.uint8), instances, ("sand",), things)
    assert captions.contents(scene) == captions.Contents(things, ("sand",))
    assert captions.contents(scene, (0, 0, 16, 16)) == captions.Contents(things[:1], ())
    assert captions.contents(scene, (24, 24, 40, 40)) == captions.Contents(things[1:], ("sand",))
    assert captions.contents(scene, (20, 0, 30, 10)) == captions.Contents((), ("sand",))


def test_things_move_and_keep_their_looks():
    frames = list(moving_scene(0, 8, (84, 96), 2))
    assert [frame.image.shape for frame in frames] == [(84, 96, 3)] * 8
    assert len({frame.things for frame in frames}) == 1
    places = [np.argwhere(frame.instances == FIRST_THING + 1).mean(0) for frame in frames]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert 0 < steps.max() < 5
    for one, other in pairwise(frames):
        still = one.instances == other.instances
        assert 0.8 < still.mean() < 1
        assert 1 < np.abs(one.image.astype(int) - other.image)[still].mean() < 12  # noise
    again = list(moving_scene(0, 2, (84, 96), 2))
    assert np.array_equal(again[1].image, frames[1].image)
