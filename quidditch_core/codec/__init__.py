"""Bytes <-> segments: formats of segment files. No I/O, no queries. FORMAT.md draws the bytes."""
