"""Features and a codebook to pseudo-labels: the nearest cluster of each sample, or one within a bound on sizes."""
