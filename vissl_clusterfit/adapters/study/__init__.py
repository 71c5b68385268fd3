"""The study's runs: real VISSL runs, each in a process of its own, several at a time."""
