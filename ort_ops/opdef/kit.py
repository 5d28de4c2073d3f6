"""An operator with what proves and runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ort_ops.opdef.operator import Operator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ort_ops.numerics.bound import Arithmetic, Bound
    from ort_ops.opdef.call import Call
    from ort_ops.opdef.element_types import ElementType

    Array = NDArray[Any]
    Types = Mapping[str, ElementType]


@dataclass(frozen=True)
class OperatorKit:
    """One operator, and everything that this package needs to check, run and prove it.

    A package of yours makes one and names it in the entry-point group ``mylinear.operators``. Every session asks for
    the kits, so a module that makes one should import little; functions can import what they need.

    Attributes:
        operator: the description.
        reference: call -> the exact results, one per output: float64 arrays, not rounded to the element type, and
            arrays of integers or booleans for outputs of such a type. All outputs, also those that the call lacks.
            Floating-point inputs may come as float64 whatever ``call.types`` says: through a graph they are exact.
        bound: (call, arithmetic) -> how far a right kernel may be from each result; None for an output that must be
            equal bit by bit.
        samples: (random generator, element types) -> calls worth trying: usual ones, edges, zero sizes, absent optional
            inputs, attributes other than the default.
        samples_are_examples: whether samples are the calls that somebody gave as examples, and others like them. What
            they lack is then reported, and nothing is broken by it.
        python_kernel: () -> the `PythonKernel`, made by `implements`; None for none.
        library: () -> path of the shared library with C++ kernels for it, to be registered with a session; raises a
            MylinearError that says why there is none. None where no C++ kernel was ever written for it.
        cuda_library: the same for a library that needs onnxruntime's CUDA provider.
        patterns: () -> what `adopt` replaces by the operator, each an `ort_ops.rewrite.pattern.Pattern`. None for
            nothing.
        optional_patterns: `ort_ops.rewrite.choices.Choices` -> what `adopt` replaces only when asked, once all else is
            done, each such a Pattern too. None for nothing.
        lowering: () -> an `ort_ops.rewrite.pattern.Lowering`, which puts standard operators in the place of a node,
            where other ones are better than the operator's body. None for the body.
        rows: name of an input whose rows (along its last axis) are computed each by itself: every output has the same
            leading dimensions, and no other input has them. A few rows of a large call then stand for all, and those of
            several calls are bounded together. Empty for none.
        is_elementwise: whether each kernel computes an element of an output from the same element of the inputs of its
            shape, and reads it before it writes there, so that an output may take the memory of one of them.
        widens: whether `reference`, `bound`, `error_sizes` and `may_overflow` take each floating-point input in
            whatever type it is stored, beside float64 ones, and widen it in parts. Else a stored weight becomes float64
            as a whole before, which takes twice its memory and more.
        error_sizes: call of float64 arrays -> each result as `reference` gives it, with the size of its rounding error,
            or None for a result that has none; `ort_ops.analysis.float64.local_error` says what a size is. Sums of many
            terms err far less than their bound, and the bound of a graph is as much sharper. None: the bound is taken.
        has_steps: whether it has steps between which a kernel may round, as torch does where it computes them one after
            the other (`Arithmetic.rounds_between`); ``bound`` then has room for that, if it is asked.
        may_overflow: call -> whether a partial sum may overflow, quickly and without fail; where it may not, `bound` is
            not asked for where `error_sizes` is enough. None if that is not known.
        gradient: (call, gradients of the outputs) -> exact gradients of the inputs in float64, None for an input
            that has none. None where verification must use finite differences.
        inspection: (key, function of an `ort_ops.inspection.nodes.NodeInfo`): under this key, `mylinear inspect --json`
            also lists what the function returns for each node, a dataclass. For what scripts read already; None for
            none.
        gradient_bound: the same arguments -> how far a right backward in the call's element types may be from each
            exact gradient. With it verification compares the backward of the nodes' own type too.
        torch: ``module:attribute`` of the `TorchKit`, imported by `exporter` alone; empty for none.
        bench: ``module:attribute`` of the `BenchKit`, which `mylinear bench` measures; empty for none.
    """

    operator: Operator
    reference: Callable[[Call], Sequence[Array]]
    bound: Callable[[Call, Arithmetic], Sequence[Bound | None]]
    samples: Callable[[np.random.Generator, Types], Iterable[Call]]
    python_kernel: Callable[[], Any] | None = None
    library: Callable[[], str] | None = None
    cuda_library: Callable[[], str] | None = None
    patterns: Callable[[], Sequence[Any]] | None = None
    optional_patterns: Callable[[Any], Sequence[Any]] | None = None
    lowering: Callable[[], Callable[..., Any]] | None = None
    rows: str = ""
    is_elementwise: bool = False
    widens: bool = False
    error_sizes: Callable[[Call], Sequence[tuple[Array, Array | None]]] | None = None
    may_overflow: Callable[[Call], bool] | None = None
    has_steps: bool = False
    gradient: Callable[[Call, Sequence[Array | None]], Sequence[Array | None]] | None = None
    inspection: tuple[str, Callable[[Any], Any]] | None = None
    gradient_bound: Callable[[Call, Sequence[Array | None]], Sequence[Bound | None]] | None = None
    torch: str = ""
    bench: str = ""
    samples_are_examples: bool = False
