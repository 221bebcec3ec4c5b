"""Which operation of torch has which rule of DeepLIFT; one that is not here is refused by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from rectify.attribution import deeplift_norms as norms
from rectify.attribution import deeplift_rules as rules
from rectify.attribution.deeplift_pairs import Rule


def _all(names: str, rule: Rule) -> Iterable[tuple[str, Rule]]:
    return ((name, rule) for name in names.split())


REARRANGING = """view _unsafe_view _reshape_alias _reshape_copy reshape permute t transpose movedim expand select
    slice unbind split split_with_sizes squeeze unsqueeze unfold alias clone _to_copy cat stack roll flip repeat
    diagonal diag_embed tril triu constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col
    col2im index index_select gather select_scatter slice_scatter lift lift_fresh contiguous"""
LINEAR = """add sub rsub neg positive sum mean cumsum trace avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
    upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa where masked_fill fill"""
LINEAR_IN_FIRST = "grid_sampler_2d grid_sampler_3d"
CONSTANT = """new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like empty_like"""
# functions of z that have no other scale near zero than z itself, or bend at given places only
ELEMENTWISE = """relu leaky_relu elu celu gelu silu mish hardtanh hardswish softshrink tanh erf sin
    abs clamp clamp_min clamp_max sqrt rsqrt reciprocal log log2 log10 _prelu_kernel asinh atan sinh expm1"""
ELEMENTWISE_UNIT = "sigmoid exp exp2 softplus hardsigmoid cos cosh log1p"
BATCH_NORM = """native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training
    _native_batch_norm_legit _batch_norm_no_update"""

RULES: dict[str, Rule] = {
    **dict(_all(REARRANGING, rules.linear)),
    **dict(_all(LINEAR, rules.linear)),
    **dict(_all(LINEAR_IN_FIRST, rules.linear_in_first)),
    **dict(_all(CONSTANT, rules.constant)),
    **dict(_all(ELEMENTWISE, rules.elementwise(0))),
    **dict(_all(ELEMENTWISE_UNIT, rules.elementwise(1))),
    **dict(_all(BATCH_NORM, rules.batch_norm)),
    **dict(_all("mul mm bmm mv dot", rules.product)),
    **dict(_all("_softmax _safe_softmax _log_softmax", rules.softmax)),
    **dict(_all("max_pool2d_with_indices adaptive_max_pool2d", norms.max_pool(2))),
    **dict(_all("max_pool3d_with_indices adaptive_max_pool3d", norms.max_pool(3))),
    "detach": rules.same,
    "copy": rules.copied,
    "zero": lambda func, pair: rules.constant(torch.zeros_like, pair),
    "as_strided": rules.as_strided,
    "convolution": rules.convolution,
    "linear": rules.linear_layer,
    "addmm": rules.add_product(torch.mm),
    "baddbmm": rules.add_product(torch.bmm),
    "addmv": rules.add_product(torch.mv),
    "addcmul": rules.add_times,
    "lerp": rules.lerp,
    "div": rules.divide,
    "pow": rules.power,
    "maximum": rules.maximum,
    "minimum": rules.minimum,
    "glu": rules.glu,
    "log_sigmoid_forward": rules.log_sigmoid,
    "native_layer_norm": norms.layer_norm,
    "native_group_norm": norms.group_norm,
    "var": lambda *args, **kwargs: norms.variance(*args, **kwargs)[0],
    "var_mean": norms.variance,
    "std": lambda *args, **kwargs: norms.variance(*args, **kwargs)[0].sqrt(),
    "linalg_vector_norm": norms.vector_norm,
    "max": norms.maximum_along,
    "amax": norms.maximum_over,
}
