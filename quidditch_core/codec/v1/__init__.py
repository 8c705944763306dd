"""The first format: see FORMAT.md beside this folder."""
