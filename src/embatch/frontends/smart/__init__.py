"""Clients that choose between calls and batch jobs by themselves: what `embatch.gemini` is made of."""
