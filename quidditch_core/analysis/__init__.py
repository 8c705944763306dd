"""Text -> tokens: what a field's text becomes before it is indexed or searched.

An :class:`Analyzer` is a tokenizer and a chain of term maps. The tokenizer finds the words in UTF-8 bytes,
many values in one call; a term map (lower case, stop words, a stemmer) is a pure function of one word, so
that an index applies it once to each distinct word and never to each token.

Depends on the vocabulary modules and, in ``scan.py`` alone, on ``jit``. Knows no documents and no fields.
"""

from .analyzer import ANALYZERS, Analyzer, Token, get_analyzer
from .maps import TermMap
from .tokenizers import Tokenizer

__all__ = ["ANALYZERS", "Analyzer", "TermMap", "Token", "Tokenizer", "get_analyzer"]
