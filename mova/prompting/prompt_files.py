"""Prompt files and word lists in prompts/: read at run time, checked, and fingerprinted for caches."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from mova.catalog import PROMPTS
from mova.errors import UserError

VARIABLE = re.compile(r"\{\{(\w+)\}\}")
HEADER = re.compile(r"---\nversion: (\d+)\nvariables:([^\n]*)\n---\n(.*?)\n=== user ===\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class PromptTemplate:
    """A versioned prompt file: instructions (`system`) and question (`user`), with `{{variables}}`."""

    name: str
    version: int
    variables: frozenset[str]
    system: str
    user: str

    @property
    def digest(self) -> str:
        """A fingerprint that changes with any character of the file."""
        whole = f"{self.name}\0{self.version}\0{sorted(self.variables)}\0{self.system}\0{self.user}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def fill(self, **values: object) -> tuple[str, str]:
        """System and user text with the variables filled in. Values are not searched for variables.

        Raises:
            UserError: a variable is missing, or one is given that the file does not know.
        """
        if values.keys() != self.variables:
            missing, unknown = sorted(self.variables - values.keys()), sorted(values.keys() - self.variables)
            raise UserError(
                f"prompts/{self.name}.md has the variables {sorted(self.variables)}; missing {missing}, "
                f"unknown {unknown}"
            )

        def value(match: re.Match) -> str:
            return str(values[match[1]])

        return VARIABLE.sub(value, self.system), VARIABLE.sub(value, self.user)


def load_template(name: str) -> PromptTemplate:
    """The prompt file prompts/`name`.md.

    Raises:
        UserError: it is missing or malformed, or uses other variables than it names in its head.
    """
    path = PROMPTS / f"{name}.md"
    try:
        match = HEADER.fullmatch(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be read ({error.strerror}); restore the folder prompts/"
        ) from error
    if match is None:
        raise UserError(
            f"prompts/{path.name} is malformed; it needs a head with version and variables between "
            "--- lines, "
            "then the instructions, a line === user ===, and the question"
        )
    named = frozenset(word.strip() for word in match[2].split(",") if word.strip())
    used = frozenset(VARIABLE.findall(match[3] + match[4]))
    if named != used:
        raise UserError(f"prompts/{path.name} names the variables {sorted(named)} but uses {sorted(used)}")
    return PromptTemplate(name, int(match[1]), named, match[3].strip(), match[4].strip())


@lru_cache
def load_words(name: str) -> tuple[str, ...]:
    """The lines of the word list prompts/`name`.txt without comments."""
    lines = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
