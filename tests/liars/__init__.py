"""Rivals for ``test_compare.py`` that answer wrongly, a file for each lie."""
