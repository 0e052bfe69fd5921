"""Index files of faiss are read as they are; what is cut short, damaged or of another kind is one clear error."""

import numpy as np
import pytest
from faiss_files import (
    CENTROIDS,
    CODES,
    COUNT,
    IDS,
    LIST_OF,
    LISTS,
    PARTS,
    WIDTH,
    WORDS,
    flat,
    ivfpq,
    mapped,
    unit,
)

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.faiss_index import read_index


def read(tmp_path, content):
    (tmp_path / "a.faiss").write_bytes(content)
    return read_index(tmp_path / "a.faiss")


@pytest.mark.parametrize("sparse", [False, True])
def test_ivfpq(tmp_path, sparse):
    keys = read(tmp_path, mapped(ivfpq(sparse)))
    order = np.lexsort((IDS, LIST_OF))
    np.testing.assert_array_equal(keys.ids, IDS[order])
    np.testing.assert_array_equal(keys.codes, CODES[order])
    np.testing.assert_array_equal(keys.centroids, CENTROIDS)
    np.testing.assert_array_equal(keys.words, WORDS)
    np.testing.assert_array_equal(np.diff(keys.starts), np.bincount(LIST_OF, minlength=LISTS))
    decoded = CENTROIDS[LIST_OF] + WORDS[np.arange(PARTS), CODES].reshape(COUNT, WIDTH)
    np.testing.assert_allclose(keys.squares, np.square(decoded[order]).sum(1), rtol=1e-6)


def test_flat_keys_lie_in_the_rows_of_their_ids(tmp_path):
    vectors = unit()
    keys = read(tmp_path, mapped(flat(vectors)))
    np.testing.assert_array_equal(keys[IDS], vectors)
    assert len(keys) == IDS.max() + 1
    assert not keys[np.setdiff1d(np.arange(len(keys)), IDS)].any()


@pytest.mark.parametrize("content", [mapped(ivfpq()), mapped(ivfpq(sparse=True)), mapped(flat(unit()))])
def test_cut_anywhere_is_an_error(tmp_path, content):
    for length in sorted({0, 3, 4, 30, *range(0, len(content), 97), len(content) - 1}):
        with pytest.raises(BankError, match="cut short or damaged"):
            read(tmp_path, content[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"IxMp" + mapped(ivfpq())[4:], "has 'IxMp' at byte 0"),
        (b"PK\3\4" + bytes(100), "where 'IxM2' should be"),
        (mapped(b"IHNf" + flat(unit())[4:]), "of the kind 'IHNf'"),
        (mapped(ivfpq()) + b"x", "1 bytes too many"),
        (mapped(ivfpq(by_residual=0)), "codes of residuals are read"),
        (mapped(ivfpq(bits=4)), "8 bits are read"),
        (mapped(ivfpq(metric=0)), "one of L2 distances is read"),
        (mapped(ivfpq(), IDS[:-1]), "the number of keys is 20, and 19 would fit"),
        (mapped(ivfpq(), IDS * 0), "there twice"),
        (mapped(ivfpq(), IDS - 5), "negative"),
        (mapped(flat(unit()), width=9), "the width is 8, and 9 would fit"),
        (mapped(flat(2 * unit())), "not of unit length"),
        (mapped(flat(unit() * np.float32("nan"))), "not finite"),
        (mapped(ivfpq()).replace(b"full", b"fuul"), "'fuul'"),
        (mapped(ivfpq()).replace(b"IxFI", b"IxF2"), "has 'IxF2'"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, content, reason):
    with pytest.raises(BankError, match=reason):
        read(tmp_path, content)


def test_a_position_that_occurs_twice_is_an_error(tmp_path):
    content = mapped(ivfpq())
    lists = content.index(b"full") + 12 + 8 * LISTS
    first = lists + PARTS * int((LIST_OF == 0).sum())
    twice = content[:first] + content[first + 8 : first + 16] + content[first + 8 :]
    with pytest.raises(BankError, match="in two lists"):
        read(tmp_path, twice)
