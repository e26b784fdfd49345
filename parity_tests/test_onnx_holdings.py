"""ONNX files whose numbers lie in other fields than raw_data: onnx's own reader says what they are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin_weights
from onnx import TensorProto, helper, numpy_helper

VALUES = [1.0, -2.5, 0.15625, 3.0, -0.0078125, 96.0]


@pytest.mark.filterwarnings("ignore::segtwin.Converted")
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
def test_numbers_in_typed_fields(kind: str, tmp_path: Path) -> None:
    """float16 and bfloat16 lie in int32_data, as helper.make_tensor writes them."""
    tensor = helper.make_tensor("conv/weight", getattr(TensorProto, kind), [2, 3], VALUES)
    assert not tensor.raw_data
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "m.onnx")
    got = segtwin_weights.read(tmp_path / "m.onnx")["conv/weight"]
    np.testing.assert_array_equal(got.astype(np.float64), numpy_helper.to_array(tensor).astype(np.float64))
    np.testing.assert_array_equal(got.astype(np.float64), np.reshape(VALUES, (2, 3)))


def test_counters_in_int64_data(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor("bn.num_batches_tracked", TensorProto.INT64, [], [7]),
        helper.make_tensor("bn.weight", TensorProto.FLOAT, [1], [2.0]),
    ]
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], tensors)), tmp_path / "m.onnx")
    got = segtwin_weights.read(tmp_path / "m.onnx")["bn.num_batches_tracked"]
    assert (got.dtype, int(got)) == (np.dtype(np.int64), 7)
