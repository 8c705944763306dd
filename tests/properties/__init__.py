"""The engine against the oracle of ``tests/naive.py``, on input that Hypothesis makes up."""
