"""Transfer benchmarks on frozen features. Import the modules: scikit-learn and PyTorch load slowly."""
