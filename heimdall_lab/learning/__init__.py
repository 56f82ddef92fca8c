"""Training networks in PyTorch, tracking the runs and exporting what was learned."""
