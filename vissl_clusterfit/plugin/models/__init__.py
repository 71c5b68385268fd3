"""Trunks, heads and weights: what VISSL builds by name, and teachers as functions from images to features."""
