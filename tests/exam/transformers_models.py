"""Cases from the transformers library: model families built from tiny configurations, with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from exam.case import Case, normal

__all__ = ["transformers_cases"]

_TEXT = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_ENCODER = {**_TEXT, "intermediate_size": 24, "max_position_embeddings": 24}
_DECODER = {**_ENCODER, "num_key_value_heads": 1}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 8, "patch_size": 4, "num_channels": 3,
}  # fmt: skip
_EXPERTS = {**_DECODER, "experts_implementation": "eager", "num_local_experts": 2, "num_experts_per_tok": 1}
_SPEECH = {
    **_ENCODER, "conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (8, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "apply_spec_augment": False,
}  # fmt: skip
_SEQ2SEQ = {
    "vocab_size": 32, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 24,
    "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip


def _tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 30, (2, 7))}


def _even_tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 30, (2, 8))}


def _masked_tokens() -> dict[str, Tensor]:
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(3, 30, (2, 7)), "attention_mask": mask}


def _two_texts() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 30, (2, 7)), "decoder_input_ids": torch.randint(3, 30, (2, 5))}


def _pixels(size: int = 8) -> dict[str, Tensor]:
    return {"pixel_values": normal(2, 3, size, size)}


def _large_pixels() -> dict[str, Tensor]:
    return _pixels(32)


def _waves() -> dict[str, Tensor]:
    return {"input_values": normal(2, 200)}


def _spectrum() -> dict[str, Tensor]:
    return {"input_features": normal(2, 8, 32), "decoder_input_ids": torch.randint(3, 30, (2, 5))}


def _text_and_pixels() -> dict[str, Tensor]:
    return {**_masked_tokens(), **_pixels()}


def _clip() -> dict[str, Any]:
    return {"text_config": {**_ENCODER, **_TOKENS}, "vision_config": _VISION, "projection_dim": 8}


# Model class -> configuration and inputs. The configuration class is the model's own.
_MODELS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "AlbertModel": ({**_ENCODER, "embedding_size": 8}, _masked_tokens),
    "ASTModel": ({**_VISION, "max_length": 32, "num_mel_bins": 8}, lambda: {"input_values": normal(2, 32, 8)}),
    "BartModel": (_SEQ2SEQ, _two_texts),
    "BeitModel": (_VISION, _pixels),
    "BertForMaskedLM": (_ENCODER, _masked_tokens),
    "BertModel": (_ENCODER, _masked_tokens),
    "BigBirdModel": ({**_ENCODER, "attention_type": "original_full"}, _masked_tokens),
    "BloomModel": ({"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2}, _masked_tokens),
    "CLIPModel": (_clip(), _text_and_pixels),
    "CodeGenModel": (
        {"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        _tokens,
    ),
    "CohereModel": (_DECODER, _tokens),
    "ConvBertModel": ({**_ENCODER, "embedding_size": 16, "conv_kernel_size": 3}, _masked_tokens),
    "ConvNextModel": (
        {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "num_channels": 3},
        _pixels,
    ),
    "ConvNextV2Model": (
        {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "num_channels": 3},
        _pixels,
    ),
    "CTRLModel": ({"vocab_size": 32, "n_positions": 24, "n_embd": 16, "dff": 24, "n_layer": 2, "n_head": 2}, _tokens),
    "DebertaModel": ({**_ENCODER, "relative_attention": True, "pos_att_type": "c2p|p2c"}, _masked_tokens),
    "DebertaV2Model": ({**_ENCODER, "relative_attention": True, "pos_att_type": "c2p|p2c"}, _masked_tokens),
    "DeiTModel": (_VISION, _pixels),
    "Dinov2Model": ({**_VISION, "mlp_ratio": 2}, _pixels),
    "DistilBertModel": (
        {"vocab_size": 32, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 24},
        _masked_tokens,
    ),
    "ElectraModel": ({**_ENCODER, "embedding_size": 8}, _masked_tokens),
    "ErnieModel": (_ENCODER, _masked_tokens),
    "EsmModel": ({**_ENCODER, "pad_token_id": 0, "mask_token_id": 31}, _masked_tokens),
    "FalconModel": (_TEXT, _tokens),
    "FNetModel": (
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 24,
        },
        _tokens,
    ),
    "FunnelModel": (
        {
            "vocab_size": 32,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 24,
        },
        _tokens,
    ),
    "GemmaModel": ({**_DECODER, "head_dim": 8}, _tokens),
    "Gemma2Model": ({**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8}, _tokens),
    "GPT2LMHeadModel": ({"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}, _tokens),
    "GPT2Model": ({"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}, _tokens),
    "GPTBigCodeModel": ({"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}, _tokens),
    "GPTJModel": (
        {"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4},
        _tokens,
    ),
    "GPTNeoModel": (
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 24,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        _tokens,
    ),
    "GPTNeoXModel": (_ENCODER, _tokens),
    "GraniteModel": (_DECODER, _tokens),
    "HubertModel": (_SPEECH, _waves),
    "IBertModel": (_ENCODER, _masked_tokens),
    "LlamaForCausalLM": (_DECODER, _tokens),
    "LlamaModel": (_DECODER, _tokens),
    "LongformerModel": ({**_ENCODER, "attention_window": 4, **_TOKENS}, _even_tokens),
    "MambaModel": ({"vocab_size": 32, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}, _tokens),
    "Mamba2Model": (
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "state_size": 4,
            "num_hidden_layers": 2,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
        },
        _tokens,
    ),
    "MarianModel": ({**_SEQ2SEQ, "pad_token_id": 0}, _two_texts),
    "MBartModel": (_SEQ2SEQ, _two_texts),
    "MistralModel": (_DECODER, _tokens),
    "MixtralModel": (_EXPERTS, _tokens),
    "MobileNetV1Model": ({"depth_multiplier": 0.25, "num_channels": 3}, _large_pixels),
    "MobileNetV2Model": ({"depth_multiplier": 0.25, "num_channels": 3}, _large_pixels),
    "MobileViTModel": (
        {
            "hidden_sizes": [8, 8, 8],
            "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 8],
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 2,
        },
        _large_pixels,
    ),
    "MPNetModel": (_ENCODER, _masked_tokens),
    "MptModel": ({"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 24}, _tokens),
    "NystromformerModel": ({**_ENCODER, "num_landmarks": 2, "segment_means_seq_len": 8}, _even_tokens),
    "OlmoModel": (_DECODER, _tokens),
    "Olmo2Model": (_DECODER, _tokens),
    "OPTModel": (
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 24,
        },
        _masked_tokens,
    ),
    "PegasusModel": (_SEQ2SEQ, _two_texts),
    "PhiModel": (_ENCODER, _tokens),
    "Phi3Model": ({**_DECODER, **_TOKENS}, _tokens),
    "PoolFormerModel": (
        {
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "padding": [1, 1],
        },
        _pixels,
    ),
    "PvtModel": (
        {
            "image_size": 32,
            "hidden_sizes": [8, 8, 8, 8],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
        },
        _large_pixels,
    ),
    "Qwen2Model": (_DECODER, _tokens),
    "Qwen2MoeModel": (
        {
            **_DECODER,
            "experts_implementation": "eager",
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
        _tokens,
    ),
    "Qwen3Model": ({**_DECODER, "head_dim": 8}, _tokens),
    "RegNetModel": ({"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "groups_width": 4}, _large_pixels),
    "RemBertModel": (
        {**_ENCODER, "input_embedding_size": 8, "output_embedding_size": 8},
        _masked_tokens,
    ),
    "ResNetModel": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, _large_pixels),
    "RobertaModel": ({**_ENCODER, "pad_token_id": 0}, _masked_tokens),
    "RoFormerModel": ({**_ENCODER, "embedding_size": 16}, _masked_tokens),
    "RwkvModel": (
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "attention_hidden_size": 16,
            "num_hidden_layers": 2,
            "context_length": 24,
        },
        _tokens,
    ),
    "SegformerModel": (
        {
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "sr_ratios": [2, 1],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "decoder_hidden_size": 8,
        },
        _large_pixels,
    ),
    "SiglipModel": ({"text_config": {**_ENCODER, "projection_size": 16}, "vision_config": _VISION}, _text_and_pixels),
    "SqueezeBertModel": (
        {
            **_ENCODER,
            "embedding_size": 16,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "post_attention_groups": 1,
            "intermediate_groups": 2,
            "output_groups": 2,
        },
        _masked_tokens,
    ),
    "StableLmModel": (_DECODER, _tokens),
    "Starcoder2Model": (_DECODER, _tokens),
    "SwinModel": (
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        functools.partial(_pixels, 16),
    ),
    "Swinv2Model": (
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        functools.partial(_pixels, 16),
    ),
    "T5Model": (
        {
            "vocab_size": 32,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
        _two_texts,
    ),
    "UMT5Model": (
        {
            "vocab_size": 32,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
        _two_texts,
    ),
    "UniSpeechModel": (_SPEECH, _waves),
    "ViTModel": (_VISION, _pixels),
    "ViTMAEModel": ({**_VISION, "mask_ratio": 0.25, "decoder_num_attention_heads": 2}, _pixels),
    "Wav2Vec2Model": (_SPEECH, _waves),
    "WavLMModel": (_SPEECH, _waves),
    "WhisperModel": (
        {
            **{k: v for k, v in _SEQ2SEQ.items() if k != "max_position_embeddings"},
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 24,
            **_TOKENS,
        },
        _spectrum,
    ),
    "XGLMModel": ({"vocab_size": 32, "d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2}, _tokens),
    "XLMModel": (
        {"vocab_size": 32, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 24},
        _tokens,
    ),
    "XLNetModel": ({"vocab_size": 32, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}, _tokens),
    "YosoModel": ({**_ENCODER, "use_expectation": True}, _masked_tokens),
}


def transformers_cases() -> Iterator[Case]:
    """Yield every model of the table, in eval mode, and some in train mode and with gradient checkpointing."""
    for name, (settings, inputs) in _MODELS.items():
        # The mask of XGLM is made of the smallest number of another dtype than the model has.
        dtype = torch.float32 if name == "XGLMModel" else torch.float64
        yield Case("transformers", name, functools.partial(_model, name, settings), inputs, dtype=dtype)
    for name in ("BertModel", "GPT2Model", "LlamaModel", "T5Model", "ViTModel"):
        settings, inputs = _MODELS[name]
        yield Case(
            "transformers", f"{name}, train mode", functools.partial(_model, name, settings), inputs, training=True
        )
        yield Case(
            "transformers",
            f"{name}, checkpointed",
            functools.partial(_checkpointed, name, settings),
            inputs,
            training=True,
        )


def _model(name: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    return cls(cls.config_class(**settings))


def _checkpointed(name: str, settings: dict[str, Any]) -> nn.Module:
    model = _model(name, settings)
    # transformers 5 renamed it, and warns of the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    return model
