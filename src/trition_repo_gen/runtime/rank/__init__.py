"""The processes that torchrun starts, one per GPU: the model, the engine and the loop that keeps ranks in step."""
