"""The exact nearest centroids, or neighbours, of many vectors: on matrix units, certified by a bound, or by faiss."""
