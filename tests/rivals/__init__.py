"""Other search engines as oracles: the same documents and queries, the same answers.

``cases.py`` makes the questions, ``engines.py`` names who on our side answers them (the oracle of
``tests/naive.py``, and the engine), ``lucene/`` and ``test_tantivy.py`` ask the rivals. Text is tokenised
before anyone sees it (ASCII words with single spaces between), so that only search is compared.
"""
