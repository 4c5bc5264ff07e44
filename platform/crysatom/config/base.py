"""Nested configuration with flat names: groups of settings, and operations on all of them.

A configuration is a frozen dataclass whose fields are groups (``config.optimization.lr``) and a few settings of its
own. A function takes the groups that it needs. Outside the code settings are flat (``--lr``, a key of ``run.json``, a
parameter in MLflow, a name in a search space), so no two settings of a configuration share a name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Self, get_type_hints


class Role(Enum):
    """What a setting affects."""

    RESULT = "result"
    """The result computed from given data: part of the digest of the configuration."""

    INPUT = "input"
    """The input: identified by its content in the digest of the data, not by its path."""

    PLACE = "place"
    """Where and how a run happens: does not affect the result."""


ROLE = "role"
"""Metadata key of a field's role, if it differs from the role of its group."""


def reads(default: Any = dataclasses.MISSING) -> Any:
    """Return a field for an input, in a group with another role; without a default it is required."""
    return dataclasses.field(default=default, metadata={ROLE: Role.INPUT})


def places(default: Any = dataclasses.MISSING) -> Any:
    """Return a field for where a run happens, in a group with another role."""
    return dataclasses.field(default=default, metadata={ROLE: Role.PLACE})


class Setting(NamedTuple):
    """One setting of a configuration.

    Attributes:
        group: Name of the field that holds its group; empty for the configuration itself.
        role: What it affects.

    """

    group: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that belong together. A configuration is a group that contains groups.

    Attributes:
        role: Role of the settings of this class, unless a field has its own.

    """

    role: ClassVar[Role] = Role.RESULT

    @classmethod
    def settings(cls) -> Mapping[str, Setting]:
        """Return all settings by name, including those of inner groups."""
        return _settings(cls)

    @classmethod
    def names(cls, *roles: Role) -> frozenset[str]:
        """Return the names of the settings with one of these roles; without roles, of all settings."""
        return frozenset(name for name, setting in _settings(cls).items() if not roles or setting.role in roles)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return the configuration with these settings, by flat names; the others have defaults.

        Raises:
            TypeError: If a name is unknown or a required setting is missing.
            ValueError: If a value is invalid.

        """
        own, inner = _by_group(cls, values)
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
        return cls(**own, **{name: dataclasses.replace(defaults[name], **part) for name, part in inner.items()})

    def replace(self, **values: Any) -> Self:
        """Return a copy with some settings changed, by flat names.

        Raises:
            TypeError: If a name is unknown.
            ValueError: If a value is invalid.

        """
        own, inner = _by_group(type(self), values)
        groups = {name: dataclasses.replace(getattr(self, name), **part) for name, part in inner.items()}
        return dataclasses.replace(self, **own, **groups)

    def flat(self, *roles: Role) -> dict[str, Any]:
        """Return the settings by flat names.

        Args:
            roles: Roles of the settings to return; none: all settings.

        """
        return {
            name: getattr(getattr(self, setting.group) if setting.group else self, name)
            for name, setting in _settings(type(self)).items()
            if not roles or setting.role in roles
        }


def _settings(cls: type[Group]) -> Mapping[str, Setting]:
    types = get_type_hints(cls)
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(cls):
        of = types[field.name]
        if isinstance(of, type) and issubclass(of, Group):
            new = {name: Setting(field.name, setting.role) for name, setting in _settings(of).items()}
        else:
            new = {field.name: Setting("", field.metadata.get(ROLE, cls.role))}
        assert not found.keys() & new.keys(), (
            f"{cls.__name__} has two settings of one name: {found.keys() & new.keys()}"
        )
        found |= new
    return found


def _by_group(cls: type[Group], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the values of the configuration's own settings, and the values of each group."""
    settings = _settings(cls)
    if unknown := values.keys() - settings.keys():
        raise TypeError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}")
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group = settings[name].group
        (inner.setdefault(group, {}) if group else own)[name] = value
    return own, inner
