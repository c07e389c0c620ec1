"""Selectors: which sites an edit touches."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dcsurgery.errors import BadInput, NothingMatched
from dcsurgery.sites import Role, Site

__all__ = ["NAME_THEM", "OUTPUT_BLOCKS", "SCOPES", "Rule", "Selection"]

OUTPUT_BLOCKS = "output-blocks"
SCOPES = ("all", OUTPUT_BLOCKS)
NAME_THEM = "say which sites are meant by name, for instance include='head.*'; dcsurgery inspect lists them"
_PREFIXES = {
    "role": lambda site: site.role,
    "kind": lambda site: site.role,
    "op": lambda site: site.operator,
    "how": lambda site: site.how,
}
Rule = str | type | Callable[[Site], bool]


@dataclass(frozen=True)
class Selection:
    r"""Include and exclude rules.

    A rule is a site's name or alias (``head.1``), the path of a module (``head`` takes everything below), a glob
    (``blocks.*.act``), a regular expression (``re:blocks\.[01]\..*``, anywhere in the name), an operator
    (``op:silu``), a role (``kind:activation``), a way of writing (``how:attribute``), ``output-blocks``, an
    nn.Module class or its name (``class:SiLU``), or a predicate that takes a `Site`. A site is selected when any
    include rule (or none is given) and no exclude rule matches it.
    """

    scope: str = "all"
    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()

    @staticmethod
    def of(scope: str = "all", include: Any = None, exclude: Any = None) -> Selection:
        """Build a selection from what a user writes: None, one rule or several.

        Raises
        ------
        BadInput
            If the scope is unknown or a regular expression is wrong.
        """
        if scope not in SCOPES:
            raise BadInput(f"no scope {scope!r}", fix=f"use one of {', '.join(SCOPES)}")
        selection = Selection(scope, _rules(include), _rules(exclude))
        for rule in (*selection.include, *selection.exclude):
            _check(rule)
        return selection

    def select(self, sites: Sequence[Site], role: Role | None = None) -> tuple[Site, ...]:
        """Return the selected sites of a role.

        Raises
        ------
        NothingMatched
            If a rule matches no site of any role: a typing error must not pass for a choice.
        """
        for kind, rules in (("include", self.include), ("exclude", self.exclude)):
            for rule in rules:
                if not any(_matches(rule, site) for site in sites):
                    raise _missed(kind, rule, sites, role)
        return tuple(
            site
            for site in sites
            if (role is None or site.role == role)
            and (self.scope == "all" or site.in_output_block)
            and (not self.include or any(_matches(rule, site) for rule in self.include))
            and not any(_matches(rule, site) for rule in self.exclude)
        )

    def describe(self) -> dict[str, Any]:
        """Return the selection as plain YAML types."""
        described: dict[str, Any] = {"scope": self.scope}
        if self.include:
            described["include"] = [_text(rule) for rule in self.include]
        if self.exclude:
            described["exclude"] = [_text(rule) for rule in self.exclude]
        return described


def _rules(value: Any) -> tuple[Rule, ...]:
    if value is None:
        return ()
    if isinstance(value, str | type) or callable(value):
        return (value,)
    if isinstance(value, Iterable):
        return tuple(value)
    raise BadInput(f"not a selector: {value!r}", fix="give a name, glob, 're:…', class or predicate")


def _check(rule: Rule) -> None:
    if isinstance(rule, str) and rule.startswith("re:"):
        try:
            re.compile(rule[3:])
        except re.error as error:
            raise BadInput(
                f"bad regular expression {rule[3:]!r}: {error}", fix="escape special characters with a backslash"
            ) from None
    elif not isinstance(rule, str | type) and not callable(rule):
        raise BadInput(f"not a selector: {rule!r}", fix="give a name, glob, 're:…', class or predicate")
    elif rule == "":
        raise BadInput("an empty selector", fix="leave it out to select everything")


def _text(rule: Rule) -> str:
    if isinstance(rule, type):
        return f"class:{rule.__name__}"
    return rule if isinstance(rule, str) else f"predicate {getattr(rule, '__name__', 'callable')}"


def _matches(rule: Rule, site: Site) -> bool:
    if isinstance(rule, type):
        return any(cls in site.classes for cls in _class_names(rule))
    if not isinstance(rule, str):
        return _ask(rule, site)
    if rule == OUTPUT_BLOCKS:
        return site.in_output_block
    if rule.startswith("re:"):
        return any(re.search(rule[3:], name) for name in site.names)
    prefix, colon, value = rule.partition(":")
    if colon and prefix in _PREFIXES:
        return fnmatch.fnmatchcase(_PREFIXES[prefix](site), value)
    if colon and prefix == "class":
        return any(
            fnmatch.fnmatchcase(c, value) or fnmatch.fnmatchcase(c.rpartition(".")[2], value) for c in site.classes
        )
    return any(_name_matches(rule, name) for name in site.names)


def _ask(predicate: Callable[[Site], bool], site: Site) -> bool:
    try:
        return bool(predicate(site))
    except Exception as error:
        raise BadInput(
            f"the {_text(predicate)} raised {type(error).__name__}: {error}",
            where=site.name,
            fix="a predicate takes a Site and returns True or False",
        ) from error


def _class_names(cls: type) -> tuple[str, ...]:
    return (f"{cls.__module__}.{cls.__qualname__}",)


def _name_matches(rule: str, name: str) -> bool:
    if name == rule or name.startswith((f"{rule}.", f"{rule}@", f"{rule}[")):
        return True
    # Names may contain brackets (acts[0]); as a glob they would be a set of characters.
    return fnmatch.fnmatchcase(name, rule) or fnmatch.fnmatchcase(name, rule.replace("[", "[[]"))


def _missed(kind: str, rule: Rule, sites: Sequence[Site], role: Role | None) -> NothingMatched:
    text = _text(rule)
    what = f"no {role or 'site'} matches {'the exclude rule ' if kind == 'exclude' else ''}{text!r}"
    if rule == OUTPUT_BLOCKS:
        return NothingMatched(f"{what}: no output block was found", fix=NAME_THEM)
    if not isinstance(rule, str):
        return NothingMatched(what, fix="dcsurgery inspect lists the sites")
    near = _near(text, [site for site in sites if role is None or site.role == role]) or _near(text, sites)
    if near:
        return NothingMatched(f"{what}: did you mean {near}?")
    return NothingMatched(what, fix="dcsurgery inspect lists the sites")


def _near(text: str, sites: Sequence[Site]) -> str:
    """Return near misses with how many sites each would select."""
    groups: Counter[str] = Counter()
    for site in sites:
        for name in site.names:
            parts = name.split(".")
            groups.update({name: 1, **{".".join([*parts[:i], "*"]): 1 for i in range(1, len(parts))}})
        groups.update({f"op:{site.operator}": 1, f"kind:{site.role}": 1, f"how:{site.how}": 1})
        groups.update({f"class:{name.rpartition('.')[2]}" for name in site.classes})
    wanted = text.removeprefix("re:")
    close = difflib.get_close_matches(wanted, list(groups), n=3, cutoff=0.6)
    alike = {group: difflib.SequenceMatcher(None, wanted, group).ratio() for group in close}
    # Several only where they are about as near as the nearest.
    best = [group for group in close if alike[group] > alike[close[0]] - 0.03]
    return " or ".join(f"{group!r} ({groups[group]} site{'s' * (groups[group] != 1)})" for group in best)
