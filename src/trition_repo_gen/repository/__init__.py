"""Turns a deployment's settings into a Triton model repository, and reads back what it wrote."""
