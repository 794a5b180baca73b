"""Models on this machine: files, tokenizers, and one backend per engine."""
