"""Damaged archives end in one kind of error, whichever library under them broke."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pytest

from attn_export.errors import BundleError
from attn_export.untrusted import arrays


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_of_any_method_is_one_kind_of_error(tmp_path: Path, method: int) -> None:
    member = io.BytesIO()
    np.save(member, np.arange(2000.0))
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr("x.npy", member.getvalue())
    file = tmp_path / "x.npz"
    file.write_bytes(whole.getvalue())
    np.testing.assert_array_equal(arrays.read_npz(file)["x"], np.arange(2000.0))
    random, refused = Random(0), 0
    for _ in range(200):
        content = bytearray(whole.getvalue())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        file.write_bytes(content)
        try:
            arrays.read_npz(file, BundleError)
        except BundleError:
            refused += 1
    assert refused > 20
