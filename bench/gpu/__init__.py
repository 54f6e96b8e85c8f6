"""What only GPUs can say, through stock tritonserver: `python -m bench.gpu --help`."""
