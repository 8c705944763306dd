"""Kernels of the engine, and in ``reference`` what they must equal. Only NumPy, ``jit`` and the layout."""
