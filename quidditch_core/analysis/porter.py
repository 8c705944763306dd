"""Porter's stemmer for English, as Lucene's PorterStemmer has it.

The algorithm is that of M. F. Porter, "An algorithm for suffix stripping" (1980), with the changes of his own
later programs: ``bli`` and ``logi`` in the second step, and words of one or two letters stay as they are. The
steps below have the paper's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# A consonant is any character but a, e, i, o, u, and but y after a consonant; the rest are vowels. So y may
# open a run of either kind but never continues one.
_C = "[^aeiou][^aeiouy]*+"
_V = "[aeiouy][aeiou]*+"
_has_vowel = re.compile(f"(?:{_C})?+{_V}", re.DOTALL).match
_measure_1 = re.compile(f"(?:{_C})?+{_V}{_C}", re.DOTALL).match  # the paper's m is at least 1
_measure_2 = re.compile(f"(?:{_C})?+(?:{_V}{_C}){{2}}", re.DOTALL).match

_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble",
    "alli": "al", "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate",
    "alism": "al", "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive",
    "biliti": "ble", "logi": "log",
}
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = {
    "al": "", "ance": "", "ence": "", "er": "", "ic": "", "able": "", "ible": "", "ant": "", "ement": "",
    "ment": "", "ent": "", "ion": "", "ou": "", "ism": "", "ate": "", "iti": "", "ous": "", "ive": "",
    "ize": "",
}


def stem(word: str) -> str:
    """The stem of ``word``, which should be in lower case."""
    if max(word, default="") > "\uffff":  # Lucene stems UTF-16 units
        return _join_units(_stem(_units(word)))
    return _stem(word)


def _stem(word: str) -> str:
    if len(word) <= 2:
        return word
    return _step_5(_replace(_replace(_replace(_step_1(word), _STEP_2, 7, _measure_1), _STEP_3, 5, _measure_1),
                            _STEP_4, 5, _measure_2))


def _step_1(word: str) -> str:
    """Plurals, -ed and -ing, and a final y."""
    if word.endswith("s"):
        if word.endswith(("sses", "ies")):
            word = word[:-2]
        elif word[-2:-1] != "s":
            word = word[:-1]
    if word.endswith("eed"):
        if _measure_1(word[:-3]):
            word = word[:-1]
    else:
        stripped = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
        if _has_vowel(stripped):
            word = _tidy(stripped)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    return word


def _tidy(word: str) -> str:
    """What -ed or -ing was taken off: give back an e, or take a doubled consonant."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if word[-1] == word[-2:-1] and _consonant(word, len(word) - 1):
        return word if word[-1] in "lsz" else word[:-1]
    if _measure_1(word) and not _measure_2(word) and _closed(word):
        return word + "e"
    return word


def _replace(
    word: str, endings: dict[str, str], longest: int, measure: Callable[[str], re.Match[str] | None],
) -> str:
    """Steps 2 to 4: replace the longest ending that ``word`` has, if what precedes it measures enough."""
    for size in range(longest, 1, -1):
        ending = word[-size:]
        if ending in endings and (ending != "ion" or word[-4:-3] in ("s", "t")):
            rest = word[:-size]
            return rest + endings[ending] if measure(rest) else word
    return word


def _step_5(word: str) -> str:
    """A final e, and one l of two."""
    long = _measure_2(word)
    if word.endswith("e") and (long or (_measure_1(word) and not _closed(word[:-1]))):
        word = word[:-1]
    return word[:-1] if long and word.endswith("ll") else word


def _consonant(word: str, at: int) -> bool:
    if word[at] in "aeiou":
        return False
    return word[at] != "y" or at == 0 or not _consonant(word, at - 1)


def _closed(word: str) -> bool:
    """Ends in consonant, vowel, consonant, the last not w, x or y (the paper's *o)."""
    last = len(word) - 1
    return (last >= 2 and word[last] not in "aeiouwxy" and not _consonant(word, last - 1)
            and _consonant(word, last - 2))


def _units(word: str) -> str:
    """``word`` with each code point beyond U+FFFF as its two surrogates."""
    return "".join(c if c <= "\uffff" else chr(0xD7C0 + (ord(c) >> 10)) + chr(0xDC00 + (ord(c) & 0x3FF))
                   for c in word)


def _join_units(word: str) -> str:
    return word.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
