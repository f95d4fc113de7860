"""A stand-in for DeepCore's networks: methods find one here by its name."""
