"""The study: does ClusterFit help, on what, by how much? What it runs, what it runs on, and what it reports."""
