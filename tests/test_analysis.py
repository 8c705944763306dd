"""Analysis: equal to Lucene's recorded answers, the kernel equal to its reference, and the term maps."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core import errors
from quidditch_core.analysis import ANALYZERS, Analyzer, TermMap, Token, automaton, get_analyzer, maps, porter
from quidditch_core.analysis.automaton import LIMIT
from quidditch_core.analysis.scan import scan
from quidditch_core.analysis.tokenizers import KEYWORD, LETTER, STANDARD, WHITESPACE, AutomatonTokenizer, parts
from quidditch_core.segment import address
from tests.lucene import GOLDEN, texts
from tests.lucene.golden import digest

MACHINES = (STANDARD, LETTER, WHITESPACE)

TEXTS = st.one_of(
    st.text(st.sampled_from(texts.ALPHABET), max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    # Runs that reach the limit.
    st.builds(lambda a, b, n, tail: (a + b) * n + tail, st.sampled_from(texts.ALPHABET),
              st.text(st.sampled_from(texts.ALPHABET), max_size=2), st.integers(80, 300),
              st.text(st.sampled_from(texts.ALPHABET), max_size=3)),
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


# --- Lucene's answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANALYZERS)
def test_tokens_are_those_of_lucene(name: str, golden: dict[str, Any]) -> None:
    analyzer = get_analyzer(name)
    for text, expected in zip(golden["texts"], golden["tokens"][name], strict=True):
        assert [list(token) for token in analyzer.tokens(text)] == expected, text


@pytest.mark.parametrize("name", ANALYZERS)
def test_the_two_halves_of_indexing_give_the_same_tokens(name: str, golden: dict[str, Any]) -> None:
    analyzer = get_analyzer(name)
    kept = [(text, tokens) for text, tokens in zip(golden["texts"], golden["tokens"][name], strict=True)
            if not any("\ud800" <= c <= "\udfff" for c in text)]
    found: list[list[list[Any]]] = [[] for _ in kept]
    data, ends = joined([text for text, _ in kept])
    raw = data.tobytes()
    count = [0] * len(kept)
    spans, counts = analyzer.tokenizer.split(data, ends)
    values = np.repeat(np.arange(ends.size), counts)
    for start, length, value in np.column_stack((*parts(spans), values)).tolist():
        token = raw[start:start + length]
        term = analyzer.map_term(token.decode())
        if analyzer.folds:
            assert analyzer.map_term(token.lower().decode()) == term
        if analyzer.keeps_ascii and token.isascii():
            assert term == (token.lower() if analyzer.folds else token).decode()
        if term is not None:
            found[value].append([term, count[value]])
        count[value] += 1
    assert found == [[token[:2] for token in tokens] for _, tokens in kept]
    assert analyzer.folds == (name in ("standard", "simple", "english"))
    assert analyzer.keeps_ascii == (name != "english")


def test_long_tokens_are_cut_where_lucene_cuts_them(golden: dict[str, Any]) -> None:
    for text, expected in zip(texts.LENGTHS, golden["lengths"], strict=True):
        assert digest(STANDARD.spans(text)) == expected, text[:2]


def test_every_code_point_is_of_the_kind_that_lucene_takes_it_for(golden: dict[str, Any]) -> None:
    for first, expected in zip(texts.ASSIGNED_BLOCKS, golden["blocks"], strict=True):
        assert digest(STANDARD.spans(texts.block_text(first))) == expected, hex(first)


# --- kernel and reference ----------------------------------------------------------------------------------


def joined(values: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [value.encode() for value in values]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([*map(len, encoded)], dtype=np.int64)


@functools.cache
def ways() -> tuple[Any, Any]:
    """The kernel (loaded once: every loading takes memory for good) and its reference."""
    return scan.compiled(), scan.referenced()


def run(function: Any, machine: AutomatonTokenizer, data: np.ndarray, ends: np.ndarray, capacity: int) -> Any:
    image = automaton.image(machine.name, machine.astral)
    spans, counts = np.full(capacity, 9, np.uint64), np.full(ends.size, 9, np.uint32)
    found = function(address(image), address(data), data.size, address(ends), ends.size, address(spans),
                     address(counts), capacity)
    values = np.repeat(np.arange(ends.size), counts) if found >= 0 else np.zeros(0, np.int64)
    return found, [[*row] for row in zip(*map(np.ndarray.tolist, parts(spans)), values.tolist(), strict=False)], spans


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@given(values=st.lists(TEXTS, max_size=4))
def test_kernel_and_reference_agree(machine: AutomatonTokenizer, values: list[str]) -> None:
    data, ends = joined(values)
    found, rows, spans = run(ways()[1], machine, data, ends, data.size + 1)
    again = run(ways()[0], machine, data, ends, data.size + 1)
    assert again[:2] == (found, rows)
    assert again[2].tolist() == spans.tolist()
    for start, length, value in rows[:found]:
        assert length > 0
        assert (ends[value - 1] if value else 0) <= start <= start + length <= ends[value]
    for value, text in enumerate(values):
        begin = int(ends[value - 1]) if value else 0
        bytes_before = [*itertools.accumulate((len(c.encode()) for c in text), initial=begin)]
        assert [[bytes_before[s], bytes_before[e] - bytes_before[s], value] for s, e in machine.spans(text)] \
            == [row for row in rows[:found] if row[2] == value]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@given(data=st.binary(max_size=80), cuts=st.lists(st.integers(0, 80), max_size=3))
def test_no_bytes_lead_the_kernel_astray(machine: AutomatonTokenizer, data: bytes, cuts: list[int]) -> None:
    ends = np.array([*sorted(min(cut, len(data)) for cut in cuts), len(data)])
    found, rows, _ = run(ways()[0], machine, np.frombuffer(data, np.uint8), ends, 100)
    assert 0 <= found <= len(data)
    at = 0
    for start, length, value in rows[:found]:
        assert at <= start < start + length <= ends[value]
        at = start + length


@pytest.mark.parametrize("way", [0, 1], ids=["kernel", "reference"])
def test_scan_keeps_to_its_buffers(way: int) -> None:
    function = ways()[way]
    data, ends = joined(["one two", "", "three four five"])
    found, rows, _ = run(function, STANDARD, data, ends, 2)
    assert (found, rows) == (5, [[0, 3, 0], [4, 3, 0]])
    assert run(function, STANDARD, data, ends, 6)[2][5] == 9
    assert run(function, STANDARD, data, np.array([7, 3]), 6)[0] == -1
    assert run(function, STANDARD, data, np.array([data.size + 1]), 6)[0] == -1


def test_split_of_nothing_and_of_more_tokens_than_guessed() -> None:
    nothing = np.array([], np.uint8), np.array([], np.int64)
    for tokenizer in (STANDARD, KEYWORD):
        assert [array.size for array in tokenizer.split(*nothing)] == [0, 0]
    data, ends = joined(["a " * 500])
    spans, counts = STANDARD.split(data, ends)
    starts, lengths = parts(spans)
    assert counts.tolist() == [500]
    assert starts.tolist() == [*range(0, 1000, 2)]
    assert set(lengths.tolist()) == {1}


@pytest.mark.parametrize("count", [1, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT])
@pytest.mark.parametrize("tail", ["", "a", " a", "_a", "\u0301a", "\u200d😀", 300 * "a", 260 * "\u0301"])
def test_runs_of_underscores(count: int, tail: str) -> None:
    for text in ("_" * count + tail, "x " + "_" * count + "." + "_" * count + tail):
        data, ends = joined([text])
        expected = run(ways()[1], STANDARD, data, ends, 999)
        assert run(ways()[0], STANDARD, data, ends, 999)[:2] == expected[:2]


# --- analyzers ---------------------------------------------------------------------------------------------


def test_positions_have_holes_where_stop_words_were() -> None:
    english = get_analyzer("english")
    assert english.tokens("The dog's İn the FOXES\u2019 den") == [
        Token("dog", 1, 4, 9), Token("fox", 4, 17, 22), Token("den", 5, 24, 27)]
    assert english.terms("to be or not to be") == []


def test_an_analyzer_is_a_tokenizer_and_a_chain_of_maps() -> None:
    shout = TermMap("shout", lambda term: term.upper() + "!")
    made = Analyzer("mine", LETTER, (maps.LOWERCASE, maps.stop("b"), shout))
    assert made.terms("A b-c") == [("A!", 0), ("C!", 2)]
    assert made.map_term("B") is None


@given(text=TEXTS)
def test_a_token_is_what_its_place_in_the_text_maps_to(text: str) -> None:
    for name in ANALYZERS:
        analyzer = get_analyzer(name)
        tokens = analyzer.tokens(text)
        assert [token.term for token in tokens] == [analyzer.map_term(text[t.start:t.end]) for t in tokens]
        assert all(a.position < b.position and a.end <= b.start for a, b in itertools.pairwise(tokens))


def test_unknown_analyzers_are_refused_with_a_remedy() -> None:
    with pytest.raises(errors.MappingError, match="did you mean 'standard'"):
        get_analyzer("standart")
    with pytest.raises(errors.UnsupportedError, match="'french' is not supported by this version; supp"):
        get_analyzer("french")


def test_hashes_stay_while_definitions_do() -> None:
    """An index remembers the hash. If a tokenizer or map changes, change its definition, and this."""
    assert {name: get_analyzer(name).hash for name in ANALYZERS} == {
        "standard": "358b4d4a34da", "simple": "4f899ba0266a", "whitespace": "719b265ed23c",
        "keyword": "d6d198dd68bb", "english": "c7ca4b6b76dc",
    }
    tables = hashlib.sha256()
    for name, array in sorted(automaton.tables().items()):
        tables.update(name.encode() + array.dtype.str.encode() + array.tobytes())
    assert tables.hexdigest()[:12] == "9d702fffa661"


def test_importing_analysis_loads_no_compiler(python_env: dict[str, str]) -> None:
    code = ("import sys, quidditch_core.analysis as a; a.get_analyzer('english').tokens('Short queries'); "
            "print(sorted({'numba', 'llvmlite'} & set(sys.modules)))")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=python_env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- term maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("term", "lower"), [
    ("ABC", "abc"), ("İ", "i"), ("\u03a3\u03a3", "\u03c3\u03c3"), ("ẞ", "ß"), ("Ǆ", "ǆ"),
    ("\U00010400", "\U00010428"), ("\u017f", "\u017f"), ("", ""),
])
def test_lower_case_is_simple(term: str, lower: str) -> None:
    assert maps.lowercase(term) == lower


@pytest.mark.parametrize(("term", "rest"), [
    ("dog's", "dog"), ("DOG'S", "DOG"), ("dog\u2019s", "dog"), ("dog\uff07S", "dog"), ("'s", ""), ("s", "s"),
    ("dogs'", "dogs'"), ("dog`s", "dog`s"), ("", ""),
])
def test_possessive(term: str, rest: str) -> None:
    assert maps.possessive(term) == rest


@pytest.mark.parametrize(("word", "stem"), [
    ("", ""), ("is", "is"), ("ies", "i"), ("caresses", "caress"), ("agreed", "agre"), ("hopping", "hop"),
    ("filing", "file"), ("sky", "sky"), ("happy", "happi"), ("relational", "relat"), ("apology", "apolog"),
    ("conformably", "conform"), ("oscillators", "oscil"), ("controlling", "control"), ("syzygy", "syzygi"),
    ("naïveness", "naïv"), ("\U00010428s", "\U00010428"),
    ("x\U00010428\U00010428ed", "x\U00010428\U00010428ed"),
])
def test_porter(word: str, stem: str) -> None:
    assert porter.stem(word) == stem
