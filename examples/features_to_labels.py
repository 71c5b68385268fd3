"""Features of one's own to labels: ``python examples/features_to_labels.py FEATURES NAMES NUM_CLUSTERS FOLDER``.

FEATURES is a .npy, .npz, .pt, .safetensors or .parquet file, or a folder of one kind; NAMES a list with a name per row.
FOLDER gets the artefacts, which a second call opens, and labels.csv: name, label, squared distance, margin.
"""

import sys

import vissl_clusterfit as cf


def main(source, names, num_clusters, folder):
    """Writes the labels; returns the exit code."""
    try:
        features = cf.import_features(source, f"{folder}/features", names=names)
        codebook = cf.make_codebook(features, f"{folder}/codebook", int(num_clusters))
        labels = cf.make_labels(features, codebook, f"{folder}/labels", top_clusters=min(3, codebook.num_clusters))
        cf.export_labels(labels, f"{folder}/labels.csv")
    except cf.ClusterFitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
