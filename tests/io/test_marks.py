"""Digests of files."""

import hashlib

from corrclip_jax.io.marks import file_digest


def test_sha256_is_the_files(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
