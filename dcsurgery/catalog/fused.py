"""Kernels and modules that run activations or normalizations inside one operator, where no call of them is seen."""

from __future__ import annotations

__all__ = ["FUSED_KERNELS", "FUSED_MODULES"]

_LSTM = "per step and layer 3 sigmoid gates and 2 tanh (cell candidate, output)"
_GRU = "per step and layer 2 sigmoid gates and 1 tanh (candidate)"
_RNN = "per step and layer 1 tanh or relu, as its mode says"

#: Name of the ATen operator, without namespace and overload, and what it contains. Attention kernels are not among
#: them: the softmax inside is no activation.
FUSED_KERNELS: dict[str, str] = {
    "lstm": _LSTM,
    "lstm_cell": _LSTM,
    "quantized_lstm": _LSTM,
    "quantized_lstm_cell": _LSTM,
    "_thnn_fused_lstm_cell": _LSTM,
    "_lstm_mps": _LSTM,
    "gru": _GRU,
    "gru_cell": _GRU,
    "quantized_gru": _GRU,
    "quantized_gru_cell": _GRU,
    "_thnn_fused_gru_cell": _GRU,
    "rnn_tanh": "per step and layer 1 tanh",
    "rnn_tanh_cell": "per step 1 tanh",
    "quantized_rnn_tanh_cell": "per step 1 tanh",
    "rnn_relu": "per step and layer 1 relu",
    "rnn_relu_cell": "per step 1 relu",
    "quantized_rnn_relu_cell": "per step 1 relu",
    "mkldnn_rnn_layer": f"one of: LSTM ({_LSTM}), GRU ({_GRU}), RNN ({_RNN})",
    "_cudnn_rnn": f"one of: LSTM ({_LSTM}), GRU ({_GRU}), RNN ({_RNN})",
    "miopen_rnn": f"one of: LSTM ({_LSTM}), GRU ({_GRU}), RNN ({_RNN})",
    "_transformer_encoder_layer_fwd": "2 layer_norm, and 1 relu or gelu between the linear layers",
    "_addmm_activation": "1 relu or gelu behind a matrix product",
    "_add_relu": "1 relu behind a sum",
    "cudnn_convolution_relu": "1 relu behind a convolution",
    "cudnn_convolution_add_relu": "1 relu behind a convolution and a sum",
    "miopen_convolution_relu": "1 relu behind a convolution",
    "miopen_convolution_add_relu": "1 relu behind a convolution and a sum",
}

#: Import path of the class, and the catalog's names of the operators inside. Both of an RNN's are listed; the
#: module's ``nonlinearity`` says which one runs.
FUSED_MODULES: dict[str, tuple[str, ...]] = {
    "torch.nn.modules.rnn.LSTM": ("tanh", "sigmoid"),
    "torch.nn.modules.rnn.LSTMCell": ("tanh", "sigmoid"),
    "torch.nn.modules.rnn.GRU": ("tanh", "sigmoid"),
    "torch.nn.modules.rnn.GRUCell": ("tanh", "sigmoid"),
    "torch.nn.modules.rnn.RNN": ("tanh", "relu"),
    "torch.nn.modules.rnn.RNNCell": ("tanh", "relu"),
}
