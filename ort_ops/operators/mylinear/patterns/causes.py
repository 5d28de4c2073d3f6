"""Causes for leaving nodes alone that look like linear layers. No torch."""

from __future__ import annotations

from ort_ops.rewrite import reasons


class Cause(reasons.Cause):
    """Why a node was left alone. The value is the sentence, over the fields of a `Reason`."""

    WEIGHT_NOT_CONSTANT = "the weight is not a constant"
    WEIGHT_QUANTIZED = "the weight is quantised"
    WEIGHT_DTYPE_UNKNOWN = "the weight is computed, and its dtype is not known"
    WEIGHT_WIDTH_UNKNOWN = "the weight is computed, and its out_features are not known"
    WEIGHT_WIDTH_UNKNOWN_WITHOUT_BIAS = "the weight is computed, its out_features are not known, and there is no bias"
    WEIGHT_RANK = "the weight has rank {rank}"
    PRODUCT_OF_BATCHES = "the weight has rank {rank}: a product of batches"
    RANK_BELOW_WEIGHT = "the weight has rank {rank}, and the rank of x is not known to be as large"
    DTYPE = "the dtype is {dtype}"
    DTYPES_OF_WEIGHT_AND_BIAS = "weight and bias are of different dtypes"
    DTYPES_OF_X_AND_WEIGHT = "x and weight are of different dtypes"
    SCALAR_X = "x is a scalar"
    FEATURES = "x has {got} features and the weight takes {wanted}"
    TRANSPOSED_INPUT = "transA=1: the input enters transposed, and would need a Transpose when the model runs"
    ROUNDED_SCALE = "{name}={value:g} cannot go into the {what} without rounding it"
    ATTRIBUTE_OF_FUNCTION = "an attribute of it is one of the function around it, and known only at a call"
    MISSING_INPUT = "it has less than its two inputs"
    ZERO_SCALE = "alpha=0: nothing of the product is left"
    C_NOT_CONSTANT = "C is not a constant, nor known to be one number for each output feature"
    C_NOT_A_BIAS = "C is not one number for each output feature"
    C_NOT_FINITE = "beta=0 of a C that is not finite"
    LEFT_RANK = "the constant is the left factor, and has rank {rank}"
    LEFT_NOT_TRANSPOSED = "the constant is the left factor, and the right one is no Transpose of x"
    LEFT_RANK_OF_X = "the constant is the left factor, and the rank of x is not known"
    LEFT_OTHER_AXES = "the constant is the left factor, and the Transpose {where} the product has perm={perm}"
    LEFT_SEEN_BY_OTHERS = (
        "the constant is the left factor, and no single node takes the product, which a Transpose must"
    )
    LEFT_NOT_TRANSPOSED_BACK = "the constant is the left factor, and {op_type} comes behind the product, no Transpose"
    LEFT_NOT_A_BIAS = "the constant is the left factor, and what is added is not one number for each output feature"
    FUSED = "onnxruntime's optimizer made it, and other runtimes do not know it; adopt the model as it was before"
    ATTENTION = (
        "it is a projection of an attention that onnxruntime fuses when it loads the model, which is faster than the "
        "three products"
    )
    FUSED_ATTENTION = "its weight is that of a fused attention; adopt the model as it was before that fusion"
    QUANTIZED = "it multiplies quantised numbers, which MYLINEAR does not"
    POINTWISE_CONVOLUTION = (
        "a convolution of kernel size 1 has its features in axis 1; MYLINEAR takes them last, and would need a "
        "Transpose when the model runs"
    )
    EQUATION = "MYLINEAR computes X W^T only, not '{equation}'"
    CLASSICAL = "it is of ONNX's domain for classical models, and has its weights as attributes"
