"""Building blocks of our kernels, for numba's `intrinsic` functions: vectors of eight numbers.

They state the vector instructions, because how a compiler vectorises a loop over scalars varies.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

WORD, SHORT, BYTE, FLOAT = ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.FloatType()
FLOATS, WORDS = ir.VectorType(FLOAT, 8), ir.VectorType(WORD, 8)
SIZE = ir.IntType(64)


def size(value: int) -> ir.Constant:
    """Return a constant index."""
    return ir.Constant(SIZE, value)


def start(context: Any, builder: Any, signature: Any, arguments: Any, position: int) -> Any:
    """Return where the array that is argument `position` begins."""
    return context.make_array(signature.args[position])(context, builder, arguments[position]).data


def load(builder: Any, base: Any, index: Any, kind: ir.Type) -> Any:
    """Load a `kind` from element `index` of `base`, at any alignment."""
    return builder.load(builder.bitcast(builder.gep(base, [index]), kind.as_pointer()), align=1)


def store(builder: Any, value: Any, base: Any, index: Any) -> None:
    """Store a vector at element `index` of `base`, at any alignment."""
    builder.store(value, builder.bitcast(builder.gep(base, [index]), value.type.as_pointer()), align=1)


def splat(builder: Any, value: Any) -> Any:
    """Return a vector of eight copies of a scalar."""
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, 8), ir.Undefined), value, ir.Constant(WORD, 0)
    )
    return builder.shuffle_vector(vector, vector, ir.Constant(WORDS, [0] * 8))


def load_floats(builder: Any, base: Any, index: Any, count: int = 8) -> Any:
    """Load eight float32 or one; bfloat16 is stored as the 16-bit integers of its bits."""
    short, word, number = (SHORT, WORD, FLOAT) if count == 1 else (ir.VectorType(SHORT, 8), WORDS, FLOATS)
    if base.type.pointee == FLOAT:
        return load(builder, base, index, number)
    bits = builder.zext(load(builder, base, index, short), word)
    sixteen = ir.Constant(word, 16 if count == 1 else [16] * 8)
    return builder.bitcast(builder.shl(bits, sixteen), number)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once, of eight float32 or one."""
    name = "llvm.fma.f32" if c.type == FLOAT else "llvm.fma.v8f32"
    kind = ir.FunctionType(c.type, [c.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])
