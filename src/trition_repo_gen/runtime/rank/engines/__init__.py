"""Engines: one interface (`api.py`), Megatron Core's engine for text (`core`), our own for images (`images`)."""
