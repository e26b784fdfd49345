"""Checkpoints as training scripts leave them."""

import numpy as np
import segtwin_torch
import torch


def test_a_file_without_counters_loads(tmp_path) -> None:
    """torch before 0.4.1 counted no batches: the counters start at zero, every other number is the file's."""
    state = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), seed=1).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "old.pth")
    model = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), weights=tmp_path / "old.pth", seed=2)
    for name, value in model.state_dict().items():
        expected = old[name].numpy() if name in old else np.int64(0)
        np.testing.assert_array_equal(value.numpy(), expected)
