"""The Hub: a repo's files, the headers of its weight files, and its failures as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, RepoFile, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
    XetDownloadError,
)
from huggingface_hub.utils import SafetensorsFileMetadata

from mova.errors import BackendError, UserError
from mova.files import DISK_FULL


def download(repo: str, patterns: list[str], **options: object) -> Path:
    """The snapshot folder of `repo` with the files that match `patterns`, fetched unless the cache has them.

    `options` (revision, token, cache_dir, local_files_only, ...) go to `snapshot_download`.

    Raises:
        UserError: there is no such repo, or it cannot be reached. BackendError: the disk is full.
    """
    with hub_errors(repo):
        return Path(snapshot_download(repo, allow_patterns=patterns, **options))


@lru_cache(maxsize=4)
def list_files(repo: str, revision: str) -> tuple[str, ...]:
    """Paths of all files of a repo. Raises as `download`."""
    with hub_errors(repo):
        return tuple(HfApi().list_repo_files(repo, revision=revision))


def file_sizes(repo: str, **options: object) -> dict[str, int]:
    """Bytes by path of all files of a repo. Raises as `download`."""
    named = {key: options[key] for key in ("revision", "token", "endpoint") if key in options}
    api = HfApi(endpoint=named.pop("endpoint", None), token=named.pop("token", None))
    with hub_errors(repo):
        entries = api.list_repo_tree(repo, recursive=True, **named)
        return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def read_header(repo: str, file: str, revision: str) -> SafetensorsFileMetadata:
    """Read the header of a repo's safetensors file, without the rest. Raises as `download`."""
    with hub_errors(repo):
        try:
            return HfApi().parse_safetensors_file_metadata(repo, file, revision=revision)
        except EntryNotFoundError:
            raise UserError(f"{repo} lacks {file}; it is not a complete MOVA checkpoint") from None
        except SafetensorsParsingError as error:
            raise UserError(
                f"{repo}: {file} is not a safetensors file; the repo is broken ({error})"
            ) from error


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn the errors of the Hub's client into ours, with what to do."""
    try:
        yield
    except HFValidationError:
        raise UserError(
            f"{repo!r} is neither a folder nor a repo id such as OpenMOSS-Team/MOVA-360p"
        ) from None
    except GatedRepoError as error:
        raise UserError(
            f"{repo} is gated; ask for access on its page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder {repo} here, nor a repo of that name on the Hub that you may read; "
            "check the name, or log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no such revision; check its name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise UserError(
            f"{repo} is not complete on this machine and the Hub cannot be reached ({reason(error)}); "
            "check the connection, or give the folder of a checkpoint"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"{repo} cannot be read from the Hub ({reason(error)}); try again later") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise BackendError(
                f"the disk is full, {repo} cannot be stored ({error.strerror}); free some space, or set "
                "HF_HOME to a folder on another disk"
            ) from error
        raise UserError(f"{repo} cannot be stored or read ({reason(error)}); try again") from error
    except XetDownloadError as error:
        raise BackendError(f"the download of {repo} broke off ({reason(error)}); run it again") from error


def reason(error: Exception) -> str:
    """The first cause of an error in one line: it is what a person can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__
