"""Highlighting: which words are marked, and where a text is cut."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core.analysis import Token
from quidditch_core.dsl import HighlightOptions
from quidditch_core.index import highlight as module
from quidditch_core.index.highlight import Highlighter, Phrase, Target, highlight_value

STOP_WORDS = {"the", "of", "a"}


def words(text: str) -> list[Token]:
    """Lower-case words; stop words leave a hole. A full-width text has a token for each character."""
    found = enumerate(re.finditer(r"[a-z0-9]+|[\u3040-\u9fff]", text, re.IGNORECASE))
    tokens = [Token(match[0].lower(), i, match.start(), match.end()) for i, match in found]
    return [token for token in tokens if token.term not in STOP_WORDS]


def mark(
    text: str | list[str],
    *terms: str,
    phrases: list[Phrase] | None = None,
    prefixes: set[str] | None = None,
    **options: Any,
) -> list[str]:
    given = HighlightOptions(**{"pre_tag": "[", "post_tag": "]", **options})
    texts = [text] if isinstance(text, str) else text
    return highlight_value(texts, words, set(terms), phrases or [], given, prefixes or set())


# What is marked.


def test_terms() -> None:
    assert mark("Call me Ishmael, said the whale.", "whale", "ishmael") == [
        "Call me [Ishmael], said the [whale]."
    ]


def test_prefixes() -> None:
    assert mark("whale whaling wool", prefixes={"whal"}) == ["[whale] [whaling] wool"]


def test_a_term_of_a_phrase_alone_is_not_marked() -> None:
    assert mark("white sea, white whale, whale white", phrases=[(("white", "whale"), 0)]) == [
        "white sea, [white] [whale], whale white"
    ]


def test_a_phrase_with_a_hole() -> None:
    phrase = (("heart", None, None, "sea"), 0)
    assert mark("heart of the sea; heart sea", phrases=[phrase]) == ["[heart] of the [sea]; heart sea"]


@pytest.mark.parametrize(
    ("text", "slop", "marked"),
    [
        ("white big whale", 0, []),
        ("white big whale", 1, ["[white] big [whale]"]),
        ("whale white", 1, []),
        ("whale white", 2, ["[whale] [white]"]),
        ("white x x x whale", 2, []),
    ],
)
def test_slop(text: str, slop: int, marked: list[str]) -> None:
    assert mark(text, phrases=[(("white", "whale"), slop)]) == marked


@pytest.mark.parametrize(
    ("text", "slop", "marked"),
    [
        ("sea sea", 0, ["[sea] [sea]"]),
        ("sea", 5, []),
        ("sea land sea", 0, []),
        ("sea land sea", 1, ["[sea] land [sea]"]),
    ],
)
def test_a_phrase_needs_a_token_for_each_repeated_term(text: str, slop: int, marked: list[str]) -> None:
    assert mark(text, phrases=[(("sea", "sea"), slop)]) == marked


def test_a_phrase_crosses_values_only_over_their_gap() -> None:
    texts = ["white", "whale"]
    assert mark(texts, phrases=[(("white", "whale"), 99)]) == []
    assert mark(texts, phrases=[(("white", "whale"), 100)]) == ["[white]", "[whale]"]


def test_touching_matches_share_their_tags() -> None:
    assert mark("\u6771\u4eac\u90fd", "\u6771", "\u4eac") == ["[\u6771\u4eac]\u90fd"]


def test_overlapping_matches_share_their_tags() -> None:
    tokens = [Token("wi", 0, 0, 2), Token("wifi", 0, 0, 5), Token("fi", 1, 3, 5)]
    options = HighlightOptions(pre_tag="[", post_tag="]")
    for terms, marked in (({"wi", "fi", "wifi"}, "[wi-fi] on"), ({"wi", "fi"}, "[wi]-[fi] on")):
        assert highlight_value(["wi-fi on"], lambda text: tokens, terms, [], options) == [marked]


def test_no_match_gives_nothing_or_the_beginning() -> None:
    assert mark("Call me Ishmael.", "whale") == []
    assert mark("Call me Ishmael.", "whale", no_match_size=9) == ["Call me"]
    assert mark("Call me Ishmael.", "whale", no_match_size=99) == ["Call me Ishmael."]
    assert mark(["", "  Ishmael"], "whale", no_match_size=3) == ["Ish"]
    assert mark([], "whale", no_match_size=3) == []


# Where it is cut.

STORY = (
    "Call me Ishmael. Some years ago I thought I would sail about a little. It is a way I have of driving "
    "off the spleen. There is nothing surprising in this. The whale came up! Nobody spoke of the whale."
)


def test_short_sentences_are_joined_and_kept_whole() -> None:
    assert mark(STORY, "whale") == ["The [whale] came up! Nobody spoke of the [whale]."]
    assert mark(STORY, "whale", fragment_size=30) == ["The [whale] came up!", "Nobody spoke of the [whale]."]


def test_a_long_sentence_is_cut_between_words_around_the_match() -> None:
    text = f"{'before ' * 50}the white whale {'after ' * 50}"
    (fragment,) = mark(text, "whale", fragment_size=40)
    assert fragment == "before the white [whale] after after after"


def test_a_long_sentence_is_shown_from_its_beginning_if_the_match_is_there() -> None:
    assert mark("The whale " + "swam " * 50, "whale", fragment_size=30) == ["The [whale] swam swam swam swam"]


def test_size_zero_never_splits_a_sentence() -> None:
    text = "word " * 100 + "whale " + "word " * 100
    assert mark(text, "whale", fragment_size=0) == [text.replace("whale", "[whale]").strip()]


def test_a_match_is_never_cut() -> None:
    assert mark("x" * 500, "x" * 500, fragment_size=10) == ["[" + "x" * 500 + "]"]


def test_sentences_end_where_the_next_begins() -> None:
    text = "He left, e.g. the whale. 'Sea!' Then land?\n\nno stop here\n\nthe end of whale"
    assert mark(text, "whale", "sea", "land", "stop", fragment_size=0) == [
        "He left, e.g. the [whale].",
        "'[Sea]!'",
        "Then [land]?",
        "no [stop] here",
        "the end of [whale]",
    ]


def test_full_width_sentences() -> None:
    text = "\u6d77\u304c\u597d\u304d\u3002\u5c71\u3082\u597d\u304d\u3002"
    assert mark(text, "\u5c71", fragment_size=6) == ["[\u5c71]\u3082\u597d\u304d\u3002"]


def test_values_never_share_a_fragment() -> None:
    assert mark(["the sea", "no match", "a sea"], "sea") == ["the [sea]", "a [sea]"]


def test_whole_values() -> None:
    texts = ["The sea. " * 3, "nothing", "sea"]
    assert mark(texts, "sea", number_of_fragments=0) == ["The [sea]. " * 3, "[sea]"]


def test_the_best_fragments_in_the_order_of_the_document_or_of_their_scores() -> None:
    end = "A whale and the sea, whale."
    text = "One whale. " + "No more of it. " * 20 + "Sea and a boat. " + "Calm. " * 40 + end
    best = ["[Sea] and a boat. Calm.", "A [whale] and the [sea], [whale]."]
    sizes = {"fragment_size": 27, "number_of_fragments": 2}
    assert mark(text, "sea", "whale", **sizes) == best
    assert mark(text, "sea", "whale", order="score", **sizes) == best[::-1]


def test_equal_fragments_keep_their_order() -> None:
    text = "The sea. " * 10
    assert mark(text, "sea", fragment_size=10, number_of_fragments=3) == ["The [sea]."] * 3


# What it may not do.


def test_html_is_escaped_on_request() -> None:
    options = {"pre_tag": "<em>", "post_tag": "</em>", "encoder": "html"}
    assert mark("<b>sea</b> & 'more'", "sea", **options) == [
        "&lt;b&gt;<em>sea</em>&lt;&#x2F;b&gt; &amp; &#x27;more&#x27;"
    ]
    assert mark("<b>", "x", no_match_size=9, **options) == ["&lt;b&gt;"]


def test_a_long_text_is_analysed_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANALYZED", 10)
    assert mark("sea sea sea sea", "sea") == ["[sea] [sea] sea sea"]
    assert mark(["x" * 10, "sea"], "sea") == []


def test_runs_of_punctuation_are_cheap() -> None:
    for run in ("." * 200_000, "\n" * 200_000, '."' * 100_000, "\n " * 100_000, "\n" + " " * 200_000):
        assert mark(f"{run} sea", "sea", fragment_size=10) != []


def test_a_highlighter_reads_the_source() -> None:
    options = HighlightOptions(number_of_fragments=0)

    def whole(text: str) -> list[Token]:
        return [Token(text, 0, 0, len(text))]

    highlighter = Highlighter(
        [
            Target("title", "title", words, {"sea"}, options=options),
            Target("title.raw", "title", whole, {"The Sea"}, options=options),
            Target("notes.text", "notes.text", words, phrases=[(("white", "whale"), 0)], options=options),
            Target("n", "n", words, {"7"}, options=options),
            Target("absent", "absent", words, {"sea"}, options=options),
        ]
    )
    notes = [{"text": "a white whale"}, {"text": None}, {}]
    source = {"title": "The Sea", "notes": notes, "n": [3, 7, True]}
    assert highlighter.highlight(source) == {
        "title": ["The <em>Sea</em>"],
        "title.raw": ["<em>The Sea</em>"],
        "notes.text": ["a <em>white</em> <em>whale</em>"],
        "n": ["<em>7</em>"],
    }


alphabet = st.sampled_from(
    ["sea", "whale", "white", "the", ". ", "! ", " ", "\n\n", "-", "\u6771", "<", "x" * 30]
)
values = st.lists(st.lists(alphabet, max_size=30).map("".join), max_size=3)
phrase_terms = st.lists(st.sampled_from(["sea", "whale", "white", None]), min_size=1, max_size=3).map(tuple)
phrase_lists = st.lists(st.tuples(phrase_terms, st.integers(0, 3)), max_size=2)


@given(
    values,
    st.sets(st.sampled_from(["sea", "whale", "\u6771"])),
    phrase_lists,
    st.integers(0, 40),
    st.integers(0, 3),
    st.sampled_from(["none", "score"]),
)
def test_fragments_are_parts_of_the_text_with_balanced_tags(
    texts: list[str], terms: set[str], phrases: list[Phrase], size: int, number: int, order: str
) -> None:
    options = HighlightOptions(
        pre_tag="[", post_tag="]", fragment_size=size, number_of_fragments=number, order=order
    )
    fragments = highlight_value(texts, words, terms, phrases, options)
    unlimited = msgspec.structs.replace(options, number_of_fragments=10_000)
    everything = highlight_value(texts, words, terms, phrases, unlimited)
    assert bool(fragments) == bool(everything)
    for fragment in fragments:
        plain = re.sub(r"[\[\]]", "", fragment)
        assert any(plain in text for text in texts)
        assert re.fullmatch(r"([^\[\]]*\[[^\[\]]+\])+[^\[\]]*", fragment, re.DOTALL)
        longest = max(map(len, re.findall(r"\[(.*?)\]", fragment, re.DOTALL)))
        assert not size or not number or len(plain) <= max(size, longest)
    if number:
        assert len(fragments) <= number
        assert set(fragments) <= set(everything)
    marked = [token for fragment in everything for token in re.findall(r"\[(.*?)\]", fragment, re.DOTALL)]
    in_terms = [token for text in texts for token in words(text) if token.term in terms]
    assert sum(len(token) for token in marked) >= sum(token.end - token.start for token in in_terms)


def in_phrase_by_hand(tokens: list[Token], phrase: tuple[str | None, ...], slop: int) -> set[Token]:
    """Try every way to give each term of the phrase a token."""
    slots = [(place, term) for place, term in enumerate(phrase) if term is not None]
    found: set[Token] = set()

    def choose(chosen: list[tuple[int, Token]]) -> None:
        if len(chosen) == len(slots):
            moved = [token.position - place for place, token in chosen]
            if chosen and max(moved) - min(moved) <= slop:
                found.update(token for _, token in chosen)
            return
        place, term = slots[len(chosen)]
        for token in tokens:
            if token.term == term and all(token is not other for _, other in chosen):
                choose([*chosen, (place, token)])

    choose([])
    return found


@given(
    st.lists(st.sampled_from(["sea", "whale", "white", "x"]), max_size=9),
    st.permutations(["sea", "whale", "white", None]).flatmap(
        lambda order: st.integers(1, 4).map(lambda length: tuple(order[:length]))
    ),
    st.integers(0, 4),
)
def test_tokens_in_a_phrase_are_those_that_some_choice_takes(
    text: list[str], phrase: tuple[str | None, ...], slop: int
) -> None:
    tokens = words(" ".join(text))
    expected = in_phrase_by_hand(tokens, phrase, slop)
    joined = " ".join(f"[{token.term}]" if token in expected else token.term for token in tokens)
    fragments = mark(" ".join(text), phrases=[(phrase, slop)], number_of_fragments=0)
    assert fragments == ([joined] if expected else [])
