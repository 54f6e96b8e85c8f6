"""Load a checkpoint into a model on this rank. registry.py finds the module for a kind of checkpoint."""
