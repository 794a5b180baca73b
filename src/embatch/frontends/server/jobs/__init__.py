"""`/v1/files` and `/v1/batches`: jobs on this machine that outlast its restarts, in OpenAI's formats."""

from embatch.frontends.server.jobs.jobs import Jobs

__all__ = ["Jobs"]
