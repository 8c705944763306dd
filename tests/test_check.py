"""Checking an index: a whole one has no problems, and every damage is found, named and survived."""

from __future__ import annotations


