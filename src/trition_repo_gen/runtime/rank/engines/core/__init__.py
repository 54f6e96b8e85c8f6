"""Megatron Core's `DynamicInferenceEngine`: scheduling, sampling, fused layers, corrections of upstream."""
