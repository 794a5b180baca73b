"""What outlives a process: vectors by content, tuning profiles, sources to read and sinks to write."""
