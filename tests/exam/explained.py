"""The cases that cannot pass, and why: the same reasons stand in docs/limits.md."""

from __future__ import annotations

__all__ = ["EXPLAINED"]

#: ``family: name`` of a case -> why it cannot pass. A listed case that passes fails the exam.
EXPLAINED: dict[str, str] = {
    **dict.fromkeys(
        (
            "transformers: UniSpeechModel",
            "transformers: Wav2Vec2Model",
            "transformers: WavLMModel",
        ),
        "The second derivative of torch 2.13's fused weight norm",
    ),
    **dict.fromkeys(
        (
            f"torch operators: nn.functional.silu complex, {form} 0"
            for form in ("function torch.nn.functional.silu", "attribute torch.nn.functional.silu", "in-place function")
        ),
        "Activations of complex numbers",
    ),
    **dict.fromkeys(
        (f"hard: fragments: {name}" for name in ("ScriptFunction", "scripted child", "traced child")),
        "Models that hold TorchScript",
    ),
}
