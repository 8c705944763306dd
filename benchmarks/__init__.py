"""Measuring: ``compare`` against other engines, ``engine`` and ``kernels`` against yesterday."""
