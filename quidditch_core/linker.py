"""From one ELF object to a flat image of code that runs at any page-aligned address.

What a compiler of position-independent code leaves open are distances within the code and to functions of the C
library and of Python. Everything that is only read (functions, constants, jump tables) is laid out in one piece, so the
first are known here; the second go through a stub that jumps to the address in a slot (see ``image``). Whatever else an
object may contain, such as writable data or absolute addresses, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from .image import PYTHON, slots_at

C_LIBRARY = frozenset({
    "memcpy", "memmove", "memset", "memcmp", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "fmod",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "round",
    "expf", "logf", "log2f", "powf", "fmodf", "ldexp", "hypot",
})
STUB = 16
X86_64, AARCH64 = 62, 183

_ALLOC, _WRITE = 2, 1
_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 4, 8
_UNDEFINED = 0


class NotFlat(Exception):
    """The object holds something that a flat image cannot."""


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


class Linked(NamedTuple):
    """The code, where each global symbol is in it, and the functions of its slots."""

    code: bytes
    symbols: dict[str, int]
    imports: tuple[str, ...]


def link(data: bytes) -> Linked:
    """Lay out the relocatable ELF object ``data``."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise NotFlat("no little-endian 64-bit ELF object")
    machine, = struct.unpack_from("<H", data, 18)
    sections = _sections(data)
    places, code = _layout(data, sections)
    symbols = _symbols(data, sections)
    known: dict[str, int] = {}
    for name, bind, home, value in symbols:
        if home in places and bind:
            known[name] = places[home] + value
    code += bytes(-len(code) % STUB)
    imports, stubs = _imports(symbols, len(code))
    code += bytes(STUB * len(imports))
    slots = slots_at(len(code))
    for number, name in enumerate(imports):
        at = stubs[name]
        code[at : at + STUB] = _stub(machine, slots + 8 * number - at)
    patches = {X86_64: _X86_64, AARCH64: _AARCH64}.get(machine)
    if patches is None:
        raise NotFlat(f"machine {machine} is not one that images are made for")
    for table in sections:
        if table.kind != _RELOCATIONS or table.info not in places:
            continue
        for at in range(table.offset, table.offset + table.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", data, at)
            name, _, home, value = symbols[info >> 32]
            if home in places:
                goal = places[home] + value
            elif home == _UNDEFINED and name in stubs:
                goal = stubs[name]
            else:
                raise NotFlat(f"the code refers to {name or sections[home].name}, which no image can hold")
            patch = patches.get(info & 0xFFFFFFFF)
            if patch is None:
                raise NotFlat(f"relocation {info & 0xFFFFFFFF} of machine {machine} is not one of flat code")
            patch(code, places[table.info] + offset, goal + addend)
    return Linked(bytes(code), known, imports)


def _sections(data: bytes) -> list[_Section]:
    start, = struct.unpack_from("<Q", data, 40)
    each, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * each) for i in range(count)]
    table = rows[names][4]
    return [_Section(_text(data, table + row[0]), row[1], row[2], row[4], row[5], row[6], row[7], row[8])
            for row in rows]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _layout(data: bytes, sections: list[_Section]) -> tuple[dict[int, int], bytearray]:
    """Where each section of code and constants goes, and all of them in one piece."""
    places: dict[int, int] = {}
    code = bytearray()
    for number, section in enumerate(sections):
        if not section.flags & _ALLOC or not section.size or section.name == ".eh_frame":
            continue
        if section.flags & _WRITE or section.kind == _NO_BITS:
            raise NotFlat(f"{section.name} is writable, and code has no place to keep state")
        code += bytes(-len(code) % max(section.align, 64))
        places[number] = len(code)
        code += data[section.offset : section.offset + section.size]
    return places, code


def _symbols(data: bytes, sections: list[_Section]) -> list[tuple[str, int, int, int]]:
    """Name, binding (0 is local), section and value of every symbol."""
    found = []
    for table in sections:
        if table.kind == _SYMBOLS:
            names = sections[table.link].offset
            for at in range(table.offset, table.offset + table.size, 24):
                name, info, _, home, value, _ = struct.unpack_from("<IBBHQQ", data, at)
                found.append((_text(data, names + name), info >> 4, home, value))
    return found


def _imports(symbols: list[tuple[str, int, int, int]], end: int) -> tuple[tuple[str, ...], dict[str, int]]:
    """The C functions that are called, and where their stubs are: from ``end`` on."""
    wanted = sorted({name for name, _, home, _ in symbols if home == _UNDEFINED and name})
    strangers = [name for name in wanted if name not in C_LIBRARY | PYTHON]
    if strangers:
        raise NotFlat(f"the code calls {', '.join(strangers)}")
    return tuple(wanted), {name: end + STUB * i for i, name in enumerate(wanted)}


def _stub(machine: int, distance: int) -> bytes:
    """A jump to the address in the slot that is ``distance`` bytes behind the stub."""
    if machine == X86_64:  # jmp *slot(%rip)
        return b"\xff\x25" + struct.pack("<i", distance - 6) + b"\xcc" * 10
    if distance >= 1 << 20:
        raise NotFlat("a slot is out of reach")
    return struct.pack("<II", 0x58000010 | distance // 4 << 5, 0xD61F0200) + bytes(8)  # ldr x16, slot; br x16


# --- what is open in an object, by its number in the ABI of the processor --------------------------------------

Patch = Callable[[bytearray, int, int], None]


def _put(code: bytearray, at: int, form: str, value: int) -> None:
    try:
        struct.pack_into(form, code, at, value)
    except struct.error:
        raise NotFlat("a distance is out of reach") from None


def _relative(form: str) -> Patch:
    return lambda code, at, goal: _put(code, at, form, goal - at)


def _field(value: Callable[[int, int], int], bits: int, shift: int, scale: int = 0, signed: bool = True) -> Patch:
    """A patch of ``bits`` bits of an instruction, from bit ``shift`` on."""
    def patch(code: bytearray, at: int, goal: int) -> None:
        number = value(at, goal)
        if number & ((1 << scale) - 1):
            raise NotFlat("a distance is not aligned")
        number >>= scale
        least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not least <= number <= most:
            raise NotFlat("a distance is out of reach")
        word, = struct.unpack_from("<I", code, at)
        mask = (1 << bits) - 1
        struct.pack_into("<I", code, at, word & ~(mask << shift) | (number & mask) << shift)
    return patch


def _address_of_page(code: bytearray, at: int, goal: int) -> None:
    """ADRP: 21 bits, the low two apart."""
    pages = (goal >> 12) - (at >> 12)
    if not -(1 << 20) <= pages < 1 << 20:
        raise NotFlat("a distance is out of reach")
    word, = struct.unpack_from("<I", code, at)
    word = word & ~(3 << 29 | 0x7FFFF << 5) | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    struct.pack_into("<I", code, at, word)


def _distance(at: int, goal: int) -> int:
    return goal - at


def _in_page(at: int, goal: int) -> int:
    return goal & 0xFFF


_X86_64: dict[int, Patch] = {
    2: _relative("<i"),  # PC32
    4: _relative("<i"),  # PLT32
    24: _relative("<q"),  # PC64
}
_AARCH64: dict[int, Patch] = {
    260: _relative("<q"),  # PREL64
    261: _relative("<i"),  # PREL32
    275: _address_of_page,  # ADR_PREL_PG_HI21
    277: _field(_in_page, 12, 10, signed=False),  # ADD_ABS_LO12_NC
    278: _field(_in_page, 12, 10, 0, signed=False),  # LDST8_ABS_LO12_NC
    284: _field(_in_page, 12, 10, 1, signed=False),  # LDST16_ABS_LO12_NC
    285: _field(_in_page, 12, 10, 2, signed=False),  # LDST32_ABS_LO12_NC
    286: _field(_in_page, 12, 10, 3, signed=False),  # LDST64_ABS_LO12_NC
    299: _field(_in_page, 12, 10, 4, signed=False),  # LDST128_ABS_LO12_NC
    279: _field(_distance, 14, 5, 2),  # TSTBR14
    280: _field(_distance, 19, 5, 2),  # CONDBR19
    282: _field(_distance, 26, 0, 2),  # JUMP26
    283: _field(_distance, 26, 0, 2),  # CALL26
}
