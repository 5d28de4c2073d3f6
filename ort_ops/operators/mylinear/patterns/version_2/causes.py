"""Causes for leaving activations and weights as they are. No torch."""

from __future__ import annotations

from ort_ops.rewrite import reasons


class Cause(reasons.Cause):
    """Why a node was left alone. The value is the sentence, over the fields of a `Reason`."""

    OTHER_ACTIVATION = "MYLINEAR has no activation {op_type}"
    OTHER_PARAMETER = "MYLINEAR has {op_type} with {name}={wanted} only, not {got}"
    SUM_IS_SEEN = "other nodes take '{value}', the sum before the activation"
    OTHER_CONSTANTS = "it is written like {activation}, but its constants give another function"
    WEIGHT_NOT_FLOAT32 = "the weight is {dtype}, and only a float32 one can be stored in 16 bits"
    WEIGHT_IS_COMPUTED = "the weight is computed, so there is nothing to store in 16 bits"
    WEIGHT_IS_SHARED = "other nodes take '{value}' as it is, so it would be stored twice"
    WEIGHT_OVERFLOWS = "the weight's largest number is {largest:g}, and {dtype} ends at {limit:g}"
