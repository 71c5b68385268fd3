"""The processes of a run: started, found by one another, watched to their end."""
