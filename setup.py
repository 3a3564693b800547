"""The one thing that pyproject.toml can't say for every setuptools: the C part."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("contextagent.host._guestos", ["contextagent/host/_guestos.c"])])
