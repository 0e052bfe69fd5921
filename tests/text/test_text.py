import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, Config, with_fields
from corrclip_jax.models.clip.model import TextTransformer
from corrclip_jax.text import encode
from corrclip_jax.text.classes import ClassNameWarning, normalise_classes, parse_classes, read_classes
from corrclip_jax.text.embedding import TextEmbedding, as_text_embedding, pad_queries, query_bucket
from corrclip_jax.text.encode import embed_text, encode_prompts
from corrclip_jax.text.templates import TEMPLATES
from corrclip_jax.text.tokenizer import Tokenizer, Vocabulary, alphabet

MERGES = [("t", "h"), ("th", "e</w>"), ("o", "f</w>"), ("p", "h"), ("ph", "o"), ("c", "a"), ("ca", "t</w>")]
TOKENS = [*alphabet(), *("".join(pair) for pair in MERGES), "<start_of_text>", "<end_of_text>"]
LENGTH = 40
CONFIG = Config(
    clip=CLIPConfig(
        embed_dim=12,
        text=CLIPTextConfig(vocab_size=len(TOKENS), context_length=LENGTH, width=16, heads=2, layers=1),
    )
)
TOWER = TextTransformer(CONFIG.clip, jnp.dtype("float32"))


@pytest.fixture(scope="module")
def tokenizer():
    ids = {token: index for index, token in enumerate(TOKENS)}
    return Tokenizer(Vocabulary(ids, MERGES, *TOKENS[-2:]))


@pytest.fixture(scope="module")
def params():
    tokens = jnp.zeros((1, LENGTH), jnp.int32)
    drawn = jax.jit(TOWER.init)(jax.random.key(3), tokens)["params"]
    return {"clip": {"text": drawn}}


@jax.jit
def apply(params, tokens):
    with jax.default_matmul_precision("highest"):
        return TOWER.apply({"params": params["clip"]["text"]}, tokens)


def reference(params, tokenizer, name):
    """A name's 80 prompts one by one, averages in float64."""
    total = 0
    for template in TEMPLATES:
        tokens = jnp.asarray(tokenizer([template.format(name)], LENGTH))
        vector = np.asarray(apply(params, tokens)[0], np.float64)
        total = total + vector / np.linalg.norm(vector)
    return total / np.linalg.norm(total)


def test_a_query_is_the_unit_mean_of_its_80_unit_embeddings(params, tokenizer):
    classes = ["cat", ["sky", "White  Cloud"]]
    embedded = embed_text(CONFIG, params, classes, tokenizer=tokenizer)
    expected = [reference(params, tokenizer, name) for name in ("cat", "sky", "white cloud")]
    np.testing.assert_allclose(embedded.features, expected, atol=2e-6)
    assert embedded.query_to_class.tolist() == [0, 1, 1]
    assert embedded.num_classes == 2
    assert (embedded.features.dtype, embedded.query_to_class.dtype) == (jnp.float32, jnp.int32)


def test_prompts_are_encoded_as_they_stand_whatever_their_number_and_length(params, tokenizer):
    short = [f"cat {number}!" for number in range(80)]
    middle = [f"the striped cat number {number}" for number in range(80)]
    long = ["the photo of the cat " * 20, "", "!" * 30]
    encoded = encode_prompts(CONFIG, params, short + middle + long, tokenizer=tokenizer)
    tokens = jnp.asarray(tokenizer(short + middle + long, LENGTH))
    expected = apply(params, tokens)
    np.testing.assert_allclose(encoded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    ends = tokens.argmax(axis=1)
    assert ends[:80].max() < 16 <= ends[80:160].max() < 32 <= ends[160:].max() == LENGTH - 1


def test_hundreds_of_classes_run_through_one_compiled_program(params, tokenizer):
    embedded = embed_text(CONFIG, params, [f"cat {n}" for n in range(300)], tokenizer=tokenizer)
    assert embedded.features.shape == (300, 12)
    assert embedded.num_classes == 300
    np.testing.assert_allclose(np.linalg.norm(embedded.features, axis=1), 1, atol=1e-5)
    alone = embed_text(CONFIG, params, ["cat 41"], tokenizer=tokenizer)
    np.testing.assert_array_equal(alone.features[0], embedded.features[41])
    encode_prompts(CONFIG, params, ["the photo of the cat " * 20], tokenizer=tokenizer)
    assert encode._compiled(CONFIG.clip, CONFIG.dtype, LENGTH)._cache_size() == 1


def test_bfloat16_stays_near_float32(params, tokenizer):
    half = embed_text(with_fields(CONFIG, dtype="bfloat16"), params, ["cat", "dog"], tokenizer=tokenizer)
    full = embed_text(CONFIG, params, ["cat", "dog"], tokenizer=tokenizer)
    assert half.features.dtype == jnp.float32
    np.testing.assert_allclose(half.features, full.features, atol=2e-2)


def test_the_configs_vocabulary_is_used_by_default(params, tokenizer, tmp_path):
    import gzip

    file = tmp_path / "vocabulary.txt.gz"
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    named = embed_text(with_fields(CONFIG, vocabulary=str(file)), params, ["cat"])
    np.testing.assert_array_equal(
        named.features, embed_text(CONFIG, params, ["cat"], tokenizer=tokenizer).features
    )


def test_no_vocabulary_says_how_to_give_one(params):
    with pytest.raises(ValueError, match=r"'custom' names no vocabulary.*vocabulary=path.*Tokenizer\.load"):
        embed_text(CONFIG, params, ["cat"])


def test_a_vocabulary_of_another_size_is_refused(params, tokenizer):
    config = with_fields(CONFIG, clip={"text": {"vocab_size": 49408}})
    with pytest.raises(ValueError, match=f"has {len(TOKENS)} tokens and this CLIP's text tower 49408"):
        embed_text(config, params, ["cat"], tokenizer=tokenizer)


def test_params_without_a_text_tower_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"must hold clip/text.*They hold dino"):
        embed_text(CONFIG, {"dino": {}}, ["cat"], tokenizer=tokenizer)


def test_texts_to_encode_must_be_a_list(params, tokenizer):
    for wrong in ("cat", []):
        with pytest.raises(ValueError, match="list of one text or more"):
            encode_prompts(CONFIG, params, wrong, tokenizer=tokenizer)


def test_a_bare_array_is_one_query_a_class():
    vectors = np.eye(3, 5)
    embedded = as_text_embedding(vectors)
    np.testing.assert_array_equal(embedded.features, vectors)
    assert embedded.features.dtype == jnp.float32
    assert embedded.query_to_class.tolist() == [0, 1, 2]
    assert embedded.num_classes == 3


def test_a_text_embedding_stays_as_it_is():
    given = TextEmbedding(jnp.eye(3, 5), jnp.asarray([0, 1, 1]), 2)
    embedded = as_text_embedding(given)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), given, embedded))
    assert embedded.num_classes == 2


@pytest.mark.parametrize(
    "wrong", [np.ones(4, np.float32), np.ones((1, 2, 3), np.float32), np.ones((2, 4), int), np.ones((0, 4))]
)
def test_arrays_that_are_no_text_embeddings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"floating-point, one row a query.*Got"):
        as_text_embedding(wrong)


@pytest.mark.parametrize("owner", [jnp.zeros(2, jnp.int32), jnp.zeros(3), jnp.zeros((3, 1), jnp.int32)])
def test_queries_and_classes_must_fit_together(owner):
    with pytest.raises(ValueError, match="one integer for each of the 3 queries"):
        as_text_embedding(TextEmbedding(jnp.ones((3, 4)), owner, 2))


@pytest.mark.parametrize(
    ("owner", "classes", "message"),
    [
        ([0, 1, 2], 2, r"0 to num_classes - 1 = 1, and -1 .*Got numbers from 0 to 2\."),
        ([-2, 0, 1], 2, r"Got numbers from -2 to 1\."),
        ([-1, -1, -1], 2, r"Got numbers from -1 to -1\."),
        ([0, 0, 2**32], 2, "Got numbers from 0 to 4294967296"),
        ([0, 0, 0], 0, r"num_classes must be 1 or more\. Got 0\."),
    ],
)
def test_queries_must_belong_to_classes_that_there_are(owner, classes, message):
    with pytest.raises(ValueError, match=message):
        as_text_embedding(TextEmbedding(np.ones((3, 4), np.float32), np.array(owner), classes))


def test_padding_and_classes_without_queries_are_allowed_and_traced_owners_not_looked_at():
    given = TextEmbedding(jnp.ones((3, 4)), jnp.array([2, 0, -1]), 8)
    assert as_text_embedding(given).query_to_class.tolist() == [2, 0, -1]
    assert jax.jit(lambda text: as_text_embedding(text).features.sum())(given) == 12


def test_padded_queries_do_not_compile_anew():
    traced = []

    @jax.jit
    def scores(text_emb):
        traced.append(text_emb.num_classes)
        return text_emb.features.sum(axis=1)

    for queries in (3, 5, 8):
        given = as_text_embedding(jnp.ones((queries, 4)))
        padded = pad_queries(given, query_bucket(queries))
        assert padded.features.shape == (8, 4)
        np.testing.assert_array_equal(padded.features[:queries], given.features)
        assert padded.query_to_class.tolist() == [*range(queries), *[-1] * (8 - queries)]
        assert scores(padded)[queries:].tolist() == [0] * (8 - queries)
    assert traced == [8]


def test_padding_to_less_than_there_is_is_refused():
    with pytest.raises(ValueError, match=r"at least 9 .*Got 8"):
        pad_queries(as_text_embedding(jnp.ones((9, 4))), 8)


def test_buckets_are_powers_of_two_then_multiples_of_64():
    sizes = {1: 8, 8: 8, 9: 16, 17: 32, 33: 64, 64: 64, 65: 128, 129: 192, 847: 896, 1000: 1024}
    assert {queries: query_bucket(queries) for queries in sizes} == sizes


def test_a_text_embedding_goes_through_jax_transformations():
    given = TextEmbedding(jnp.eye(3, 5), jnp.arange(3), 3)
    shapes = jax.eval_shape(lambda x: pad_queries(x, 8), given)
    assert shapes.features.shape == (8, 5)
    out = jax.vmap(lambda x, e: e.features @ x, in_axes=(0, TextEmbedding(None, None, 3)))(jnp.eye(5), given)
    assert out.shape == (5, 3)


def test_the_command_line_separates_classes_by_commas_and_synonyms_by_semicolons():
    assert parse_classes("cat, grass,  sky;White   cloud ") == [["cat"], ["grass"], ["sky", "White cloud"]]


def test_a_file_has_one_class_a_line_and_commas_belong_to_names(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffcat\r\n\r\nsky; cloud\r\n  \ndoor, double\nwood \nÉclair".encode())
    expected = [["cat"], ["sky", "cloud"], ["door, double"], ["wood"], ["Éclair"]]
    assert read_classes(file) == read_classes(str(file)) == expected


@pytest.mark.parametrize("nothing", ["", "  ", "\n"])
def test_no_classes_are_refused(nothing, tmp_path, params, tokenizer):
    (tmp_path / "classes.txt").write_text(nothing)
    for read in (
        lambda: parse_classes(nothing),
        lambda: read_classes(tmp_path / "classes.txt"),
        lambda: embed_text(CONFIG, params, [], tokenizer=tokenizer),
    ):
        with pytest.raises(ValueError, match="there are no classes"):
            read()


def test_empty_names_are_refused_with_their_place(tmp_path):
    with pytest.raises(ValueError, match="class 2 has an empty name"):
        parse_classes("cat, , dog")
    with pytest.raises(ValueError, match="class 3 has an empty name"):
        parse_classes("cat, dog,")
    with pytest.raises(ValueError, match="class 1 has an empty name"):
        normalise_classes([["cat", "&nbsp;"]])
    with pytest.raises(ValueError, match="class 2 has no name"):
        normalise_classes(["cat", []])
    (tmp_path / "classes.txt").write_text("cat\n\nsky;;cloud\n")
    with pytest.raises(ValueError, match=r"classes\.txt, line 3 has an empty name"):
        read_classes(tmp_path / "classes.txt")


def test_doubled_names_are_refused_with_both_places(tmp_path):
    with pytest.raises(ValueError, match="class 3 names 'Cat', as class 1 does"):
        parse_classes("cat, dog, Cat")
    with pytest.raises(ValueError, match="class 1 names 'cat', as class 1 does"):
        parse_classes("cat; cat")
    with pytest.raises(ValueError, match="class 2 names 'traffic   LIGHT', as class 1 does"):
        normalise_classes(["traffic light", ["lamp", " traffic   LIGHT"]])
    with pytest.raises(ValueError, match="class 2 names 'r&amp;b', as class 1 does"):
        normalise_classes(["r&b", "r&amp;b"])
    (tmp_path / "classes.txt").write_text("cat\n\ndog; cat\n")
    with pytest.raises(ValueError, match=r"classes\.txt, line 3 names 'cat', as .*classes\.txt, line 1 does"):
        read_classes(tmp_path / "classes.txt")


def test_all_faults_of_a_list_come_in_one_message():
    with pytest.raises(ValueError, match=r"class 2 has an empty name.*class 4 names 'cat'"):
        parse_classes("cat,,dog,cat")


def test_a_text_in_place_of_a_list_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"must be a list\. Got the text 'cat, dog', which parse_classes"):
        normalise_classes("cat, dog")


@pytest.mark.parametrize("classes", [["cat", [3]], [3], [b"cat"], {"cat": 1}, {"cat"}])
def test_a_name_that_is_no_text_and_a_list_without_order_are_refused(classes):
    with pytest.raises(TypeError):
        normalise_classes(classes)


def test_generators_are_lists_of_classes():
    made = (synonyms for synonyms in ("cat", (name for name in ("sky", "cloud"))))
    assert normalise_classes(made) == [["cat"], ["sky", "cloud"]]


def test_characters_without_width_are_no_part_of_a_name():
    assert normalise_classes(["\ufeffcat\u200b", "so\u00adfa", "\u200esky\u2060", "c\u200dd"]) == [
        ["cat"], ["sofa"], ["sky"], ["cd"],
    ]  # fmt: skip
    assert normalise_classes(["\u0645\u06cc\u200c\u062e\u0648"]) == [["\u0645\u06cc\u200c\u062e\u0648"]]
    with pytest.raises(ValueError, match=r"class 2 names 'cat.*', as class 1 does"):
        normalise_classes(["cat", "cat\u200b"])
    with pytest.raises(ValueError, match="class 1 has an empty name"):
        normalise_classes(["\u200b"])
    with pytest.raises(ValueError, match=r"class 1 names 'c\\x00at', which holds the character '\\x00'"):
        normalise_classes(["c\0at"])


def test_a_name_that_clip_reads_in_part_is_said(params, tokenizer):
    long = "a thing that " * 12
    with pytest.warns(
        ClassNameWarning, match=r"the class name 'a thing that .*of which CLIP reads 38: its end is"
    ):
        embed_text(CONFIG, params, ["cat", long], tokenizer=tokenizer)


def test_lines_of_the_command_line_are_classes():
    assert parse_classes("cat\ndog,\n\nsky; cloud\n") == [["cat"], ["dog"], ["sky", "cloud"]]
