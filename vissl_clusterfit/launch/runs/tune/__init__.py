"""Trainings of VISSL with the choice of their settings on a validation split: engine_name clusterfit_tune."""
