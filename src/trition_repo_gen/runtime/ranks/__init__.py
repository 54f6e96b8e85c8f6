"""The side that torchrun runs, once per GPU: the model, the engine and the loop that keeps ranks in step."""
