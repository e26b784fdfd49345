"""torch and torchvision come before TensorFlow: the other order aborts the interpreter (each of them brings an LLVM)."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import torch  # noqa: F401, I001
import torchvision  # noqa: F401
import tensorflow  # noqa: F401
