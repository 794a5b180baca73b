"""OpenAI, Azure OpenAI and compatible servers as a `Provider`, through the openai library.

Answers are taken as raw bodies and read here: the SDK would decode, drop and raise in ways of its own. Its retries are
off. Vectors travel as base64 from OpenAI itself, as numbers from all others, many of which break on base64.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from embatch.errors import EmbatchError, ProviderError, UsageError
from embatch.providers.jsonl import count_of, disk_errors, first, rows, table, temporary_file, written
from embatch.providers.openai import lines
from embatch.providers.openai.errors import openai_error, openai_refusal
from embatch.providers.refusals import in_our_words, limit_hints, refusal
from embatch.providers.work import check_work, learned
from embatch.remote import CallAnswer, EmbedWork, ErrorKind, JobRef, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from embatch.remote import GenerateWork, JobRow, JobView, ModelFacts, Work

CONTROL_S = 60.0
"""For one small request: creating, polling, listing, cancelling, deleting."""
TRANSFER_S = 3600.0
"""For a whole file."""
_STALL_S = 60.0  # between two pieces of a file that is fetched
_UPLOAD_STALL_S = 300.0  # a large file is looked at before it is acknowledged
_MOST_PAGES = 1000
_MOST_ANSWER_BYTES = 1024 * 1024 * 1024


class OpenAIProvider:
    """A model behind OpenAI's protocol. Made by `registry.open_provider`.

    Args:
        client: an `openai.OpenAI` or `openai.AzureOpenAI`.
        facts: of the model; those without jobs say that there are none.
        account: 8 hex digits for base URL and key.
        secrets: what no message may tell.
        owned: whether `close` closes the client.
        headers: sent with each call, such as one that leaves out the key.
    """

    page_size = 100
    """Jobs in one page of the list."""

    def __init__(
        self,
        client: Any,
        facts: ModelFacts,
        *,
        account: str,
        secrets: Sequence[str],
        owned: bool,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        self._headers = headers
        self.name = facts.provider
        self.facts = facts
        self.account = account
        self._owner = client if owned else None
        self._client = client.with_options(max_retries=0)
        self._encoding = "base64" if facts.provider == "openai" else "float"
        self._secrets = secrets
        self._lock = threading.Lock()
        self._works: dict[str, Work] = {}  # of the jobs that this object started

    def __repr__(self) -> str:
        return f"OpenAIProvider({self.name}:{self.facts.model}, account={self.account!r})"

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request for all texts; exactly one text for a generated answer."""
        check_work(self.facts, work)
        if isinstance(work, EmbedWork):
            return self._embed(texts, work, timeout_s)
        if len(texts) != 1:
            raise UsageError(f"one call generates for exactly one text, not for {len(texts)}")
        create = self._client.chat.completions.with_streaming_response.create
        body, headers = self._ask(
            create, self._who("generating"), timeout_s, **lines.chat_body(self.facts, work, texts[0])
        )
        return CallAnswer(
            results=[lines.answer(self.facts, body)],
            tokens=lines.prompt_tokens(body),
            hints=limit_hints(headers),
        )

    def _embed(self, texts: Sequence[str], work: EmbedWork, timeout_s: float) -> CallAnswer:
        who = self._who("calling")
        asked = lines.embed_body(self.facts, work, list(texts), encoding=self._encoding)
        create = self._client.embeddings.with_streaming_response.create
        body, headers = self._ask(create, who, timeout_s, items=len(texts), **asked)
        results = lines.vectors(self.facts, work, body, len(texts), who)
        self.facts = learned(self.facts, work, results)
        return CallAnswer(results=results, tokens=lines.prompt_tokens(body), hints=limit_hints(headers))

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """Pieces of one generated answer as they come."""
        who = self._who("streaming")
        ends = time.monotonic() + timeout_s
        with self._refusals(who):
            pieces = self._client.chat.completions.create(
                **lines.chat_body(self.facts, work, text),
                stream=True,
                timeout=timeout_s,
                extra_headers=self._headers,
            )
            with pieces:
                for piece in pieces:
                    choice = first(piece.model_dump().get("choices"))
                    if said := table(choice.get("delta")).get("content"):
                        yield str(said)
                    if time.monotonic() > ends:
                        raise refusal(who, "the answer does not come to an end", kind=ErrorKind.TIMEOUT)

    def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
        """Upload a file with one line for each item, and start a job over it."""
        check_work(self.facts, work)
        who = self._who("starting a job with")
        most_bytes = self._job_limits().bytes
        content = (
            lines.input_line(self.facts, work, key, text, encoding=self._encoding) for key, text in items
        )
        with written(content, most_bytes=most_bytes) as (file, count):
            name = self._upload(file, tag, f"{who}: uploading", count)
        try:
            batch = self._request(
                "batches",
                "create",
                who,
                items=count,
                creating_job=True,
                input_file_id=name,
                endpoint=lines.EMBEDDINGS if isinstance(work, EmbedWork) else lines.CHAT,
                completion_window="24h",
                metadata={lines.TAG: tag},
            )
            job = _id_of(batch, who)
        except ProviderError as error:
            if not error.kind.may_have_happened:
                self._delete(name)
            raise
        with self._lock:
            self._works[job] = work
        return JobRef(id=job, input_file=name)

    def _upload(self, file: IO[bytes], tag: str, who: str, count: int) -> str:
        create = self._client.files.with_streaming_response.create
        uploaded, _ = self._ask(
            create,
            who,
            TRANSFER_S,
            stall_s=_UPLOAD_STALL_S,
            items=count,
            file=(f"{tag}.jsonl", file, "application/jsonl"),
            purpose="batch",
        )
        return _id_of(uploaded, who)

    def poll(self, job: JobRef) -> JobView:
        """How the job stands."""
        self._job_limits()
        return lines.job_view(self._batch(job), self._who("running"))

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows that the job has, of its output and its error file; each is on disk before its rows go out."""
        self._job_limits()
        batch = self._batch(job)
        with self._lock:
            work = self._works.get(job.id)
        with temporary_file() as file:
            for name in lines.output_files(batch):
                self._download(name, file)
            with disk_errors():
                file.seek(0)
            yield from rows(file, lambda line: lines.result_row(self.facts, work, line))

    def _download(self, name: str, to: IO[bytes]) -> None:
        """Append a file to `to`, with an end to its last line, so that two files never make one line."""
        who = self._who("fetching results of")
        ends = time.monotonic() + TRANSFER_S
        with (
            self._refusals(who),
            self._client.files.with_streaming_response.content(name, timeout=_STALL_S) as response,
        ):
            last = b"\n"
            for piece in response.iter_bytes(1024 * 1024):
                with disk_errors():
                    to.write(piece)
                last = piece[-1:] or last
                if time.monotonic() > ends:
                    raise refusal(who, "the file does not come to an end", kind=ErrorKind.TIMEOUT)
            if last != b"\n":
                with disk_errors():
                    to.write(b"\n")

    def cancel(self, job: JobRef) -> None:
        """Ask for the job's end."""
        self._job_limits()
        try:
            self._request("batches", "cancel", self._who("cancelling a job of"), batch_id=job.id)
        except ProviderError as error:
            if error.kind.waits and error.kind is not ErrorKind.OVERLOADED:
                raise
            state = self.poll(job).state  # an ended job refuses with 409
            if not state.terminal and state is not JobState.CANCELLING:
                raise

    def find(self, tag: str) -> JobRef | None:
        """The newest job with the tag in its metadata; the list is newest first, so one page with it is enough."""
        self._job_limits()
        after: dict[str, Any] = {}
        for _ in range(_MOST_PAGES):
            page = self._request(
                "batches", "list", self._who("listing jobs of"), limit=self.page_size, **after
            )
            data = page.get("data")
            listed = [batch for batch in data if isinstance(batch, dict)] if isinstance(data, list) else []
            found = [batch for batch in listed if lines.tag_of(batch) == tag and batch.get("id")]
            if found:
                newest = max(found, key=lambda batch: count_of(batch.get("created_at")) or 0)
                file = newest.get("input_file_id")
                return JobRef(id=str(newest["id"]), input_file=str(file) if file else None)
            last = page.get("last_id") or (listed[-1].get("id") if listed else None)
            if not page.get("has_more") or not last or {"after": last} == after:
                return None
            after = {"after": str(last)}
        return None

    def clean_up(self, job: JobRef) -> None:
        """Delete the job's files. Never raises: what stays is dropped by the provider after some time."""
        names = [job.input_file]
        with suppress(EmbatchError):
            batch = self._batch(job)
            names += [str(batch.get("input_file_id") or ""), *lines.output_files(batch)]
        for name in dict.fromkeys(name for name in names if name):
            self._delete(name)
        with self._lock:
            self._works.pop(job.id, None)

    def _delete(self, name: str) -> None:
        with suppress(EmbatchError):
            self._request("files", "delete", self._who("deleting a file of"), file_id=name)

    def close(self) -> None:
        """Give back connections, unless the client is the user's own."""
        if self._owner is not None:
            self._owner.close()

    def _batch(self, job: JobRef) -> Mapping[str, Any]:
        return self._request("batches", "retrieve", self._who("asking for a job of"), batch_id=job.id)

    def _request(
        self, resource: str, verb: str, who: str, *, items: int = 1, creating_job: bool = False, **asked: Any
    ) -> Mapping[str, Any]:
        """One small request about jobs or files; the JSON object of its answer."""
        method = getattr(getattr(self._client, resource).with_streaming_response, verb)
        body, _ = self._ask(method, who, CONTROL_S, items=items, creating_job=creating_job, **asked)
        return body

    def _ask(
        self,
        method: Any,
        who: str,
        timeout_s: float,
        *,
        stall_s: float | None = None,
        items: int = 1,
        creating_job: bool = False,
        **asked: Any,
    ) -> tuple[Mapping[str, Any], dict[str, str]]:
        """Send one request; the JSON object of its answer, and the headers with lower-case names."""
        ends = time.monotonic() + timeout_s
        content = bytearray()
        with (
            self._refusals(who, items=items, creating_job=creating_job),
            method(timeout=stall_s or timeout_s, extra_headers=self._headers, **asked) as response,
        ):
            headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
            for piece in response.iter_bytes():
                content += piece
                if time.monotonic() > ends:
                    raise refusal(who, "the answer does not come to an end", kind=ErrorKind.TIMEOUT)
                if len(content) > _MOST_ANSWER_BYTES:
                    raise refusal(who, "an answer without an end", kind=ErrorKind.PROTOCOL)
        return self._object(content, who), headers

    def _object(self, content: bytearray, who: str) -> Mapping[str, Any]:
        try:
            body = json.loads(content)
        except ValueError as error:
            words = bytes(content[:400]).decode("utf-8", "replace")
            raise refusal(who, f"no JSON: {words}", kind=ErrorKind.PROTOCOL, secrets=self._secrets) from error
        if not isinstance(body, dict):
            raise refusal(who, "an answer that is no JSON object", kind=ErrorKind.PROTOCOL)
        if body.get("error") and "data" not in body and "id" not in body:
            raise openai_refusal(body, who, secrets=self._secrets)  # some gateways refuse with status 200
        return body

    def _job_limits(self) -> Any:
        if self.facts.job is None:
            raise ProviderError(
                f"{self.name}:{self.facts.model} has no jobs",
                kind=ErrorKind.NOT_FOUND,
                hint="Use strategy='individual'.",
            )
        return self.facts.job

    def _who(self, doing: str) -> str:
        return f"{self.name}: {doing} {self.facts.model}"

    def _refusals(
        self, who: str, *, items: int = 1, creating_job: bool = False
    ) -> AbstractContextManager[None]:
        return in_our_words(
            lambda error: openai_error(
                error, who, items=items, creating_job=creating_job, secrets=self._secrets
            ),
            self._secrets,
        )


def _id_of(body: Mapping[str, Any], who: str) -> str:
    name = body.get("id")
    if not isinstance(name, str) or not name:
        raise refusal(who, "an answer without an id", kind=ErrorKind.PROTOCOL)
    return name
