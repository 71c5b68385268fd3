"""How files come to disk: whole or not at all, by one process at a time, whoever dies."""
