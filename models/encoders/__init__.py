"""Encoders, one a file: (N, T, C) series -> (N, D) features."""
