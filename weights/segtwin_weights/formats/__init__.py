"""Formats of files of weights, one module a format, each with `read` and, where it is written, `write`."""
