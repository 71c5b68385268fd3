"""VISSL's engines of this package: the stages, assign, transfer, video accuracy, tune."""
