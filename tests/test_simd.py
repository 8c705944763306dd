"""Every vector primitive, lane by lane, against NumPy; and the block codec that is built on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quidditch_core.index.kernels.blocks import (
    pack_vertical,
    read_vertical,
    unpack_docs,
    unpack_vertical,
)
from quidditch_core.jit import Kernel, Primitive, bits_f32, helper, kernel, store_i64, store_u32
from quidditch_core.segment import address
from quidditch_core.simd import (
    LANES,
    f8x_add,
    f8x_at_least,
    f8x_div,
    f8x_load,
    f8x_max,
    f8x_min,
    f8x_mul,
    f8x_positive,
    f8x_splat,
    f8x_store,
    f8x_sub,
    f8x_table,
    intrinsics,
    u8x_add,
    u8x_and,
    u8x_below,
    u8x_bytes,
    u8x_float,
    u8x_last,
    u8x_load,
    u8x_or,
    u8x_popcount,
    u8x_prefix_sum,
    u8x_shl,
    u8x_shr,
    u8x_splat,
    u8x_store,
    u8x_widen,
)

Lanes = NDArray[Any]
NONE = "quidditch_core.index.kernels.reference:union"  # these kernels are only ever compiled
U32, F32 = np.uint32, np.float32


def lanes(random: np.random.Generator, kind: type) -> Lanes:
    """Eight random lanes, extremes among them."""
    if kind is U32:
        return random.choice(np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, *random.integers(0, 2**32, 11)], U32), LANES)
    return random.choice(np.array([0.0, -0.0, 1e-30, -3.5, 3e38, *random.normal(size=11)], F32), LANES)


def run(code: Kernel, *args: int) -> int:
    return code.compiled()(*args)


@kernel(NONE)
def u_add(a: int, b: int, out: int) -> int:
    u8x_store(out, u8x_add(u8x_load(a), u8x_load(b)))
    return 0


@kernel(NONE)
def u_and(a: int, b: int, out: int) -> int:
    u8x_store(out, u8x_and(u8x_load(a), u8x_load(b)))
    return 0


@kernel(NONE)
def u_or(a: int, b: int, out: int) -> int:
    u8x_store(out, u8x_or(u8x_load(a), u8x_load(b)))
    return 0


@kernel(NONE)
def u_unary(a: int, shift: int, out: int) -> int:
    """Seven vectors that depend on one: shifted left and right, summed, counted, the last lane spread, and a number."""
    value = u8x_load(a)
    u8x_store(out, u8x_shl(value, shift))
    u8x_store(out + 32, u8x_shr(value, shift))
    u8x_store(out + 64, u8x_prefix_sum(value))
    u8x_store(out + 96, u8x_popcount(value))
    u8x_store(out + 128, u8x_splat(u8x_last(value)))
    f8x_store(out + 160, u8x_float(u8x_shr(value, 1)))
    u8x_store(out + 192, u8x_widen(a))
    return u8x_last(value)


@kernel(NONE)
def u_below(a: int, b: int, out: int) -> int:
    return u8x_below(u8x_load(a), u8x_load(b))


@kernel(NONE)
def f_binary(a: int, b: int, out: int) -> int:
    x, y = f8x_load(a), f8x_load(b)
    f8x_store(out, f8x_add(x, y))
    f8x_store(out + 32, f8x_sub(x, y))
    f8x_store(out + 64, f8x_mul(x, y))
    f8x_store(out + 96, f8x_div(x, y))
    f8x_store(out + 128, f8x_min(x, y))
    f8x_store(out + 160, f8x_max(x, y))
    f8x_store(out + 192, f8x_positive(x, y, f8x_splat(bits_f32(0x40490FDB))))
    return f8x_at_least(x, y)


@kernel(NONE)
def look_up(table: int, numbers: int, at: int, out: int) -> int:
    f8x_store(out, f8x_table(table, u8x_load(at)))
    u8x_store(out + 32, u8x_bytes(numbers, u8x_load(at)))
    return 0


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize(("code", "operation"), [(u_add, np.add), (u_and, np.bitwise_and), (u_or, np.bitwise_or)])
def test_integers_in_pairs(
    code: Kernel, operation: Callable[[Lanes, Lanes], Lanes], random: np.random.Generator,
) -> None:
    for _ in range(50):
        a, b, out = lanes(random, U32), lanes(random, U32), np.zeros(LANES, U32)
        run(code, address(a), address(b), address(out))
        assert out.tolist() == operation(a, b).tolist()
        assert run(u_below, address(a), address(b), 0) == sum(1 << i for i in range(LANES) if a[i] < b[i])


def test_integers_alone(random: np.random.Generator) -> None:
    for shift in range(32):
        a, out = lanes(random, U32), np.zeros((7, LANES), U32)
        assert run(u_unary, address(a), shift, address(out)) == int(a[7])
        wide = a.astype(np.uint64)
        assert out[0].tolist() == ((wide << np.uint64(shift)) & np.uint64(2**32 - 1)).tolist()
        assert out[1].tolist() == (wide >> np.uint64(shift)).tolist()
        assert out[2].tolist() == (np.cumsum(wide) & np.uint64(2**32 - 1)).tolist()
        assert out[3].tolist() == np.bitwise_count(a).tolist()
        assert out[4].tolist() == [int(a[7])] * LANES
        assert out[5].view(F32).tolist() == (a >> U32(1)).astype(F32).tolist()
        assert out[6].tolist() == a.view(np.uint8)[:LANES].tolist()


def test_floats(random: np.random.Generator) -> None:
    for _ in range(200):
        a, b, out = lanes(random, F32), lanes(random, F32), np.zeros((7, LANES), F32)
        mask = run(f_binary, address(a), address(b), address(out))
        with np.errstate(all="ignore"):
            expected = [a + b, a - b, a * b, a / b, np.where(a < b, a, b), np.where(a > b, a, b),
                        np.where(a > 0, b, F32(np.pi))]
        for found, wanted in zip(out, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert mask == sum(1 << i for i in range(LANES) if a[i] >= b[i])


def test_gathers(random: np.random.Generator) -> None:
    table, numbers = random.normal(size=300).astype(F32), random.integers(0, 256, 300).astype(np.uint8)
    at, out = random.integers(0, 300, LANES).astype(U32), np.zeros((2, LANES), U32)
    run(look_up, address(table), address(numbers), address(at), address(out))
    assert out[0].view(F32).tolist() == table[at].tolist()
    assert out[1].tolist() == numbers[at].tolist()


def test_no_primitive_is_left_out() -> None:
    used = {value.name for value in globals().values() if isinstance(value, Primitive)}
    assert set(intrinsics()) <= used


# --- the block codec ---------------------------------------------------------------------------------------


@kernel(NONE)
def block(values: int, width: int, packed: int, out: int) -> int:
    """Pack 128 values, unpack them whole and one by one, and as documents."""
    pack_vertical(values, width, packed)
    unpack_vertical(packed, width, out, 3)
    for i in range(128):
        store_u32(out + 512 + 4 * i, read_vertical(packed, width, i))
    return unpack_docs(packed, width, out + 1024, 6)


@helper
def decode_often(packed: int, width: int, out: int, times: int) -> int:
    last = 0
    for i in range(times):
        last += unpack_docs(packed, width, out, i)
    return last


@kernel(NONE)
def decode(packed: int, width: int, out: int, times: int, sums: int) -> int:
    store_i64(sums, decode_often(packed, width, out, times))
    return 0


@pytest.mark.parametrize("width", range(33))
def test_a_block_comes_back(width: int, random: np.random.Generator) -> None:
    values = random.integers(0, 1 << width, 128).astype(U32)
    values[:2] = (1 << width) - 1, 0
    packed, out = np.zeros(600, np.uint8), np.zeros((3, 128), U32)
    last = run(block, address(values), width, address(packed), address(out))
    assert out[0].tolist() == (values + U32(3)).tolist()
    assert out[1].tolist() == values.tolist()
    docs = (np.cumsum(values.astype(np.uint64) + np.uint64(1)) + np.uint64(6)) & np.uint64(2**32 - 1)
    assert out[2].tolist() == docs.tolist()
    assert last == int(docs[-1])


def test_a_block_is_decoded_quickly(random: np.random.Generator) -> None:
    """128 documents with their prefix sum: about 20 ns where AVX2 is; the limit leaves room for slower ones."""
    packed, out, sums = np.zeros(600, np.uint8), np.zeros(128, U32), np.zeros(1, np.int64)
    packed[:] = random.integers(0, 256, 600)
    best = np.inf
    for _ in range(20):
        started = time.perf_counter()
        run(decode, address(packed), 7, address(out), 20_000, address(sums))
        best = min(best, (time.perf_counter() - started) / 20_000)
    assert best < 60e-9 * 5, f"{best * 1e9:.0f} ns a block"
