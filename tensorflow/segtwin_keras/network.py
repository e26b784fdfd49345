"""What every network here is: a Keras model that knows its architecture, its preprocessing and its metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras
from keras import KerasTensor, layers
from segtwin import Preprocessing
from segtwin.architectures import Architecture, families, get_architecture

from segtwin_keras.layers import LEFT_OUT


@keras.saving.register_keras_serializable("segtwin")
class Network(keras.Model):
    """Base class of the networks.

    `model.save` and `keras.models.load_model`, `copy.deepcopy` and pickling keep all of
    it: the configuration is the architecture's name and the arguments it was built with, from which its page builds
    it again.
    """

    architecture: Architecture
    """Set by `make`."""
    preprocessing: Preprocessing
    """How images become inputs: what the weights state, else the architecture's."""
    metadata: dict[str, Any]
    """What the weights state."""
    arguments: dict[str, Any]
    """Keyword arguments of its page."""
    aside: dict[str, KerasTensor]
    """Blobs that the output does not come from."""
    leaves_out: bool = True
    """Set by `leave_out_dead_zones`."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """N×H×W×classes of N×H×W×C."""
        token = LEFT_OUT.set(self.leaves_out)
        try:
            return super().call(inputs, training=training, mask=mask)
        finally:
            LEFT_OUT.reset(token)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.input.shape[-1]

    @property
    def pad(self) -> str | None:
        """ "reflect": images are mirrored to a size that fits."""
        return self.arguments.get("pad")

    def get_config(self) -> dict[str, Any]:
        """Architecture, arguments and what was changed after it was built: frozen layers, metadata, preprocessing."""
        base, variant = self.architecture.stored_name
        return {
            "name": self.name,
            "architecture": base,
            "variant": variant,
            "arguments": dict(self.arguments),
            "dtype": self.input.dtype,
            "trainable": self.trainable,
            "frozen": [layer.name for layer in self.layers if not layer.trainable],
            "metadata": dict(self.metadata),
            "preprocessing": self.preprocessing.asdict(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Network:
        """The network of a configuration of `get_config`, with weights that are not yet loaded."""
        architecture = get_architecture(config["architecture"])
        if config["variant"] is not None:
            architecture = architecture.variants[config["variant"]]
        arguments = {key: tuple(one) if isinstance(one, list) else one for key, one in config["arguments"].items()}
        network = make(architecture, arguments, config["dtype"])
        network.metadata = dict(config["metadata"])
        network.preprocessing = Preprocessing(**config["preprocessing"])
        network.trainable = config["trainable"]
        for layer in network.layers:
            layer.trainable = layer.name not in config["frozen"]
        return network


Page = Callable[..., Network]
_networks: dict[str, Page] = {}


def register(name: str) -> Callable[[Page], Page]:
    """Decorator of the function that builds the network of that name in `segtwin.architectures`."""

    def decorate(page: Page) -> Page:
        _networks[name] = page
        return page

    return decorate


def make(architecture: Architecture, arguments: dict[str, Any], dtype: str) -> Network:
    """A network with the weights that its layers start with; its page is the module that has the name of its family.

    Raises:
        NotImplementedError: the architecture has no page here.
    """
    for family in families():
        if architecture.name not in _networks and find_spec(f"{__package__}.{family}") is not None:
            import_module(f"{__package__}.{family}")
    if architecture.name not in _networks:
        raise NotImplementedError(f"{architecture.name} has no page in {__package__}")
    with every_layer_in(dtype):
        network = _networks[architecture.name](**arguments)
    network.architecture, network.arguments = architecture, dict(arguments)
    network.preprocessing, network.metadata = architecture.preprocessing, {}
    return network


class every_layer_in:
    """Layers made inside compute and keep their weights in `dtype`. A policy set later would change nothing."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype)

    def __exit__(self, *_: object) -> None:
        keras.config.set_dtype_policy(self.before)


@contextmanager
def computed_in(network: Network, policy: str) -> Iterator[None]:
    """Inside, layers compute in what a policy says, as "mixed_bfloat16"; their variables stay as they are.
    What is traced inside stays so."""
    if policy == network.input.dtype:
        yield
        return
    before = [(layer, layer.dtype_policy) for layer in network.layers]
    try:
        for layer, _ in before:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, own in before:
            layer.dtype_policy = own


def leave_out_dead_zones(model: keras.Model, leave_out: bool = True) -> None:
    """Whether an FCN computes its borders once: rows and columns of blocks 1 to 3 that see padding alone are all
    the same (`segtwin.geometry.dead_zones`). Scores and gradients are the same numbers, but for roundings.

    Args:
        model: made by `build`; networks that do not pad by 100 pixels stay as they are.
        leave_out: True, as it is after `build`; False: the whole canvas is computed, as the original does.
            `blobs`, and models made of some of its layers, see whole blobs in any case. A `tf.function` that was
            traced before stays as it is.

    Raises:
        TypeError: the model is no network of `build`.
    """
    network = checked_network(model)
    network.leaves_out = leave_out
    network.train_function = network.test_function = network.predict_function = None  # traced anew


def explained(error: ValueError) -> ValueError:
    """The error itself, marked so that Keras does not wrap its one line into a page of its own."""
    error._keras_call_info_injected = True  # type: ignore[attr-defined]
    return error


@keras.saving.register_keras_serializable("segtwin")
class CheckSize(layers.Layer):
    """Refuses an image that the original cannot take. While a graph is traced its sizes are
    symbols, and not asked."""

    def __init__(self, architecture: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture

    def call(self, image: KerasTensor) -> KerasTensor:
        """`image` itself."""
        rows, columns = image.shape[1:3]
        if rows is not None and columns is not None:
            try:
                get_architecture(self.architecture).check_size(rows, columns)
            except ValueError as error:
                raise explained(error) from None
        return image

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "architecture": self.architecture}


def check_size(name: str, image: KerasTensor) -> KerasTensor:
    """A `CheckSize` layer."""
    return CheckSize(name, name="check_size")(image)


def checked_network(model: keras.Model) -> Network:
    """The model itself.

    Raises:
        TypeError: it is none of `build`.
    """
    if isinstance(model, Network) and not hasattr(model, "architecture"):
        raise TypeError("keras.models.clone_model keeps the layers alone; take copy.deepcopy(model)")
    if not isinstance(model, Network):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"{kind} is no network of segtwin_keras.build; give the model that was built or loaded here")
    return model
