"""Modules of Triton's stub import what Triton puts on its path: the module of the installed tritonserver."""

import sys
from importlib.util import find_spec

_pytriton = find_spec("pytriton")
assert _pytriton is not None
assert _pytriton.submodule_search_locations is not None
sys.path.append(f"{_pytriton.submodule_search_locations[0]}/tritonserver/backends/python")
