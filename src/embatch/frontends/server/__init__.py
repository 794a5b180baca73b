"""`embatch serve`: many clients, one endpoint, shared batches. Needs the extra `serve`."""
