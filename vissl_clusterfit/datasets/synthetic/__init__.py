"""Data sets that are generated: what the quickstarts and the study train on."""
