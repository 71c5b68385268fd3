"""VISSL's benchmarks that VISSL runs outside its engines, or on GPUs only, as engines."""
