"""Gemini as a `Provider`: calls and jobs by raw requests; streams, and all of Vertex AI, through google-genai.

What goes through the SDK has its retries switched off for the call. Jobs are made from uploaded files with a key in
each line. On Vertex AI there are calls only.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError, ProviderError, UsageError
from embatch.providers.gemini import lines, operations, sdk
from embatch.providers.gemini.errors import gemini_error
from embatch.providers.gemini.wire import Wire
from embatch.providers.jsonl import count_of, rows, table, temporary_file, written
from embatch.providers.refusals import in_our_words, refusal
from embatch.providers.work import check_work, learned
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
        return self._generate(texts[0], work, timeout_s)

    def _generate(self, text: str, work: GenerateWork, timeout_s: float) -> CallAnswer:
        who = self._who("generating")
        body: Mapping[str, Any]
        if self._wire is None:
            body = sdk.generate(self._client, work, text, timeout_s, self._refusals(who))
        else:
            path, asked = f"{_path(work.model)}:generateContent", lines.generate_request(work, text)
            body = self._wire.ask("POST", path, who, body=asked, timeout_s=timeout_s)
        result = lines.answer(self.facts, body)
        return CallAnswer(
            results=[result], tokens=None if isinstance(result, ProviderError) else result.input_tokens
        )

    def _embed(self, texts: Sequence[str], work: EmbedWork, timeout_s: float) -> CallAnswer:
        who = self._who("calling")
        if self._wire is None:
            results, tokens = sdk.embed(
                self._client, self.facts, work, texts, timeout_s, who, self._refusals(who, items=len(texts))
            )
        else:
            path = f"{_path(work.model)}:batchEmbedContents"
            # A request for each text: a list of strings would be fused into one text by gemini-embedding-2.
            asked = {"requests": [lines.embed_request(self.facts, work, text) for text in texts]}
            body = self._wire.ask("POST", path, who, body=asked, items=len(texts), timeout_s=timeout_s)
            results = lines.vectors(self.facts, work, body, len(texts), who)
            tokens = count_of(table(body.get("usageMetadata")).get("promptTokenCount"))
        self.facts = learned(self.facts, work, results)
        return CallAnswer(results=results, tokens=tokens)

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """Pieces of one generated answer as they come."""
        who = self._who("streaming")
        ends = time.monotonic() + timeout_s
        with self._refusals(who):
            pieces = self._client.models.generate_content_stream(
                model=work.model, contents=sdk.prompt(text), config=sdk.generation(work, timeout_s)
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
        path = f"{_path(work.model)}:{verb}"
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


def _path(model: str) -> str:
    return f"models/{model.removeprefix('models/')}"
