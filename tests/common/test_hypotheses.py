"""The catalogue of mistakes: every entry does something, where it says, and is told from the others by its key."""

import numpy as np
import pytest
import segtwin_weights
from segtwin.architectures import get_architecture, list_architectures
from segtwin.hypotheses import DATA, Case, Values, hypotheses


@pytest.mark.parametrize("network", list_architectures())
def test_every_mistake_changes_the_output(network: str) -> None:
    architecture = get_architecture(network)
    widths = [4 + number for number in range(len(architecture.widths))] or None
    weights = dict(segtwin_weights.initialize(network, widths=widths, seed=1))
    random = np.random.default_rng(2)
    for name, blob in weights.items():
        if blob.dtype.kind == "f" and not blob.any():
            weights[name] = random.standard_normal(blob.shape).astype(np.float32)
    catalogue = hypotheses(architecture, weights, architecture.preprocessing, architecture.in_channels)
    assert len({one.key for one in catalogue}) == len(catalogue)
    # without BatchNorm, sigmoid, Caffe's padding and crops there is less to get wrong
    assert len({one.id for one in catalogue}) >= (35 if network == "vgg16-unet" else 40)
    names = {layer.name for layer in architecture.layers} | {DATA}
    height, width = architecture.example_size
    data = random.standard_normal((1, architecture.in_channels, height, width)).astype(np.float32) * 50
    base = Values(Case(architecture, weights), data)
    assert base[architecture.output].any()
    for one in catalogue[:: 1 if network == "fcn8s" else 11]:
        assert set(one.layers) <= names, one.key
        assert one.text, one.key
        values = base.of(one.apply(base.case), one.layers)
        first = next((name for name in one.layers if name != DATA), architecture.output)
        for layer in architecture.layers:
            if layer.name in one.layers or DATA in one.layers:
                break
            assert values[layer.name] is base[layer.name], one.key
        assert values.get(first) is not base[first], one.key
