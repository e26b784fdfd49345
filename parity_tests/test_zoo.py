"""The U-Nets of other repositories against their own code: milesial's, bigmb's, UNET-ZOO's, bubbliiiing's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import FOLDER, ZooGolden
from segtwin import noise, oracle
from zoo import GOLDENS, ONE_EACH, computed, errors

from engines import TWINS, made

TRAINING = sorted((FOLDER / "zoo").glob("*trainfwd*.npz"))


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
@pytest.mark.parametrize("framework", TWINS)
def test_every_stored_blob_is_the_originals(golden: ZooGolden, framework: str) -> None:
    blobs = computed(framework, golden)
    assert list(blobs) == list(golden.architecture.blobs)
    found = errors(golden, blobs)
    assert max(found.values()) < noise.BOUND, found
    for key in ("out", "logits", "out4"):  # the files thin out large blobs; sums cover the rest
        if f"{key}_sum" in golden.file:
            blob = blobs[golden.source(key)].astype(np.float64)
            bound = np.abs(blob).sum(axis=(2, 3)).max() * (1e-3 if golden.architecture.name == "segnet" else 1e-5)
            np.testing.assert_allclose(blob.sum(axis=(2, 3)), golden.file[f"{key}_sum"], rtol=0, atol=bound)


@pytest.mark.parametrize("golden", ONE_EACH, ids=str)
def test_the_twins_are_the_oracle_in_float64(golden: ZooGolden) -> None:
    truth = oracle.run(golden.architecture, golden.weights, golden.data)
    for framework in TWINS:
        blobs = computed(framework, golden, "float64")
        for name, want in truth.items():
            assert oracle.relative_error(blobs[name], want) < 1e-12, (framework, name)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
@pytest.mark.parametrize("framework", TWINS)
def test_training_normalises_and_counts_as_the_original(framework: str, path: Path) -> None:
    """One forward pass in training mode, in float64: outputs, running statistics, and how often they were moved."""
    golden = ZooGolden(path)
    network = made(framework, golden.architecture.name, golden.weights, "float64")
    data = golden.data.astype(np.float64)
    if framework == "torch":
        got = network.train()(torch.from_numpy(data)).detach().numpy()
    else:
        got = network(data.transpose(0, 2, 3, 1).copy(), training=True).numpy().transpose(0, 3, 1, 2)
    assert oracle.relative_error(got, golden.file["out"]) < 1e-9
    after = TWINS[framework].read_weights(network)
    kept = [key for key in golden.file.files if key.startswith("stat/")]
    assert len(kept) == sum("running" in key for key in after)
    for key in kept:
        assert oracle.relative_error(after[key.removeprefix("stat/")], golden.file[key]) < 1e-9, key
    for key, count in golden.meta["num_batches_tracked"].items():
        assert after[key] == count, key
