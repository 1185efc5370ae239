"""Searches: of noise levels for few steps, and of the noise-level embedding."""
