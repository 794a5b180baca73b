"""Every error that embatch raises on purpose, in one tree.

    EmbatchError
    ├── UsageError                 an option or argument that makes no sense
    ├── ItemError                  one text, the rest go on
    │   ├── NotTextError           not a string
    │   ├── EmptyTextError         nothing, or white space only
    │   ├── EncodingError          a string that is no Unicode text, such as a lone surrogate
    │   ├── BadTokensError         token ids that are none of the model's
    │   ├── TooLongError           longer than the model takes, and `overlong="error"`
    │   ├── BadVectorError         the model answered with NaN or infinity for this text
    │   ├── ItemBackendError       the model failed on this text alone
    │   ├── ItemProviderError      a provider refused this text alone
    │   └── NotSentError           the run ended before this text's turn came
    ├── ItemsFailedError           some texts of a call failed, and `on_error="raise"`
    ├── SourceError                an input
    │   ├── SourceNotFoundError    no such file, folder or match
    │   ├── SourceUnreadableError  no permission, vanished, an I/O error
    │   ├── SourceFormatError      not the format that its name says, broken UTF-8, binary
    │   ├── RowError               one row of an input, the rest go on
    │   └── MissingColumnError     no such column or field
    ├── ModelError                 a model or its files
    │   ├── UnknownModelError      no such name or folder
    │   ├── ModelUnavailableError  known, but its files cannot be had from here
    │   ├── CorruptModelError      files that are broken or not those that were pinned
    │   ├── UnsupportedModelError  files that this backend cannot run
    │   └── MissingExtraError      an optional library is not installed
    ├── BackendError               the engine under a model failed
    │   ├── OutOfMemoryError       a batch did not fit
    │   └── BackendClosedError     used after it was closed
    ├── WaitingError               a request could not wait for its turn
    │   ├── OverloadedError        too much is waiting already
    │   └── ExpiredError           its time was over first
    ├── ProviderError              a model behind an API refused, or cannot be reached
    ├── GoalError                  the run's own bounds: the budget, or the time to wait for a job, is used up
    │   └── StillRunningError      the time to wait is; jobs are under way
    ├── OutputError                the place that results go to
    │   ├── OutputNotWritableError read-only, not a folder, no permission
    │   ├── DiskFullError          no space left
    │   ├── OutputBusyError        another process writes there now
    │   └── OutputMismatchError    what lies there belongs to other inputs or another model
    ├── SearchIndexError           an index of chunks
    │   ├── IndexNotFoundError     there is none
    │   ├── IndexMismatchError     it was made with another model
    │   ├── IndexBusyError         another process is changing it
    │   ├── IndexUnreachableError  the server that has it does not answer
    │   └── IndexBrokenError       its files cannot be read
    └── InterruptedRunError        Ctrl-C or SIGTERM; what was done is kept

Policy reads the attributes, never the type's name: `scope` says how much is lost, `retryable` whether the
same call may work later, `hint` what to do now, `exit_code` what the command line ends with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.remote import ErrorKind
    from embatch.types import ItemFailure

Scope = Literal["item", "request", "job", "run"]
"""How far a failure reaches: one text, one call (a batch), one asynchronous job, or everything."""


class EmbatchError(Exception):
    """Root of the tree. The message says what happened and which limit; `hint` says the way out."""

    scope: ClassVar[Scope] = "run"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "Run the command again with --verbose for the details."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint if hint is not None else self.default_hint


class UsageError(EmbatchError):
    """An option or argument that makes no sense here."""

    exit_code = 2
    default_hint = "See `embatch COMMAND --help` for what is allowed."


class ItemError(EmbatchError):
    """One text has no vector; the others are not touched."""

    scope = "item"
    default_hint = "Correct or remove this text."


class NotTextError(ItemError):
    """The value is not a string."""

    default_hint = "Pass str values; decode bytes and turn numbers into text first."


class EmptyTextError(ItemError):
    """The text is empty or white space only: a vector of it would match anything."""

    default_hint = "Drop empty texts, or pass on_error='collect' to be told which they are."


class EncodingError(ItemError):
    """The string holds code points that are no Unicode text, such as a lone surrogate."""

    default_hint = "Clean it with text.encode('utf-8', 'replace').decode('utf-8')."


class BadTokensError(ItemError):
    """Token ids that the model's vocabulary does not have, or none at all."""

    default_hint = "Send text, or ids made by this very model's tokeniser."


class TooLongError(ItemError):
    """The text is longer than the model takes, and that was to be an error."""

    default_hint = "Use overlong='truncate' or overlong='pool', or split the text."


class BadVectorError(ItemError):
    """The model answered with NaN or infinity for this text."""

    default_hint = "Try precision='fp32'; if it stays, the model's weights or the text's tokens are at fault."


class ItemBackendError(ItemError):
    """The engine failed on this text alone, while others of its batch worked."""

    default_hint = "Shorten or remove this text; the cause is in the message."


class ItemProviderError(ItemError):
    """A provider refused this text, or answered nothing usable for it, while others went through."""

    default_hint = "Correct or remove this text; the provider's own words are in the message."


class NotSentError(ItemError):
    """The run ended before this text had its turn: a budget, a quota of a day, a provider that stayed away."""

    retryable = True
    default_hint = "Run the same command again once the cause is gone: it goes on where it was."


class ItemsFailedError(EmbatchError):
    """Some texts of the call have no vector, and failures were to be raised. `failures` names them."""

    scope = "request"
    default_hint = "Pass on_error='collect' to get the other vectors and the list of failures."

    def __init__(self, message: str, failures: Sequence[ItemFailure], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failures = list(failures)


class SourceError(EmbatchError):
    """An input could not be used."""

    exit_code = 3
    default_hint = "Check the path and try again."


class SourceNotFoundError(SourceError):
    """No such file or folder, or a pattern that matches nothing."""

    default_hint = "Check the spelling; quote patterns such as 'docs/**/*.md'."


class SourceUnreadableError(SourceError):
    """The input exists and cannot be read: permission, vanished meanwhile, an I/O error."""

    retryable = True
    default_hint = "Check the file's permissions, or leave it out."


class SourceFormatError(SourceError):
    """The content is not what the name says: broken UTF-8, binary data, a broken table."""

    default_hint = "Convert the file to UTF-8 text, or leave it out."


class RowError(SourceError):
    """One row of an input is broken; the others go on."""

    scope = "item"
    default_hint = "Correct the row; the others were embedded."


class MissingColumnError(SourceError):
    """The table has no such column, or a record no such field."""

    default_hint = "Name the column with --text-column and --id-column."


class ModelError(EmbatchError):
    """A model or its files cannot be used."""

    exit_code = 4
    default_hint = "See `embatch models list` for what is at hand."


class UnknownModelError(ModelError):
    """Neither an alias, nor a folder, nor a name in the form owner/name."""

    default_hint = "See `embatch models list`, or give a folder or a name such as owner/name."


class ModelUnavailableError(ModelError):
    """The model is known, but its files can be had from nowhere right now."""

    retryable = True
    default_hint = "Fetch it where there is a network (`embatch models fetch`) and copy the folder here."


class CorruptModelError(ModelError):
    """The files are broken, or are not those whose digest is pinned."""

    default_hint = "Delete the model's folder and run `embatch models fetch` again."


class UnsupportedModelError(ModelError):
    """This backend cannot run this model."""

    default_hint = 'Install the torch extra (`pip install "embatch[torch]"`) and pass --backend torch.'


class MissingExtraError(ModelError):
    """A library that this feature needs is not installed."""

    default_hint = "Install the extra named in the message."


class BackendError(EmbatchError):
    """The engine under a model failed."""

    scope = "request"
    exit_code = 6
    default_hint = "Run again with precision='fp32' or another --backend; the cause is in the message."


class OutOfMemoryError(BackendError):
    """A batch did not fit into the memory of the device or the host. A smaller one may."""

    retryable = True
    default_hint = "Free memory, or set a smaller --budget-tokens; embatch halves batches by itself first."


class BackendClosedError(BackendError):
    """The backend was used after it was closed."""

    default_hint = "Keep the Embedder open while it is used: `with Embedder(...) as embedder:`."


class WaitingError(EmbatchError):
    """A request could not wait for its turn; the engine itself works."""

    scope = "request"
    retryable = True
    exit_code = 6
    default_hint = "Ask again later, or send fewer texts at once."


class OverloadedError(WaitingError):
    """Too much is waiting already, so that this was not let in.

    Args:
        message: what happened and which limit.
        retry_after_s: when there should be room.
        hint: the way out, if there is a better one.
    """

    default_hint = "Ask again after the seconds that the message names, or send fewer texts at once."

    def __init__(self, message: str, *, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ExpiredError(WaitingError):
    """The time that a request had was over before it was done."""

    default_hint = "Ask again with more time, or send fewer texts at once."


class ProviderError(EmbatchError):
    """A model behind an API refused a request or a row, or cannot be reached. `kind` says what that means.

    Args:
        message: what happened, the provider's own words included; never a key or token.
        kind: what it means for the one who asked.
        retry_after_s: the delay that the provider asked for, a floor for the next try.
        code: the provider's own code, such as `429` or `token_limit_exceeded`.
        hint: the way out, if there is a better one than the kind's.
    """

    scope = "request"
    exit_code = 7
    default_hint = (
        "Check the key, the model's name and the provider's status page; then run the command again."
    )

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        retry_after_s: float | None = None,
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.code = code


class GoalError(EmbatchError):
    """The run stopped at a bound that it was given: its budget, or how long it may wait for a job."""

    retryable = True
    exit_code = 8
    default_hint = "Run the same command again with a larger --budget: what was paid for is kept."


class StillRunningError(GoalError, TimeoutError):
    """The run has waited as long as it may. Its jobs go on at the provider, and `jobs` names them."""

    default_hint = (
        "Ask for the same texts again: their results are taken over, and nothing is submitted twice. "
        "Or give them up: `embatch runs` names the run."
    )

    def __init__(self, message: str, jobs: Sequence[str] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.jobs = tuple(jobs)


class OutputError(EmbatchError):
    """Results cannot be written to where they should go."""

    exit_code = 5
    default_hint = "Choose another place with --to."


class OutputNotWritableError(OutputError):
    """The folder is read-only, missing, or not a folder."""

    default_hint = "Choose a folder that you may write to with --to."


class DiskFullError(OutputError):
    """No space is left. What was embedded so far is kept and the same command goes on from there."""

    retryable = True
    default_hint = "Free space and run the same command again: it goes on where it was."


class OutputBusyError(OutputError):
    """Another process is writing to this output now."""

    retryable = True
    default_hint = "Wait for it to end, or write to another file with --to."


class OutputMismatchError(OutputError):
    """What lies at the target belongs to another model or other settings."""

    default_hint = "Write to another file, or start over with --fresh."


class SearchIndexError(EmbatchError):
    """An index of chunks cannot be used."""

    exit_code = 9
    default_hint = "Look at it with `embatch query --stats`, or make it anew with `embatch index --rebuild`."


class IndexNotFoundError(SearchIndexError):
    """There is no index in this place."""

    default_hint = "Make one with `embatch index PATH`, or name its folder with --index."


class IndexMismatchError(SearchIndexError):
    """The index was made with another model, or in another way: vectors of two models cannot be compared."""

    default_hint = "Use the model that it was made with, or make it anew with `embatch index --rebuild`."


class IndexBusyError(SearchIndexError):
    """Another process is changing the index now. Queries are not affected."""

    retryable = True
    default_hint = "Wait for it to end; queries work meanwhile."


class IndexUnreachableError(SearchIndexError):
    """The server of the index does not answer, or the connection to it broke."""

    retryable = True
    default_hint = "Check that the server runs and can be reached; then run the same command again."


class IndexBrokenError(SearchIndexError):
    """The files of the index are missing or damaged."""

    default_hint = "Make it anew with `embatch index --rebuild`; nothing but the index is lost."


class InterruptedRunError(EmbatchError):
    """Ctrl-C or SIGTERM. What was embedded is kept."""

    retryable = True
    exit_code = 130
    default_hint = "Run the same command again: it goes on where it was."
