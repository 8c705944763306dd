"""Vectors for kernels: eight lanes of uint32 or float32, as portable LLVM vectors.

LLVM does not vectorise a kernel's plain loops (addresses may alias), so the loops that matter say what they mean.
Nothing here names an instruction set: the compiler turns eight lanes into one AVX2 register or two SSE ones.

As with the loads and stores of ``jit``, the names exist only in compiled code. ``u8x`` are eight unsigned 32-bit
lanes, ``f8x`` eight floats; unless said otherwise a function takes and returns vectors.
"""

from __future__ import annotations

from typing import Any

from .jit import Primitive

u8x_load, u8x_store, u8x_splat = map(Primitive, ("u8x_load", "u8x_store", "u8x_splat"))
u8x_add, u8x_and, u8x_or = map(Primitive, ("u8x_add", "u8x_and", "u8x_or"))
u8x_shl, u8x_shr = map(Primitive, ("u8x_shl", "u8x_shr"))
"""Shift every lane by one number of bits, below 32."""
u8x_prefix_sum = Primitive("u8x_prefix_sum")
"""Lane i becomes the sum of lanes 0 .. i."""
u8x_last = Primitive("u8x_last")
"""Lane 7, as an int64."""
u8x_popcount = Primitive("u8x_popcount")
"""Number of set bits of every lane."""
u8x_float = Primitive("u8x_float")
"""Lanes below 2^31 as floats."""
f8x_load, f8x_store, f8x_splat = map(Primitive, ("f8x_load", "f8x_store", "f8x_splat"))
f8x_add, f8x_sub, f8x_mul, f8x_div = map(Primitive, ("f8x_add", "f8x_sub", "f8x_mul", "f8x_div"))
f8x_min, f8x_max = Primitive("f8x_min"), Primitive("f8x_max")
f8x_positive = Primitive("f8x_positive")
"""Lane i is lane i of the second where that of the first is above 0, else that of the third."""
f8x_at_least = Primitive("f8x_at_least")
"""Bit i of the result says whether lane i of the first is at least lane i of the second."""
u8x_below = Primitive("u8x_below")
"""Bit i of the result says whether lane i of the first is below lane i of the second."""
f8x_table = Primitive("f8x_table")
"""Lane i is the float at ``table + 4 * lane i`` of a vector of indices."""
u8x_bytes = Primitive("u8x_bytes")
"""Lane i is the byte at ``base + lane i`` of a vector of offsets."""
u8x_widen = Primitive("u8x_widen")
"""Lane i is byte i at an address."""
LANES = 8


def intrinsics() -> dict[str, Any]:
    """What the names above are to the compiler: name -> Numba intrinsic."""
    from llvmlite import ir
    from numba import types as nbt
    from numba.extending import intrinsic, models, register_model

    i8, i32, i64, f32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()

    def vector(name: str, item: Any) -> tuple[Any, Any]:
        of = ir.VectorType(item, LANES)

        class Kind(nbt.Type):
            def __init__(self) -> None:
                super().__init__(name=name)

        model: Any = models.PrimitiveModel
        register_model(Kind)(lambda manager, kind: model(manager, kind, of))
        kind: Any = Kind
        return kind(), of

    u8x, u8x_ir = vector("u8x", i32)
    f8x, f8x_ir = vector("f8x", f32)
    number = nbt.int64

    def define(arity: int, signature: Any, emit: Any) -> Any:
        """An intrinsic of ``arity`` arguments; ``emit(builder, *arguments)`` writes its IR."""
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if value is None else value
        if arity == 1:
            @intrinsic
            def one(typingctx: Any, a: Any) -> Any:
                return signature, build
            return one
        if arity == 2:
            @intrinsic
            def two(typingctx: Any, a: Any, b: Any) -> Any:
                return signature, build
            return two

        @intrinsic
        def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
            return signature, build
        return three

    def lanes(numbers: list[int]) -> Any:
        return ir.Constant(ir.VectorType(i32, LANES), numbers)

    def splat(builder: Any, of: Any, item: Any) -> Any:
        one = builder.insert_element(ir.Constant(of, ir.Undefined), item, ir.Constant(i32, 0))
        return builder.shuffle_vector(one, ir.Constant(of, ir.Undefined), lanes([0] * LANES))

    def load(of: Any) -> Any:
        def emit(builder: Any, address: Any) -> Any:
            value = builder.load(builder.inttoptr(address, of.as_pointer()))
            value.align = 1
            return value
        return emit

    def store(of: Any) -> Any:
        def emit(builder: Any, address: Any, value: Any) -> None:
            builder.store(value, builder.inttoptr(address, of.as_pointer()), align=1)
        return emit

    def prefix_sum(builder: Any, value: Any) -> Any:
        zero = ir.Constant(u8x_ir, [0] * LANES)
        for step in (1, 2, 4):  # lanes 0 .. 7 of the zeros, 8 .. 15 of the value
            moved = lanes([lane - step + LANES if lane >= step else 0 for lane in range(LANES)])
            value = builder.add(value, builder.shuffle_vector(zero, value, moved))
        return value

    def popcount(builder: Any, value: Any) -> Any:
        kind = ir.FunctionType(u8x_ir, [u8x_ir])
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop.v8i32", fnty=kind), [value])

    def mask(builder: Any, bits: Any) -> Any:
        return builder.zext(builder.bitcast(bits, ir.IntType(LANES)), i64)

    def gather(builder: Any, base: Any, offsets: Any, item: Any, scale: int, finish: Any, of: Any) -> Any:
        result = ir.Constant(of, ir.Undefined)
        for lane in range(LANES):
            offset = builder.zext(builder.extract_element(offsets, ir.Constant(i32, lane)), i64)
            if scale > 1:
                offset = builder.mul(offset, ir.Constant(i64, scale))
            value = builder.load(builder.inttoptr(builder.add(base, offset), item.as_pointer()))
            value.align = 1
            result = builder.insert_element(result, finish(builder, value), ir.Constant(i32, lane))
        return result

    def widen(builder: Any, address: Any) -> Any:
        kind = ir.VectorType(i8, LANES)
        value = builder.load(builder.inttoptr(address, kind.as_pointer()))
        value.align = 1
        return builder.zext(value, u8x_ir)

    return {
        "u8x_load": define(1, u8x(number), load(u8x_ir)),
        "u8x_store": define(2, nbt.void(number, u8x), store(u8x_ir)),
        "u8x_splat": define(1, u8x(number), lambda b, v: splat(b, u8x_ir, b.trunc(v, i32))),
        "u8x_add": define(2, u8x(u8x, u8x), lambda b, x, y: b.add(x, y)),
        "u8x_and": define(2, u8x(u8x, u8x), lambda b, x, y: b.and_(x, y)),
        "u8x_or": define(2, u8x(u8x, u8x), lambda b, x, y: b.or_(x, y)),
        "u8x_shl": define(2, u8x(u8x, number), lambda b, x, n: b.shl(x, splat(b, u8x_ir, b.trunc(n, i32)))),
        "u8x_shr": define(2, u8x(u8x, number), lambda b, x, n: b.lshr(x, splat(b, u8x_ir, b.trunc(n, i32)))),
        "u8x_prefix_sum": define(1, u8x(u8x), prefix_sum),
        "u8x_last": define(1, number(u8x), lambda b, v: b.zext(b.extract_element(v, ir.Constant(i32, LANES - 1)), i64)),
        "u8x_popcount": define(1, u8x(u8x), popcount),
        "u8x_float": define(1, f8x(u8x), lambda b, v: b.sitofp(v, f8x_ir)),
        "u8x_below": define(2, number(u8x, u8x), lambda b, x, y: mask(b, b.icmp_unsigned("<", x, y))),
        "u8x_widen": define(1, u8x(number), widen),
        "u8x_bytes": define(2, u8x(number, u8x), lambda b, base, v: gather(
            b, base, v, i8, 1, lambda b, x: b.zext(x, i32), u8x_ir)),
        "f8x_load": define(1, f8x(number), load(f8x_ir)),
        "f8x_store": define(2, nbt.void(number, f8x), store(f8x_ir)),
        "f8x_splat": define(1, f8x(nbt.float32), lambda b, v: splat(b, f8x_ir, v)),
        "f8x_add": define(2, f8x(f8x, f8x), lambda b, x, y: b.fadd(x, y)),
        "f8x_sub": define(2, f8x(f8x, f8x), lambda b, x, y: b.fsub(x, y)),
        "f8x_mul": define(2, f8x(f8x, f8x), lambda b, x, y: b.fmul(x, y)),
        "f8x_div": define(2, f8x(f8x, f8x), lambda b, x, y: b.fdiv(x, y)),
        "f8x_min": define(2, f8x(f8x, f8x), lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y)),
        "f8x_positive": define(3, f8x(f8x, f8x, f8x), lambda b, test, x, y: b.select(
            b.fcmp_ordered(">", test, ir.Constant(f8x_ir, [0.0] * LANES)), x, y)),
        "f8x_max": define(2, f8x(f8x, f8x), lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y)),
        "f8x_at_least": define(2, number(f8x, f8x), lambda b, x, y: mask(b, b.fcmp_ordered(">=", x, y))),
        "f8x_table": define(2, f8x(number, u8x), lambda b, base, v: gather(b, base, v, f32, 4, lambda b, x: x, f8x_ir)),
    }
