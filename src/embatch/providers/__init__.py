"""Models behind an API: adapters over the official SDKs, errors normalised at this edge."""
