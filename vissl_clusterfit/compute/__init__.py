"""How networks compute: in which precision and memory format, chosen by measuring, and applied to a network."""
