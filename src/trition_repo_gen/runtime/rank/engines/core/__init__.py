"""Megatron Core's `DynamicInferenceEngine`, and what it needs to serve: joining, sampling, fused layers, mends."""
