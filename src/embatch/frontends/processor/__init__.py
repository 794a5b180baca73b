"""Chunks of code or text in, vectors out, with progress: `BatchEmbeddingProcessor` over any embedding service.

A front end over the one engine: `services` presents a service as a provider, whose calls the lanes pack, pace, repeat
and split. It forms no batches, repeats no calls and keeps no vectors beyond a run.
"""
