"""Names and buckets of the conventions for generative AI, HTTP servers, and of what only embatch has.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ as of 1.41, whose names the installed package of conventions has too
(tests compare). They are still in development; the metrics are being renamed by operation. Constants only.
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # a name, no secret
ENCODING_FORMATS = "gen_ai.request.encoding_formats"
DIMENSION_COUNT = "gen_ai.embeddings.dimension.count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

HTTP_METHOD = "http.request.method"
HTTP_STATUS = "http.response.status_code"
HTTP_ROUTE = "http.route"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"

TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105  # the same
OPERATION_DURATION = "gen_ai.client.operation.duration"
SERVER_DURATION = "gen_ai.server.request.duration"
HTTP_DURATION = "http.server.request.duration"

RUN_KIND = "embatch.run.kind"
ITEMS = "embatch.items"
FAILED = "embatch.items.failed"
CACHED = "embatch.items.cached"
PRIORITY = "embatch.priority"
OUTCOME = "embatch.outcome"
WAITED = "embatch.waited"  # seconds
BATCH_STREAM = "embatch.batch.stream"
BATCH_LONGEST = "embatch.batch.longest"
BATCH_TOKENS = "embatch.batch.tokens"  # the same
BATCH_PADDED = "embatch.batch.padded_tokens"
BATCH_BUDGET = "embatch.batch.budget"
BATCH_ASKS = "embatch.batch.asks"
BATCH_DURATION = "embatch.batch.duration"
BATCH_ITEMS = "embatch.batch.items"
WAIT_DURATION = "embatch.ask.wait"

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of `gen_ai.client.operation.duration`, and `gen_ai.server.request.duration`."""
TOKENS = tuple(4**power for power in range(14))
"""Of `gen_ai.client.token.usage`."""
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BRIEF_SECONDS = (
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.512,
    1.024,
    2.048,
    4.096,
    8.192,
)
"""Of batches and waits, most of which end before the first bucket of the conventions does."""
COUNTS = tuple(2**power for power in range(13))

PROVIDERS = {"gemini": "gcp.gemini", "openai": "openai", "compatible": "openai"}
"""By what a provider's model begins with. A compatible one speaks OpenAI's format, which the name stands for."""
LOCAL = "embatch"
"""The provider of models on this machine."""
