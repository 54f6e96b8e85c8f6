"""Norms and linear layers in plain torch with the names, arguments and parameters of Megatron's Transformer Engine.

They take the place of the classes in megatron.core.extensions.transformer_engine (megatron-core 0.19.2), so that layer
specifications, Hugging Face mappings and checkpoint keys stay what they are on a GPU: the norm before attention and MLP
is `layer_norm_weight` inside `linear_qkv` and `linear_fc1`, for instance. Only inference is meant; weights are not
marked for a data-parallel optimizer.

Imported by the import hook in `backend`, after the module whose classes it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from megatron.core.utils import get_tensor_model_parallel_group_if_none
from torch import Tensor
from torch.nn import Parameter, functional

UPSTREAM = "megatron.core.extensions.transformer_engine"


def normalize(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, eps: float, zero_centered: bool) -> Tensor:
    """Apply LayerNorm or RMSNorm over the last dimension, computed in float32.

    Args:
        x: (..., size).
        weight: (size,); with `zero_centered` the factor is `1 + weight`.
        bias: (size,) or None.
        kind: "LayerNorm" or "RMSNorm".
        eps: added to the variance.
        zero_centered: see `weight`.

    Returns:
        (..., size) in the dtype of `x`.
    """
    factor = weight.float() + 1 if zero_centered else weight.float()
    shape = (x.shape[-1],)
    if kind == "RMSNorm":
        return functional.rms_norm(x.float(), shape, factor, eps).to(x.dtype)
    return functional.layer_norm(x.float(), shape, factor, None if bias is None else bias.float(), eps).to(x.dtype)


def _norm_parameters(config: Any, size: int) -> tuple[Parameter, Parameter | None]:
    """Return weight and bias of a norm, initialized to do nothing."""
    if config.normalization not in ("LayerNorm", "RMSNorm"):
        raise ValueError(f"normalization is {config.normalization!r}; it has to be LayerNorm or RMSNorm.")
    make = torch.zeros if config.layernorm_zero_centered_gamma else torch.ones
    weight = Parameter(make(size, dtype=config.params_dtype))
    bias = Parameter(torch.zeros(size, dtype=config.params_dtype)) if config.normalization == "LayerNorm" else None
    return weight, bias


class _Norm(torch.nn.Module):  # type: ignore[misc]
    """A norm over the last dimension."""

    kind: str

    def __init__(self, config: Any, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.zero_centered_gamma = eps, config.layernorm_zero_centered_gamma
        self.weight, bias = _norm_parameters(config, hidden_size)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) → the same."""
        return normalize(x, self.weight, self.bias, self.kind, self.eps, self.zero_centered_gamma)


class LayerNorm(_Norm):
    """`transformer_engine.pytorch.LayerNorm`."""

    kind = "LayerNorm"


class RMSNorm(_Norm):
    """`transformer_engine.pytorch.RMSNorm`."""

    kind = "RMSNorm"


class TENorm:
    """Makes the norm that the configuration names. transformer_engine.py:796."""

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, has_residual: bool = False) -> torch.nn.Module:
        """Return a LayerNorm or an RMSNorm.

        Raises:
            NotImplementedError: a norm fused with the residual is asked for.
        """
        if has_residual and config.fused_residual_rmsnorm:
            raise NotImplementedError("The CPU backend has no norm that is fused with the residual connection.")
        return (RMSNorm if config.normalization == "RMSNorm" else LayerNorm)(config, hidden_size, eps)


class TELinear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer whose weight every tensor-parallel rank holds whole. transformer_engine.py:855."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        parallel_mode: str | None,
        config: Any,
        init_method: Callable[[Tensor], Any],
        bias: bool,
        skip_bias_add: bool,
        tp_group: Any = None,
        is_expert: bool = False,
        **_: Any,
    ) -> None:
        super().__init__()
        if parallel_mode not in (None, "duplicated"):
            raise NotImplementedError(f"The CPU backend's TELinear has no parallel mode {parallel_mode!r}.")
        self.config, self.te_return_bias = config, skip_bias_add and bias
        self.weight = Parameter(torch.empty(output_size, input_size, dtype=config.params_dtype))
        self.register_parameter(
            "bias", Parameter(torch.zeros(output_size, dtype=config.params_dtype)) if bias else None
        )
        if config.perform_initialization:
            init_method(self.weight)
        self.parallel_mode = parallel_mode
        self._tp_group = get_tensor_model_parallel_group_if_none(tp_group, is_expert=is_expert)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., input size) → (..., output size), and the bias where it is left to the caller."""
        if self.te_return_bias:
            return functional.linear(x, self.weight), self.bias
        return functional.linear(x, self.weight, self.bias), None

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """Return checkpoint entries that are replicated over tensor-, data- and context-parallel ranks."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            None,
            sharded_offsets,
            tp_group=self._tp_group,
            dp_cp_group=metadata["dp_cp_group"] if metadata else None,
        )


class TEColumnParallelLinear(ColumnParallelLinear):  # type: ignore[misc]
    """A linear layer split along its output. transformer_engine.py:1381."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Callable[[Tensor], Any],
        gather_output: bool = False,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool = False,
        tp_comm_buffer_name: str | None = None,
        tp_group: Any = None,
        stride: int = 1,
        name: str | None = None,
        skip_weight_param_allocation: bool = False,
    ) -> None:
        if gather_output or skip_weight_param_allocation:
            raise ValueError("Transformer Engine's linear layers neither gather their output nor borrow a weight.")
        super().__init__(
            input_size,
            output_size,
            config=config,
            init_method=init_method,
            bias=bias,
            skip_bias_add=skip_bias_add,
            is_expert=is_expert,
            tp_comm_buffer_name=tp_comm_buffer_name,
            tp_group=tp_group,
            stride=stride,
            name=name,
        )


class TELayerNormColumnParallelLinear(TEColumnParallelLinear):
    """A norm and a linear layer split along its output. transformer_engine.py:1122."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.layer_norm_weight, bias = _norm_parameters(config, input_size)
        self.register_parameter("layer_norm_bias", bias)
        # What split_te_layernorm_column_parallel_linear (transformer_engine.py:505) reads, for the MLA latent cache.
        self.in_features, self.out_features = input_size, self.output_size_per_partition
        self.eps, self.tp_size = config.layernorm_epsilon, output_size // self.output_size_per_partition
        self.use_bias, self.te_return_bias, self.ub_name = self.bias is not None, self.skip_bias_add, None
        self.is_first_microbatch = self.disable_parameter_transpose_cache = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """(sequence, batch, input size) → (sequence, batch, output size / tensor parallel size), and the bias."""
        config = self.config
        zero_centered = config.layernorm_zero_centered_gamma
        x = normalize(x, self.layer_norm_weight, self.layer_norm_bias, config.normalization, self.eps, zero_centered)
        output: tuple[Tensor, Tensor | None] = super().forward(x, *args, **kwargs)
        return output


class TERowParallelLinear(RowParallelLinear):  # type: ignore[misc]
    """A linear layer split along its input. transformer_engine.py:1643."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Callable[[Tensor], Any],
        bias: bool,
        input_is_parallel: bool = True,
        skip_bias_add: bool,
        is_expert: bool = False,
        tp_comm_buffer_name: str | None = None,
        tp_group: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            config=config,
            init_method=init_method,
            bias=bias,
            input_is_parallel=input_is_parallel,
            skip_bias_add=skip_bias_add,
            is_expert=is_expert,
            tp_comm_buffer_name=tp_comm_buffer_name,
            tp_group=tp_group,
            name=name,
        )


for _class in (
    LayerNorm,
    RMSNorm,
    TENorm,
    TELinear,
    TEColumnParallelLinear,
    TELayerNormColumnParallelLinear,
    TERowParallelLinear,
):
    # Bridge writes classes into run_config.yaml by name: a checkpoint saved here has to name what a GPU has.
    _class.__module__ = UPSTREAM
