"""One run to its end, and several: sweeps, benchmarks after a training, studies."""
