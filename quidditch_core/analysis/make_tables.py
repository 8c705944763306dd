"""Makes ``tables.bin``: the automata of the tokenizers, and lower case. A tool; nothing imports it.

A tokenizer is a deterministic automaton over classes of code points. Here each is written as a regular
expression over named sets of code points, and turned into two tables: code point -> class, and
(state, class) -> state. Code points that no expression can tell apart share a class.

The words of the standard tokenizer follow Unicode 12.1, because Lucene 9 and 10 do: they were compiled from
that version, whatever Java runs them. Letters, white space and lower case follow the ``unicodedata`` of the
Python that runs this, as Lucene's follow the Java that runs it. Both are frozen in the file, so that an index
means the same under every Python. To make the file again, byte for byte::

    python3.11 -m venv v && v/bin/pip install numpy regex==2019.12.20     # the last regex of Unicode 12.1
    v/bin/python quidditch_core/analysis/make_tables.py
"""

from __future__ import annotations

import sys
import unicodedata
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CODE_POINTS = sys.maxunicode + 1
BLOCK = 128
"""Code points in a block of the two-level table."""

# --- regular expressions over sets of code points ----------------------------------------------------------
#
# An expression is the name of a set, or one of the tuples that these functions make.

Expression = Any


def seq(*parts: Expression) -> Expression:
    return ("seq", *parts)


def alt(*parts: Expression) -> Expression:
    return ("alt", *parts)


def star(part: Expression) -> Expression:
    return ("star", part)


def plus(part: Expression) -> Expression:
    return seq(part, star(part))


def opt(part: Expression) -> Expression:
    return alt(part, seq())


# --- the three grammars ------------------------------------------------------------------------------------


def words() -> Expression:
    """UAX #29 word boundaries with the emoji sequences of UTS #51, as Lucene's StandardTokenizer reads them.

    Every alternative is a token; what none of them matches separates. Differences from the annex: a run of
    ExtendNumLet alone is no token, Han and Hiragana stand alone, South East Asian runs stay together, and
    U+FE0E and U+FE0F are not swallowed where an emoji presentation matters.
    """

    def ex(one: Expression) -> Expression:  # WB4: Extend, Format and ZWJ belong to what they follow
        return seq(one, star("Ignored"))

    joiner = ex("ExtendNumLet")
    number = seq(ex("Numeric"), star(seq(alt(star(joiner), ex("MidNumeric")), ex("Numeric"))))
    letters = seq(ex("AHLetter"), star(seq(alt(star(joiner), ex("MidLetter")), ex("AHLetter"))))
    hebrew = seq(ex("Hebrew"), alt(ex("SingleQuote"), seq(ex("DoubleQuote"), ex("Hebrew"))))
    katakana = seq(ex("Katakana"), star(seq(star(joiner), ex("Katakana"))))
    run = alt(katakana, plus(alt(hebrew, number, letters)))
    word = seq(star(joiner), run, star(seq(plus(joiner), run)), star(joiner))

    def emoji_ex(one: Expression) -> Expression:
        return seq(one, star("IgnoredInEmoji"))

    pictograph = seq(star("ZWJ"), emoji_ex("Emoji"), opt("EmojiPresentation"))
    modified = seq(opt(seq(star("ZWJ"), emoji_ex("EmojiModifierBase"))), emoji_ex("EmojiModifier"))
    element = alt(pictograph, modified)
    emoji = alt(
        seq(element, alt(star(seq("ZWJ", element)), seq(plus("TagSpec"), "TagTerm"))),
        seq(emoji_ex("KeycapBase"), opt("EmojiPresentation"), emoji_ex("Keycap")),
        seq(ex("RegionalIndicator"), ex("RegionalIndicator")),
    )
    return alt(word, emoji, plus(ex("SouthEastAsian")), ex("Han"), ex("Hiragana"))


def unicode_12() -> Any:
    """The module ``regex``, if it is the one whose properties are those of Unicode 12.1."""
    regex = import_module("regex")
    assert regex.match(r"\P{Cn}", "\u32ff"), "this regex knows less than Unicode 12.1: see the docstring"
    assert regex.match(r"\p{Cn}", "\u9ff0"), "this regex knows more than Unicode 12.1: see the docstring"
    return regex


def word_sets() -> dict[str, Array]:
    """The sets that :func:`words` names, each a boolean per code point."""
    regex = unicode_12()
    everything = "".join(map(chr, range(CODE_POINTS)))

    def chars(pattern: str) -> Array:
        member = np.zeros(CODE_POINTS, bool)
        for match in regex.finditer(pattern, everything):
            member[match.start():match.end()] = True
        return member

    def wb(*values: str) -> Array:
        return chars("[" + "".join(rf"\p{{WB={value}}}" for value in values) + "]+")

    ignored = wb("Format", "Extend", "ZWJ")
    keycap_base, modifier, flag = chars("[0-9#*]+"), chars(r"\p{Emoji_Modifier}+"), wb("Regional_Indicator")
    accidental = chars("[\u00a9\u00ae\u2122\u3030\u303d]+")
    return {
        "Ignored": ignored,
        "IgnoredInEmoji": ignored & ~chars("[\ufe0e\ufe0f]+"),
        "ZWJ": wb("ZWJ"),
        "ExtendNumLet": wb("ExtendNumLet"),
        "Numeric": wb("Numeric"),
        "AHLetter": wb("ALetter", "Hebrew_Letter"),
        "Hebrew": wb("Hebrew_Letter"),
        "Katakana": wb("Katakana"),
        "MidLetter": wb("MidLetter", "MidNumLet", "Single_Quote"),
        "MidNumeric": wb("MidNum", "MidNumLet", "Single_Quote"),
        "SingleQuote": wb("Single_Quote"),
        "DoubleQuote": wb("Double_Quote"),
        "Han": chars(r"\p{Script=Han}+"),
        "Hiragana": chars(r"\p{Script=Hiragana}+"),
        "SouthEastAsian": chars(r"\p{Line_Break=Complex_Context}+"),
        "RegionalIndicator": flag,
        "KeycapBase": keycap_base,
        "Keycap": chars("\u20e3"),
        "Emoji": chars(r"\p{Extended_Pictographic}+")
        | (chars(r"\p{Emoji}+") & ~(flag | keycap_base | accidental | modifier)),
        "EmojiModifier": modifier,
        "EmojiModifierBase": chars(r"\p{Emoji_Modifier_Base}+"),
        "EmojiPresentation": chars("\ufe0f"),
        "TagSpec": chars("[\U000e0020-\U000e007e]+"),
        "TagTerm": chars("\U000e007f"),
    }


def letter_sets() -> dict[str, Array]:
    """``Letter`` is Java's Character.isLetter; ``NotSpace`` what its Character.isWhitespace is not."""
    categories = [unicodedata.category(chr(c)) for c in range(CODE_POINTS)]
    controls = {*range(0x09, 0x0E), *range(0x1C, 0x20)}
    no_break = {0x00A0, 0x2007, 0x202F}
    return {
        "Letter": np.array([name[0] == "L" for name in categories]),
        "NotSpace": np.array([not (c in controls or (name[0] == "Z" and c not in no_break))
                              for c, name in enumerate(categories)]),
    }


# --- expression -> automaton -------------------------------------------------------------------------------


class Nfa:
    """Thompson's construction: edges on sets, and empty edges."""

    def __init__(self, expression: Expression) -> None:
        self.numbers = count()
        self.edges: dict[int, tuple[str, int]] = {}
        self.empty: dict[int, list[int]] = {}
        self.start = next(self.numbers)
        self.accept = self.add(self.start, expression)

    def add(self, state: int, expression: Expression) -> int:
        """Lay ``expression`` from ``state`` on; the state where it ends."""
        if isinstance(expression, str):
            end = next(self.numbers)
            inner = next(self.numbers)  # so that a state has either one edge or empty edges
            self.link(state, inner)
            self.edges[inner] = (expression, end)
            return end
        kind, *parts = expression
        if kind == "seq":
            for part in parts:
                state = self.add(state, part)
            return state
        end = next(self.numbers)
        if kind == "alt":
            for part in parts:
                entry = next(self.numbers)
                self.link(state, entry)
                self.link(self.add(entry, part), end)
        else:
            entry = next(self.numbers)
            self.link(state, entry)
            self.link(self.add(entry, parts[0]), entry)
            self.link(entry, end)
        return end

    def link(self, here: int, there: int) -> None:
        self.empty.setdefault(here, []).append(there)

    def closure(self, states: set[int]) -> frozenset[int]:
        found, todo = set(states), list(states)
        while todo:
            for state in self.empty.get(todo.pop(), ()):
                if state not in found:
                    found.add(state)
                    todo.append(state)
        return frozenset(found)


def automaton(expression: Expression, sets: dict[str, Array]) -> tuple[Array, Array, int]:
    """(class of each code point, next state by [state, class], first accepting state).

    State 0 is the dead one, state 1 the start; accepting states come last. Class 0 leads only to state 0.
    """
    names = sorted(sets)
    signature = np.zeros(CODE_POINTS, np.int64)
    for bit, name in enumerate(names):
        signature |= sets[name].astype(np.int64) << bit
    kinds, classes = np.unique(signature, return_inverse=True)  # the empty signature sorts first: class 0
    members = [{name for bit, name in enumerate(names) if kind >> bit & 1} for kind in kinds.tolist()]

    nfa = Nfa(expression)
    start = nfa.closure({nfa.start})
    numbers: dict[frozenset[int], int] = {frozenset(): 0, start: 1}
    rows: list[list[int]] = []
    for subset in (subsets := [frozenset(), start]):
        row = []
        for member in members:
            edges = [nfa.edges[state] for state in subset & nfa.edges.keys()]
            reached = {end for name, end in edges if name in member}
            following = nfa.closure(reached)
            if following not in numbers:
                numbers[following] = len(subsets)
                subsets.append(following)
            row.append(numbers[following])
        rows.append(row)
    accepting = [nfa.accept in subset for subset in subsets]
    assert not accepting[1], "an empty token"

    # Moore's minimisation, then numbers in the promised order.
    group = [int(a) for a in accepting]
    while True:
        keys = [(group[s], *(group[t] for t in rows[s])) for s in range(len(rows))]
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        refined = [order[key] for key in keys]
        if len(set(refined)) == len(set(group)):
            break
        group = refined
    first = {state: refined.index(state) for state in sorted(set(refined))}
    assert refined[0] != refined[1]
    ranks = sorted(first, key=lambda g: (accepting[first[g]], first[g]))
    rank = {g: number for number, g in enumerate(ranks)}
    table = np.array([[rank[refined[t]] for t in rows[first[g]]] for g in ranks])
    accept = sum(not accepting[first[g]] for g in ranks)

    columns, merged = np.unique(table, axis=1, return_inverse=True)
    return merged.reshape(-1)[classes], columns, accept


def two_level(values: Array) -> tuple[Array, Array]:
    """(index, blocks) such that ``blocks[index[c // BLOCK], c % BLOCK] == values[c]``."""
    blocks, index = np.unique(values.reshape(-1, BLOCK), axis=0, return_inverse=True)
    return index.reshape(-1), blocks


def lowercase() -> Array:
    """Pairs (code point, its simple lower case), as Java's Character.toLowerCase(int).

    Python gives the full mapping, which differs in one code point: U+0130 becomes ``i`` and a combining dot.
    """
    pairs = [(c, ord(chr(c).lower()[0])) for c in range(CODE_POINTS) if chr(c).lower() != chr(c)]
    assert [c for c in range(CODE_POINTS) if len(chr(c).lower()) > 1] == [0x130]
    return np.array(pairs, np.int32)


def main() -> None:
    letters = letter_sets()
    machines = {
        "standard": (words(), word_sets()),
        "letter": (plus("Letter"), {"Letter": letters["Letter"]}),
        "whitespace": (plus("NotSpace"), {"NotSpace": letters["NotSpace"]}),
    }
    arrays: dict[str, Any] = {"lowercase": lowercase()}
    for name, (expression, sets) in machines.items():
        classes, states, accept = automaton(expression, sets)
        index, blocks = two_level(classes)
        assert max(index.max(), blocks.max(), states.max()) < 256
        print(f"{name}: {states.shape[0]} states, {accept} of them not accepting, {states.shape[1]} classes, "
              f"{len(blocks)} blocks")
        arrays |= {f"{name}_index": index.astype(np.uint8), f"{name}_blocks": blocks.astype(np.uint8),
                   f"{name}_states": states.astype(np.uint8), f"{name}_accept": np.array(accept)}
    Path(__file__).with_name("tables.bin").write_bytes(import_module("quidditch_core.analysis.automaton").packed(arrays))


if __name__ == "__main__":
    main()
