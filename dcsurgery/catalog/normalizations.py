"""The rows for normalizations.

Deleting one puts its input (argument number ``returns``) in the place of its output. Weights that are normalized
(spectral and weight norm) and vectors that are scaled to length one (`torch.nn.functional.normalize`) are no
normalization *layers* of a network and have no row.
"""

from __future__ import annotations

from dcsurgery.catalog.rows import Operator

__all__ = ["NORMALIZATIONS"]

NORMALIZATIONS: tuple[Operator, ...] = (
    Operator(
        "batch_norm",
        "normalization",
        modules=(
            "torch.nn.modules.batchnorm._BatchNorm",
            "torch.nn.modules.batchnorm.BatchNorm1d",
            "torch.nn.modules.batchnorm.BatchNorm2d",
            "torch.nn.modules.batchnorm.BatchNorm3d",
            "torch.nn.modules.batchnorm.SyncBatchNorm",
            "torch.nn.modules.batchnorm.LazyBatchNorm1d",
            "torch.nn.modules.batchnorm.LazyBatchNorm2d",
            "torch.nn.modules.batchnorm.LazyBatchNorm3d",
            "torch_geometric.nn.norm.batch_norm.BatchNorm",
            "torchvision.ops.misc.FrozenBatchNorm2d",
        ),
        functions=(
            "torch.nn.functional.batch_norm",
            "torch.batch_norm",
            "torch.native_batch_norm",
            "torch._native_batch_norm_legit",
            "torch._native_batch_norm_legit_no_training",
            "torch.cudnn_batch_norm",
            "torch.miopen_batch_norm",
            "torch.batch_norm_elemt",
            "torch._batch_norm_impl_index",
        ),
        kernels=(
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_functional",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_with_update_functional",
            "_batch_norm_no_update",
            "_batch_norm_impl_index",
            "batch_norm",
            "batch_norm_elemt",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "quantized_batch_norm",
        ),
        parameters=("num_features", "in_channels", "eps", "momentum", "affine", "track_running_stats"),
    ),
    Operator(
        "hetero_batch_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.batch_norm.HeteroBatchNorm",),
        parameters=("in_channels", "num_types", "eps", "momentum", "affine", "track_running_stats"),
    ),
    Operator(
        "instance_norm",
        "normalization",
        modules=(
            "torch.nn.modules.instancenorm._InstanceNorm",
            "torch.nn.modules.instancenorm.InstanceNorm1d",
            "torch.nn.modules.instancenorm.InstanceNorm2d",
            "torch.nn.modules.instancenorm.InstanceNorm3d",
            "torch.nn.modules.instancenorm.LazyInstanceNorm1d",
            "torch.nn.modules.instancenorm.LazyInstanceNorm2d",
            "torch.nn.modules.instancenorm.LazyInstanceNorm3d",
            "torch_geometric.nn.norm.instance_norm.InstanceNorm",
        ),
        functions=("torch.nn.functional.instance_norm", "torch.instance_norm"),
        kernels=("native_batch_norm", "instance_norm"),
        parameters=("num_features", "in_channels", "eps", "momentum", "affine", "track_running_stats"),
    ),
    Operator(
        "layer_norm",
        "normalization",
        modules=(
            "torch.nn.modules.normalization.LayerNorm",
            "torch_geometric.nn.norm.layer_norm.LayerNorm",
            "torchvision.models.convnext.LayerNorm2d",
            "timm.layers.norm.LayerNorm",
            "timm.layers.norm.LayerNorm2d",
            "timm.layers.norm.LayerNormFp32",
            "timm.layers.norm.LayerNorm2dFp32",
            "timm.layers.norm.LayerNormExp2d",
        ),
        functions=("torch.nn.functional.layer_norm", "torch.layer_norm", "torch.native_layer_norm"),
        kernels=("native_layer_norm", "layer_norm"),
        parameters=("normalized_shape", "in_channels", "eps", "elementwise_affine", "affine", "mode"),
    ),
    Operator(
        "hetero_layer_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.layer_norm.HeteroLayerNorm",),
        parameters=("in_channels", "num_types", "eps", "affine", "mode"),
    ),
    Operator(
        "group_norm",
        "normalization",
        modules=(
            "torch.nn.modules.normalization.GroupNorm",
            "timm.layers.norm.GroupNorm",
            "timm.layers.norm.GroupNorm1",
        ),
        functions=("torch.nn.functional.group_norm", "torch.group_norm", "torch.native_group_norm"),
        kernels=("native_group_norm", "group_norm"),
        parameters=("num_groups", "num_channels", "eps", "affine"),
    ),
    Operator(
        "rms_norm",
        "normalization",
        modules=(
            "torch.nn.modules.normalization.RMSNorm",
            "timm.layers.norm.RmsNorm",
            "timm.layers.norm.RmsNormFp32",
            "timm.layers.norm.RmsNorm2d",
            "timm.layers.norm.RmsNorm2dFp32",
            "timm.layers.norm.SimpleNorm",
            "timm.layers.norm.SimpleNormFp32",
            "transformers.models.*RMSNorm",
            "transformers.models.*T5LayerNorm",
        ),
        functions=("torch.nn.functional.rms_norm", "torch.rms_norm", "torch._fused_rms_norm"),
        kernels=("_fused_rms_norm", "rms_norm"),
        parameters=("normalized_shape", "eps", "variance_epsilon", "elementwise_affine"),
    ),
    Operator(
        "global_response_norm",
        "normalization",
        modules=(
            "transformers.models.convnextv2.modeling_convnextv2.ConvNextV2GRN",
            "timm.layers.grn.GlobalResponseNorm",
        ),
    ),
    Operator(
        "local_response_norm",
        "normalization",
        modules=(
            "torch.nn.modules.normalization.LocalResponseNorm",
            "torch.nn.modules.normalization.CrossMapLRN2d",
        ),
        functions=("torch.nn.functional.local_response_norm",),
        parameters=("size", "alpha", "beta", "k"),
    ),
    Operator(
        "graph_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.graph_norm.GraphNorm",),
        parameters=("in_channels", "eps"),
    ),
    Operator(
        "graph_size_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.graph_size_norm.GraphSizeNorm",),
    ),
    Operator(
        "pair_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.pair_norm.PairNorm",),
        parameters=("scale", "scale_individually", "eps"),
    ),
    Operator(
        "mean_subtraction_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.mean_subtraction_norm.MeanSubtractionNorm",),
    ),
    Operator(
        "message_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.msg_norm.MessageNorm",),
        # forward(x, msg) scales the message to the length of x: what it normalizes is the second argument.
        returns=1,
    ),
    Operator(
        "diff_group_norm",
        "normalization",
        modules=("torch_geometric.nn.norm.diff_group_norm.DiffGroupNorm",),
        parameters=("in_channels", "groups", "lamda", "eps"),
    ),
    Operator(
        "equivariant_norm",
        "normalization",
        modules=(
            "*.EquivariantLayerNormArray",
            "*.EquivariantLayerNormArraySphericalHarmonics",
            "*.EquivariantRMSNormArraySphericalHarmonics",
            "*.EquivariantRMSNormArraySphericalHarmonicsV2",
            "e3nn.nn._batchnorm.BatchNorm",
            "torch_geometric.nn.models.visnet.VecLayerNorm",
        ),
        parameters=("lmax", "num_channels", "eps", "affine", "normalization", "norm_type"),
    ),
)
