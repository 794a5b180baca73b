"""Gemini as a `Provider`: calls through google-genai, jobs by raw requests.

Of google-genai it uses what works: `embed_content` with one Content for each text, and generation, each with retries
switched off for the call. Jobs are made from uploaded files with a key in each line. On Vertex AI there are calls only.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError, ProviderError, UsageError
from embatch.providers.gemini import lines, operations
from embatch.providers.gemini.errors import gemini_error
from embatch.providers.gemini.wire import Wire
from embatch.providers.jsonl import rows, temporary_file, written
from embatch.providers.refusals import in_our_words, limit_hints, refusal
from embatch.providers.work import check_work, finish, learned, sent_dimensions
from embatch.remote import CallAnswer, EmbedWork, ErrorKind, JobRef, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from embatch.remote import GenerateWork, JobRow, JobView, ModelFacts, Work

_MOST_PAGES = 1000


class GeminiProvider:
    """A Gemini model. Made by `registry.open_provider`.

    Args:
        client: a `google.genai.Client`.
        facts: of the model.
        account: 8 hex digits for base URL and key.
        secrets: what no message may tell.
        owned: whether `close` closes the client.
    """

    name = "gemini"
    page_size = 100
    """Jobs in one page of the list."""

    def __init__(
        self, client: Any, facts: ModelFacts, *, account: str, secrets: Sequence[str], owned: bool
    ) -> None:
        self.facts = facts
        self.account = account
        self._client = client
        self._vertex = bool(client.vertexai)
        self._secrets = secrets
        self._owned = owned
        self._lock = threading.Lock()
        self._works: dict[str, Work] = {}  # of the jobs that this object started
        self._wire = None if self._vertex else Wire(client, secrets=secrets)

    def __repr__(self) -> str:
        return f"GeminiProvider({self.facts.model!r}, account={self.account!r})"

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request for all texts; exactly one text for a generated answer."""
        check_work(self.facts, work)
        if isinstance(work, EmbedWork):
            return self._embed(texts, work, timeout_s)
        if len(texts) != 1:
            raise UsageError(f"one call generates for exactly one text, not for {len(texts)}")
        who = self._who("generating")
        with self._refusals(who):
            response = self._client.models.generate_content(
                model=work.model, contents=_prompt(texts[0]), config=_generation(work, timeout_s)
            )
            body = response.model_dump(mode="json", by_alias=True, exclude_none=True)
        result = lines.answer(self.facts, body)
        return CallAnswer(
            results=[result], tokens=None if isinstance(result, ProviderError) else result.input_tokens
        )

    def _embed(self, texts: Sequence[str], work: EmbedWork, timeout_s: float) -> CallAnswer:
        from google.genai import types

        who = self._who("calling")
        config = types.EmbedContentConfig(
            task_type=work.task,
            title=work.title,
            output_dimensionality=sent_dimensions(self.facts, work),
            http_options=_once(timeout_s),
        )
        # A Content for each text: strings would be fused into one by gemini-embedding-2.
        contents = [types.Content(parts=[types.Part(text=work.prompt + text)]) for text in texts]
        with self._refusals(who, items=len(texts)):
            response = self._client.models.embed_content(model=work.model, contents=contents, config=config)
        embeddings = list(response.embeddings or ())
        if len(embeddings) != len(texts):
            raise refusal(who, f"{len(embeddings)} vectors for {len(texts)} texts", kind=ErrorKind.PROTOCOL)
        results = [finish(self.facts, work, embedding.values) for embedding in embeddings]
        self.facts = learned(self.facts, work, results)
        headers = getattr(response.sdk_http_response, "headers", None) or {}
        return CallAnswer(
            results=results,
            tokens=_tokens(response, embeddings),
            hints=limit_hints({str(name).lower(): str(value) for name, value in headers.items()}),
        )

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """Pieces of one generated answer as they come."""
        who = self._who("streaming")
        ends = time.monotonic() + timeout_s
        with self._refusals(who):
            pieces = self._client.models.generate_content_stream(
                model=work.model, contents=_prompt(text), config=_generation(work, timeout_s)
            )
            try:
                for piece in pieces:
                    body = piece.model_dump(mode="json", by_alias=True, exclude_none=True)
                    if said := lines.answer_text(body):
                        yield said
                    elif isinstance(broken := lines.answer(self.facts, body), ProviderError) and (
                        broken.kind is ErrorKind.BAD_INPUT
                    ):
                        raise broken
                    if time.monotonic() > ends:
                        raise refusal(who, "the answer does not come to an end", kind=ErrorKind.TIMEOUT)
            finally:
                pieces.close()

    def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
        """Upload a file with one line for each item, and start a job over it."""
        check_work(self.facts, work)
        wire = self._jobs()
        who = self._who("starting a job with")
        most_bytes = self.facts.job.bytes if self.facts.job else None
        content = (lines.input_line(self.facts, work, key, text) for key, text in items)
        with written(content, most_bytes=most_bytes) as (file, count):
            name = wire.upload(file, tag, f"{who}: uploading")
        verb = "asyncBatchEmbedContent" if isinstance(work, EmbedWork) else "batchGenerateContent"
        path = f"models/{work.model.removeprefix('models/')}:{verb}"
        body = {"batch": {"displayName": tag, "inputConfig": {"fileName": name}}}
        try:
            operation = wire.ask("POST", path, who, body=body, items=count)
            job = operation.get("name")
            if not isinstance(job, str) or not job:
                raise refusal(who, "a job without a name", kind=ErrorKind.PROTOCOL)
        except ProviderError as error:
            if not error.kind.may_have_happened:
                self._delete(wire, name)
            raise
        with self._lock:
            self._works[job] = work
        return JobRef(id=job, input_file=name)

    def poll(self, job: JobRef) -> JobView:
        """How the job stands."""
        who = self._who("asking for a job of")
        return operations.job_view(self._jobs().ask("GET", job.id, who), self._who("running"))

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows that the job has; its file is brought to disk as a whole before the first row is handed out."""
        wire = self._jobs()
        who = self._who("fetching results of")
        found = operations.outputs(wire.ask("GET", job.id, who))
        with self._lock:
            work = self._works.get(job.id)
        for line in found.inlined:
            yield lines.result_row(self.facts, work, line)
        if found.file is None:
            return
        with temporary_file() as file:
            wire.download(found.file, who, file)
            yield from rows(file, lambda line: lines.result_row(self.facts, work, line))

    def cancel(self, job: JobRef) -> None:
        """Ask for the job's end."""
        try:
            self._jobs().ask("POST", f"{job.id}:cancel", self._who("cancelling a job of"))
        except ProviderError as error:
            if error.kind.waits or not self._ending(job):
                raise

    def _ending(self, job: JobRef) -> bool:
        state = self.poll(job).state
        return state.terminal or state is JobState.CANCELLING

    def find(self, tag: str) -> JobRef | None:
        """The newest job whose display name is the tag, among all pages of the list."""
        found = [op for op in self._list() if operations.display_name(op) == tag and op.get("name")]
        if not found:
            return None
        newest = max(found, key=operations.created)
        return JobRef(id=str(newest["name"]), input_file=operations.input_file(newest))

    def _list(self) -> Iterator[Mapping[str, Any]]:
        wire = self._jobs()
        params = {"pageSize": str(self.page_size)}
        seen: set[str] = set()
        while len(seen) < _MOST_PAGES:
            page = wire.ask("GET", "batches", self._who("listing jobs of"), params=params)
            yield from (op for op in page.get("operations") or () if isinstance(op, dict))
            token = page.get("nextPageToken")
            if not isinstance(token, str) or not token or token in seen:
                return
            seen.add(token)
            params["pageToken"] = token

    def clean_up(self, job: JobRef) -> None:
        """Delete the job's files. Never raises: what stays is dropped by the provider after some days."""
        if self._wire is None:
            return
        names = [job.input_file]
        with suppress(EmbatchError):
            operation = self._wire.ask("GET", job.id, self._who("cleaning up after a job of"))
            names += [operations.input_file(operation), operations.outputs(operation).file]
        for name in dict.fromkeys(name for name in names if name):
            self._delete(self._wire, name)
        with self._lock:
            self._works.pop(job.id, None)

    def _delete(self, wire: Wire, name: str) -> None:
        with suppress(EmbatchError):
            wire.ask("DELETE", name, self._who("deleting a file of"))

    def close(self) -> None:
        """Give back connections, unless the client is the user's own."""
        if self._owned:
            self._client.close()

    def _jobs(self) -> Wire:
        if self._wire is None:
            raise ProviderError(
                f"gemini:{self.facts.model}: there are no jobs on Vertex AI here",
                kind=ErrorKind.NOT_FOUND,
                hint="Use strategy='individual', or a client of the Gemini Developer API.",
            )
        return self._wire

    def _who(self, doing: str) -> str:
        return f"gemini: {doing} {self.facts.model}"

    def _refusals(self, who: str, *, items: int = 1) -> AbstractContextManager[None]:
        return in_our_words(
            lambda error: gemini_error(error, who, items=items, secrets=self._secrets), self._secrets
        )


def _once(timeout_s: float) -> Any:
    """Options for one request that is sent once, whatever the client was told; the SDK counts in milliseconds."""
    from google.genai import types

    return types.HttpOptions(
        timeout=max(1, round(timeout_s * 1000)), retry_options=types.HttpRetryOptions(attempts=1)
    )


def _prompt(text: str) -> Any:
    from google.genai import types

    return [types.Content(role="user", parts=[types.Part(text=text)])]


def _generation(work: GenerateWork, timeout_s: float) -> Any:
    from google.genai import types

    fields: dict[str, Any] = {
        "system_instruction": work.system,
        "temperature": work.temperature,
        "max_output_tokens": work.max_output_tokens,
        "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
        "http_options": _once(timeout_s),
    }
    if "automatic_continuation" in types.GenerateContentConfig.model_fields:
        fields["automatic_continuation"] = False  # else one call may be many paid requests
    return types.GenerateContentConfig(**fields)


def _tokens(response: Any, embeddings: Sequence[Any]) -> int | None:
    """Input tokens that the answer counts: of the whole call, or of each text (Vertex AI)."""
    counted = getattr(getattr(response, "usage_metadata", None), "prompt_token_count", None)
    if counted is not None:
        return int(counted)
    each: list[Any] = [getattr(getattr(e, "statistics", None), "token_count", None) for e in embeddings]
    return round(sum(each)) if each and all(n is not None for n in each) else None
