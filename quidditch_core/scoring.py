"""Scoring functions: plain Python functions of a score and of fields, compiled alone to machine code.

::

    @qc.scorer
    def boosted(score, popularity=0.0):
        return score * (1 + popularity / 100)

A query names the function; a request can never carry code. All documents that match are scored, unless the function
says what it can make of a score at most (``upper_bound``): then the best ones by the query's own score are tried first.

Numba compiles the function and what it calls to one loop over a block of documents, when it is defined, so that
whatever is wrong with it is told there; the code is kept in the private cache of ``jit``. ``QUIDDITCH_KERNELS=numpy``
calls the function itself.
"""

from __future__ import annotations

import builtins
import dis
import functools
import importlib.util
import math
import os
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from . import jit
from .errors import QueryError, ScorerError, nearest
from .segment import address, view

_MOST = float(np.finfo(np.float32).max)
_MODULES = {math: "math", np: "np"}
_FORBIDDEN = {
    "RAISE_VARARGS": "raises an error",
    "IMPORT_NAME": "imports",
    "STORE_GLOBAL": "changes a global variable",
    "DELETE_GLOBAL": "changes a global variable",
    "YIELD_VALUE": "is a generator",
    "RETURN_GENERATOR": "is a generator",
    "MAKE_FUNCTION": "defines a function inside",
    "BUILD_LIST": "makes a list",
    "BUILD_MAP": "makes a dict",
    "BUILD_SET": "makes a set",
    "BUILD_STRING": "makes a string",
    "FORMAT_VALUE": "makes a string",
    "FORMAT_SIMPLE": "makes a string",
}
_DONE, _FAILED = -1, 0


class Parameter(NamedTuple):
    """A parameter that stands for a field: ``integer`` if it is an int64, else it is a float64."""

    name: str
    integer: bool
    default: float | None

    @property
    def dtype(self) -> Any:
        return np.int64 if self.integer else np.float64


class Scorer:
    """A function that :func:`scorer` compiled. Calling it calls the Python function."""

    def __init__(
        self, function: types.FunctionType, name: str, upper_bound: Callable[[float], float] | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.upper_bound = upper_bound
        self.__doc__ = function.__doc__
        self.parameters = _parameters(function, name)
        self._call = _compiled(self)

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.function(*args, **given)

    def __repr__(self) -> str:
        return f"<scorer {self.name}({', '.join(['score', *(each.name for each in self.parameters)])})>"

    def scores(self, scores: NDArray[np.float32], columns: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """The new score of each document of a block: float32 [n] of ``scores`` and the values of each parameter.

        Raises QueryError for a score that is negative, infinite or no number.
        """
        scores = np.ascontiguousarray(scores, np.float32)
        values = [np.ascontiguousarray(column, each.dtype)
                  for column, each in zip(columns, self.parameters, strict=True)]
        out = np.empty(scores.size, np.float32)
        status = self._call(scores.size, address(scores), address(out), *map(address, values))
        if status != _DONE:
            place = max(status - 1, 0)
            given = {each.name: value[place].item() for each, value in zip(self.parameters, values, strict=True)}
            raise QueryError(
                f"the scorer {self.name} failed" if status == _FAILED else f"the scorer {self.name} gave a bad score",
                found={"score": scores[place].item(), **given} if status == _FAILED else out[place].item(),
                expected="a finite float32, 0 or more" + ("" if status == _FAILED else f", of {given}"))
        return out


@overload
def scorer(function: Callable[..., Any], /) -> Scorer: ...


@overload
def scorer(
    *, name: str | None = None, upper_bound: Callable[[float], float] | None = None,
) -> Callable[[Callable[..., Any]], Scorer]: ...


def scorer(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None,
    upper_bound: Callable[[float], float] | None = None,
) -> Any:
    """Compile a function that scores documents, and let queries name it. Use it as a decorator.

    The first parameter is ``score``, the score so far; each other one is a numeric, boolean or date field, dots written
    as ``__``: a float, or an int where it is annotated so (dates are ms since 1970; of several values, the least). A
    default stands for a missing value. The result is rounded to float32, and must be finite and not negative.

    ``upper_bound`` of a number is the most that the function gives to any document whose score is at most that number;
    it never falls as the number rises: ``lambda score: 2 * score``. A ``script_score`` then leaves out documents that
    cannot be among the hits.

    A function of the same module may be defined again, and replaces the former. Raises ScorerError.
    """
    if function is None:
        return functools.partial(_register, name=name, upper_bound=upper_bound)
    return _register(function, name, upper_bound)


_scorers: dict[str, Scorer] = {}


def scorer_named(name: str, path: str) -> Scorer:
    """The scorer that a query names at ``path``. QueryError if there is none."""
    found = _scorers.get(name)
    if found is None:
        fix = nearest(name, set(_scorers)) if _scorers else "define one with @qc.scorer"
        raise QueryError("no such scorer", path=path, found=name, fix=fix,
                         expected="the name of a function that @qc.scorer has registered: requests carry no code")
    return found


def _register(function: Any, name: str | None, upper_bound: Callable[[float], float] | None = None) -> Scorer:
    if not isinstance(function, types.FunctionType):
        raise ScorerError("not a Python function", path=name, found=function, expected="a function")
    name = function.__name__ if name is None else name
    if not isinstance(name, str) or not name:
        raise ScorerError("not a name", found=name, expected="a string that is not empty")
    known = _scorers.get(name)
    if known is not None and known.function.__module__ != function.__module__:
        raise ScorerError("another module has a scorer of this name", path=name, found=known.function.__module__,
                          expected="a name of its own", fix='write @qc.scorer(name="...")')
    if upper_bound is not None:
        _check_bound(upper_bound, name)
    made = _scorers[name] = Scorer(function, name, upper_bound)
    return made


def _check_bound(bound: Any, name: str) -> None:
    at = f"{name}.upper_bound"
    if not callable(bound):
        raise ScorerError("the bound is not a function", path=at, found=bound, expected="a function of a score")
    few, many = bound(0.5), bound(50.0)
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in (few, many)) or few > many:
        raise ScorerError("the bound is no bound", path=at, found=f"{few!r} for 0.5, {many!r} for 50.0",
                          expected="a finite number, which does not fall as the score rises")


# --- what a function may be ------------------------------------------------------------------------------------


def _parameters(function: types.FunctionType, name: str) -> tuple[Parameter, ...]:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    if code.co_kwonlyargcount or code.co_posonlyargcount or code.co_flags & 12:
        raise ScorerError("the parameters are not plain", path=name, expected="def f(score, field, other_field=0.0)")
    if not names or names[0] != "score":
        raise ScorerError("the first parameter is not the score", path=name, found=names[0] if names else "none",
                          expected="score, then names of fields")
    defaults = dict(zip(reversed(names), reversed(function.__defaults__ or ()), strict=False))
    if "score" in defaults:
        raise ScorerError("the score has a default", path=f"{name}.score", expected="none: every document has a score")
    return tuple(_parameter(each, function.__annotations__.get(each, float), defaults.get(each), name, each in defaults)
                 for each in names[1:])


def _parameter(name: str, annotation: Any, default: Any, function: str, optional: bool) -> Parameter:
    kind = {"int": int, "float": float}.get(annotation, annotation) if isinstance(annotation, str) else annotation
    path = f"{function}.{name}"
    if kind not in (int, float):
        raise ScorerError("not a type of a field", path=path, found=annotation, expected="int, float or none")
    if not optional:
        return Parameter(name, kind is int, None)
    if isinstance(default, bool) or not isinstance(default, int if kind is int else int | float) or (
            not math.isfinite(default) or (kind is int and not -(2**63) <= default < 2**63)):
        raise ScorerError("the default is no value of the parameter", path=path, found=default,
                          expected="an int64" if kind is int else "a finite number")
    return Parameter(name, kind is int, kind(default))


def _twin(function: types.FunctionType, scorer: str, done: dict[int, jit.Helper | None]) -> jit.Helper:
    """``function`` with globals of numbers, modules and twins alone: all that its machine code may depend on."""
    place = f"{scorer}, in {function.__name__}" if done else scorer
    code = function.__code__
    if id(function) in done:
        known = done[id(function)]
        if known is None:
            raise ScorerError("the function calls itself", path=place, expected="a function without recursion")
        return known
    done[id(function)] = None
    number = len(done)
    if code.co_freevars:
        raise ScorerError("the function uses variables of the function around it", path=place,
                          found=", ".join(code.co_freevars), expected="parameters, and numbers of the module",
                          fix="define it at the top of a module, and name numbers there")
    known_names: dict[str, Any] = {"__name__": "quidditch_core.scorer", "__builtins__": builtins}
    line = code.co_firstlineno
    for step in dis.get_instructions(code):
        line = getattr(step.positions, "lineno", None) or line
        if step.opname in _FORBIDDEN:
            raise ScorerError(f"the function {_FORBIDDEN[step.opname]}", path=place, found=f"line {line}",
                              expected="arithmetic, comparisons, loops, and calls of math, NumPy and such functions")
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            used = str(step.argval)
            if used in function.__globals__:
                known_names[used] = _usable(used, function.__globals__[used], place, line, scorer, done)
            elif not hasattr(builtins, used):
                raise ScorerError("the function uses a name that is not defined", path=place,
                                  found=f"{used}, on line {line}",
                                  fix=nearest(used, set(code.co_varnames)))
    twin = types.FunctionType(code, known_names, function.__name__, function.__defaults__ if number > 1 else None)
    twin.__qualname__ = f"{function.__qualname__}.{number}"  # what the cache tells functions apart by
    done[id(function)] = made = jit.Helper(twin)
    return made


def _usable(used: str, value: Any, place: str, line: int, scorer: str, done: dict[int, jit.Helper | None]) -> Any:
    value = getattr(value, "py_func", value)  # of a function that Numba has compiled already
    if isinstance(value, types.FunctionType):
        return _twin(value, scorer, done)
    if isinstance(value, Scorer):
        return _twin(value.function, scorer, done)
    if isinstance(value, types.ModuleType) and value in _MODULES:
        return value
    if isinstance(value, bool | int | float) or (
            isinstance(value, tuple) and all(isinstance(part, bool | int | float) for part in value)):
        return value
    if isinstance(value, type) and value.__module__ in ("builtins", "numpy"):
        return value
    own = getattr(value, "__name__", "")
    for module, short in _MODULES.items():
        if own and getattr(module, own, None) is value:
            space: dict[str, Any] = {"__name__": "quidditch_core.scorer", short: module}
            exec(f"def call(*args): return {short}.{own}(*args)", space)
            space["call"].__qualname__ = f"{short}.{own}"
            return jit.Helper(space["call"])
    raise ScorerError(f"the function uses {used}, which may change", path=place,
                      found=f"{type(value).__name__}, on line {line}",
                      expected="numbers, tuples of numbers, functions, math and numpy",
                      fix=f"pass what is needed of {used} as a number of its own")


# --- machine code ----------------------------------------------------------------------------------------------


class _Block(jit.Kernel):
    """The loop over a block: it returns _DONE, _FAILED, or 1 + the place of the first bad score."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        names = [f"c{i}" for i in range(len(scorer.parameters))]
        loads = "".join(f", {'load_i64' if each.integer else 'load_f64'}({name} + 8 * i)"
                        for name, each in zip(names, scorer.parameters, strict=True))
        program = f"""
def block(size, scores, out{"".join(f", {name}" for name in names)}):
    for i in range(size):
        value = np.float32(function(np.float64(load_f32(scores + 4 * i)){loads})) + np.float32(0)
        store_f32(out + 4 * i, value)
        if not (value >= np.float32(0) and value <= np.float32({_MOST!r})):
            return i + 1
    return {_DONE}
"""
        space: dict[str, Any] = {
            "__name__": "quidditch_core.scorer", "np": np, "load_f32": jit.load_f32, "load_f64": jit.load_f64,
            "load_i64": jit.load_i64, "store_f32": jit.store_f32, "function": _twin(scorer.function, scorer.name, {})}
        exec(program, space)
        super().__init__(space["block"], "")

    def referenced(self) -> Callable[..., int]:
        def block(size: int, scores: int, out: int, *columns: int) -> int:
            made = view(out, size, np.float32)
            given = [view(scores, size, np.float32).astype(np.float64)]
            given += [view(at, size, each.dtype) for at, each in zip(columns, self._scorer.parameters, strict=True)]
            with np.errstate(over="ignore"):
                for i, values in enumerate(zip(*(each.tolist() for each in given), strict=True)):
                    try:
                        made[i] = np.float32(self._scorer.function(*values)) + np.float32(0)
                    except (ArithmeticError, ValueError):  # what compiled code answers with an infinity or NaN
                        made[i] = np.nan
                    if not 0 <= made[i] <= _MOST:
                        return i + 1
            return _DONE
        return block


def _compiled(scorer: Scorer) -> Callable[..., int]:
    block = _Block(scorer)
    if not jit.enabled() or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return block.referenced()
    if importlib.util.find_spec("numba") is None:
        raise ScorerError("scoring functions need Numba, which is not installed", path=scorer.name,
                          fix="pip install 'quidditch-core[jit]'")
    try:
        return block.jitted()
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("numba", "llvmlite") and type(error).__name__ != "NotFlat":
            raise
        raise ScorerError(*_what_is_wrong(str(error)), path=scorer.name,
                          expected="arithmetic, comparisons, loops, and calls of math, NumPy and such functions, "
                                   "that give a number") from error


def _what_is_wrong(text: str) -> tuple[str]:
    """The one line of what Numba says that tells a reader most."""
    import re

    given = re.search(r"Function\(float32\) .*\s+>>> [^(]*\((.*)\)|Cannot cast (\w+) to float32", text)
    if given:
        return (f"the function gives no number but {given[1] or given[2]}",)
    if " is writable" in text:
        return ("the function may raise an error, or makes an array",)
    lines = [line.strip(" -*>.") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Failed in", "During:", "File ", "There are",
                                                                     "def ", "<source", "Traceback"))]
    return (f"the function cannot be compiled: {lines[0] if lines else text[:200]}",)
