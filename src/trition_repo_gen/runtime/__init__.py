"""What a model repository needs at run time; `trgen build` copies this package next to model.py."""
