"""Provider ``hashing-not-a-model``: deterministic, pinned by its parameters, and fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate.errors import DigestMismatch
from tests.embedders.handmade_models import TEXTS, identify, load

HASHING: dict[str, Any] = {"provider": "hashing-not-a-model", "dimensions": 20}


def test_vectors_are_golden_for_ever(tmp_path: Path) -> None:
    found = load(tmp_path, **HASHING, name="golden").embed_documents(["red", "grün"])
    expected = [
        [0.3595534, 0.14893635, 0.27530658, -0.2000862],
        [0.12599248, -0.18659645, 0.26314884, -0.04944009],
    ]
    np.testing.assert_allclose(found[:, :4], expected, atol=1e-6)
    assert identify(tmp_path, **HASHING).fingerprint == "56dd2fc9e05e8cbb2ff8bea09e3bee67"


def test_every_process_gets_the_same_vectors(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from tests.embedders.handmade_models import load, TEXTS
sys.stdout.buffer.write(load(Path("."), **{HASHING!r}).embed_documents(TEXTS).tobytes())
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {load(tmp_path, **HASHING).embed_documents(TEXTS).tobytes()}


@pytest.mark.parametrize("dimensions", [1, 7, 8, 384])
def test_vectors_are_unit_vectors_of_any_dimension(tmp_path: Path, dimensions: int) -> None:
    declaration = {**HASHING, "dimensions": dimensions}
    vectors = load(tmp_path, **declaration).embed_documents([*TEXTS, ""])
    assert vectors.shape == (len(TEXTS) + 1, dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_equal_texts_are_equal_and_different_ones_nearly_orthogonal(tmp_path: Path) -> None:
    embedder = load(tmp_path, **{**HASHING, "dimensions": 384})
    texts = [f"text {number}" for number in range(500)]
    vectors = embedder.embed_documents(texts)
    assert np.array_equal(vectors, embedder.embed_queries(texts))
    similarity = vectors @ vectors.T - np.eye(len(texts))
    assert np.abs(similarity).max() < 0.35
    assert abs(float(similarity.mean())) < 0.01


def test_seed_and_dimensions_are_the_identity_and_the_delay_is_not(tmp_path: Path) -> None:
    model = identify(tmp_path, **HASHING)
    assert identify(tmp_path, **HASHING, delay_ms=5) == model
    for other in ({**HASHING, "seed": 1}, {**HASHING, "dimensions": 21}):
        assert identify(tmp_path, **other).fingerprint != model.fingerprint
    with pytest.raises(DigestMismatch):
        load(tmp_path, model, **HASHING, seed=1)


def test_a_delay_slows_every_call_down(tmp_path: Path) -> None:
    embedder = load(tmp_path, **HASHING, delay_ms=30)
    start = time.perf_counter()
    embedder.embed_documents(["a"])
    embedder.embed_queries(["a"])
    assert time.perf_counter() - start >= 0.06
