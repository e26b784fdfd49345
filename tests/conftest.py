"""Units of common/, weights/ and cli/: no framework is imported here; what needs one says so where it needs it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
