"""Features to a codebook: preprocessing, k-means over any source of vectors, nearest centroids by faiss."""
